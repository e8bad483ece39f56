"""`%profile` in an IPython shell, against a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import serving_workbench as sw
from tests.kernel_ext.conftest import Session


def test_a_cell_shows_where_the_time_goes(session: Session, half: str, tmp_path: Path) -> None:
    session.shell.push({"numbers": np.ones(4, np.float32)})
    line = f"%profile half --instance {half} --batches 5 --sizes 1,4 --data numbers"
    result = session.run(f"{line} --trace {tmp_path}/ops.json --save {tmp_path}/p --tensorboard {tmp_path}/logs")
    assert isinstance(result, sw.ProfileResult)
    assert (result.model, result.version, result.runs, result.rows) == ("half", 1, 5, 4)
    assert result.batch_sizes["rows"].tolist() == [1, 4]
    assert sw.ProfileResult.load(tmp_path / "p").summary() == result.summary()
    assert (tmp_path / "ops.json").exists()
    assert list((tmp_path / "logs").rglob("*.xplane.pb"))
    live = session.run(f"%profile --instance {half} --watch --for 50ms --version 1")
    assert live.rows is None
    said = session.says(f"%profile half --instance {half} --watch --for 50ms --trace {tmp_path}/live.json")
    assert f"Wrote {tmp_path}/live.json: 0 live runs with their ops; the server remembers no request" in said


def test_help_completion_and_what_is_wrong(session: Session, half: str) -> None:
    assert "%profile digits" in session.says("%profile --help")
    assert "--tensorboard" in session.complete("%profile half --tens")
    assert "'x' is not a whole number from 1 on" in session.error("%profile half --batches x")
    assert "Version 9 of 'half' is not loaded" in session.error(f"%profile half --instance {half} --version 9")
    assert session.error(f"%profile half --instance {half} --watch --rows 8") == (
        "%profile: --rows is of its own runs; --watch only watches."
    )
    assert "does not serve a model 'nix'" in session.error(f"%profile nix --instance {half}")


def test_memory_and_startup(session: Session, half: str) -> None:
    memory = session.run(f"%profile memory half --instance {half} --sizes 1,2,4")
    assert memory.ops_data is None
    assert memory.memory["rows"].tolist() == [1, 2, 4]
    assert sorted(memory.variables["name"]) == ["a", "b"]
    startup = session.run(f"%profile startup --instance {half}")
    assert startup.model == "half"
    assert "freeze" in startup.startup["step"].tolist()
    assert session.error(f"%profile startup half --instance {half} --sizes 1") == (
        "%profile startup: --sizes is not of this."
    )
    assert "%profile memory: --watch is not of this." in session.error(
        f"%profile memory half --watch --instance {half}"
    )
    assert "takes one model" in session.error(f"%profile half other --instance {half}")
