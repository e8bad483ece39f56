"""How a kernel finds the Jupyter server that it belongs to, and when it goes on alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving_workbench.jupyter_server import ask_to_start
from tests import leaks
from tests.kernel_ext.extension import ask, believed
from tests.kernel_ext.jupyter import JupyterServer

INSTANCES = "/serving/api/instances"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("j"), "--ServerApp.base_url=/a%40b/") as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(autouse=True)
def as_its_kernel(jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.runtime))
    monkeypatch.setenv("JPY_PARENT_PID", str(jupyter.pid))


def start() -> bool:
    return ask_to_start("asked", Path("/models"), keep=False, timeout=30.0)


def test_the_jupyter_server_starts_it(jupyter: JupyterServer) -> None:
    assert start()
    record = believed(jupyter, "asked")
    assert (record.root, record.owner_pid) == ("/models", jupyter.pid)
    assert psutil.Process(record.pid).ppid() == jupyter.pid
    assert start(), "it runs"
    assert believed(jupyter, "asked") == record
    ask(jupyter, "DELETE", f"{INSTANCES}/asked")


def changed(jupyter: JupyterServer, folder: Path, mode: int = 0o600, age: float = 0.0, **changes: Any) -> Path:
    """A runtime folder with a copy of the server's own file, changed."""
    info = folder / f"jpserver-{jupyter.pid}.json"
    info.write_text(json.dumps(json.loads((jupyter.runtime / info.name).read_text()) | changes))
    info.chmod(mode)
    if age:
        then = psutil.Process(jupyter.pid).create_time() - age
        os.utime(info, (then, then))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "wrong"},
        {"token": ""},
        {"url": "http://127.0.0.1:9/"},
        {"url": 1},
        {"mode": 0o644},
        {"age": 100.0},
    ],
    ids=str,
)
def test_a_kernel_goes_on_alone(
    jupyter: JupyterServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(changed(jupyter, tmp_path, **changes)))
    assert not start()
    assert not ask(jupyter, "GET", INSTANCES).json["instances"]


def test_an_unchanged_copy_of_the_file_would_do(
    jupyter: JupyterServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(changed(jupyter, tmp_path)))
    assert start()
    ask(jupyter, "DELETE", f"{INSTANCES}/asked")


def test_behind_a_hub_its_token_is_used(
    jupyter: JupyterServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = json.loads((jupyter.runtime / f"jpserver-{jupyter.pid}.json").read_text())["token"]
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(changed(jupyter, tmp_path, token="")))
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", token)
    assert start()
    ask(jupyter, "DELETE", f"{INSTANCES}/asked")


def test_no_server_of_another_environment_is_asked_for(jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert not start()


@pytest.mark.parametrize("pid", ["", "x", "999999999"])
def test_without_a_jupyter_server_nobody_is_asked(pid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", pid)
    assert not start()
