"""Starting, finding and ending real serving processes, and who they end with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import serving_workbench as sw
from serving_workbench import launch as launching
from serving_workbench import logfile
from serving_workbench.records import Record, is_alive, read_record, record_path
from tests.servers import wait_until


def the_record(instance: str) -> Record:
    record = read_record(record_path(instance))
    assert record is not None
    return record


def script(instance: str, then: str, options: str = "") -> str:
    """A Python program that launches the instance, prints its pid, and goes on."""
    return (
        "import os, signal, sys, serving_workbench as sw\n"
        f"server = sw.Server.launch({instance!r}{options})\n"
        "print(server.pid, flush=True)\n"
        f"{then}\n"
    )


def test_start_find_and_stop(instance: str, tmp_path: Path) -> None:
    assert sw.Server.find(instance) is None
    server = sw.Server.launch(instance, root=tmp_path / "models")
    found = sw.Server.connect(instance)
    assert (found.instance_id, found.pid, found.root) == (server.instance_id, server.pid, tmp_path / "models")
    assert found.endpoints["rest"].startswith("http://127.0.0.1:")
    assert instance in sw.instances()
    assert record_path(instance).stat().st_mode & 0o777 == 0o600
    assert logfile.log_path(record_path(instance)).stat().st_mode & 0o777 == 0o600
    assert os.getsid(server.pid) == server.pid != os.getsid(0)
    assert sw.stop(instance)
    assert not found.is_running()
    assert not server.stop()
    assert not sw.stop(instance)
    assert "ended" in repr(found)
    assert not record_path(instance).exists()
    with pytest.raises(sw.ServerNotRunningError, match=instance):
        sw.Server.connect(instance)
    with pytest.raises(sw.ServerNotRunningError):
        found.status()


def test_launching_twice_gives_the_same_process(instance: str) -> None:
    first = sw.Server.launch(instance)
    assert sw.Server.launch(instance).instance_id == first.instance_id


def test_a_port_that_somebody_has_taken_is_done_without(instance: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        ports = (taken.getsockname()[1], free.getsockname()[1])
        free.close()
        record = launching.launch_again(instance, None, ports)
        found = launching.ports_of(record)
        assert found is not None
        assert found[0] != ports[0]
    assert sw.stop(instance)
    assert launching.ports_of(launching.launch_again(instance, None, found)) == found, "nobody has these"


def test_two_simultaneous_starts_make_one_process(instance: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        programs = [
            pool.submit(
                subprocess.run,
                [sys.executable, "-c", script(instance, "", ", keep=True")],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            for _ in range(2)
        ]
        pids = {program.result().stdout.strip() for program in programs}
    assert pids == {str(the_record(instance).pid)}


def test_a_process_that_ends_at_once_is_reported_with_its_log(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    monkeypatch.setattr(launching, "_command", lambda *_: command)
    with pytest.raises(sw.LaunchError, match=r"ended at once \(exit code 3\)(.|\n)*the reason"):
        sw.Server.launch(instance)
    assert "the reason" in sw.logs(instance=instance)


def test_a_process_that_never_gets_ready_is_ended(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import time; print('slow', flush=True); time.sleep(60)"]
    monkeypatch.setattr(launching, "_command", lambda *_: command)
    with pytest.raises(sw.LaunchError, match=r"not ready after 1 s; it runs, but has written no record"):
        sw.Server.launch(instance, timeout=1)


def test_an_interrupt_while_waiting_ends_the_process(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_wait_for_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sw.Server.launch(instance)
    # The fixture that looks at the process table does the rest.


def test_an_executable_that_cannot_be_run(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(sw.LaunchError, match="'/nonexistent/python' cannot be run"):
        sw.Server.launch(instance)


def test_windows_is_told_what_is_missing(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(sw.LaunchError, match=r"does not run on Windows.*WSL 2"):
        sw.Server.launch(instance)


def test_a_stopped_process_is_killed(instance: str) -> None:
    server = sw.Server.launch(instance)
    os.kill(server.pid, signal.SIGSTOP)
    server.control._timeout = 0.2
    assert server.stop(timeout=0.2)
    assert not server.is_running()


def test_a_killed_server_leaves_a_record_that_is_not_believed(instance: str) -> None:
    server = sw.Server.launch(instance)
    # A process that imports TensorFlow notices the end of the front only when it is done.
    wait_until(lambda: server.control.status()["forkserver"]["state"] == "ready", 60, "TensorFlow's import")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), what="the server's end")
    assert record_path(instance).exists()
    with pytest.raises(sw.ServerNotRunningError, match=f"pid {server.pid}\\) has ended"):
        sw.ServedModel(server, "any", version=1).status()
    assert sw.Server.find(instance) is None
    assert not record_path(instance).exists()
    again = sw.Server.launch(instance)
    assert again.instance_id != server.instance_id


_SIGNALS = [f"os.kill(os.getpid(), signal.{name})" for name in ("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP")]


@pytest.mark.parametrize("end", ["", "os._exit(1)", "raise SystemExit(3)", *_SIGNALS])
def test_a_server_ends_with_its_script(instance: str, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script(instance, end)], capture_output=True, text=True, timeout=60, check=False
    )
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid), 60, f"the end of the server {pid}")
    wait_until(lambda: not record_path(instance).exists(), 60, "the end of the record")


def test_keep_lets_it_run_on(instance: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script(instance, "", ", keep=True")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    server = sw.Server.connect(instance)
    assert server.pid == int(done.stdout)
    assert server.record.owner_pid is None
    assert server.stop()


# --- kernels ---

#: A stand-in for a Jupyter server: starts a kernel and does what each line on standard input says, with an answer each.
#: A process of its own, because it is killed, and because jupyter_client leaves event loops to the interpreter's end.
_JUPYTER = """
import json, sys, threading
from jupyter_client.manager import KernelManager

