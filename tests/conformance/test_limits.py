"""The page of limits is as the classes are, and each limit has a test that exists."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.conformance.limits import LIMITS_FILE, TESTS, described, limits_page
from tests.conformance.test_table import functions

_TESTS = Path(__file__).parent.parent


def test_the_page_is_up_to_date() -> None:
    assert LIMITS_FILE.read_text("utf-8") == limits_page(), "run python -m tests.conformance --write"


@pytest.mark.parametrize("limits", TESTS)
def test_every_limit_is_described_and_has_a_test(limits: type) -> None:
    names = {field.name for field in dataclasses.fields(limits)}  # type: ignore[arg-type]
    assert described(limits).keys() == names
    assert TESTS[limits].keys() == names
    for test in TESTS[limits].values():
        path, _, function = test.partition("::")
        assert function in functions(_TESTS / path), test
