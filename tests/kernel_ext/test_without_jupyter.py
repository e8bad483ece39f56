"""The magics where no Jupyter server is: IPython in a terminal, a kernel that an editor started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from serving_workbench.records import is_alive, read_record
from tests.servers import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process with a runtime folder of its own, that no Jupyter server has started."""
    (tmp_path / "r").mkdir(mode=0o700)
    return {
        **{name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"},
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"),
    }


def test_ipython_in_a_terminal_owns_what_it_serves(
    tmp_path: Path, models_dir: Path, environment: dict[str, str]
) -> None:
    lines = (
        "%load_ext serving_workbench",
        f"served = %serve {models_dir}/half_plus_two/1 --name half --no-progress",
        "import os; print('served', served.predict([2.0]).tolist(), served.server.pid)",
        "print('owned', served.server.record.owner_pid == os.getpid())",
    )
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", "\n".join(lines)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, env=environment, cwd=tmp_path, check=False
    )
    assert "owned True" in done.stdout, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("served [")]
    *answer, pid = line.split()
    assert answer == ["served", "[3.0]"]
    wait_until(lambda: not psutil.pid_exists(int(pid)), 60, "the end of the serving process")
    assert not list((tmp_path / "r").glob("serving-workbench-*.json"))


def test_the_kernel_of_an_editor_owns_what_it_serves_through_the_editor(
    tmp_path: Path, models_dir: Path, environment: dict[str, str]
) -> None:
    connection = tmp_path / "kernel.json"
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=tmp_path
    ) as process:
        wait_until(lambda: connection.exists() and connection.stat().st_size > 0, 60, "the kernel's file")
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            code = f"%load_ext serving_workbench\n%serve {models_dir}/half_plus_two/1 --name half --no-progress"
            reply = client.execute_interactive(code, timeout=90, output_hook=lambda message: None)
            assert reply["content"]["status"] == "ok", reply["content"]
            record = read_record(tmp_path / "r" / "serving-workbench-default.json")
            assert record is not None
            # A restart replaces the kernel, so it is this process, as the editor, that the server ends with.
            assert record.owner_pid == os.getpid()
            client.shutdown()
            process.wait(30)
            assert is_alive(record.pid, record.create_time)
        finally:
            client.stop_channels()
            client.context.destroy()
            process.kill()
    script = "import serving_workbench as sw; print(sw.stop())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert done.stdout.strip() == "True"