def connect():
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client

def run(code):
    printed = []
    def collect(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])
    reply = client.execute_interactive(code, output_hook=collect, timeout=60)
    return "".join(printed) if reply["content"]["status"] == "ok" else reply["content"]["evalue"]

manager = KernelManager(kernel_name="python3")
manager.start_kernel()
client = connect()
for line in sys.stdin:
    command, code = json.loads(line)
    if command == "interrupt":
        threading.Timer(0.3, manager.interrupt_kernel).start()
        answer = run(code)
    elif command == "restart":
        client.stop_channels()
        manager.restart_kernel(now=False)
        client = connect()
        answer = "restarted"
    elif command == "shutdown":
        manager.shutdown_kernel(now=True)
        answer = "shut down"
    else:
        answer = run(code)
    print(json.dumps(answer), flush=True)
"""


class Jupyter:
    """The stand-in as an object; `ask(command, code)` returns its answer."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _JUPYTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(folder)},  # the kernel's connection file stays when it is killed
        )

    def ask(self, command: str, code: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, code]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the stand-in for a Jupyter server ended early"
        return str(json.loads(line)).strip()

    def kill(self) -> None:
        self.process.kill()
        with self.process:  # closes the pipes and waits
            pass


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[Jupyter]:
    jupyter = Jupyter(tmp_path)
    yield jupyter
    jupyter.kill()


def test_a_server_survives_the_interrupt_the_restart_and_the_end_of_its_kernel(instance: str, jupyter: Jupyter) -> None:
    show = "print(s.instance_id, s.record.owner_pid)"
    launched = jupyter.ask("run", f"import serving_workbench as sw; s = sw.Server.launch({instance!r}); {show}")
    assert launched == f"{the_record(instance).instance_id} {jupyter.process.pid}"
    sleep = "import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    print('interrupted')"
    assert jupyter.ask("interrupt", sleep) == "interrupted"
    find = f"import serving_workbench as sw; s = sw.Server.connect({instance!r}); {show}"
    assert jupyter.ask("run", find) == launched
    jupyter.ask("restart")
    assert jupyter.ask("run", find) == launched
    jupyter.ask("shutdown")
    assert sw.Server.connect(instance).instance_id == launched.split()[0]
    assert sw.stop(instance)


def test_a_server_ends_with_what_started_its_kernel(instance: str, jupyter: Jupyter) -> None:
    jupyter.ask("run", f"import serving_workbench as sw; sw.Server.launch({instance!r})")
    record = the_record(instance)
    assert is_alive(record.pid, record.create_time)
    jupyter.kill()
    wait_until(lambda: not is_alive(record.pid, record.create_time), 60, "the server's end")


def test_a_child_of_a_kernel_owns_what_it_launches(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # `!python train.py` in a cell inherits JPY_PARENT_PID, but is no kernel.
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getppid()))
    done = subprocess.run(
        [sys.executable, "-c", script(instance, "print(server.record.owner_pid, os.getpid())")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    owner, own = done.stdout.split()[1:]
    assert owner == own
    record = read_record(record_path(instance))
    wait_until(lambda: record is None or not is_alive(record.pid, record.create_time), 60, "the server's end")


def test_a_log_is_started_anew_and_the_old_one_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    for text in (b"one\n", b"two\n", b"three\nfour\n"):
        descriptor = logfile.open_new(path)
        os.write(descriptor, text)
        os.close(descriptor)
    assert logfile.tail(path, 10) == "three\nfour"
    assert logfile.tail(path, 1) == "four"
    assert logfile.tail(path, 0) == ""
    assert logfile.tail(tmp_path / "x.log.old", 5) == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.log", "x.log.old"]
    assert logfile.tail(tmp_path / "none", 5) == ""
