"""Which batch runs when, and on which lane; who hears of its end. One scheduler per version; everything on the loop.

The rules are those of TensorFlow's SharedBatchScheduler (`serving_server.batching.queues`) and BatchingSession. Two
things differ, both so that one request cannot spoil another. Requests whose inner dimensions differ get queues of their
own when padding is off (there, the whole batch fails). And when a batch of several requests fails, each is run again by
itself, so that the error reaches only the request that caused it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, perf_counter_ns
from typing import Final

from serving_server.batching.aside import Aside, Timing
from serving_server.batching.assembly import assemble, read_outputs, split
from serving_server.batching.batch import Batch, rows_unbatched
from serving_server.batching.deadlines import Deadlines
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.queues import Queues
from serving_server.batching.task import Task
from serving_server.channel.lane import FrontLane
from serving_server.channel.packets import Answer
from serving_server.errors import (
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServingError,
    StatusCode,
    UnavailableError,
)
from serving_server.inputs import shape_hint
from serving_server.stamps.ring import BatchStamps
from serving_server.statistics import Statistics
from serving_server.tensors import Array
from serving_server.traffic.outcomes import GIVEN_UP

__all__ = ["Scheduler"]

log = logging.getLogger(__name__)

#: How long the loss of one lane waits for the news that the worker as a whole has ended. Seconds.
_LANE_LOSS_SECONDS: Final = 1.0

#: How long requests that were read wait for others that have come meanwhile. Seconds.
_GATHER_SECONDS: Final = 0.001

#: A transport gives a request up when its deadline has come, give or take the clocks' steps. Seconds.
_LATE_SECONDS: Final = 0.05


class Scheduler:
    """Runs the requests of one version on its lanes.

    Parameters
    ----------
    parameters : BatchingParameters or None
        None: batching is off, each request runs by itself.
    statistics : Statistics
    on_idle : callable
        Called whenever the last pending request has been answered.
    unbatched : int or None
        Requests at once when batching is off; None: as many as there are lanes.
    version : int
        What the stamps of its batches say.
    """

    def __init__(
        self,
        parameters: BatchingParameters | None,
        statistics: Statistics,
        on_idle: Callable[[], None],
        unbatched: int | None = None,
        version: int = 0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._parameters = parameters
        self._unbatched = sys.maxsize if unbatched is None else unbatched
        # Not the number of lanes: there may be more, of earlier parameters and of measurements.
        self._most_running = self._allowed(parameters)
        self._statistics = statistics
        self._version = version
        #: Of the first run that was answered, in the graph.
        self.first_run_ns: int | None = None
        #: Runs, and their time in the graph, that the counters already held then.
        self.counted_before = (0, 0)
        self._on_idle = on_idle
        self._lanes: list[FrontLane] = []
        self._free: list[FrontLane] = []
        self._running: dict[FrontLane, Batch] = {}
        self._asides: dict[FrontLane, Aside] = {}
        self._queues = Queues(self.cancel, self._settle)
        self._pending = 0
        self._free_since = 0  # when a thread became free while none was, by `time.perf_counter_ns`
        # Of the batch that is being taken: its stamps if it has any, its requests that were answered, and when.
        self._stamps: BatchStamps | None = None
        self._told: list[Task] = []
        self._ends: list[float] = []
        self._wakeup_due = False
        self._gather_until = 0.0
        self._arrived = 0  # requests ever taken
        self._seen = 0  # of these, when it was last looked
        self._timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(self._open_tasks, self._expire)
        self._failure: ServingError | None = None

    # -- lanes -------------------------------------------------------------------------------------------------------

    def add_lane(self) -> FrontLane:
        """Make a lane; it is used at once, its worker may come later."""
        lane = FrontLane(self._answered, self._lane_closed)
        self._lanes.append(lane)
        self._free.append(lane)
        return lane

    @property
    def lanes(self) -> Sequence[FrontLane]:
        """All lanes."""
        return self._lanes

    # -- what may change while requests run ----------------------------------------------------------------------------

    @property
    def parameters(self) -> BatchingParameters | None:
        """The batching parameters in force; None when batching is off."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: BatchingParameters | None) -> None:
        self._parameters = value
        self._most_running = self._allowed(value)
        self._wake()

    def _allowed(self, parameters: BatchingParameters | None) -> int:
        return self._unbatched if parameters is None else parameters.num_batch_threads

    @property
    def pending(self) -> int:
        """Requests waiting or running."""
        return self._pending

    @property
    def running(self) -> int:
        """Requests that are being run."""
        return sum(len(batch.tasks) for batch in self._running.values())

    # -- requests ------------------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Take a request; it is answered later, on the loop.

        Raises
        ------
        ServingError
            When it cannot be taken: it does not fit a batch, the queue is full, the worker is gone.
        """
        if self._failure is not None:
            raise self._failure
        self._pending += self._queues.add(task, self._parameters)
        self._arrived += 1
        if task.deadline is not None:
            self._deadlines.watch(task.deadline)
        self._wake()

    def run_aside(self, task: Task) -> asyncio.Future[Timing] | None:
        """Run a task at once on a free lane, only to measure it; None when no lane is free.

        Raises
        ------
        ServingError
            It cannot be put together, or the worker is gone. What happens later reaches the future.
        """
        if self._failure is not None:
            raise self._failure
        if not self._free:
            return None
        lane = self._free.pop()
        aside = Aside(self._queues.callable(task), task)
        try:
            aside.start(lane)
        except (ConnectionError, BrokenPipeError):
            pass  # the worker has just ended: the end of its socket tells
        except Exception as error:
            self._free.append(lane)
            raise _not_handed_over(error) from error
        self._asides[lane] = aside
        return aside.future

    def cancel(self, task: Task) -> None:
        """Forget a request: taken out if it waits, its answer dropped if it runs."""
        if task.cancel():
            if task.whole is None:
                late = task.deadline is not None and self._loop.time() >= task.deadline - _LATE_SECONDS
                code = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
                self._statistics.requests(task.signature.name).ended[code] += 1
                running = self._running_stamps(task)
                self._statistics.stamps.ended(task, code, self._version, running, self._ready(task))
                if task.outcomes is not None:
                    task.outcomes.failed(code if late else GIVEN_UP, task.arrived, task.point)
            self._leave_queue(task)
            for piece in task.pieces:
                self.cancel(piece)

    def _open_tasks(self) -> Iterator[Task]:
        """Give every request that is not answered, and perhaps some that are."""
        for batch in itertools.chain(self._queues, self._running.values()):
            for task in batch.tasks:
                yield task.whole or task

    def _expire(self, task: Task) -> None:
        """Answer a request whose deadline has passed."""
        waiting = task.batch is not None or any(piece.batch is not None for piece in task.pieces)
        if waiting and self._parameters is not None:
            self._answer(task, ResourceExhaustedError("Run() timeout exceeded while waiting in batching queue"))
        else:
            self._answer(task, ServingError("Timed out waiting for notification", StatusCode.DEADLINE_EXCEEDED))
        self._leave_queue(task)
        for piece in task.pieces:
            self.cancel(piece)

    def fail(self, error: ServingError) -> None:
        """Answer everything with an error and refuse what comes later: the worker is gone."""
        self._failure = error
        running = [(batch, self._stamps_so_far(batch)) for batch in self._running.values()]
        self._running.clear()
        while self._asides:
            self._asides.popitem()[1].fail(error)
        self._stop_timer()
        self._deadlines.stop()
        ended = [*running, *((batch, None) for batch in self._queues.clear())]
        for batch, _ in ended:
            for task in batch.tasks:
                task.batch = None  # of all, before any is answered: the first piece of a request cancels the others
        for batch, stamps in ended:
            self._stamps = stamps
            for task in batch.tasks:
                self._answer(task, error)
                self._pending -= 1
        self._stamps = None
        self._check_idle()

    def close(self) -> None:
        """Close all lanes. Idempotent."""
        self._stop_timer()
        self._deadlines.stop()
        for lane in self._lanes:
            lane.close()
        self._free.clear()

    def trim(self) -> None:
        """Give back memory of lanes that are free; called now and then."""
        for lane in self._free:
            lane.requests.trim()
            lane.responses.trim()

    def _leave_queue(self, task: Task) -> None:
        if task.batch is not None:
            self._queues.remove(task)
            self._pending -= 1
            self._check_idle()

    # -- running -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        # Not at once: whatever this turn of the loop still brings shall share the batch.
        if not self._wakeup_due and self._free and len(self._running) < self._most_running:
            self._wakeup_due = True
            self._gather_until = perf_counter() + _GATHER_SECONDS
            self._seen = self._arrived
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        # A batch costs as much as a dozen requests do. While several were read, others have arrived, as a rule: then
        # one more turn of the loop, which does not wait for anything. A lone request runs at once.
        if self._arrived == self._seen or self._queues.full or perf_counter() >= self._gather_until:
            self._dispatch()
        else:
            self._seen = self._arrived
            self._loop.call_soon(self._gather)

    def _dispatch(self) -> None:
        self._wakeup_due = False
        self._stop_timer()
        while self._free and len(self._running) < self._most_running:
            parameters = self._parameters or BatchingParameters()
            batch, due = self._queues.next(parameters, len(self._running), self._loop.time())
            if batch is None:
                if due is not None:
                    self._timer = self._loop.call_at(due, self._dispatch)
                return
            self._start(self._free.pop(), batch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, lane: FrontLane, batch: Batch) -> None:
        for task in batch.tasks:
            task.batch = None
        self._statistics.started(batch.tasks, batched=batch.batched)
        batch.sent_rows = self._padded(batch)
        batch.number = self._statistics.stamps.next_number()
        batch.lane = self._lanes.index(lane)
        batch.taken_ns = began = perf_counter_ns()
        # Where a thread was free all along, none was waited for.
        ready = int(batch.ready * 1e9)
        batch.ready_ns = ready if ready < self._free_since else began
        try:
            places = assemble(batch.tasks, batch.sent_rows, lane.requests, batched=batch.batched)
            batch.sent_ns = sent = perf_counter_ns()
            batch.assembly_ns = sent - began
            lane.run(batch.callable.number, batch.callable.names, places)
        except (ConnectionError, BrokenPipeError):
            # The worker has just ended. Keep the batch as running: the end of its socket answers it with the reason.
            self._running[lane] = batch
        except Exception as error:  # noqa: BLE001 - whatever it is, its requests must have an answer
            self._free.append(lane)
            self._finish(batch, _not_handed_over(error))
        else:
            self._running[lane] = batch

    def _padded(self, batch: Batch) -> int:
        if not batch.batched or self._parameters is None:
            return batch.rows
        return self._parameters.padded(batch.rows)

    def _answered(self, lane: FrontLane, answer: Answer) -> None:
        came = perf_counter_ns()
        if not self._free or len(self._running) >= self._most_running:
            self._free_since = came
        batch = self._running.pop(lane, None)
        aside = self._asides.pop(lane, None) if batch is None else None
        if batch is None and aside is None:
            return  # already answered by `fail`
        try:
            if batch is not None:
                self._take(lane, batch, answer, came)
            elif aside is not None:
                aside.take(lane, answer)
        finally:
            self._free.append(lane)
            if self._queues.full:
                self._dispatch()
            elif self._pending:
                self._wake()

    def _take(self, lane: FrontLane, batch: Batch, answer: Answer, came: int) -> None:
        if answer.error is not None:
            code, message = answer.error
            self._failed(batch, ServingError(message, StatusCode(code)), answer, came)
            return
        try:
            outputs = dict(zip(batch.callable.outputs, read_outputs(answer, lane.responses), strict=True))
        except Exception as error:  # whatever it is, its requests must have an answer
            log.exception("the answer of a worker cannot be read")
            unread = InternalError(f"the worker's answer cannot be read: {error}")
            self._finish(batch, unread, self._stamp(batch, answer, came))
            return
        wanted = batch.tasks[0].outputs
        if len(wanted) < len(outputs):
            outputs = {alias: outputs[alias] for alias in wanted}
        if not batch.batched:
            (task,) = batch.tasks
            task.rows = batch.rows = batch.sent_rows = rows_unbatched(task)
            self._statistics.alone(task.rows, answer.run_ns)
            parts = [outputs]
        else:
            self._statistics.batch(batch.rows, batch.sent_rows - batch.rows, answer.run_ns)
            try:
                parts = split(batch.tasks, outputs, batch.sent_rows)
            except ServingError as error:
                self._finish(batch, error, self._stamp(batch, answer, came))
                return
        if self.first_run_ns is None:
            self.first_run_ns = answer.run_ns
            self.counted_before = sum(self._statistics.stages.reasons), self._statistics.stages.run
        self._statistics.stages.add(
            batch.reason, len(batch.tasks), batch.assembly_ns, came - batch.sent_ns, answer.run_ns
        )
        stamps = self._statistics.stamps
        stamped = None
        if (batch.noted and stamps.enabled) or stamps.wants(self._version, len(batch.tasks), came):
            stamped = self._stamp(batch, answer, came)
        self._stamps = stamped
        told = self._told = []
        ends = self._ends = []
        ended = ends.append
        run_ns = answer.run_ns  # of one measurement, however many requests were in it: it counts once
        for task, part in zip(batch.tasks, parts, strict=True):
            asked = task.asked
            if asked is not None and stamped is not None:
                asked.take(stamped, task.arrived)
            if task.finish(part, None) and task.whole is None:
                told.append(task)
                if stamped is not None:
                    ended(perf_counter())
                if task.outcomes is not None:
                    task.outcomes.succeeded(task.arrived, run_ns, task.point)
                    run_ns = -abs(run_ns)
        self._statistics.succeeded(told)
        if stamped is not None:
            stamps.answered(stamped, told, ends, noted=batch.noted)
            self._stamps = None
        self._pending -= len(batch.tasks)
        self._check_idle()

    def _stamp(self, batch: Batch, answer: Answer, came: int) -> BatchStamps:
        """Return the stamps of a batch that ran."""
        return BatchStamps(
            batch.number,
            self._version,
            batch.tasks[0].signature.name,
            batch.reason,
            batch.lane,
            batch.retried,
            len(batch.tasks),
            batch.rows,
            batch.sent_rows,
            batch.ready_ns,
            batch.taken_ns,
            batch.sent_ns,
            answer.began_ns or batch.sent_ns,
            answer.run_ns,
            came,
            perf_counter_ns(),
        )

    def _running_stamps(self, task: Task) -> BatchStamps | None:
        """Return the stamps of the batch that a request, or a piece of it, is running in, as if it ended now."""
        if task.batch is not None or not self._statistics.stamps.enabled:
            return None
        for batch in self._running.values():
            if any(task is each or task is each.whole for each in batch.tasks):
                return self._stamps_so_far(batch)
        return None

    def _ready(self, task: Task) -> float:
        """Return when a request that waits, or a piece of it, needed no more mates; infinite if it does still."""
        found = (each.batch for each in (task, *task.pieces) if each.batch is not None)
        batch = next(found, None)
        if not isinstance(batch, Batch):
            return math.inf
        if self._parameters is None:
            return task.arrived
        return min(batch.ready, batch.tasks[0].arrived + self._parameters.batch_timeout_micros / 1e6)

    def _stamps_so_far(self, batch: Batch) -> BatchStamps:
        now = perf_counter_ns()
        return self._stamp(batch, Answer(now - batch.sent_ns, [], None), now)

    def _failed(self, batch: Batch, error: ServingError, answer: Answer, came: int) -> None:
        if len(batch.tasks) > 1:
            for task in reversed(batch.tasks):
                if task.done:
                    self._pending -= 1
                    continue
                self._queues.add_alone(task, batch)
            self._check_idle()
            return
        self._finish(batch, error, self._stamp(batch, answer, came))

    def _finish(self, batch: Batch, error: ServingError, stamps: BatchStamps | None = None) -> None:
        self._stamps = stamps
        for task in batch.tasks:
            hint = shape_hint(task.signature, task.inputs) if error.code is StatusCode.INVALID_ARGUMENT else ""
            self._answer(task, ServingError(error.message + hint, error.code))
        self._stamps = None
        self._pending -= len(batch.tasks)
        self._check_idle()

    def _answer(self, task: Task, error: ServingError) -> None:
        self._settle(task, None, error)

    def _settle(self, task: Task, outputs: dict[str, Array] | None, error: ServingError | None) -> None:
        asked = task.asked
        if asked is not None and error is None and self._stamps is not None:
            asked.take(self._stamps, task.arrived)
        if task.finish(outputs, error) and task.whole is None:
            if error is None:
                # A request in pieces; the last one has just been answered: its batch is what was waited for.
                self._told.append(task)
                if self._stamps is not None:
                    self._ends.append(perf_counter())
                if task.outcomes is not None:
                    task.outcomes.succeeded(task.arrived, 0, task.point)
            else:
                self._statistics.failed(error.code)
                ran = self._stamps or self._running_stamps(task)
                self._statistics.stamps.ended(task, error.code, self._version, ran, self._ready(task))
                if task.outcomes is not None:
                    task.outcomes.failed(error.code, task.arrived, task.point)

    def _lane_closed(self, lane: FrontLane) -> None:
        if lane in self._free:
            self._free.remove(lane)
        elif lane in self._running:
            # The whole worker has ended, most likely: then `fail` answers, with the reason, which comes by another way.
            self._loop.call_later(_LANE_LOSS_SECONDS, self._lane_lost, lane)
        elif lane in self._asides:
            self._asides.pop(lane).fail(UnavailableError("the connection to the worker was lost while it was measured"))

    def _lane_lost(self, lane: FrontLane) -> None:
        batch = self._running.pop(lane, None)
        if batch is not None:
            lost = UnavailableError("the connection to the worker was lost; the request may be retried")
            self._finish(batch, lost, self._stamps_so_far(batch))
            self._wake()  # another lane may run in its place

    def _check_idle(self) -> None:
        if self._pending == 0:
            self._on_idle()


def _not_handed_over(error: Exception) -> ServingError:
    if isinstance(error, ValueError):
        return InvalidArgumentError(str(error))
    if isinstance(error, (OSError, MemoryError)):
        return ResourceExhaustedError(f"cannot hand this batch to the worker: {error}")
    log.error("a batch could not be put together", exc_info=error)
    return InternalError(f"cannot put this batch together: {type(error).__name__}: {error}")
