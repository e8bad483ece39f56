"""The stamps of a model's requests: kept a batch at a time, as its requests share most of them, and failed ones singly.

All times are of CLOCK_MONOTONIC (`time.perf_counter`), which the processes of a machine share, so those of the front
and of its workers are of one scale. Each request pays for what is kept here: three numbers in an array of its batch, as
objects of its own for each request cost twice the time, most of it for memory that is not in the processor's caches.
`serving_server.stamps.rows` reads them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence
from struct import pack
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from serving_server.errors import InvalidArgumentError, StatusCode

if TYPE_CHECKING:
    from serving_server.batching.task import Task
    from serving_server.stamps.asked import Asked

__all__ = ["AnsweredBatch", "BatchStamps", "FailedRequest", "Settings", "Stamps", "whole_number"]

#: Requests that are remembered, at least and at most.
MIN_CAPACITY: Final = 100
MAX_CAPACITY: Final = 100_000
MAX_EVERY: Final = 1_000_000
MAX_PER_SECOND: Final = 1_000_000

#: After a pause, requests of so much time are kept at once. Nanoseconds.
_BURST_NS: Final = 100_000_000
#: However large a batch is, another one is kept after so much time. Nanoseconds.
_PAUSE_NS: Final = 1_000_000_000


class BatchStamps(NamedTuple):
    """What requests of a batch share; times in nanoseconds.

    Attributes
    ----------
    number, version : int
    signature : str
    reason : int
        Why it ran (`serving_server.metrics.stages`).
    lane : int
        Which of the version's threads ran it, from 0.
    retried : bool
        Its request was in a batch that failed, and runs again by itself.
    requests : int
        In it when it was handed over, also those that nobody waited for at its end.
    rows, padded_rows : int
        Without and with padding.
    ready, taken, handed_over, began, came, split : int
        It waited only for a thread; a thread was there; the worker was told; its graph began to run; the answer was
        here; its outputs were apart.
    run : int
        How long its graph ran.
    """

    number: int
    version: int
    signature: str
    reason: int
    lane: int
    retried: bool
    requests: int
    rows: int
    padded_rows: int
    ready: int
    taken: int
    handed_over: int
    began: int
    run: int
    came: int
    split: int


class AnsweredBatch(NamedTuple):
    """A batch, and those of its requests that were answered, in the order of their answers.

    Attributes
    ----------
    stamps : BatchStamps
    packed : bytes
        Doubles, seconds: when each request was received, when each was queued, when each was answered.
    rows : int or sequence of int
        Of each request, or of all.
    noted : mapping
        By the place of a request: its request id or None, and into how many pieces it was cut. Of most nothing is
        noted.
    """

    stamps: BatchStamps
    packed: bytes
    rows: int | Sequence[int]
    noted: dict[int, tuple[str | None, int]]

    def __len__(self) -> int:
        return len(self.packed) // 24

    @property
    def times(self) -> memoryview[float]:
        """What is packed."""
        return memoryview(self.packed).cast("d")


class FailedRequest(NamedTuple):
    """A request that ended otherwise than with an answer; times in seconds.

    Attributes
    ----------
    number : int
        Of this failure.
    version : int
    signature : str
    status : StatusCode
    batch : BatchStamps or None
        What it was in at its end, as far as that had come; None if it was in none that had begun.
    ready : float
        When it waited only for a thread, infinite if it did not come to that; of no use with a batch.
    received, queued, ended : float
    rows, pieces : int
    request_id : str or None
    """

    number: int
    version: int
    signature: str
    status: StatusCode
    batch: BatchStamps | None
    ready: float
    received: float
    queued: float
    ended: float
    rows: int
    pieces: int
    request_id: str | None


def whole_number(value: object, what: str, least: int, most: int) -> int:
    """Return a value that must be a whole number from `least` to `most`.

    Raises
    ------
    InvalidArgumentError
        Naming `what`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgumentError(f"{what} must be a whole number from {least} to {most}; got {value!r}")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What is kept.

    Attributes
    ----------
    enabled : bool
    every : int
        Of so many batches of a version one, with all of its requests.
    per_second : int
        Not many more requests than this: of a faster load, some batches. What failed, and batches with a request that
        its client asks about or that is larger than a batch, are kept whatever this and `every` say.
    capacity : int
        Answered requests; the same number of failed ones is kept beside them.
    """

    enabled: bool = True
    every: int = 1
    per_second: int = 10_000
    capacity: int = 10_000

    def changed(self, fields: dict[str, Any]) -> Settings:
        """Return these settings with the fields that are given.

        Raises
        ------
        InvalidArgumentError
            Naming the field.
        """
        enabled = fields.get("enabled", self.enabled)
        if not isinstance(enabled, bool):
            raise InvalidArgumentError(f"enabled must be true or false; got {enabled!r}")
        every = whole_number(fields.get("every", self.every), "every", 1, MAX_EVERY)
        per_second = whole_number(fields.get("per_second", self.per_second), "per_second", 1, MAX_PER_SECOND)
        capacity = whole_number(fields.get("capacity", self.capacity), "capacity", MIN_CAPACITY, MAX_CAPACITY)
        return Settings(enabled, every, per_second, capacity)


class Stamps:
    """What is remembered of a model's requests, all versions together.

    Attributes
    ----------
    enabled : bool
        Of the settings.
    batches : deque of AnsweredBatch
        Oldest first, whole batches only; together not more requests than the capacity, unless one batch has more.
    failed : deque of FailedRequest
        Oldest first.
    recorded : int
        Answered requests in `batches`.
    """

    __slots__ = (
        "_every",
        "_failures",
        "_interval_ns",
        "_next_ns",
        "_numbers",
        "_seen",
        "_settings",
        "batches",
        "enabled",
        "failed",
        "recorded",
    )

    def __init__(self) -> None:
        self.batches: deque[AnsweredBatch] = deque()
        self.failed: deque[FailedRequest] = deque()
        self.recorded = 0
        self._seen: dict[int, int] = {}  # batches, by version
        self._next_ns = 0.0  # before that, no batch is kept that need not be
        self._numbers = itertools.count(1)
        self._failures = itertools.count(1)
        self.change(Settings())

    @property
    def settings(self) -> Settings:
        """What is kept."""
        return self._settings

    def change(self, settings: Settings) -> None:
        """Put other settings in force. What was kept stays as far as there is room, and goes when switched off."""
        self._settings = settings
        self.enabled = settings.enabled
        self._every = settings.every
        self._seen.clear()
        self._interval_ns = 1e9 / settings.per_second
        self._next_ns = 0.0
        self.failed = deque(self.failed if settings.enabled else (), settings.capacity)
        if not settings.enabled:
            self.batches.clear()
            self.recorded = 0
        self._make_room()

    def next_number(self) -> int:
        """Return the number of a batch that is run now."""
        return next(self._numbers)

    def wants(self, version: int, requests: int, came_ns: int) -> bool:
        """Whether a batch is to be kept, by its version, its requests, and when its answer came.

        A ring of 10,000 holds a fifth of a second of the fastest load, and stamps would take 3 % of it; of a part of
        the batches it holds more time and costs next to nothing. The rule is that of a leaky bucket.
        """
        if came_ns < self._next_ns or not self.enabled:
            return False
        if self._every > 1:
            seen = self._seen[version] = self._seen.get(version, 0) + 1
            if seen % self._every:
                return False
        following = max(self._next_ns, came_ns - _BURST_NS) + requests * self._interval_ns
        self._next_ns = min(following, came_ns + _PAUSE_NS)
        return True

    def answered(self, stamps: BatchStamps, tasks: Sequence[Task], ends: list[float], *, noted: bool) -> None:
        """Keep the requests of a batch.

        Parameters
        ----------
        stamps : BatchStamps
        tasks : sequence of Task
            That were answered, in this order.
        ends : list of float
            When each of them was.
        noted : bool
            Whether any has an id or was cut into pieces.
        """
        if not tasks:
            return
        received = [task.received or task.arrived for task in tasks]
        # `array` would take three times as long.
        times = pack(f"{3 * len(tasks)}d", *received, *[task.arrived for task in tasks], *ends)
        sizes = [task.rows for task in tasks]
        rows = 1 if sizes.count(1) == len(sizes) else sizes
        notes: dict[int, tuple[str | None, int]] = {}
        if noted:
            notes = {
                index: (task.asked.request_id if task.asked is not None else None, len(task.pieces))
                for index, task in enumerate(tasks)
                if task.asked is not None or task.pieces
            }
        self.batches.append(AnsweredBatch(stamps, times, rows, notes))
        self.recorded += len(tasks)
        if self.recorded > self._settings.capacity:
            self._make_room()

    def ended(
        self, task: Task, status: StatusCode, version: int, batch: BatchStamps | None, ready: float = math.inf
    ) -> None:
        """Keep a request that ends now without an answer; see `FailedRequest`."""
        if not self.enabled:
            return
        number, name = next(self._failures), task.signature.name
        times = (task.received or task.arrived, task.arrived, perf_counter())
        request_id = None if task.asked is None else task.asked.request_id
        self.failed.append(
            FailedRequest(number, version, name, status, batch, ready, *times, task.rows, len(task.pieces), request_id)
        )

    def refused(self, signature: str, status: StatusCode, version: int, received: float, asked: Asked | None) -> None:
        """Keep a request that is refused now, before it waited anywhere; see `FailedRequest`."""
        if not self.enabled:
            return
        number, now = next(self._failures), perf_counter()
        request_id = None if asked is None else asked.request_id
        times = (received or now, now, now)
        self.failed.append(FailedRequest(number, version, signature, status, None, now, *times, 0, 0, request_id))

    def _make_room(self) -> None:
        while self.recorded > self._settings.capacity and len(self.batches) > 1:
            self.recorded -= len(self.batches.popleft())
