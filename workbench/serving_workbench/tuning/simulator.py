"""What the server's batch scheduler would do with a stream of requests, without a server and without a clock.

The rules are those of `serving_server.batching`: a batch is open until the next request does not fit or it is full; the
open one runs when it is as old as the timeout; at most `num_batch_threads` run at once; a batch is padded up to an
allowed size; a queue of `max_enqueued_batches` refuses more; with `skip_timeout_when_idle` and
`gather_when_busy_micros`. The loop is over batches, not over requests.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from heapq import heapreplace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.workload import Workload

__all__ = ["Crowding", "RequestPath", "Simulation", "Simulator", "unbatched"]

Floats = NDArray[np.float64]

#: Part of the requests that is not judged: the queue starts empty.
_WARMING: Final = 0.1

#: Requests that may wait when batching is off (`serving_server.batching.queues.MAX_WAITING`).
_WAITING_UNBATCHED: Final = 16_384


@dataclasses.dataclass(frozen=True)
class RequestPath:
    """What a request meets outside of the graph. Seconds.

    Attributes
    ----------
    fixed : float
        Transport and codec, added to every latency.
    per_request : float
        Time that each request takes of the one thread through which all of them go.
    per_batch, per_row : float
        What a batch thread is taken for beyond the run itself: assembly, hand-over, taking the outputs apart.
    clock : float
        Step of the clock that the timeout is kept by; 1 ms with uvloop, 0 for an exact one.
    extra : tuple of float
        What lone requests took more than `fixed`, from a probe, ascending: each request draws one of these.
    """

    fixed: float = 0.0
    per_request: float = 0.0
    per_batch: float = 0.0
    per_row: float = 0.0
    clock: float = 0.0
    extra: tuple[float, ...] = ()


class Crowding(NamedTuple):
    """How much slower everything gets, as the processors are shared with all that requests cost elsewhere.

    From once at no requests to `factor` times at `rate` requests per second, on a line; no more beyond. A `rate` of 0:
    the same factor at all rates.
    """

    factor: float = 1.0
    rate: float = 0.0

    def at(self, rate: float) -> float:
        """Return the factor at a rate."""
        return self.factor if self.rate <= 0 else 1.0 + (self.factor - 1.0) * min(1.0, rate / self.rate)


def unbatched(threads: int) -> BatchingParameters:
    """Return the parameters that act as no batching does, with so many runs at once."""
    return BatchingParameters(
        max_batch_size=1, batch_timeout_micros=0, num_batch_threads=threads, max_enqueued_batches=_WAITING_UNBATCHED
    )


@dataclasses.dataclass(frozen=True)
class Simulation:
    """One simulated run.

    Attributes
    ----------
    rate : float
        Requests per second offered.
    latencies : numpy.ndarray
        Seconds from the arrival to the answer, of all requests after the warming part.
    rows, padded : numpy.ndarray
        Of each batch: rows, and with padding.
    reasons : Counter of str
        Why batches ran: ``full``, ``timeout``, ``immediate`` (nothing to wait for).
    busy : float
        Part of the time that the batch threads ran something, 0 to 1.
    refused : int
        Requests that found the queue full.
    seconds : float
        From the first arrival to the last answer.
    """

    rate: float
    latencies: Floats
    rows: NDArray[np.int64]
    padded: NDArray[np.int64]
    reasons: Counter[str]
    busy: float
    refused: int
    seconds: float

    def quantile(self, q: float) -> float:
        """Return a quantile of the latency in seconds."""
        return float(np.quantile(self.latencies, q))

    @property
    def mean_rows(self) -> float:
        """Mean rows of a batch."""
        return float(self.rows.mean())

    @property
    def padding(self) -> float:
        """Part of the rows that were run which is padding, 0 to 1."""
        total = int(self.padded.sum())
        return 1.0 - int(self.rows.sum()) / total if total else 0.0

    @property
    def throughput(self) -> float:
        """Requests answered per second."""
        return len(self.latencies) / (1 - _WARMING) / self.seconds if self.seconds > 0 else math.inf


class Simulator:
    """Simulates one service under one stream of requests.

    Parameters
    ----------
    curve : ServiceCurve
    path : RequestPath
    workload : Workload
    crowding : Crowding
    """

    def __init__(
        self,
        curve: ServiceCurve,
        path: RequestPath | None = None,
        workload: Workload | None = None,
        crowding: Crowding | None = None,
    ) -> None:
        self.curve = curve
        self.path = path or RequestPath()
        self.workload = workload or Workload()
        self.crowding = crowding or Crowding()
        spread = curve.spread()
        picks = (self.workload.luck * len(spread)).astype(int)
        self._luck: list[float] = spread[picks].tolist()
        self._fixed: Floats | float = self.path.fixed
        if self.path.extra:
            drawn = (self.workload.transport_luck * len(self.path.extra)).astype(int)
            self._fixed = self.path.fixed + np.array(self.path.extra)[drawn]
        self._tables: dict[tuple[int, ...], list[list[float]]] = {}
        self._medians: dict[tuple[int, int], float] = {}

    def _table(self, parameters: BatchingParameters) -> list[list[float]]:
        """Seconds that a batch holds its thread, by how many others run and by its rows."""
        limit, threads = parameters.batch_limit, parameters.num_batch_threads
        key = (limit, threads, *parameters.allowed_batch_sizes)
        found = self._tables.get(key)
        if found is None:
            path = self.path
            found = self._tables[key] = [
                [0.0]
                + [
                    self._median(parameters.padded(rows), others + 1) + path.per_batch + path.per_row * rows
                    for rows in range(1, limit + 1)
                ]
                for others in range(threads)
            ]
        return found

    def _median(self, rows: int, at_once: int) -> float:
        found = self._medians.get((rows, at_once))
        if found is None:
            found = self._medians[rows, at_once] = self.curve.median(rows, at_once)
        return found

    def saturated(self, parameters: BatchingParameters) -> float:
        """Return the requests per second when there are always some to run, in full batches."""
        limit, threads = parameters.batch_limit, parameters.num_batch_threads
        rows = self.workload.rows
        requests = max(1, limit // rows)
        mean_luck = sum(self._luck) / len(self._luck)
        by_threads = threads * requests / (self._table(parameters)[-1][min(limit, requests * rows)] * mean_luck)
        alone = min(by_threads, 1 / self.path.per_request) if self.path.per_request > 0 else by_threads
        factor, most = self.crowding
        if most <= 0 or alone / factor >= most:
            return alone / factor
        # The rate r at which r times its own factor is what it could do alone: (f - 1) / most r^2 + r - alone = 0.
        bend = (factor - 1) / most
        return alone if bend <= 0 else (math.sqrt(1 + 4 * bend * alone) - 1) / (2 * bend)

    def run(self, parameters: BatchingParameters, rate: float) -> Simulation:
        """Simulate the scheduler with `parameters` at `rate` requests per second.

        Raises
        ------
        ValueError
            When the workload's requests do not fit a batch.
        """
        if self.workload.rows > parameters.batch_limit:
            raise ValueError(f"requests of {self.workload.rows} rows do not fit a batch of {parameters.batch_limit}")
        came = self.workload.arrivals / rate
        scale = self.crowding.at(rate)
        queued = _through_one_thread(came, self.path.per_request * scale)
        step = self.path.clock
        created = np.floor(queued / step) * step if step > 0 else queued
        taken = _Batches(parameters, self._table(parameters), self._luck, self.workload.rows, step, scale)
        taken.run(queued.tolist(), created.tolist())
        ends = np.repeat(np.array(taken.ends), np.array(taken.requests))
        latencies = ends - came + self._fixed * scale
        first = int(len(came) * _WARMING)
        rows = np.array(taken.requests, np.int64) * self.workload.rows
        padded = np.array([parameters.padded(int(size)) for size in rows], np.int64)
        span = max(taken.ends) - float(came[0])
        return Simulation(
            rate,
            latencies[first:],
            rows,
            padded,
            taken.reasons,
            min(1.0, taken.busy / (span * parameters.num_batch_threads)) if span > 0 else 1.0,
            taken.refused,
            span,
        )


def _through_one_thread(came: Floats, seconds: float) -> Floats:
    """Return when each request has been through a thread that takes `seconds` for each (Lindley's recursion)."""
    if seconds <= 0:
        return came
    places = np.arange(len(came)) * seconds
    return np.asarray(np.maximum.accumulate(came - places) + places + seconds)


class _Batches:
    """The loop over batches of one simulated run."""

    def __init__(
        self,
        parameters: BatchingParameters,
        table: list[list[float]],
        luck: list[float],
        rows: int,
        step: float,
        scale: float,
    ) -> None:
        self._limit = parameters.batch_limit // rows  # in requests
        self._exact = self._limit * rows == parameters.batch_limit  # else the next request closes the batch
        self._rows = rows
        self._table = table
        self._luck = luck
        self._threads = parameters.num_batch_threads
        self._timeout = parameters.batch_timeout_micros / 1e6
        self._gather = parameters.gather_when_busy_micros / 1e6
        self._skip = parameters.skip_timeout_when_idle
        self._room = parameters.max_enqueued_batches * self._limit
        self._step = step
        self._scale = scale
        self.ends: list[float] = []
        self.requests: list[int] = []
        self.reasons: Counter[str] = Counter()
        self.busy = 0.0
        self.refused = 0

    def run(self, queued: list[float], created: list[float]) -> None:
        limit, room, table, luck, rows = self._limit, self._room, self._table, self._luck, self._rows
        scale = self._scale
        timeout, plain = self._timeout, self._gather <= self._timeout and not self._skip
        count = len(queued)
        beyond = 0 if self._exact else 1
        threads = [0.0] * self._threads  # when each is free, a heap
        full = timed = immediate = 0
        head = 0
        number = 0
        while head < count:
            free = threads[0]
            last = head + limit - 1 + beyond  # the request that closes the batch
            closed = queued[last] if last < count else math.inf
            due = created[head] + timeout if plain else self._due(created[head], queued[head], threads)
            if timeout or not plain:
                due = self._on_clock(due)
            ready = closed if closed < due else max(due, queued[head])
            start = free if free > ready else ready  # noqa: FURB136 - `max` is three times as slow
            if start >= closed:
                stop = head + limit
                full += 1
            else:
                stop = bisect_right(queued, start, head + 1, min(count, head + limit))
                if due > queued[head]:
                    timed += 1
                else:
                    immediate += 1
            if head + room < count and queued[head + room] < start:
                self.refused = max(self.refused, bisect_left(queued, start) - head - room)
            others = 0
            for end in threads:
                if end > start:
                    others += 1
            size = stop - head
            seconds = table[others][size * rows] * luck[number] * scale
            end = start + seconds
            heapreplace(threads, end)
            self.busy += seconds
            self.ends.append(end)
            self.requests.append(size)
            head = stop
            number += 1
        self.reasons.update({"full": full, "timeout": timed, "immediate": immediate})

    def _due(self, created: float, queued: float, threads: list[float]) -> float:
        """When an open batch may run, with the rules that look at whether others run."""
        idle = max(threads)
        due = created + self._timeout
        if self._gather > self._timeout:
            due = min(created + self._gather, max(due, idle))
        if self._skip:
            due = min(due, max(queued, idle))
        return due

    def _on_clock(self, due: float) -> float:
        step = self._step
        return math.ceil(due / step - 1e-9) * step if step > 0 else due
