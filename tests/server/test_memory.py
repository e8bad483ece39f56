"""Memory of the front after a storm of requests: what a burst took goes back, or is used again by the next."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pytest

from serving_server.errors import StatusCode
from serving_server.free_memory import give_back
from serving_server.http2_client.connecting import connect
from serving_server.http2_client.request_headers import RequestHeaders
from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.servers import ServerProcess, wait_until

_CONNECTIONS: Final = 512
_STREAMS: Final = 8
_ROUNDS: Final = 5
#: Seconds that the front gets.
_SECONDS: Final = 30.0
#: What may stay of the first storm, bytes. Python gives an arena of 1 MiB back once no object is left in it, and the
#: few that live on (numbers of counters and timers, what uvloop keeps in its free lists) hold one each: 4,096 requests
#: of some 2 kB leave about nine of them behind.
#: Emptying Python's own free lists gives back one of these, occupying all free places while counters and timers are
#: made anew three; with the C library's allocator in place of Python's as much stays, for 13 % more CPU.
_ARENAS: Final = 14 << 20
#: What a further storm may add, bytes: nothing but a little chance in where those objects lie.
_MORE: Final = 3 << 20


async def _storm(endpoint: str, connections: int, rounds: int) -> int:
    """Keep `_STREAMS` requests in flight on each connection; return how many answers were right."""
    request = PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(to_proto(np.float32([2.0]), as_content=True))
    message = request.SerializeToString()
    opened = [await connect(endpoint, seconds=60) for _ in range(connections)]
    done = asyncio.get_running_loop().create_future()
    ended: list[tuple[bytes, StatusCode, str]] = []
    wanted = connections * _STREAMS * rounds

    def send(index: int, left: int) -> None:
        connection = opened[index]

        def on_done(answer: bytes | bytearray | memoryview | None, status: StatusCode, details: str) -> None:
            ended.append((bytes(answer or b""), status, details))
            if left > 1:
                send(index, left - 1)
            if len(ended) == wanted:
                done.set_result(None)

        connection.unary(headers, message, on_done, 60.0)

    headers = RequestHeaders("/tensorflow.serving.PredictionService/Predict", endpoint)
    for index, _ in itertools.product(range(connections), range(_STREAMS)):
        send(index, rounds)
    try:
        await asyncio.wait_for(done, 120)
    finally:
        await asyncio.gather(*(connection.close() for connection in opened))
    wrong = [(status, details) for _, status, details in ended if status is not StatusCode.OK]
    assert not wrong, wrong[:3]
    for answer in {answer for answer, _, _ in ended}:
        assert to_array(PredictResponse.FromString(answer).outputs["y"]).tolist() == [4.0]
    return len(ended)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_comes_back_after_512_connections_with_8_requests_each(
    server: Callable[..., ServerProcess], models_dir: Path
) -> None:
    started = server("--enable_batching", "--grpc_transport=own")
    parameters = {"max_batch_size": 64, "max_enqueued_batches": 1000}
    started.put_model("half_plus_two", models_dir / "half_plus_two", batching=parameters)
    started.wait_available("half_plus_two")
    front = psutil.Process(started.pid)

    def settles_below(limit: int) -> int:
        lowest = sys.maxsize

        def is_below() -> bool:
            nonlocal lowest
            lowest = min(lowest, front.memory_info().rss)
            return lowest <= limit

        wait_until(is_below, _SECONDS, lambda: f"{limit / 2**20:.1f} MiB; the least was {lowest / 2**20:.1f}")
        return lowest

    assert asyncio.run(_storm(started.grpc_endpoint, 8, 50)) == 8 * _STREAMS * 50  # warm
    start = front.memory_info().rss
    total = _CONNECTIONS * _STREAMS * _ROUNDS
    assert asyncio.run(_storm(started.grpc_endpoint, _CONNECTIONS, _ROUNDS)) == total
    first = settles_below(start + _ARENAS)
    for _ in range(2):
        assert asyncio.run(_storm(started.grpc_endpoint, _CONNECTIONS, _ROUNDS)) == total
    settles_below(first + _MORE)


def test_free_heap_goes_back_to_the_system() -> None:
    """Small blocks between others that live on stay in the C library's heap until it is told."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        assert not give_back()
        return
    process = psutil.Process()
    give_back()
    before = process.memory_info().rss
    blocks = [bytearray(4000) for _ in range(10_000)]
    last = bytearray(4000)  # keeps the heap from shrinking at its end
    del blocks
    give_back()
    assert process.memory_info().rss - before < 10 << 20
    assert len(last) == 4000
