"""The server's own scheduler on a clock that jumps: hours of queueing in a second, exact and without noise.

Only the two ends are replaced: the loop's clock, and the lane, which answers after a known time instead of running a
graph. Everything between (queues, timeout, padding, assembly in shared memory, splitting) is the real thing.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from serving_server.batching import scheduler as scheduler_module
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.scheduler import Scheduler
from serving_server.batching.task import Task
from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.packets import Answer, TensorPlace
from serving_server.errors import ServingError
from serving_server.signatures import Signature, TensorSpec
from serving_server.statistics import Statistics
from serving_server.tensors import by_numpy

__all__ = ["SIGNATURE", "VirtualRun", "run"]

SPEC = TensorSpec("x", "x:0", by_numpy(np.dtype(np.float32)), (-1,))
SIGNATURE = Signature("serving_default", "", {"x": SPEC}, {"y": SPEC}, {})


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, it moves the clock of its loop."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is left that could happen"
            self.now += max(0.0, timeout)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualRun:
    """What came out: seconds of latency by request (nan: refused), and the scheduler's statistics."""

    def __init__(self, requests: int) -> None:
        self.latencies = np.full(requests, np.nan)
        self.refused = 0
        self.statistics = Statistics()

    @property
    def mean_rows(self) -> float:
        """Mean rows of a batch."""
        total = sum(rows * count for (rows, _), count in self.statistics.batches.items())
        return total / sum(self.statistics.batches.values())


def run(
    monkeypatch: pytest.MonkeyPatch,
    parameters: BatchingParameters,
    seconds: Callable[[int, int], float],
    arrivals: Sequence[float],
    *,
    rows: int = 1,
) -> VirtualRun:
    """Send requests to a scheduler.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
    parameters : BatchingParameters
    seconds : callable
        How long a run takes, by its rows with padding and by how many run at once with it.
    arrivals : sequence of float
    rows : int
        Of each request.
    """
    found = VirtualRun(len(arrivals))
    loop = _VirtualLoop()
    busy: list[Any] = []

    class Lane:
        def __init__(self, on_answer: Callable[[Any, Answer], None], _on_closed: object) -> None:
            self.requests, self.responses = SharedBuffer(), SharedBuffer()
            self._on_answer = on_answer

        def run(self, _number: int, _names: object, places: Sequence[TensorPlace]) -> None:
            end = max(place.offset + place.nbytes for place in places)
            self.responses.writable(end)[:end] = self.requests.readable(end)[:end]
            busy.append(self)
            loop.call_later(seconds(places[0].shape[0], len(busy)), self._answer, list(places))

        def _answer(self, places: list[TensorPlace]) -> None:
            busy.remove(self)
            self._on_answer(self, Answer(0, places, None))

        def close(self) -> None:
            self.requests.close()
            self.responses.close()

    async def main() -> None:
        done = loop.create_future()
        left = len(arrivals)
        queue = Scheduler(parameters, found.statistics, lambda: None)
        for _ in range(parameters.num_batch_threads):
            queue.add_lane()

        def one_less() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.set_result(None)

        def send(number: int) -> None:
            def answered(outputs: dict[str, Any] | None, error: ServingError | None) -> None:
                assert error is None, error
                assert outputs is not None
                assert outputs["y"].tolist() == [float(number)] * rows
                found.latencies[number] = loop.time() - arrivals[number]
                one_less()

            inputs = {"x": np.full(rows, number, np.float32)}
            try:
                queue.submit(Task(SIGNATURE, inputs, ("y",), loop.time(), None, answered))
            except ServingError:
                found.refused += 1
                one_less()

        for number, moment in enumerate(arrivals):
            loop.call_at(moment, send, number)
        await done
        queue.close()

    with monkeypatch.context() as patch:
        patch.setattr(scheduler_module, "FrontLane", Lane)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    return found
