"""Our transport under 512 connections with 4,096 requests in flight."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.foreign.raw import PREDICT, framed
from tests.servers import ServerProcess, wait_until

CONNECTIONS, STREAMS, ROUNDS = 512, 8, 5
IN_FLIGHT = CONNECTIONS * STREAMS
COUNT = IN_FLIGHT * ROUNDS

#: Resident memory of the front may stay above what it was before, by so much (bytes):
#: - after the first burst, what Python's allocator keeps of it for the next: about 3 KiB for each request in flight;
FIRST_TOLERANCE = 20 * 2**20
#: - after a second, noise: 512 connections that keep 4 KiB each are found, or 20,480 requests that keep 100 bytes.
TOLERANCE = 2 * 2**20


@pytest.mark.slow
def test_many_connections_get_their_answers_and_leave_no_memory(
    server: Callable[..., ServerProcess], models_dir: Path, tmp_path: Path
) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    process = server("--grpc_transport=own", "--enable_batching")
    # A batch runs when it is full, and never by its timeout: each proves that so many requests were in flight.
    batching = {"max_batch_size": IN_FLIGHT, "batch_timeout_micros": 600_000_000, "num_batch_threads": 1}
    process.put_model("half_plus_two", models_dir / "half_plus_two", batching={**batching, "max_enqueued_batches": 4})
    process.wait_available("half_plus_two")
    request = PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(to_proto(np.full(IN_FLIGHT, 1, np.float32)))
    # The largest batch's memory is there before the measurement begins.
    assert len(process.call(PREDICT, request, PredictResponse).outputs["y"].float_val) == IN_FLIGHT
    front = psutil.Process(process.pid)
    answer = PredictResponse()
    answer.model_spec.name = "half_plus_two"
    answer.model_spec.signature_name = "serving_default"
    answer.model_spec.version.value = 2
    answer.outputs["y"].CopyFrom(to_proto(np.float32([3.5])))
    size = len(framed(answer.SerializeToString()))
    request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    body = tmp_path / "body"
    body.write_bytes(framed(request.SerializeToString()))
    for burst, tolerance in enumerate((FIRST_TOLERANCE, TOLERANCE), 1):
        before = front.memory_info().rss
        # An error has no message, so the size tells that every answer was one.
        assert _burst(process.grpc_endpoint, body) == COUNT * size
        _, statistics = process.control("GET", "/statistics")
        (version,) = statistics["models"]["half_plus_two"].values()
        assert version["batches"]["sizes"] == {str(IN_FLIGHT): 1 + burst * ROUNDS}

        def grown(before: int = before) -> int:
            return int(front.memory_info().rss) - before

        wait_until(
            lambda grown=grown, tolerance=tolerance: grown() < tolerance,
            30,
            lambda grown=grown, burst=burst: f"the memory of burst {burst} to return: {grown()} bytes stay",
        )


def _burst(endpoint: str, body: Path) -> int:
    """Send all, want an answer to each, and return the bytes of their messages."""
    amount = [f"-n{COUNT}", f"-c{CONNECTIONS}", f"-m{STREAMS}"]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command: list[Any] = ["h2load", *amount, *headers, "-d", body, f"http://{endpoint}{PREDICT}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert f"{COUNT} succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    found = re.search(r"\((\d+)\) data", told)
    assert found, told
    return int(found[1])
