"""Which requests run together, when, and on which lane. One scheduler per version; everything on the loop.

The rules are those of TensorFlow's SharedBatchScheduler and BatchingSession: one queue per kind of request (signature,
tensors fed, tensors fetched); requests go in whole; the open batch closes when the next request does not fit or when it
is full; it may also run when it is older than the timeout and a thread is free; queues take turns.

Two things differ, both so that one request cannot spoil another. Requests whose inner dimensions differ get queues of
their own when padding is off (there, the whole batch fails). And when a batch of several requests fails, each is run
again by itself, so that the error reaches only the request that caused it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, NamedTuple

from serving_server.batching.assembly import assemble, read_outputs, split
from serving_server.batching.deadlines import Deadlines
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.splitting import split_task
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
from serving_server.inputs import describe, shape_hint
from serving_server.statistics import Statistics
from serving_server.tensors import Array

__all__ = ["MAX_WAITING", "Scheduler"]

log = logging.getLogger(__name__)

#: Requests that may wait when batching is off; more means that the server cannot keep up, and waiting only adds delay.
MAX_WAITING: Final = 16_384

#: How long the loss of one lane waits for the news that the worker as a whole has ended. Seconds.
_LANE_LOSS_SECONDS: Final = 1.0

#: Kinds of request that may wait at once, per version; shapes are the client's choice.
_MAX_QUEUES: Final = 1024

#: Sets of fetched tensors that the worker makes a callable of, per version.
_MAX_CALLABLES: Final = 128

#: pad_variable_length_inputs works up to this rank, as in TensorFlow Serving.
_MAX_PADDED_RANK: Final = 6


class _Callable(NamedTuple):
    number: int
    names: tuple[Sequence[str], Sequence[str]]
    outputs: Sequence[str]


class _Batch:
    __slots__ = ("batched", "callable", "closed", "created", "rows", "sent_rows", "tasks")

    def __init__(self, made: _Callable, created: float, *, batched: bool) -> None:
        self.callable = made
        self.created = created
        self.batched = batched
        self.closed = not batched
        self.rows = 0
        self.sent_rows = 0  # with padding; set when it starts
        self.tasks: list[Task] = []

    def add(self, task: Task) -> None:
        self.tasks.append(task)
        self.rows += task.rows
        task.batch = self

    def discard(self, task: Task) -> None:
        self.tasks.remove(task)
        self.rows -= task.rows
        task.batch = None


class Scheduler:
    """Runs the requests of one version on its lanes.

    Parameters
    ----------
    parameters : BatchingParameters or None
        None: batching is off, each request runs by itself.
    statistics : Statistics
    on_idle : callable
        Called whenever the last pending request has been answered.
    """

    def __init__(
        self, parameters: BatchingParameters | None, statistics: Statistics, on_idle: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._parameters = parameters
        self._statistics = statistics
        self._on_idle = on_idle
        self._lanes: list[FrontLane] = []
        self._free: list[FrontLane] = []
        self._running: dict[FrontLane, _Batch] = {}
        self._queues: dict[Hashable, deque[_Batch]] = {}
        self._single: deque[_Batch] = deque()
        self._callables: dict[Hashable, _Callable] = {}
        self._pending = 0
        self._wakeup_due = False
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
        self._wake()

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
        made = self._callable(task)
        if self._parameters is None:
            if len(self._single) >= MAX_WAITING:
                msg = f"{MAX_WAITING} requests are waiting already; the server cannot keep up. Send fewer or retry"
                raise UnavailableError(msg)
            batch = _Batch(made, task.created, batched=False)
            batch.add(task)
            self._single.append(batch)
            self._pending += 1
        else:
            self._enqueue(task, made, self._parameters)
        if task.deadline is not None:
            self._deadlines.watch(task.deadline)
        self._wake()

    def cancel(self, task: Task) -> None:
        """Forget a request: taken out if it waits, its answer dropped if it runs."""
        if task.cancel():
            self._leave_queue(task)
            for piece in task.pieces:
                self.cancel(piece)

    def _open_tasks(self) -> Iterator[Task]:
        """Give every request that is not answered, and perhaps some that are."""
        for batch in itertools.chain(self._single, *self._queues.values(), self._running.values()):
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
        batches = [*self._running.values(), *self._single]
        for queue in self._queues.values():
            batches += queue
        self._running.clear()
        self._single.clear()
        self._queues.clear()
        self._stop_timer()
        self._deadlines.stop()
        for batch in batches:
            for task in batch.tasks:
                task.batch = None
                self._answer(task, error)
                self._pending -= 1
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

    # -- queues --------------------------------------------------------------------------------------------------------

    def _callable(self, task: Task) -> _Callable:
        # Inputs are always all of the signature's, in its order.
        key = (task.signature.name, task.outputs)
        found = self._callables.get(key)
        if found is None:
            # Each costs memory in the worker, and clients choose the filters: the last ones compute all outputs.
            outputs: tuple[str, ...] = (
                task.outputs if len(self._callables) < _MAX_CALLABLES else tuple(task.signature.outputs)
            )
            feeds = [task.signature.inputs[alias].tensor_name for alias in task.inputs]
            fetches = [task.signature.outputs[alias].tensor_name for alias in outputs]
            found = _Callable(len(self._callables), (feeds, fetches), outputs)
            if outputs is task.outputs:
                self._callables[key] = found
            else:
                found = self._callables.setdefault((task.signature.name, outputs), found)
        return found

    def _enqueue(self, task: Task, made: _Callable, parameters: BatchingParameters) -> None:
        task.rows = rows = _rows(task, parameters)
        if parameters.pad_variable_length_inputs:
            inner: Hashable = tuple(array.ndim for array in task.inputs.values())
        else:
            inner = tuple([array.shape[1:] for array in task.inputs.values()])
        key = (made.number, inner)
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= _MAX_QUEUES:
                msg = f"requests of {len(self._queues)} different shapes are waiting; the server cannot batch more"
                raise UnavailableError(msg)
            queue = self._queues[key] = deque()
        limit = parameters.batch_limit
        if rows <= limit:
            self._put(queue, task, made, limit, parameters.max_enqueued_batches)
            return
        batch = queue[-1] if queue else None
        room = limit - batch.rows if batch is not None and not batch.closed and batch.rows < limit else limit
        more = -(-(rows - room) // limit) + (room == limit)
        if len(queue) + more > parameters.max_enqueued_batches:
            raise UnavailableError(_queue_is_full(len(queue), parameters.max_enqueued_batches))
        task.pieces = split_task(task, room, limit, self.cancel, self._settle)
        for piece in task.pieces:
            self._put(queue, piece, made, limit, parameters.max_enqueued_batches)

    def _put(self, queue: deque[_Batch], task: Task, made: _Callable, limit: int, max_enqueued: int) -> None:
        batch = queue[-1] if queue else None
        if batch is None or batch.closed or batch.rows + task.rows > limit:
            if len(queue) >= max_enqueued:
                raise UnavailableError(_queue_is_full(len(queue), max_enqueued))
            if batch is not None:
                batch.closed = True
            batch = _Batch(made, task.created, batched=True)
            queue.append(batch)
        batch.add(task)
        self._pending += 1
        if batch.rows >= limit:
            batch.closed = True

    def _leave_queue(self, task: Task) -> None:
        batch = task.batch
        if isinstance(batch, _Batch):
            batch.discard(task)
            self._pending -= 1
            self._check_idle()

    def _next(self) -> tuple[_Batch | None, float | None]:
        """Return a batch that may run now; else, when the next one may (loop time)."""
        if self._single:
            return self._single.popleft(), None
        parameters = self._parameters or BatchingParameters()
        if len(self._running) >= parameters.num_batch_threads:
            return None, None
        now = self._loop.time()
        timeout = parameters.batch_timeout_micros / 1e6
        earliest: float | None = None
        for key, queue in list(self._queues.items()):
            while queue and not queue[0].tasks:
                queue.popleft()  # all its requests were cancelled
            if not queue:
                del self._queues[key]
                continue
            head = queue[0]
            due = head.created + timeout
            if parameters.skip_timeout_when_idle and not self._running:
                due = now
            if head.closed or due <= now:
                queue.popleft()
                # Queues take turns: this one goes to the end of the line.
                del self._queues[key]
                if queue:
                    self._queues[key] = queue
                return head, None
            earliest = due if earliest is None else min(earliest, due)
        return None, earliest

    # -- running -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        # Not at once: whatever this turn of the loop still brings shall share the batch.
        if not self._wakeup_due and self._free:
            self._wakeup_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._wakeup_due = False
        self._stop_timer()
        while self._free:
            batch, due = self._next()
            if batch is None:
                if due is not None:
                    self._timer = self._loop.call_at(due, self._dispatch)
                return
            if batch.tasks:
                self._start(self._free.pop(), batch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, lane: FrontLane, batch: _Batch) -> None:
        for task in batch.tasks:
            task.batch = None
        batch.sent_rows = self._padded(batch)
        try:
            places = assemble(batch.tasks, batch.sent_rows, lane.requests, batched=batch.batched)
            lane.run(batch.callable.number, batch.callable.names, places)
        except (ConnectionError, BrokenPipeError):
            # The worker has just ended. Keep the batch as running: the end of its socket answers it with the reason.
            self._running[lane] = batch
        except Exception as error:  # noqa: BLE001 - whatever it is, its requests must have an answer
            self._free.append(lane)
            self._finish(batch, _not_handed_over(error))
        else:
            self._running[lane] = batch

    def _padded(self, batch: _Batch) -> int:
        if not batch.batched or self._parameters is None:
            return batch.rows
        return self._parameters.padded(batch.rows)

    def _answered(self, lane: FrontLane, answer: Answer) -> None:
        batch = self._running.pop(lane, None)
        if batch is None:
            return  # already answered by `fail`
        try:
            self._take(lane, batch, answer)
        finally:
            self._free.append(lane)
            self._dispatch()

    def _take(self, lane: FrontLane, batch: _Batch, answer: Answer) -> None:
        if answer.error is not None:
            code, message = answer.error
            self._failed(batch, ServingError(message, StatusCode(code)))
            return
        try:
            outputs = dict(zip(batch.callable.outputs, read_outputs(answer, lane.responses), strict=True))
        except Exception as error:  # whatever it is, its requests must have an answer
            log.exception("the answer of a worker cannot be read")
            self._finish(batch, InternalError(f"the worker's answer cannot be read: {error}"))
            return
        wanted = batch.tasks[0].outputs
        if len(wanted) < len(outputs):
            outputs = {alias: outputs[alias] for alias in wanted}
        if not batch.batched:
            self._statistics.batch(_unbatched_rows(batch.tasks[0]), 0, answer.run_ns)
            parts = [outputs]
        else:
            self._statistics.batch(batch.rows, batch.sent_rows - batch.rows, answer.run_ns)
            try:
                parts = split(batch.tasks, outputs, batch.sent_rows)
            except ServingError as error:
                self._finish(batch, error)
                return
        now = self._loop.time()
        created = []
        for task, part in zip(batch.tasks, parts, strict=True):
            if task.finish(part, None) and task.whole is None:
                created.append(task.created)
        self._statistics.successes(created, now)
        self._pending -= len(batch.tasks)
        self._check_idle()

    def _failed(self, batch: _Batch, error: ServingError) -> None:
        if len(batch.tasks) > 1:
            for task in reversed(batch.tasks):
                if task.done:
                    self._pending -= 1
                    continue
                alone = _Batch(batch.callable, batch.created, batched=batch.batched)
                alone.closed = True
                alone.add(task)
                self._single.appendleft(alone)
            self._check_idle()
            return
        self._finish(batch, error)

    def _finish(self, batch: _Batch, error: ServingError) -> None:
        for task in batch.tasks:
            hint = shape_hint(task.signature, task.inputs) if error.code is StatusCode.INVALID_ARGUMENT else ""
            self._answer(task, ServingError(error.message + hint, error.code))
        self._pending -= len(batch.tasks)
        self._check_idle()

    def _answer(self, task: Task, error: ServingError) -> None:
        self._settle(task, None, error)

    def _settle(self, task: Task, outputs: dict[str, Array] | None, error: ServingError | None) -> None:
        if task.finish(outputs, error) and task.whole is None:
            code = StatusCode.OK if error is None else error.code
            self._statistics.request(code, self._loop.time() - task.created)

    def _lane_closed(self, lane: FrontLane) -> None:
        if lane in self._free:
            self._free.remove(lane)
        elif lane in self._running:
            # The whole worker has ended, most likely: then `fail` answers, with the reason, which comes by another way.
            self._loop.call_later(_LANE_LOSS_SECONDS, self._lane_lost, lane)

    def _lane_lost(self, lane: FrontLane) -> None:
        batch = self._running.pop(lane, None)
        if batch is not None:
            self._finish(batch, UnavailableError("the connection to the worker was lost; the request may be retried"))

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


def _queue_is_full(enqueued: int, limit: int) -> str:
    return (
        f"The batch scheduling queue to which this task was submitted is full; currently {enqueued} batches enqueued "
        f"and max_enqueued_batches is {limit}"
    )


def _rows(task: Task, parameters: BatchingParameters) -> int:
    """Return the 0th dimension that all inputs share.

    Raises
    ------
    InvalidArgumentError
        With TensorFlow Serving's text, and the input that is at fault.
    """
    if not task.inputs:
        raise InvalidArgumentError("Batching Run() must have at least one input tensor")
    rows: int | None = None
    for alias, array in task.inputs.items():
        if array.ndim == 0:
            msg = (
                f'Batching Run() input tensors must have at least one dimension (input "{alias}" of signature '
                f'"{task.signature.name}" is {describe(task.signature.inputs[alias])}: serve this model without '
                "batching)"
            )
            raise InvalidArgumentError(msg)
        if rows is None:
            rows = array.shape[0]
        elif array.shape[0] != rows:
            msg = (
                f'Batching Run() input tensors must have equal 0th-dimension size (input "{alias}" has '
                f"{array.shape[0]}, the first has {rows})"
            )
            raise InvalidArgumentError(msg)
        if parameters.pad_variable_length_inputs and array.ndim > _MAX_PADDED_RANK:
            msg = f'input "{alias}" has rank {array.ndim}; pad_variable_length_inputs works up to {_MAX_PADDED_RANK}'
            raise InvalidArgumentError(msg)
    assert rows is not None
    if rows > parameters.max_batch_size:
        msg = f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
        raise InvalidArgumentError(msg)
    return rows


def _unbatched_rows(task: Task) -> int:
    """Return what a request that ran by itself counts for in the batch-size statistics."""
    return next((array.shape[0] for array in task.inputs.values() if array.ndim), 1)
