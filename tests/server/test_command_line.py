"""The process from outside: flags, start-up, what it refuses, how it ends, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.servers import ServerProcess, port_in_use, wait_until

FAILURE = 255


def _run(*flags: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving_server", *flags], check=False, capture_output=True, text=True, timeout=timeout
    )


def test_version_and_help() -> None:
    answer = _run("--version")
    assert answer.returncode == 0
    assert answer.stdout.startswith("TensorFlow ModelServer: 0.")
    assert "TensorFlow Library: 2." in answer.stdout
    answer = _run("--help")
    assert answer.returncode == FAILURE  # as TensorFlow's flag parser
    for flag in ("--model_base_path", "--enable_batching", "--record_file"):
        assert flag in answer.stdout


@pytest.mark.parametrize(
    "flags", [["--help"], ["--version"], ["--no_such_flag", "--model_base_path=relative"]], ids=lambda flags: flags[0]
)
def test_a_reader_that_left_is_no_error(flags: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)  # as of `serving-server --help | head -1`
    command = [sys.executable, "-m", "serving_server", *flags]
    try:
        answer = subprocess.run(command, check=False, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write_end)
    assert answer.returncode == (0 if flags == ["--version"] else FAILURE)
    assert answer.stderr == ""


def test_a_value_that_cannot_be_read_names_the_flag() -> None:
    beyond = f"--num_load_threads={2**63}"
    for argument, remark in (
        ("--port=x", "it takes a whole number"),
        ("--port=8_5", "it takes a whole number"),
        (beyond, "it takes a whole number"),
        ("--enable_batching=True", "it takes true or false"),
        ("--port", "write --port=<value>"),
    ):
        answer = _run(argument)
        name = argument.partition("=")[0][2:]
        assert answer.returncode == FAILURE
        assert f"for flag {name}." in answer.stdout
        last = answer.stdout.splitlines()[-1]
        assert last.startswith("Couldn't interpret value")
        assert last.endswith(f"({remark})")


def test_an_unknown_argument_is_named_and_the_server_goes_on(tmp_path: Path) -> None:
    answer = _run("--no_such_flag=1", "--port", "9", "--model_base_path=relative")
    assert answer.returncode == FAILURE
    answer = _run("--no_such_flag=1", "--model_nam=m", "--model_base_path=relative")
    assert "unknown argument: --no_such_flag=1\n" in answer.stdout
    assert "unknown argument: --model_nam=m (did you mean --model_name?)\n" in answer.stdout
    assert "Failed to start server. Error: INVALID_ARGUMENT: Expected model default to have an absolute path" in (
        answer.stdout
    )


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        (["--model_base_path=/m", "--port=0"], "server_options.grpc_port is not set."),
        (["--model_base_path=/m", "--port=70000"], "--port=70000 is not a port number"),
        (
            ["--model_base_path=/m", "--tensorflow_intra_op_parallelism=2147483648"],
            "--tensorflow_intra_op_parallelism=2147483648 is more than an int32 holds",
        ),
        (
            ["--model_base_path=/m", "--batching_parameters_file=/b"],
            "server_options.batching_parameters_file is set without setting server_options.enable_batching.",
        ),
        (["--model_config_file=/no/such/file"], "/no/such/file; No such file or directory"),
        (["--model_base_path=/m", "--use_alts_credentials"], "--use_alts_credentials is for Google's own machines"),
        (["--model_base_path=/m", "--model_name=a/b"], "model name 'a/b' has '/' in it"),
        (["--model_base_path=/m", "--aspired_version_policy=none"], "--aspired_version_policy=none is unknown"),
        (
            ["--model_base_path=/m", "--wait_for_models", "--wait_for_models_timeout_seconds=0"],
            "--wait_for_models_timeout_seconds=0 must be positive",
        ),
        (
            [
                "--model_base_path=/m",
                "--tensorflow_session_parallelism=1",
                "--tensorflow_intra_op_parallelism=1",
                "--tensorflow_inter_op_parallelism=1",
            ],
            "You cannot configure all.",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(flags: list[str], text: str) -> None:
    answer = _run(*flags)
    assert answer.returncode == FAILURE
    assert "Failed to start server. Error: " in answer.stdout
    assert text in answer.stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "last entry was 4; expected 8"),
        ("max_batch_sise { value: 8 }", 'has no field named "max_batch_sise"'),
        ("max_batch_size { value: 0 }", "max_batch_size must be an integer of at least 1; was 0"),
    ],
)
def test_a_bad_batching_file_is_refused_with_its_line(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "batching.pbtxt"
    file.write_text(content)
    answer = _run("--model_base_path=/m", "--enable_batching", f"--batching_parameters_file={file}")
    assert answer.returncode == FAILURE
    assert text in answer.stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            (
                'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } '
                'config { name: "a" base_path: "/b" model_platform: "tensorflow" } }'
            ),
            "Illegal to list model a multiple times in config list",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" } }',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "torch" } }',
            "Model a requests unsupported platform torch",
        ),
        ("model_config_list { config { nam", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
    ],
)
def test_a_bad_model_config_is_refused(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "models.pbtxt"
    file.write_text(content)
    answer = _run(f"--model_config_file={file}")
    assert answer.returncode == FAILURE
    assert text in answer.stdout


def test_a_config_file_serves_several_models(server: Any, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.pbtxt"
    file.write_text(
        f"""model_config_list {{
          config {{ name: "half" base_path: "{models_dir}/half_plus_two" model_platform: "tensorflow"
                    model_version_policy {{ all {{}} }} }}
          config {{ name: "multi" base_path: "{models_dir}/multi" model_type: TENSORFLOW }}
        }}"""
    )
    process: ServerProcess = server(f"--model_config_file={file}")
    process.wait_available("half", 1, 2)
    process.wait_available("multi")
    assert process.predict("half", {"x": np.float32([2])}, version=1)["y"].tolist() == [3.0]


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use_is_named(flag: str, models_dir: Path) -> None:
    with port_in_use() as taken, socket.create_server(("127.0.0.1", 0)) as free:
        other = free.getsockname()[1]
        free.close()
        ports = {"port": other, "rest_api_port": 0, flag: taken}
        answer = _run(
            "--bind_address=127.0.0.1",
            *(f"--{name}={port}" for name, port in ports.items()),
            f"--model_base_path={models_dir / 'half_plus_two'}",
        )
    assert answer.returncode == FAILURE
    assert "UNAVAILABLE" in answer.stdout
    assert f"127.0.0.1:{taken}" in answer.stdout


def test_a_second_server_on_the_same_record_refuses(server: Any, tmp_path: Path) -> None:
    first: ServerProcess = server()
    answer = _run("--ephemeral_ports", "--bind_address=127.0.0.1", f"--record_file={first.record_path}")
    assert answer.returncode == FAILURE
    assert f"belongs to a running server (pid {first.pid})" in answer.stdout
    assert first.control("GET", "/identity")[0] == 200
    assert json.loads(first.record_path.read_text())["pid"] == first.pid


@pytest.fixture
def record() -> Iterator[Path]:
    """A path of a record that leaves room for a Unix socket beside it, wherever pytest has its folders."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "server.json"


