"""Flags seen from outside: what is accepted, what is refused, and effects that no other test shows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.flags import parse_flags
from serving_server.flags_to_options import build_options
from serving_server.listening import everywhere
from serving_server.session_options import SessionFlags
from serving_server.tensors import to_proto
from serving_server.transports.channel_arguments import limits_from_arguments
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.conformance.told import differs
from tests.servers import ServerProcess, wait_until

_ACCEPTED = {
    "rest_api_num_threads": "4",
    "grpc_max_threads": "4",
    "flush_filesystem_caches": "false",
    "num_tflite_pools": "2",
    "num_tflite_interpreters_per_pool": "2",
    "remove_unused_fields_from_bundle_metagraph": "false",
    "xla_cpu_compilation_enabled": "true",
    "xla_gpu_compilation_enabled": "true",
    "skip_initialize_tpu": "true",
}
_REFUSED = {
    "use_alts_credentials": ("true", "UNIMPLEMENTED: --use_alts_credentials is for Google's own machines"),
    "thread_pool_factory_config_file": ("/f", "UNIMPLEMENTED: --thread_pool_factory_config_file has no factories"),
}


def test_a_flag_without_a_meaning_here_is_accepted_and_says_so(server: Any) -> None:
    running: ServerProcess = server(*(f"--{name}={value}" for name, value in _ACCEPTED.items()))
    log = running.log_text()
    for name in _ACCEPTED:
        (line,) = (line for line in log.splitlines() if f"--{name} " in line)
        assert "no effect here" in line


@pytest.mark.parametrize("name", sorted(_REFUSED))
def test_a_flag_that_cannot_be_honoured_is_refused_with_its_reason(name: str) -> None:
    value, text = _REFUSED[name]
    done = subprocess.run(
        [sys.executable, "-m", "serving_server", "--model_base_path=/m", f"--{name}={value}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 255
    assert f"Failed to start server. Error: {text}" in done.stdout


#: flag, value, what it sets, the value there, and that without the flag
_MEANINGS: tuple[tuple[str, str, str, Any, Any], ...] = (
    ("max_num_load_retries", "2", "max_load_retries", 2, 5),
    ("max_num_load_retries", "-1", "max_load_retries", 0, 5),
    ("load_retry_interval_micros", "1500000", "load_retry_interval", 1.5, 60.0),
    ("file_system_poll_wait_seconds", "0", "poll_wait", 0, 1),
    ("file_system_poll_wait_seconds", "-1", "poll_wait", -1, 1),
    ("model_config_file_poll_wait_seconds", "7", "config_poll_wait", 7, 0),
    ("num_load_threads", "3", "num_load_threads", 3, 4),
    ("num_unload_threads", "3", "num_unload_threads", 3, 0),
    ("rest_api_timeout_in_ms", "1500", "rest_api_timeout", 1.5, 30.0),
    ("rest_api_timeout_in_ms", "0", "rest_api_timeout", None, 30.0),
    ("rest_api_timeout_in_ms", "-5", "rest_api_timeout", None, 30.0),
    ("bind_address", "127.0.0.1", "bind_address", "127.0.0.1", "0.0.0.0"),
    ("bind_address", "127.0.0.1", "rest_bind_address", "127.0.0.1", "::"),
    ("rest_api_enable_cors_support", "true", "rest_api_cors", True, False),
    ("allow_version_labels_for_unavailable_models", "true", "allow_unavailable_labels", True, False),
    ("saved_model_tags", "a,b", "saved_model_tags", ("a", "b"), ("serve",)),
    ("enable_model_warmup", "false", "warmup", False, True),
    ("num_request_iterations_for_warmup", "4", "warmup_iterations", 4, 1),
    ("enable_signature_method_name_check", "true", "check_method_names", True, False),
    ("enable_serialization_as_tensor_content", "true", "tensor_content", True, False),
    ("enable_grpc_healthcheck_service", "true", "grpc_health", True, False),
    ("enable_profiler", "false", "profiler", False, True),
    ("prefer_tflite_model", "true", "prefer_tflite", True, False),
    ("grpc_channel_arguments", "a=1,b=x", "grpc_channel_arguments", (("a", 1), ("b", "x")), ()),
    ("grpc_channel_arguments", "a=--5,b=2147483648", "grpc_channel_arguments", (("a", "--5"), ("b", "2147483648")), ()),
    ("tensorflow_session_parallelism", "3", "session", SessionFlags(3, 3), SessionFlags()),
    ("tensorflow_intra_op_parallelism", "3", "session", SessionFlags(3, 0), SessionFlags()),
    ("tensorflow_inter_op_parallelism", "3", "session", SessionFlags(0, 3), SessionFlags()),
    ("per_process_gpu_memory_fraction", "0.5", "session", SessionFlags(0, 0, 0.5), SessionFlags()),
    ("mixed_precision", "bfloat16", "session", SessionFlags(0, 0, 0.0, "bfloat16"), SessionFlags()),
)


@pytest.mark.parametrize(("name", "value", "option", "meaning", "default"), _MEANINGS)
def test_what_flags_mean(name: str, value: str, option: str, meaning: Any, default: Any) -> None:
    def options(*flags: str) -> Any:
        return getattr(build_options(parse_flags(["--model_base_path=/m", *flags])[0]), option)

    assert (options(f"--{name}={value}"), options()) == (meaning, default)


def test_config_file_batching_file_time_limit_and_tensor_content(server: Any, models_dir: Path, tmp_path: Path) -> None:
    """One server for all four, as starting one takes seconds."""
    batching, config = tmp_path / "batching.pbtxt", tmp_path / "models.pbtxt"
    batching.write_text("max_batch_size { value: 3 } batch_timeout_micros { value: 600000000 }")
    entries = (
        f'config {{ name: "{name}" base_path: "{models_dir / folder}" model_platform: "tensorflow" }}'
        for name, folder in (("slow", "slow"), ("m", "half_plus_two"))
    )
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    running: ServerProcess = server(
        f"--model_config_file={config}",
        "--model_name=single",
        f"--model_base_path={models_dir / 'half_plus_two'}",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        "--rest_api_timeout_in_ms=700",
        "--enable_serialization_as_tensor_content",
    )
    running.wait_available("slow")
    running.wait_available("m")
    assert running.rest("GET", "/v1/models/single")[0] == 404

    def told(model: str, inputs: dict[str, list[float]]) -> tuple[int, str]:
        status, answer = running.rest("POST", f"/v1/models/{model}:predict", {"inputs": inputs})
        return status, answer["error"]

    assert not differs(told("m", {"x": [1.0] * 4}), (400, "Task size 4 is larger than maximum input batch size 3"))
    # A batch that nobody fills, and one that runs: for longer than a request may take.
    waited = (429, "Run() timeout exceeded while waiting in batching queue")
    assert told("m", {"x": [1.0] * 2}) == waited
    ran = (504, "Timed out waiting for notification")
    assert told("slow", {"x": [1.0] * 3, "steps": [5000] * 3}) == ran

    request = PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(to_proto(np.float32([2.0] * 3)))
    response = running.call("/tensorflow.serving.PredictionService/Predict", request, PredictResponse)
    assert np.frombuffer(response.outputs["y"].tensor_content, np.float32).tolist() == [4.0] * 3
    assert not response.outputs["y"].float_val


def test_the_tags_choose_the_graph(server: Any, model_copy: Callable[..., Path]) -> None:
    base = model_copy("half_plus_two").parent
    running: ServerProcess = server(
        "--saved_model_tags=serve,gpu", "--max_num_load_retries=0", "--model_name=m", f"--model_base_path={base}"
    )
    wait_until(lambda: running.versions("m").get(1, {}).get("state") == "END", 60, "the load to fail")
    message = running.versions("m")[1]["error_message"]
    assert message.startswith("Could not find meta graph def matching supplied tags: { serve gpu }")


def test_batching_parameters_that_nobody_gave(tmp_path: Path) -> None:
    file = tmp_path / "batching.pbtxt"
    file.write_text('thread_pool_name { value: "pool" }')
    wanted = {
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "allowed_batch_sizes": [],
        "pad_variable_length_inputs": False,
        "enable_large_batch_splitting": False,
        "max_execution_batch_size": None,
    }
    for flags in ((), (f"--batching_parameters_file={file}",)):
        batching = build_options(parse_flags(["--model_base_path=/m", "--enable_batching", *flags])[0]).batching
        assert batching is not None
        found = batching.to_json()
        assert {name: found[name] for name in wanted} == wanted
        assert 1 <= batching.num_batch_threads <= (os.cpu_count() or 1)


def test_messages_as_large_as_tensorflow_serving_takes() -> None:
    """More is sent in other tests than grpcio takes by itself; 2 GiB are too much for a test."""
    assert limits_from_arguments([]).max_message_bytes == 2**31 - 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_rest_listens_to_ipv6_and_ipv4() -> None:
    with everywhere(0) as listening:
        port = listening.getsockname()[1]
        for host in ("::1", "127.0.0.1"):
            with socket.create_connection((host, port), 10):
                listening.accept()[0].close()
        with pytest.raises(OSError, match="in use"):
            everywhere(port)


def test_rest_on_the_port_of_grpc_is_left_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    flags = [f"--port={port}", f"--rest_api_port={port}", "--bind_address=127.0.0.1", f"--model_base_path={tmp_path}"]
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "serving_server", *flags], stdout=out, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: f"serving grpc at 127.0.0.1:{port}" in log.read_text(), 30, log.read_text)
            assert "--rest_api_port is equal to --port" in log.read_text()
            assert "serving rest" not in log.read_text()
        finally:
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(60) == 0
