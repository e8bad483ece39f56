"""Where requests wait: one queue of batches for each kind, and one for those that run by themselves.

The rules are those of TensorFlow's SharedBatchScheduler: one queue per kind of request (signature, tensors fed, tensors
fetched); requests go in whole; the open batch closes when the next request does not fit or when it is full; it may also
run when it is older than the timeout; queues take turns.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from time import perf_counter
from typing import Final

from serving_server.batching.batch import Batch, Callable, rows_to_batch
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.splitting import Answer, Discard, split_task
from serving_server.batching.task import Task
from serving_server.errors import UnavailableError
from serving_server.metrics.stages import FULL, IMMEDIATE, TIMEOUT

__all__ = ["MAX_WAITING", "Queues"]

#: Requests that may wait when batching is off; more means that the server cannot keep up, and waiting only adds delay.
MAX_WAITING: Final = 16_384

#: Kinds of request that may wait at once, per version; shapes are the client's choice.
_MAX_QUEUES: Final = 1024

#: Sets of fetched tensors that the worker makes a callable of, per version.
_MAX_CALLABLES: Final = 128


class Queues:
    """The waiting requests of one version.

    Parameters
    ----------
    discard, answer : callable
        What `split_task` needs of the scheduler.
    """

    def __init__(self, discard: Discard, answer: Answer) -> None:
        self._discard = discard
        self._answer = answer
        self._queues: dict[Hashable, deque[Batch]] = {}  # none of them empty, nor any of their batches
        self._single: OrderedDict[Batch, None] = OrderedDict()  # in order; any may be taken out
        self._callables: dict[Hashable, Callable] = {}

    def __iter__(self) -> Iterator[Batch]:
        return itertools.chain(self._single, *self._queues.values())

    @property
    def full(self) -> bool:
        """Whether a batch waits that takes no more requests."""
        return bool(self._single) or any(queue[0].closed for queue in self._queues.values())

    def clear(self) -> list[Batch]:
        """Empty all queues and return what was in them."""
        batches = list(self)
        self._single.clear()
        self._queues.clear()
        return batches

    def add(self, task: Task, parameters: BatchingParameters | None) -> int:
        """Put a request in its queue and return how many tasks wait for it: 1, or its pieces.

        Raises
        ------
        ServingError
            When it does not fit a batch, or too much is waiting.
        """
        made = self.callable(task)
        if parameters is not None:
            return self._enqueue(task, made, parameters)
        if len(self._single) >= MAX_WAITING:
            msg = f"{MAX_WAITING} requests are waiting already; the server cannot keep up. Send fewer or retry"
            raise UnavailableError(msg)
        batch = Batch(made, task.created, batched=False)
        batch.add(task)
        batch.ready = task.arrived
        self._single[batch] = None
        return 1

    def add_alone(self, task: Task, batch: Batch) -> None:
        """Have a task of a batch that failed run by itself, before anything else."""
        alone = Batch(batch.callable, batch.created, batched=batch.batched)
        alone.closed = alone.retried = True
        alone.add(task)
        alone.ready = perf_counter()  # the run that failed was no wait for a thread
        self._single[alone] = None
        self._single.move_to_end(alone, last=False)

    def remove(self, task: Task) -> None:
        """Take out a task that waits; a batch of which nothing is left waits no more, nor counts for a limit."""
        batch = task.batch
        assert isinstance(batch, Batch)
        batch.discard(task)
        if batch.tasks:
            return
        if batch in self._single:
            del self._single[batch]
            return
        queue = self._queues[batch.queue]
        queue.remove(batch)
        if not queue:
            del self._queues[batch.queue]

    def callable(self, task: Task) -> Callable:
        """Return what the worker runs for a task."""
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
            found = Callable(len(self._callables), (feeds, fetches), outputs)
            if outputs is task.outputs:
                self._callables[key] = found
            else:
                found = self._callables.setdefault((task.signature.name, outputs), found)
        return found

    def _enqueue(self, task: Task, made: Callable, parameters: BatchingParameters) -> int:
        task.rows = rows = rows_to_batch(task, parameters)
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
            queue = deque()
        limit = parameters.batch_limit
        if rows <= limit:
            self._put(key, queue, task, made, parameters)
            return 1
        batch = queue[-1] if queue else None
        room = limit - batch.rows if batch is not None and not batch.closed and batch.rows < limit else limit
        more = -(-(rows - room) // limit) + (room == limit)
        if len(queue) + more > parameters.max_enqueued_batches:
            raise UnavailableError(_queue_is_full(len(queue), parameters.max_enqueued_batches))
        task.pieces = split_task(task, room, limit, self._discard, self._answer)
        for piece in task.pieces:
            self._put(key, queue, piece, made, parameters)
        return len(task.pieces)

    def _put(
        self, key: Hashable, queue: deque[Batch], task: Task, made: Callable, parameters: BatchingParameters
    ) -> None:
        limit, max_enqueued = parameters.batch_limit, parameters.max_enqueued_batches
        batch = queue[-1] if queue else None
        if batch is None or batch.closed or batch.rows + task.rows > limit:
            if len(queue) >= max_enqueued:
                raise UnavailableError(_queue_is_full(len(queue), max_enqueued))
            if batch is not None and not batch.closed:
                batch.closed = True
                batch.ready = task.arrived
            batch = Batch(made, task.created, batched=True)
            batch.queue = key
            queue.append(batch)
            if len(queue) == 1:
                self._queues[key] = queue
        batch.add(task)
        if batch.rows >= limit:
            batch.closed = True
            batch.ready = task.arrived

    def next(self, parameters: BatchingParameters, running: int, now: float) -> tuple[Batch | None, float | None]:
        """Return a batch that may run now; else, when the next one may, if time decides (s, on the clock of `now`).

        Parameters
        ----------
        parameters : BatchingParameters
        running : int
            Batches that are being run: how long another waits depends on whether there are any. How many may run is the
            caller's business.
        now : float
        """
        if self._single:
            return self._single.popitem(last=False)[0], None
        micros = parameters.batch_timeout_micros
        if running:
            micros = max(micros, parameters.gather_when_busy_micros)
        timeout = micros / 1e6
        idle = not running
        earliest: float | None = None
        for key, queue in list(self._queues.items()):
            head = queue[0]
            due = head.created + timeout
            if idle and parameters.skip_timeout_when_idle:
                due, timeout = now, 0.0
            if head.closed or due <= now:
                queue.popleft()
                # Queues take turns: this one goes to the end of the line.
                del self._queues[key]
                if queue:
                    self._queues[key] = queue
                if head.closed:
                    head.reason = FULL
                else:
                    head.reason = TIMEOUT if timeout else IMMEDIATE
                head.ready = min(head.ready, head.tasks[0].arrived + timeout)
                return head, None
            earliest = due if earliest is None else min(earliest, due)
        return None, earliest


def _queue_is_full(enqueued: int, limit: int) -> str:
    return (
        f"The batch scheduling queue to which this task was submitted is full; currently {enqueued} batches enqueued "
        f"and max_enqueued_batches is {limit}"
    )
