"""A server started from a notebook, with a real Jupyter server and real kernels: who finds it, what it survives."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving_workbench.records import Record, is_alive, read_record
from tests import leaks
from tests.kernel_ext.jupyter import JupyterServer, Kernel
from tests.servers import wait_until

#: Seconds that a serving process has to be gone after its owner.
_GONE = 60.0


def the_record(jupyter: JupyterServer) -> Record:
    record = read_record(jupyter.runtime / "serving-workbench-default.json")
    assert record is not None
    return record


def serve(kernel: Kernel, models_dir: Path) -> None:
    """Serve half_plus_two, version 1 (y = x / 2 + 2), as a user does it in two cells."""
    kernel.run("%load_ext serving_workbench")
    kernel.run(f"served = %serve {models_dir}/half_plus_two/1 --name half --no-progress")


def answer(record: Record) -> list[float]:
    """What a REST client gets for 1 and 2."""
    request = urllib.request.Request(
        f"{record.endpoints['rest']}/v1/models/half:predict", data=b'{"instances": [1.0, 2.0]}'
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        predictions: list[float] = json.loads(response.read())["predictions"]
    return predictions


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with JupyterServer(tmp_path_factory.mktemp("j")) as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def kernel(jupyter: JupyterServer) -> Iterator[Kernel]:
    started = jupyter.start_kernel()
    yield started
    started.close()


@pytest.fixture(scope="module")
def record(jupyter: JupyterServer, kernel: Kernel, models_dir: Path) -> Record:
    """The record of the server that the kernel has started. The Jupyter server owns it and takes it along."""
    serve(kernel, models_dir)
    found = the_record(jupyter)
    leaks.allow(found.pid)
    return found


@pytest.fixture(autouse=True)
def the_same_server_goes_on(jupyter: JupyterServer, record: Record) -> Iterator[None]:
    """Around each test: the process that the first kernel started answers, and answers right."""
    assert answer(record) == [2.5, 3.0]
    yield
    if jupyter.process.poll() is None:
        assert answer(record) == [2.5, 3.0]
        assert the_record(jupyter) == record, "another process, or none"
        assert is_alive(record.pid, record.create_time)


def test_it_belongs_to_the_jupyter_server(jupyter: JupyterServer, record: Record) -> None:
    assert record.owner_pid == jupyter.pid
    # Started by its extension, which the kernel has asked, and not by the kernel.
    assert psutil.Process(record.pid).ppid() == jupyter.pid


def test_an_interrupt_of_the_kernel_leaves_it_serving(kernel: Kernel) -> None:
    request = kernel.start("import time; time.sleep(600)")
    kernel.interrupt()
    assert kernel.reply(request)["ename"] == "KeyboardInterrupt"
    assert "AVAILABLE" in kernel.run("%serve status")


def test_a_restart_of_the_kernel_leaves_it_serving(kernel: Kernel, record: Record) -> None:
    pid = kernel.run("import os; print(os.getpid())")
    kernel.restart()
    assert kernel.run("import os; print(os.getpid())") != pid
    # The new kernel finds it, and deploys into it.
    kernel.run("%load_ext serving_workbench")
    assert "AVAILABLE" in kernel.run("%serve status half")
    found = kernel.run(
        "import serving_workbench as sw; served = sw.connect('half')\n"
        "print(served.server.instance_id, served.predict([2.0]).tolist())"
    )
    assert found.split() == [record.instance_id, "[3.0]"]


def test_a_second_kernel_finds_it(jupyter: JupyterServer, record: Record, models_dir: Path) -> None:
    second = jupyter.start_kernel()
    second.run("%load_ext serving_workbench")
    assert "AVAILABLE" in second.run("%serve status half")
    serving = second.run(f"other = %serve {models_dir}/mlp/1 --name other --no-progress\nprint(other.server.pid)")
    assert serving.strip() == str(record.pid)
    second.run("%serve stop other")
    second.shutdown()


def test_a_plain_script_finds_it(jupyter: JupyterServer, record: Record) -> None:
    script = (
        "import serving_workbench as sw\n"
        "served = sw.connect('half')\n"
        "print(served.server.instance_id, served.predict([2.0]).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=jupyter.env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [record.instance_id, "[3.0]"]


def test_the_end_of_its_kernel_leaves_it_serving(jupyter: JupyterServer, models_dir: Path) -> None:
    # A kernel of its own as the one that deploys last, so that the others can be run in any order.
    short = jupyter.start_kernel()
    serve(short, models_dir)
    pid = int(short.run("import os; print(os.getpid())"))
    short.shutdown()
    wait_until(lambda: not psutil.pid_exists(pid), what="the end of the kernel")


def test_it_ends_with_the_jupyter_server_that_is_killed(jupyter: JupyterServer, record: Record) -> None:
    # The last test of this file: the others need the Jupyter server.
    jupyter.kill()
    wait_until(
        lambda: not is_alive(record.pid, record.create_time),
        _GONE,
        what="the end of the serving process of a dead owner",
    )
    assert not list(jupyter.runtime.glob("serving-workbench-*.json"))
