"""All notebooks as they are saved: complete, and clean of the machine they were made on."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.running import NOTEBOOKS, outputs_of

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@pytest.fixture(params=ALL, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def saved(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_it_is_complete_and_clean(path: Path, saved: nbformat.NotebookNode) -> None:
    nbformat.validate(saved)
    assert {key: value for key, value in saved.metadata.items() if key != "widgets"} == KERNEL
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from the beginning, once"
    assert all(cell.metadata == {} for cell in saved.cells)
    assert not [output for _, output in outputs_of(saved) if output.output_type == "error"]
    assert not [output for _, output in outputs_of(saved) if output.get("name") == "stderr"]
    assert path.stat().st_size < 500_000


def test_its_outputs_name_no_folder_of_a_machine(path: Path, saved: nbformat.NotebookNode) -> None:
    shown = [*((source, str(dict(output))) for source, output in outputs_of(saved)), ("widgets", str(saved.metadata))]
    for source, text in shown:
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|usr|var|opt|work|Users|private)\b", text), source


def test_widgets_that_are_shown_have_their_state(saved: nbformat.NotebookNode) -> None:
    kind = "application/vnd.jupyter.widget-view+json"
    shown = {output.data[kind]["model_id"] for _, output in outputs_of(saved) if kind in output.get("data", {})}
    widgets = saved.metadata.get("widgets", {})
    assert shown <= set(widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {}))
    assert bool(shown) == bool(widgets)


def test_the_readme_lists_it(path: Path) -> None:
    assert f"notebooks/{path.name}" in (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