def test_the_record_is_private_and_goes_with_the_server(server: Any, record: Path) -> None:
    process: ServerProcess = server(record=record)
    mode = process.record_path.stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    socket_path = Path(process.record["control"]["unix"])
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert process.stop() == 0
    assert not process.record_path.exists()
    assert not socket_path.exists()


def test_a_long_record_path_falls_back_to_loopback_tcp(server: Any, tmp_path: Path) -> None:
    process: ServerProcess = server(record=tmp_path / ("long" * 30) / "server.json")
    assert process.record["control"]["tcp"][0] == "127.0.0.1"
    status, answer = process.control("GET", "/identity")
    assert (status, answer["instance_id"]) == (200, process.record["instance_id"])


def test_the_front_does_not_execute_tensorflow_and_stays_small(server: Any, models_dir: Path) -> None:
    process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'half_plus_two'}")
    process.wait_available("m")
    process.predict("m", {"x": np.float32([1])})
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.exists():
        assert "tensorflow" not in maps.read_text()
    rss = process.control("GET", "/status")[1]["front"]["rss_bytes"]
    print(f"front RSS {rss / 1e6:.0f} MB")
    assert rss <= 90e6


def test_the_forkserver_has_no_keras(server: Any, models_dir: Path) -> None:
    """Nor what Keras looks for when it is imported: none of it runs a graph, and it takes seconds and memory."""
    process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'half_plus_two'}")
    process.wait_available("m")
    maps = Path(f"/proc/{process.control('GET', '/status')[1]['forkserver']['pid']}/maps")
    if maps.exists():
        mapped = maps.read_text()
        assert "/tensorflow/" in mapped
        assert [name for name in ("sklearn", "matplotlib", "pandas") if f"/{name}/" in mapped] == []


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_NOFILE"), reason="psutil tells limits of processes on Linux only")
def test_the_front_may_open_as_many_files_as_the_system_lets_it(server: Any) -> None:
    process: ServerProcess = server()
    soft, hard = psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft == hard or soft >= 65_536


