"""How a kernel finds the Jupyter server that it belongs to, and when it goes on alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import serving_workbench as sw
from serving_workbench import surroundings
from serving_workbench.jupyter_server import ask_to_start
from tests import leaks
from tests.kernel_ext.extension import ask, believed
from tests.kernel_ext.jupyter import JupyterServer, Kernel

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


@pytest.mark.parametrize("hostname", ["", "0.0.0.0", "localhost"])
def test_a_server_on_all_addresses_is_asked_on_this_machine(
    jupyter: JupyterServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostname: str
) -> None:
    # Its URL is for others, who may know it by a name that means nothing here.
    url = jupyter.url.replace("127.0.0.1", "known-to-others.invalid") + "/"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(changed(jupyter, tmp_path, url=url, hostname=hostname)))
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


# --- what does not fit is said ---


def test_an_extension_of_another_version_is_warned_about(jupyter: JupyterServer, tmp_path: Path) -> None:
    # A kernel whose environment says that its version is another: the same code, so all else works.
    package = tmp_path / "serving_workbench-9.9.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: serving-workbench\nVersion: 9.9\n")
    script = (
        "import warnings, serving_workbench as sw\n"
        "from pathlib import Path\n"
        "from serving_workbench.jupyter_server import ask_to_start\n"
        "with warnings.catch_warnings(record=True) as warned:\n"
        "    warnings.simplefilter('always')\n"
        "    assert ask_to_start('skew', None, keep=False, timeout=30.0)\n"
        "    assert sw.Server.find('skew').is_running()\n"
        "for each in warned:\n"
        "    print(each.category.__name__, each.message)\n"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=env, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("VersionSkewWarning The Jupyter server has version 0.1.0 of serving-workbench loaded, this")
    assert second.startswith("VersionSkewWarning The server 'skew' runs version 0.1.0 of serving-workbench, this proce")
    ask(jupyter, "DELETE", f"{INSTANCES}/skew")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process passes for a kernel."""
    monkeypatch.setattr(surroundings, "in_kernel", lambda: True)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)


def test_the_kernel_of_a_jupyter_server_on_this_machine_is_not_remote(kernel: None) -> None:
    assert surroundings.remote_kernel() is None


def test_a_kernel_over_ssh_or_from_another_machine_is_remote(kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "999999999")
    assert surroundings.remote_kernel() == "what started it is no process of this machine"
    with pytest.raises(sw.ServerNotRunningError, match=r"This kernel runs on '.*' \(what started it is no process of"):
        sw.Server.connect("nowhere")
    monkeypatch.delenv("JPY_PARENT_PID")
    assert surroundings.remote_kernel() is None
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")
    assert surroundings.remote_kernel() == "it was started over SSH"


def test_the_kernel_of_a_gateway_is_told_whose_addresses_it_gets(
    kernel: None, jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "jupyter-kernelgateway"], stdin=subprocess.PIPE) as gateway:
        monkeypatch.setenv("JPY_PARENT_PID", str(gateway.pid))
        with pytest.warns(sw.RemoteKernelWarning, match=r"\(a kernel gateway started it\).*ssh -L"):
            server = sw.Server.launch("afar")
        assert server.stop()


def test_a_kernel_behind_a_gateway_client_is_served_where_it_runs(jupyter: JupyterServer, tmp_path: Path) -> None:
    token = json.loads((jupyter.runtime / f"jpserver-{jupyter.pid}.json").read_text())["token"]
    flags = (f"--GatewayClient.url={jupyter.url}", f"--GatewayClient.auth_token={token}")
    with JupyterServer(tmp_path, *flags) as near:
        kernel_id = near.request("POST", "/api/kernels", {"name": "python3"})["id"]
        far = Kernel(jupyter, kernel_id)
        far.run("import serving_workbench as sw; server = sw.Server.launch('afar')")
        assert psutil.Process(believed(jupyter, "afar").pid).ppid() == jupyter.pid
        assert not ask(near, "GET", INSTANCES).json["instances"], "it is not there"
        far.shutdown()
    ask(jupyter, "DELETE", f"{INSTANCES}/afar")


# --- which server is meant ---


def test_the_environment_names_the_server_unless_an_argument_does(
    jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SERVING_WORKBENCH_INSTANCE", "mine")
    server = sw.Server.launch()  # by the extension, as all who call it without a name
    assert server.name == "mine"
    assert sw.Server.connect().instance_id == server.instance_id
    with pytest.raises(sw.ServerNotRunningError, match="'other'"):
        sw.connect(instance="other")
    monkeypatch.delenv("SERVING_WORKBENCH_INSTANCE")
    with pytest.raises(sw.ServerNotRunningError, match="'default'"):
        sw.status()
    assert sw.stop("mine")
