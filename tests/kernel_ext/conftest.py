"""IPython shells in this process, with the magics loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import serving_workbench as sw
from serving_workbench.records import runtime_folder
from tests import leaks


@dataclass
class Session:
    """A notebook's kernel as far as magics see it: cells in, results and messages out."""

    shell: InteractiveShell
    capture: pytest.CaptureFixture[str]

    def run(self, cell: str) -> Any:
        """Run a cell that must succeed; return the value of its last line."""
        result = self.shell.run_cell(cell)
        result.raise_error()
        return result.result

    def says(self, cell: str) -> str:
        """Run a cell that must succeed; return what it prints."""
        self.capture.readouterr()
        self.run(cell)
        return self.capture.readouterr().out

    def error(self, cell: str) -> str:
        """Run a cell that must fail for the user's reasons: return the one line, without "UsageError: "."""
        self.capture.readouterr()
        result = self.shell.run_cell(cell)
        assert isinstance(result.error_in_exec, UsageError), result
        shown = self.capture.readouterr().err
        assert shown == f"UsageError: {result.error_in_exec}\n", "more than one line, or a traceback"
        return str(result.error_in_exec)

    def error_of_ipython(self, cell: str) -> str:
        """Run a cell that IPython itself refuses; return what it shows."""
        self.capture.readouterr()
        self.shell.run_cell(cell)
        return self.capture.readouterr().err

    def complete(self, text: str) -> list[str]:
        """What the Tab key offers at the end of the text, by the way that kernels ask."""
        with provisionalcompleter():
            return [found.text for found in self.shell.Completer.completions(text, len(text))]


@pytest.fixture
def bare_session(capsys: pytest.CaptureFixture[str]) -> Iterator[Session]:
    """A shell without the magics."""
    config = Config()
    config.HistoryAccessor.enabled = False  # no database, and no thread that writes it
    config.IPCompleter.use_jedi = False
    shell = InteractiveShell(config=config)
    yield Session(shell, capsys)
    shell.reset(new_session=False)  # what the cells made, channels of handles included
    shell.restore_sys_module_state()


@pytest.fixture
def session(bare_session: Session) -> Session:
    bare_session.run("%load_ext serving_workbench")
    return bare_session


@pytest.fixture
def set_variables(session: Session) -> Callable[..., None]:
    """`set_variables(name=value)` puts values into the notebook's namespace."""

    def set_(**values: object) -> None:
        session.shell.push(values)

    return set_


@pytest.fixture(scope="session")
def magics_instance(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server that serves 'half', version 1 (y = x / 2 + 2)."""
    name = "magics"
    root = tmp_path_factory.mktemp("magics") / "models"
    served = sw.serve(models_dir / "half_plus_two/1", "half", root=root, instance=name, progress=False)
    served.server.close()
    leaks.allow(served.server.pid)
    for path in files_of(name):
        leaks.allow_path(path)
    yield name
    sw.stop(name)
    for path in files_of(name):
        path.unlink()


@pytest.fixture
def half(magics_instance: str) -> Iterator[str]:
    """The instance, whose 'half' is at version 1 again and alone afterwards."""
    yield magics_instance
    server = sw.Server.connect(magics_instance)
    for name in server.models():
        if name != "half":
            sw.connect(name, magics_instance).stop()


def files_of(instance: str) -> list[Path]:
    """Whatever an instance has left in the runtime folder."""
    return list(runtime_folder().glob(f"serving-workbench-{instance}*"))
