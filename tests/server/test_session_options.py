"""Which options reach a session: every step of the order of precedence, and that they arrive in a real worker."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
from google.protobuf import text_format

from serving_server.errors import InvalidArgumentError
from serving_server.session_options import (
    DeviceOptions,
    SessionDecision,
    SessionFlags,
    decide,
    read_template,
    share_processors,
)
from serving_server.wire.session_config import config_proto
from tests.servers import SharedServer


def _read(decision: SessionDecision) -> Any:
    return config_proto().FromString(decision.config)


def _decide(
    file: str | None = None,
    flags: SessionFlags | None = None,
    devices: DeviceOptions | None = None,
    environment: dict[str, str] | None = None,
) -> Any:
    template = None if file is None else read_template(file)
    return _read(decide(flags or SessionFlags(), template, devices, environment))


def test_memory_grows_and_ops_run_in_the_caller_s_thread_when_nothing_is_said() -> None:
    config = _decide()
    assert config.gpu_options.allow_growth
    assert config.gpu_options.per_process_gpu_memory_fraction == 0
    assert config.allow_soft_placement
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (0, -1)


@pytest.mark.parametrize(
    ("said", "batches", "processors", "threads"),
    [(0, 2, 2, 1), (0, 1, 2, 2), (0, 4, 16, 8), (0, 16, 16, 8), (0, 8, 2, 1), (0, 8, 1, 1), (3, 2, 2, 3)],
)
def test_batches_that_run_at_once_share_the_processors(said: int, batches: int, processors: int, threads: int) -> None:
    session = decide(SessionFlags(intra_op=said)).config
    config = config_proto().FromString(share_processors(session, batches, processors))
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (threads, -1)


@pytest.mark.parametrize(
    ("file", "environment", "grows"),
    [
        ("", None, True),
        ("gpu_options { per_process_gpu_memory_fraction: 0.5 }", None, True),
        ("gpu_options { allow_growth: true }", None, True),
        ("gpu_options { allow_growth: false }", None, False),
        ("gpu_options { allow_growth: false }", {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}, True),
        ("gpu_options { allow_growth: true }", {"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, False),
        ("gpu_options { allow_growth: true }", {"TF_FORCE_GPU_ALLOW_GROWTH": "maybe"}, True),
        (None, {"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, False),
    ],
)
def test_growth(file: str | None, environment: dict[str, str] | None, grows: bool) -> None:
    assert _decide(file, environment=environment).gpu_options.allow_growth is grows


@pytest.mark.parametrize(
    ("file", "flag", "model", "fraction"),
    [
        (None, 0.0, 0.0, 0.0),
        ("gpu_options { per_process_gpu_memory_fraction: 0.5 }", 0.0, 0.0, 0.5),
        ("gpu_options { per_process_gpu_memory_fraction: 0.5 }", 0.25, 0.0, 0.25),
        ("gpu_options { per_process_gpu_memory_fraction: 0.5 }", 0.25, 0.125, 0.125),
        (None, 1.5, 0.0, 1.5),
    ],
)
def test_memory_fraction(file: str | None, flag: float, model: float, fraction: float) -> None:
    config = _decide(file, SessionFlags(gpu_memory_fraction=flag), DeviceOptions(gpu_memory_fraction=model))
    assert config.gpu_options.per_process_gpu_memory_fraction == fraction


def test_thread_counts_of_the_flags_replace_the_file_s_even_when_they_are_zero() -> None:
    file = "intra_op_parallelism_threads: 7 inter_op_parallelism_threads: 5"
    config = _decide(file)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (0, -1)
    config = _decide(file, SessionFlags(intra_op=2, inter_op=3))
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 3)


def test_the_rest_of_the_file_reaches_the_session() -> None:
    config = _decide("operation_timeout_in_ms: 1234 graph_options { rewrite_options { remapping: OFF } }")
    assert config.operation_timeout_in_ms == 1234
    assert config.graph_options.rewrite_options.remapping == 2


@pytest.mark.parametrize(
    ("file", "devices", "visible", "count"),
    [
        ("", "", "", None),
        ('gpu_options { visible_device_list: "1" }', "", "1", None),
        ('gpu_options { visible_device_list: "1" }', "0,2", "0,2", None),
        ('gpu_options { visible_device_list: "1" }', "cpu", "", 0),
        ('device_count { key: "GPU" value: 0 }', "", "", 0),
        ('device_count { key: "GPU" value: 0 }', "1", "1", None),
    ],
)
def test_devices(file: str, devices: str, visible: str, count: int | None) -> None:
    config = _decide(file, devices=DeviceOptions(devices))
    assert config.gpu_options.visible_device_list == visible
    assert dict(config.device_count).get("GPU") == count


@pytest.mark.parametrize(("file", "soft"), [(None, True), ("", True), ("allow_soft_placement: false", False)])
def test_soft_placement(file: str | None, soft: bool) -> None:
    assert _decide(file).allow_soft_placement is soft


def test_mixed_precision() -> None:
    rewrite = _decide(flags=SessionFlags(mixed_precision="bfloat16")).graph_options.rewrite_options
    assert rewrite.auto_mixed_precision_onednn_bfloat16 == 1
    decision = decide(SessionFlags(mixed_precision="float8"))
    assert not _read(decision).HasField("graph_options")
    assert decision.notes == ("--mixed_precision=float8 is unknown and has no effect; there is bfloat16",)


def test_what_the_environment_decides_is_told() -> None:
    environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "false", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}
    first, second = decide(SessionFlags(), environment=environment).notes
    assert "takes its card's memory at once" in first
    assert "cuda_malloc_async" in second


def test_equal_decisions_are_equal_bytes() -> None:
    file = 'device_count { key: "GPU" value: 1 } device_count { key: "CPU" value: 2 }'
    assert decide(SessionFlags(), read_template(file)) == decide(SessionFlags(), read_template(file))


@pytest.mark.parametrize("text", ["gpu", "0,0", "0, 0", "1,01", "-1", "0,", "0;1"])
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="visible_device_list"):
        DeviceOptions(text)


@pytest.mark.parametrize("fraction", [-0.5, float("nan"), float("inf")])
def test_fractions_that_are_none(fraction: float) -> None:
    with pytest.raises(InvalidArgumentError, match="per_process_gpu_memory_fraction"):
        DeviceOptions(gpu_memory_fraction=fraction)
    with pytest.raises(InvalidArgumentError, match="--per_process_gpu_memory_fraction"):
        decide(SessionFlags(gpu_memory_fraction=fraction))


def test_a_file_that_is_no_session_config_names_its_line() -> None:
    with pytest.raises(text_format.ParseError, match=r"2:1.*no_such_field"):
        read_template("allow_soft_placement: true\nno_such_field: 1")


def test_the_file_s_options_arrive_in_the_worker(server: Any, models_dir: Path, tmp_path: Path) -> None:
    """Seen from outside: TensorFlow logs where it places each operation."""
    file = tmp_path / "session.pbtxt"
    file.write_text("log_device_placement: true")
    running = server(f"--tensorflow_session_config_file={file}")
    running.put_model("m", models_dir / "half_plus_two")
    running.wait_available("m")
    assert running.rest("POST", "/v1/models/m:predict", {"instances": [2.0]}) == (
        200,
        {"predictions": [4.0]},
    )  # version 2 adds 3
    assert re.search(r": \(Mul\): /job:localhost/replica:0/task:0/device:CPU:0", running.log_text()), running.log_tail()


def test_a_model_config_may_choose_devices(server: Any, models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.pbtxt"
    entry = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" serving_workbench {{ {2} }} }}'
    base = models_dir / "half_plus_two"
    file.write_text("model_config_list {" + entry.format("m", base, 'visible_device_list: "cpu"') + "}")
    running = server(f"--model_config_file={file}")
    running.wait_available("m")
    assert running.rest("POST", "/v1/models/m:predict", {"instances": [2.0]}) == (
        200,
        {"predictions": [4.0]},
    )  # version 2 adds 3


def test_a_worker_has_the_threads_of_its_share(shared_server: SharedServer, models_dir: Path) -> None:
    """The pool of a session is made with it: with two batches at once it has half of the processors."""
    threads = {}
    for batches in (1, 2):
        name = f"threads_of_{batches}"
        shared_server.put_model(name, models_dir / "mlp", batching={"num_batch_threads": batches})
        shared_server.wait_available(name)
        threads[batches] = psutil.Process(shared_server.versions(name)[1]["worker_pid"]).num_threads()
        assert shared_server.control("DELETE", f"/models/{name}")[0] == 204
    processors = os.cpu_count() or 1
    # Beside them the two have the same threads: a lane for each processor, two at least.
    lanes = max(processors, 2) - max(processors, 1)
    assert threads[1] - threads[2] == processors - max(1, processors // 2) - lanes
