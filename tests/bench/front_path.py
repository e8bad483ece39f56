"""A front's way of a request without sockets and worker, in this process: what little things cost, measured closely.

Requests of one row in waves of 32, from the transport's handler to the answer's bytes: templates, inference, batching,
statistics, stamps, encoding. The lane answers at once with what it was fed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.scheduler import Scheduler
from serving_server.batching.task import Task
from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.packets import Answer, TensorPlace
from serving_server.http2.call import Call
from serving_server.http2.headers import RequestHead
from serving_server.inference import Inference, Resolved
from serving_server.signatures import Signature, TensorSpec
from serving_server.statistics import Statistics
from serving_server.tensors import by_numpy
from serving_server.transports.services import Services

__all__ = ["FrontPath"]

_WAVE = 32


class _Lane:
    """Answers at once, with the first input as the output."""

    def __init__(self, on_answer: Callable[[Any, Answer], None]) -> None:
        self.requests, self.responses = SharedBuffer(), SharedBuffer()
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()

    def run(self, _number: int, _names: object, places: Sequence[TensorPlace]) -> None:
        end = max(place.offset + place.nbytes for place in places)
        self.responses.writable(end)[:end] = self.requests.readable(end)[:end]
        self._loop.call_soon(self._on_answer, self, Answer(1000, list(places), None, perf_counter_ns()))

    def close(self) -> None:
        self.requests.close()
        self.responses.close()


class _Call(Call):
    """Counts its answer."""

    left: int = 0
    ended: asyncio.Event

    def answer(self, message: bytes | bytearray | memoryview) -> None:
        _Call.left -= 1
        if not _Call.left:
            _Call.ended.set()


class FrontPath:
    """One version of one model, to be asked in this process. Made and used inside a running loop.

    Attributes
    ----------
    statistics : Statistics
        Of the version.
    """

    def __init__(self) -> None:
        spec = TensorSpec("x", "x:0", by_numpy(np.dtype(np.float32)), (-1,))
        signature = Signature("serving_default", "", {"x": spec}, {"y": spec}, {})
        self.statistics = Statistics()
        parameters = BatchingParameters(max_batch_size=_WAVE, num_batch_threads=1)
        self._scheduler = Scheduler(parameters, self.statistics, lambda: None)
        self._lane = cast("Any", _Lane(self._scheduler._answered))
        self._scheduler._lanes.append(self._lane)
        self._scheduler._free.append(self._lane)

        def submit(task: Task) -> Callable[[], None]:
            self._scheduler.submit(task)
            return lambda: self._scheduler.cancel(task)

        servable = SimpleNamespace(version=1, model="m", submit=submit)
        requests = self.statistics.requests("serving_default")
        self._resolved = Resolved(cast("Any", servable), signature, ("y",), requests)
        empty = SimpleNamespace(by_model={}, routers={})
        manager = SimpleNamespace(resolve=None)
        catalog = SimpleNamespace(manager=manager, splits=empty, mirrors=empty, request_logs=empty, labels=None)
        inference = Inference(cast("Any", catalog))
        self._services = Services(inference, cast("Any", None), tensor_content=False)
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/Predict")]
        self._head = RequestHead(fields)

    async def cpu_us(self, waves: int) -> float:
        """Return the CPU time of a request, in microseconds, mean of so many waves."""
        run, resolved, head = self._services.run, self._resolved, self._head
        row = np.float32([1])
        began = time.process_time_ns()
        for _ in range(waves):
            _Call.left, _Call.ended = _WAVE, asyncio.Event()
            for _ in range(_WAVE):
                started = perf_counter()
                run(_Call(cast("Any", None), cast("Any", None), 1, head), "m", resolved, {"x": row}, (), started, None)
            await _Call.ended.wait()
        return (time.process_time_ns() - began) / waves / _WAVE / 1000

    def close(self) -> None:
        """Let the shared memory go."""
        self._scheduler.close()
