"""Who ends when a Jupyter server ends, in whatever way; what the next Jupyter server finds; what starts with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from serving_workbench.records import is_alive
from tests.kernel_ext.extension import WITH_TOKEN, ask, believed, connect
from tests.kernel_ext.jupyter import JupyterServer
from tests.servers import wait_until

INSTANCES = "/serving/api/instances"
#: Seconds that a serving process has to be gone after its Jupyter server.
_GONE = 60.0

_RAISES = """
from serving_jupyter.extension.supervisor import Supervisor

async def close(self):
    raise RuntimeError("the stop hook failed")

Supervisor.close = close
"""
_HANGS = """
import asyncio
from serving_jupyter.extension.supervisor import Supervisor

async def close(self):
    await asyncio.sleep(600)

Supervisor.close = close
c.ServingExtension.stop_timeout = 0.2
"""


@pytest.mark.parametrize(
    ("number", "config"),
    [
        (signal.SIGTERM, ""),
        (signal.SIGKILL, ""),
        (signal.SIGINT, ""),  # without a terminal Jupyter's stop hooks do not run
        (signal.SIGHUP, ""),
        (signal.SIGTERM, _RAISES),
        (signal.SIGTERM, _HANGS),
    ],
    ids=["SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "hook raises", "hook hangs"],
)
def test_the_process_ends_with_its_jupyter_server(tmp_path: Path, number: int, config: str) -> None:
    with JupyterServer(tmp_path, config=config) as jupyter:
        started = ask(jupyter, "POST", INSTANCES, {})
        assert started.status == 201, started.body
        record = believed(jupyter, "default")
        os.kill(jupyter.pid, number)
        # Waited for in a thread: a child that nobody waits for stays in the process table.
        waiter = threading.Thread(target=jupyter.process.wait)
        waiter.start()
        wait_until(lambda: not is_alive(record.pid, record.create_time), _GONE, "the end of the serving process")
        waiter.join(60)
        assert jupyter.process.returncode is not None, f"Jupyter runs on\n{jupyter.log()}"
    assert not list(jupyter.runtime.glob("serving-workbench-*.json"))
    if "raises" in config:
        assert "Serving processes could not be stopped" in jupyter.log()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "config"),
    [
        (signal.SIGTERM, ""),
        (signal.SIGKILL, ""),
        (signal.SIGINT, ""),
        (signal.SIGHUP, ""),
        (signal.SIGTERM, _RAISES),
    ],
    ids=["SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "hook raises"],
)
def test_the_process_of_a_kernel_ends_with_its_jupyter_server(tmp_path: Path, number: int, config: str) -> None:
    # Without the extension the kernel starts the process; so it does beside an extension of another environment. It
    # belongs to the Jupyter server all the same.
    flags = () if config else ("--ServerApp.jpserver_extensions={'serving_jupyter': False}",)
    with JupyterServer(tmp_path, *flags, config=config) as jupyter:
        assert ask(jupyter, "GET", INSTANCES).status == (200 if config else 404)
        kernel = jupyter.start_kernel()
        try:
            kernel.run("import sys; sys.prefix = '/another/environment'")
            kernel.run("import os, serving_workbench as sw; server = sw.Server.launch()")
            record = believed(jupyter, "default")
            assert psutil.Process(record.pid).ppid() == int(kernel.run("print(os.getpid())"))
            os.kill(jupyter.pid, number)
            waiter = threading.Thread(target=jupyter.process.wait)
            waiter.start()
            wait_until(lambda: not is_alive(record.pid, record.create_time), _GONE, "the end of the serving process")
            waiter.join(60)
            assert jupyter.process.returncode is not None, f"Jupyter runs on\n{jupyter.log()}"
        finally:
            kernel.close()
    assert not list(jupyter.runtime.glob("serving-workbench-*.json"))


def test_a_hung_process_is_killed_when_jupyter_stops(tmp_path: Path) -> None:
    with JupyterServer(tmp_path, "--ServingExtension.drain_timeout=0.2") as jupyter:
        pid = ask(jupyter, "POST", INSTANCES, {}).json["pid"]
        os.kill(pid, signal.SIGSTOP)
        jupyter.process.send_signal(signal.SIGTERM)
        jupyter.process.wait(60)
        wait_until(lambda: not psutil.pid_exists(pid), _GONE, "the end of a process that is stopped")
    assert "did not end by itself" in jupyter.log()


def test_a_kept_server_is_adopted_by_the_next_jupyter_server(tmp_path: Path) -> None:
    with JupyterServer(tmp_path) as first:
        started = ask(first, "POST", INSTANCES, {"name": "kept", "keep": True})
        assert started.status == 201, started.body
        assert started.json["owner"] == "nobody"
        first.kill()
    with JupyterServer(tmp_path, "--ServingExtension.restart_backoff=0.1") as second:
        (found,) = ask(second, "GET", INSTANCES).json["instances"]
        assert (found["instance_id"], found["state"]) == (started.json["instance_id"], "running")
        assert found["supervised"]
        assert ask(second, "GET", "/serving/kept/v1/models").status == 200
        os.kill(found["pid"], signal.SIGKILL)
        again = wait_until(lambda: _running(second, "kept", found["instance_id"]), 30, "the restart")
        assert again["owner"] == "nobody"
        assert ask(second, "DELETE", f"{INSTANCES}/kept").json["stopped"]


def _running(jupyter: JupyterServer, name: str, other_than: str) -> dict[str, str] | None:
    found = ask(jupyter, "GET", f"{INSTANCES}/{name}").json
    is_new = found["state"] == "running" and found["instance_id"] != other_than
    return found if is_new else None


def test_a_warm_start_has_tensorflow_ready_before_anybody_asks(tmp_path: Path) -> None:
    flags = ("--ServingExtension.warm_start=True", "--ServingExtension.activity_seconds=0")
    with JupyterServer(tmp_path, *flags) as jupyter:
        record = jupyter.runtime / "serving-workbench-default.json"
        wait_until(record.exists, 30, "a server that nobody asked for")
        assert json.loads(record.read_text())["root"] is None
        wait_until(lambda: _forkserver(jupyter) == "ready", 60, "TensorFlow's import")
        # So the first of a user finds it, instead of starting one.
        assert ask(jupyter, "POST", INSTANCES, {}).status == 200


def _forkserver(jupyter: JupyterServer) -> str:
    status = ask(jupyter, "GET", f"{INSTANCES}/default").json["status"]
    return str(status and status["forkserver"]["state"])


def test_a_deploy_under_way_ends_with_jupyter(tmp_path: Path, models_dir: Path) -> None:
    with JupyterServer(tmp_path) as jupyter:
        # TensorFlow is imported first, so this takes seconds.
        wish = {"path": str(models_dir / "half_plus_two" / "1"), "name": "half"}
        with connect(jupyter) as connection:
            connection.request(
                "POST", f"{INSTANCES}/default/models", body=json.dumps(wish).encode(), headers=WITH_TOKEN
            )
            found = wait_until(lambda: _deploys(jupyter.pid), 30, "the process of the deploy")
            jupyter.process.send_signal(signal.SIGTERM)
            jupyter.process.wait(60)
        wait_until(lambda: not any(process.is_running() for process in found), _GONE, "the end of the deploy")
    assert not list(jupyter.runtime.glob("serving-workbench-*.json"))


def _deploys(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
            if "serving_jupyter.extension.deploying" in child.cmdline():
                found.append(child)
    return found
