"""The package's face: names, laziness, extension entry points, tables, progress."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

import serving_workbench as sw
from serving_workbench.progress import STEPS, Progress
from serving_workbench.tables import Table


def test_every_name_is_there() -> None:
    for name in sw.__all__:
        assert getattr(sw, name) is not None
        assert name in dir(sw)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sw.nothing  # type: ignore[attr-defined]


def test_import_is_light() -> None:
    heavy = "tensorflow keras grpc pandas numpy IPython tqdm jupyter_core psutil"
    program = f"import sys, serving_workbench; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_show_the_hint() -> None:
    error = sw.DeployError("It broke.", step="load", hint="Try again.")
    assert (str(error), error.step, error.hint) == ("It broke. Try again.", "load", "Try again.")
    assert isinstance(sw.ProofError("x"), sw.DeployError)
    assert all(issubclass(getattr(sw, n), sw.WorkbenchError) for n in sw.__all__ if n.endswith("Error"))


def test_the_extension_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []
    module = ModuleType("fake_magics")
    module.unload_ipython_extension = lambda ip: calls.append(("unload", ip))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_magics", module)
    entry = SimpleNamespace(module="fake_magics", load=lambda: lambda ip: calls.append(("load", ip)))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    sw.load_ipython_extension("shell")
    sw.unload_ipython_extension("shell")
    assert calls == [("load", "shell"), ("unload", "shell")]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    with pytest.raises(sw.WorkbenchError, match=r"in the clone: pip install '\.'"):
        sw.load_ipython_extension("shell")


def test_tables() -> None:
    table = Table([{"a": 1, "b": None}, {"a": "<x>", "b": "long text"}], ["a", "b"], "title & more")
    assert repr(table).splitlines() == ["title & more", "a    b", "1    -", "<x>  long text"]
    assert "&lt;x&gt;" in table._repr_html_()
    assert "title &amp; more" in table._repr_html_()
    assert (len(table), table[1]["a"]) == (2, "<x>")
    assert table.to_frame().shape == (2, 2)


def test_progress_measures_and_is_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("serve m") as progress:
        for step in STEPS:
            progress.step(step)
            progress.step(step)
    assert list(progress.seconds) == list(STEPS)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_names_the_step_that_failed() -> None:
    with pytest.raises(RuntimeError), Progress("serve m", enabled=False) as progress:  # noqa: PT012
        progress.step("load")
        raise RuntimeError
    assert list(progress.seconds) == ["load"]
