"""Records: what is believed, what is deleted, and that nothing is ever killed because of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving_workbench import records
from serving_workbench.discovery import trusted_record
from serving_workbench.errors import RecordError
from serving_workbench.records import read_record, record_path
from serving_workbench.server import stop_instance
from tests.workbench.stub import ControlStub

Write = Callable[..., Path]


def content(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "instance_id": "a" * 32,
        "name": "unit",
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "server_version": "0.1.0",
        "started_at": 1.0,
        "control": {"tcp": ["127.0.0.1", 9]},
        "token": "t" * 64,
        "endpoints": {"grpc": "127.0.0.1:1", "rest": "http://127.0.0.1:2"},
        "owner_pid": None,
        "log": None,
        "root": None,
        "something_new": 1,
    } | changes


@pytest.fixture
def write() -> Iterator[Write]:
    path = record_path("unit")

    def make(data: object = None, mode: int = 0o600, **changes: Any) -> Path:
        text = data if isinstance(data, str) else json.dumps(content(**changes))
        path.write_text(text)
        path.chmod(mode)
        return path

    yield make
    path.unlink(missing_ok=True)


def test_no_record() -> None:
    assert read_record(record_path("unit")) is None
    assert trusted_record("unit") is None
    assert stop_instance("unit") is False


def test_fields_are_read_and_the_token_is_not_shown(write: Write) -> None:
    record = read_record(write())
    assert record is not None
    assert record.endpoints["grpc"] == "127.0.0.1:1"
    assert record.control == ("tcp", "127.0.0.1", 9)
    assert "tttt" not in repr(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance_id", 5),
        ("pid", "12"),
        ("pid", True),
        ("create_time", None),
        ("token", None),
        ("endpoints", []),
        ("endpoints", {"grpc": 3}),
        ("control", {}),
        ("control", {"tcp": ["127.0.0.1"]}),
        ("control", {"unix": 3}),
        ("owner_pid", "x"),
        ("log", 3),
    ],
)
def test_a_wrong_field_is_named(write: Write, field: str, value: object) -> None:
    with pytest.raises(RecordError, match=f"damaged: '{field}' is"):
        read_record(write(**{field: value}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_damaged_files(write: Write, text: str) -> None:
    path = write(text)
    with pytest.raises(RecordError, match="damaged"):
        trusted_record("unit")
    assert path.exists()


def test_another_schema_is_left_alone(write: Write) -> None:
    path = write(schema=2)
    with pytest.raises(RecordError, match="schema 2"):
        trusted_record("unit")
    assert path.exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o622, 0o660])
def test_a_file_that_others_may_read_is_not_trusted(write: Write, mode: int) -> None:
    path = write(mode=mode)
    with pytest.raises(RecordError, match=f"mode {mode:04o}"):
        trusted_record("unit")
    assert path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_not_trusted(write: Write) -> None:
    path = write()
    os.chown(path, 65534, 65534)
    with pytest.raises(RecordError, match="belongs to uid 65534"):
        trusted_record("unit")


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "a" * 65, "a b", None])
def test_odd_instance_names(name: Any) -> None:
    with pytest.raises(RecordError, match="not an instance name"):
        record_path(name)


def test_the_record_of_a_dead_process_is_deleted(write: Write) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        create_time = psutil.Process(process.pid).create_time()
    path = write(pid=process.pid, create_time=create_time)
    assert trusted_record("unit") is None
    assert not path.exists()


def test_a_record_is_left_to_the_process_that_looks_after_the_server(write: Write) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        create_time = psutil.Process(process.pid).create_time()
    path = write(pid=process.pid, create_time=create_time, owner_pid=os.getppid())
    assert trusted_record("unit") is None
    assert path.exists(), "it says that there was a crash"
    write(pid=process.pid, create_time=create_time, owner_pid=os.getpid())
    assert trusted_record("unit") is None
    assert not path.exists()
    write(pid=process.pid, create_time=create_time, owner_pid=process.pid)
    assert trusted_record("unit") is None
    assert not path.exists()


def test_the_socket_of_a_dead_server_goes_with_its_record_and_no_other_does(write: Write) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        create_time = psutil.Process(process.pid).create_time()
    folder = record_path("unit").parent
    ours, other = folder / f"{record_path('unit').stem}-0123abcd.sock", folder / "other.sock"
    for address, gone in ((ours, True), (other, False)):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(address))
        write(pid=process.pid, create_time=create_time, control={"unix": str(address)})
        assert trusted_record("unit") is None
        assert address.exists() is not gone
    other.unlink()


def test_a_reused_pid_is_not_believed_and_not_killed(write: Write) -> None:
    # The record names this very process, but another create time: as if our pid had been the server's.
    path = write(create_time=psutil.Process().create_time() - 100)
    assert stop_instance("unit") is False
    assert not path.exists()


def test_deleting_waits_for_nobody_who_is_starting(write: Write) -> None:
    path = write(create_time=1.0)
    with records.start_lock("unit", wait=0) as held:
        assert held
        assert trusted_record("unit") is None
        assert path.exists()  # the starter decides


def test_the_start_lock_is_exclusive_and_bounded() -> None:
    with records.start_lock("unit", wait=0) as first, records.start_lock("unit", wait=0.2) as second:
        assert (first, second) == (True, False)


def test_the_identity_must_be_echoed(write: Write) -> None:
    with ControlStub(token="t" * 64, answers={"/control/v1/identity": (200, {"instance_id": "b" * 32})}) as stub:
        path = write(control={"tcp": ["127.0.0.1", stub.port]})
        with pytest.raises(RecordError, match="another identity"):
            trusted_record("unit")
        assert path.exists()
        write(control={"tcp": ["127.0.0.1", stub.port]}, instance_id="b" * 32)
        found = trusted_record("unit")
        assert found is not None
        assert found.instance_id == "b" * 32


def test_a_wrong_token_is_said(write: Write) -> None:
    with ControlStub(token="other", answers={}) as stub:
        write(control={"tcp": ["127.0.0.1", stub.port]})
        with pytest.raises(RecordError, match="does not accept the token"):
            trusted_record("unit")


def test_a_living_process_that_does_not_answer_is_said(write: Write) -> None:
    path = write()  # port 9: nobody listens
    with pytest.raises(RecordError, match="lives but does not answer"):
        trusted_record("unit", timeout=0.3)
    assert path.exists()


def test_instances_are_listed(write: Write) -> None:
    write()
    assert "unit" in records.list_instances()


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    create_time = psutil.Process(process.pid).create_time()
    psutil.wait_procs([], timeout=0)
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass  # ends by itself; pytest's time limit bounds this
    assert not records.is_alive(process.pid, create_time)
    process.wait()
