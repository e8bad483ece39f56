"""The table names tests that exist, holds what it must, and stands in the page as it is."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from serving_server.flags import FLAGS
from tests.conformance import flags
from tests.conformance.row import MUST, SHOULD, Row, Status
from tests.conformance.table import FILE, SECTIONS, markdown

_TESTS = Path(__file__).parent.parent
_ROWS = [row for rows in SECTIONS.values() for row in rows]


@functools.cache
def functions(path: Path) -> frozenset[str]:
    """Test functions of a file that run everywhere: a test that is always skipped holds nothing."""
    return frozenset(
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _fault(row: Row) -> str:
    """What is wrong with what a row names; empty when nothing is."""
    if row.status is Status.MISSING:
        return f"tests of what is missing: {row.tests}" if row.tests else ""
    for test in row.tests:
        path, _, function = test.partition("::")
        if not (_TESTS / path).is_file() or function not in functions(_TESTS / path):
            return f"there is no {test}"
    return "" if row.tests else "a promise without a test"


def test_every_row_names_tests_that_exist() -> None:
    assert [(row.feature, _fault(row)) for row in _ROWS if _fault(row)] == []


def test_what_differs_says_how() -> None:
    explained = {Status.DIFFERS, Status.BETTER, Status.REFUSED, Status.MISSING}
    assert [row.feature for row in _ROWS if row.status in explained and not row.note] == []


def test_every_must_and_nearly_every_should_holds() -> None:
    must = [row.feature for row in _ROWS if row.mark == MUST and row.status is Status.MISSING]
    assert must == []
    should = [row for row in _ROWS if row.mark == SHOULD]
    assert sum(row.status is not Status.MISSING for row in should) >= 0.95 * len(should)


def test_no_row_stands_twice() -> None:
    features = [row.feature for row in _ROWS]
    assert len(features) == len(set(features))


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text("utf-8") == markdown(), "run python -m tests.conformance --write"


def test_every_flag_has_a_row() -> None:
    named = {name for row in flags.ROWS for name in re.findall(r"`--(\w+)", row.feature)}
    assert flags.UPSTREAM.keys() - named == set()


def test_all_flags_of_tensorflow_serving_have_their_type_and_default() -> None:
    ours = {flag.name: flag for flag in FLAGS}
    assert len(flags.UPSTREAM) == 48
    for name, default in flags.UPSTREAM.items():
        assert type(ours[name].default) is type(default), name
        assert ours[name].default == default, name
