"""Notebooks as they are saved, and as they run in a kernel of their own."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import leaks

__all__ = ["NOTEBOOKS", "outputs_of", "run", "run_without_leaks", "text_of"]

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"


def outputs_of(notebook: nbformat.NotebookNode) -> list[tuple[str, nbformat.NotebookNode]]:
    """Source of each cell with each of its outputs."""
    return [(cell.source, output) for cell in notebook.cells for output in cell.get("outputs", ())]


def text_of(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed and showed, as plain text."""
    return "\n".join(
        output.text if output.output_type == "stream" else str(output.get("data", {}).get("text/plain", ""))
        for _, output in outputs_of(notebook)
    )


def run(name: str, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook after a run in a fresh kernel, with a runtime folder of its own: nobody else's server is there.

    Parameters
    ----------
    name : str
        Of the file in `notebooks`, without its suffix.
    folder : Path
        Where it runs.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=170, kernel_name="python3", resources=where, coalesce_streams=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        client.execute()
    return notebook


def run_without_leaks(name: str, folder: Path) -> nbformat.NotebookNode:
    """As `run`; no process, shared memory or server's record may be left."""
    before = leaks.the_watch().snapshot()
    notebook = run(name, folder)
    assert leaks.the_watch().leaks(before) == []
    # A lock file stays: removing one that somebody is about to lock would give each its own. Ramps keep their journal,
    # and Jupyter its secret for cookies, where a notebook has started one.
    left = {path.suffix or path.name for path in (folder / "runtime").iterdir()}
    assert left <= {".lock", ".jsonl", "jupyter_cookie_secret"}
    return notebook
