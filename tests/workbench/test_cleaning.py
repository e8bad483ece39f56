"""`sw.clean`: what is left behind goes, what is somebody's stays."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import serving_workbench as sw
from serving_workbench.cli import main
from serving_workbench.logfile import log_path
from serving_workbench.records import record_path
from tests.servers import wait_until

DEAD = 2**22 + 1  # above the highest pid of Linux


def done(table: sw.Table) -> dict[str, str]:
    """File name -> what became of it."""
    return {Path(row["path"]).name: row["done"] for row in table.rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a version of each kind of fate."""
    model = tmp_path / "models" / "digits"
    for name in ("1", "3", f".publishing-2-{DEAD}-0123", f".publishing-4-{os.getpid()}-0123"):
        (model / name).mkdir(parents=True)
        (model / name / "saved_model.pb").write_bytes(bytes(100))
    (model / ".rejected-5-20260101T000000").mkdir()
    alive = {"pid": os.getpid(), "create_time": psutil.Process().create_time()}
    (model / ".reserved-2").write_text(json.dumps({"pid": DEAD, "create_time": 1.0}))
    (model / ".reserved-3").write_text(json.dumps({"pid": DEAD, "create_time": 1.0}))
    (model / ".reserved-4").write_text(json.dumps(alive))
    return model


def test_abandoned_deploys_are_removed_and_nothing_else(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    gone = {".reserved-2", f".publishing-2-{DEAD}-0123"}
    would = sw.clean([folder.parent], dry_run=True)
    assert {name for name, what in done(would).items() if what == "would be removed"} == gone
    assert sorted(path.name for path in folder.iterdir()) == before
    table = sw.clean([folder.parent])
    assert "2 leftovers removed" in table.title
    assert {name for name, what in done(table).items() if what == "removed"} == gone
    assert done(table)[".rejected-5-20260101T000000"] == "kept: not asked for"
    assert sorted(path.name for path in folder.iterdir()) == sorted(set(before) - gone)


def test_rejected_versions_go_when_somebody_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = folder / ".rejected-5-20260101T000000"
    where = ["--root", str(folder.parent)]
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal
    assert main(["clean", "--rejected", *where]) == 2
    assert capsys.readouterr().err == "Remove 1 rejected versions for good? Nobody can be asked here: add --yes.\n"
    assert rejected.exists()
    assert main(["clean", "--rejected", "--dry-run", *where]) == 0
    assert rejected.exists()
    assert main(["clean", "--rejected", "--yes", *where]) == 0
    assert not rejected.exists()
    assert (folder / "1").exists()


def test_what_a_killed_server_leaves_is_removed(instance: str, warm: str) -> None:
    server = sw.Server.launch(instance)
    path = record_path(instance)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), what="the end of the server")
    kept = record_path(warm)
    before = kept.read_text()
    table = sw.clean([])
    assert {row["what"] for row in table.rows if instance in row["path"]} == {
        "record of a server that is gone",
        "old log",
    }
    assert not path.exists()
    assert not log_path(path).exists()
    assert kept.read_text() == before
    assert log_path(kept).exists()
    assert sw.Server.find(warm) is not None


def test_a_record_that_is_not_trusted_is_left_alone(instance: str, source: Callable[..., Path]) -> None:
    path = record_path(instance)
    path.touch(mode=0o600)
    path.write_text("{")
    table = sw.clean([])
    assert done(table)[path.name].startswith("kept: The record")
    assert path.exists()
    path.unlink()
