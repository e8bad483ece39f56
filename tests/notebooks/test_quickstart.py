"""The quickstart, run from the beginning in a kernel of its own."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.running import run_without_leaks, text_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def executed(folder: Path) -> nbformat.NotebookNode:
    return run_without_leaks("01_quickstart", folder)


@pytest.mark.usefixtures("executed")
def test_it_runs_and_leaves_nothing_but_the_exported_versions(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "models" / "digits").iterdir()) == ["1", "2"]


def test_every_answer_is_right(executed: nbformat.NotebookNode) -> None:
    text = text_of(executed)
    assert "equal to the model in this notebook: True" in text
    assert "version 1 answers, as it did before: True" in text
    assert "serving_default: equal (the given sample" in text, "the proof of the deploy"
    wrong = re.search(r"the model says \[([\d ]+)\]\nthe digits are \[([\d ]+)\]", text)
    assert wrong is not None
    guesses, digits = (group.split() for group in wrong.groups())
    assert sum(map(str.__eq__, guesses, digits)) >= 7


def test_version_2_went_live_without_a_failed_request(
    executed: nbformat.NotebookNode, record_property: pytest.RecordProperty
) -> None:
    text = text_of(executed)
    answered = re.search(r"answered, by version: \{1: (\d+), 2: (\d+)\}   failed: (\d+)", text)
    assert answered is not None
    first, second, failed = map(int, answered.groups())
    assert first > 0
    assert second > 0
    assert failed == 0
    live = re.search(r"version 2 went live in ([\d.]+) s", text)
    assert live is not None
    record_property("version_2_seconds", float(live[1]))
    print(live[0])


def test_the_better_version_stays(executed: nbformat.NotebookNode) -> None:
    text = text_of(executed)
    first = re.search(r"version 1 is right in (\d+) of 360", text)
    stays = re.search(r"version (\d) stays: (\d+) of 360 held-out rows are right", text)
    assert first is not None
    assert stays is not None
    assert stays[1] == "2"
    assert int(stays[2]) > int(first[1]) > 280
    assert "digits: version 1 answers (before: 2)" in text
    assert "digits: version 2 answers (before: 1)" in text
    assert "Stopped serving 'digits'." in text