def test_nohup_keeps_it_alive(server: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; a child inherits it
    try:
        process: ServerProcess = server()
    finally:
        signal.signal(signal.SIGHUP, before)
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 0
    assert "stopping: got SIGTERM" in process.log_text()
    assert "SIGHUP" not in process.log_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda s: s.name)
def test_a_signal_ends_it_in_order(server: Any, models_dir: Path, how: signal.Signals) -> None:
    before = signal.signal(how, signal.SIG_DFL) if how == signal.SIGHUP else None  # the tests may be under nohup
    try:
        process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'half_plus_two'}")
    finally:
        if before is not None:
            signal.signal(how, before)
    process.wait_available("m")
    tree = psutil.Process(process.pid).children(recursive=True)
    assert tree
    os.kill(process.pid, how)
    assert process.wait() == 0
    wait_until(lambda: not any(p.is_running() for p in tree), 60, "its processes to end")


def test_it_ends_while_tensorflow_is_still_importing(server: Any, models_dir: Path) -> None:
    process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'half_plus_two'}")
    assert process.stop() == 0


def test_it_ends_with_its_lifeline(server: Any) -> None:
    process: ServerProcess = server()
    process.cut_lifeline()
    assert process.wait(60) == 0
    assert not process.record_path.exists()


def test_it_ends_with_its_owner(server: Any) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    created = psutil.Process(owner.pid).create_time()
    process: ServerProcess = server(f"--owner_pid={owner.pid}", f"--owner_create_time={created!r}", lifeline=False)
    assert process.control("GET", "/identity")[0] == 200
    owner.kill()
    owner.communicate()
    assert process.wait(60) == 0


def test_an_owner_with_another_create_time_is_not_its_owner(tmp_path: Path) -> None:
    """A reused pid: the process is alive, but it is somebody else."""
    created = psutil.Process().create_time()
    process = ServerProcess(f"--owner_pid={os.getpid()}", f"--owner_create_time={created - 100}", directory=tmp_path)
    process.launch()
    try:
        assert process.wait(60) == 0
    finally:
        process.stop()
    assert "is gone" in process.log_text()


def test_its_end_answers_what_runs(server: Any, models_dir: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'slow'}")
    process.wait_available("m")
    work = {"x": np.float32([7]), "steps": np.int32([2000])}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(process.predict, "m", work)
        wait_until(lambda: process.versions("m")[1]["requests_in_flight"] == 1, 60, "the request to run")
        os.kill(process.pid, signal.SIGTERM)
        assert running.result(60)["y"].shape == (1,)
    assert process.wait() == 0


def test_a_killed_front_takes_its_processes_along(server: Any, record: Path, models_dir: Path) -> None:
    process: ServerProcess = server("--model_name=m", f"--model_base_path={models_dir / 'slow'}", record=record)
    process.wait_available("m")
    tree = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(p.is_running() for p in tree), 60, "forkserver and workers to follow")
    process.record_path.unlink()  # nobody was left to do it; whoever reads a record checks the pid
    Path(process.record["control"]["unix"]).unlink()


def test_a_front_killed_during_the_import_leaves_no_forkserver(server: Any, record: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("import time\n\ntime.sleep(600)\n")  # an import that does not end
    process: ServerProcess = server(env={"PYTHONPATH": str(tmp_path)}, record=record)
    (forkserver,) = wait_until(lambda: psutil.Process(process.pid).children(), 60, "the forkserver")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not forkserver.is_running(), 60, "the forkserver to follow, long before its import ends")
    process.record_path.unlink()
    Path(process.record["control"]["unix"]).unlink()
