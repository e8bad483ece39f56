"""The command line of TensorFlow Serving's container image, letter for letter, in a server on ports of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.foreign.raw import PREDICT
from tests.servers import wait_until

#: What the image runs, but for the ports (8500 and 8501 there) and the name of the program.
_ENTRY_POINT = """#!/bin/sh
exec serving-server --port={grpc} --rest_api_port={rest} \\
    --model_name=${{MODEL_NAME}} --model_base_path=${{MODEL_BASE_PATH}}/${{MODEL_NAME}} "$@"
"""


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("0.0.0.0", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _rest(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


@pytest.fixture
def container(models_dir: Path, tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """Ports (gRPC, REST) of a server that was started as by `docker run -e MODEL_NAME=half_plus_three`, and its log."""
    ports = _free_ports()
    script, log = tmp_path / "entrypoint.sh", tmp_path / "log"
    script.write_text(_ENTRY_POINT.format(grpc=ports[0], rest=ports[1]))
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = os.environ | {"PATH": programs, "MODEL_NAME": "half_plus_three", "MODEL_BASE_PATH": str(models_dir)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["sh", script, "--rest_api_timeout_in_ms=20000"], env=env, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield *ports, log
        process.send_signal(signal.SIGTERM)  # as `docker stop` does
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            process.wait()


def test_the_entry_point_of_the_image(container: tuple[int, int, Path]) -> None:
    grpc_port, rest_port, log = container
    status = "/v1/models/half_plus_three"

    def available() -> bool:
        answer = _rest(rest_port, "GET", status)
        return answer is not None and answer[0] == 200 and answer[1]["model_version_status"][0]["state"] == "AVAILABLE"

    wait_until(available, 60, lambda: f"{status}\n{log.read_text()}")
    answer = _rest(rest_port, "POST", f"{status}:predict", {"instances": [1.0, 2.0, 5.0]})
    assert answer == (200, {"predictions": [3.5, 4.0, 5.5]})
    request = PredictRequest()
    request.model_spec.name = "half_plus_three"
    request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)
        assert to_array(call(request, timeout=30).outputs["y"]).tolist() == [3.5]
