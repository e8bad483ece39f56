"""A run that is only measured: it goes to the worker as any batch does, but beside the queues and the statistics."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import NamedTuple

from serving_server.batching.assembly import assemble, read_outputs, split
from serving_server.batching.batch import Callable
from serving_server.batching.task import Task
from serving_server.channel.lane import FrontLane
from serving_server.channel.packets import Answer
from serving_server.errors import ServingError, StatusCode

__all__ = ["Aside", "Timing"]


class Timing(NamedTuple):
    """Nanoseconds: writing the inputs into shared memory; from then to the answer; of that, in the graph."""

    assembly: int
    lane: int
    run: int


class Aside:
    """One such run.

    Parameters
    ----------
    made : Callable
        What the worker runs.
    task : Task
        With `rows` set; nobody is told of its end but `future`.

    Attributes
    ----------
    future : asyncio.Future of Timing
    """

    def __init__(self, made: Callable, task: Task) -> None:
        self._made = made
        self._task = task
        self._began = 0
        self._sent = 0
        self.future: asyncio.Future[Timing] = asyncio.get_running_loop().create_future()

    def start(self, lane: FrontLane) -> None:
        """Hand it to the worker on a free lane; raises what `assemble` and `FrontLane.run` do."""
        self._began = perf_counter_ns()
        places = assemble((self._task,), self._task.rows, lane.requests, batched=True)
        self._sent = perf_counter_ns()
        lane.run(self._made.number, self._made.names, places)

    def take(self, lane: FrontLane, answer: Answer) -> None:
        """Take the worker's answer, whose outputs must have the rows of the inputs."""
        now = perf_counter_ns()
        if answer.error is not None:
            code, message = answer.error
            self.fail(ServingError(message, StatusCode(code)))
            return
        try:
            outputs = dict(zip(self._made.outputs, read_outputs(answer, lane.responses), strict=True))
            split((self._task,), outputs, self._task.rows)
        except ServingError as error:
            self.fail(error)
            return
        if not self.future.done():
            self.future.set_result(Timing(self._sent - self._began, now - self._sent, answer.run_ns))

    def fail(self, error: ServingError) -> None:
        """Tell that there will be no answer."""
        if not self.future.done():
            self.future.set_exception(error)
