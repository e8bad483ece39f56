"""The helper that starts servers: it notices an early end, waits for the right record, and stops what it started."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers import ServerProcess, wait_until

#: A program in place of the server: writes the record that `sys.argv[1]` describes, and ends with its lifeline.
STUB = """
import json, os, sys
flags = dict(flag[2:].split("=", 1) for flag in sys.argv[2:])
print("stub started", flush=True)
record = json.loads(sys.argv[1])
record.setdefault("pid", os.getpid())
with open(flags["record_file"] + ".new", "w") as file:
    json.dump(record, file)
os.rename(flags["record_file"] + ".new", flags["record_file"])
os.read(int(flags["lifeline_fd"]), 1)
"""


def stub(directory: Path, **record: object) -> ServerProcess:
    return ServerProcess(directory=directory, command=(sys.executable, "-c", STUB, json.dumps(record)))


def test_start_returns_with_the_record_and_stop_is_idempotent(tmp_path: Path) -> None:
    server = stub(tmp_path, endpoints={"grpc": "127.0.0.1:1", "rest": "http://127.0.0.1:2"}, token="t").start()
    assert (server.grpc_endpoint, server.rest_url, server.token) == ("127.0.0.1:1", "http://127.0.0.1:2", "t")
    assert psutil.pid_exists(server.pid)
    assert server.stop() == server.stop()
    assert not psutil.pid_exists(server.pid)


def test_an_early_end_is_reported_at_once_with_the_log(tmp_path: Path) -> None:
    code = "import sys; print('cannot bind port 8500'); sys.exit(255)"
    server = ServerProcess(directory=tmp_path, command=(sys.executable, "-c", code))
    with pytest.raises(AssertionError, match=r"(?s)ended before it wrote its record, with code 255.*cannot bind port"):
        server.start(timeout=60)
    assert server.stop() == 255


def test_the_record_of_another_process_is_not_taken(tmp_path: Path) -> None:
    server = stub(tmp_path, pid=os.getppid())
    with pytest.raises(AssertionError, match=r"(?s)Waited 1 s in vain for the record .*stub started"):
        server.start(timeout=1)
    server.stop()


def test_a_server_ends_when_its_lifeline_is_cut(tmp_path: Path) -> None:
    server = stub(tmp_path).start()
    server.cut_lifeline()
    assert server.wait() == 0
    server.stop()


def test_wait_until_says_what_was_last_seen() -> None:
    seen: list[int] = []

    def never() -> bool:
        seen.append(len(seen))
        return False

    with pytest.raises(AssertionError, match=r"Waited 0.05 s in vain for 3; saw \[0, 1"):
        wait_until(never, 0.05, lambda: f"3; saw {seen}")
