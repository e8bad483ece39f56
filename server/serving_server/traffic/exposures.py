"""The requests of a split that have ended, each with its version, its key's point and what became of it.

A request notes its end in four numbers; what is counted of them, and which of them are remembered, is sorted out by the
thousand, at a fifth of what it costs one by one. So what is read here is true after `ExposureLog.settle` only.
"""

from __future__ import annotations

import time
from array import array
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving_server.traffic.outcomes import FAILED, GIVEN_UP, KEYED, Outcomes

__all__ = ["ExposureLog", "Exposures"]

_POINT: Final = KEYED - 1
_ARM_SHIFT: Final = 33

#: What is remembered of a request, 38 bytes in all: `Exposures` tells what each is.
_COLUMNS: Final[dict[str, str]] = {
    "time": "f8",
    "version": "i8",
    "point": "u4",
    "keyed": "?",
    "status": "u1",
    "total_s": "f8",
    "run_ns": "i8",
}


class Exposures(NamedTuple):
    """Requests in the order of their ends; arrays of one length.

    Attributes
    ----------
    sequence : ndarray of int64
        Numbers from 1 on, without gaps.
    time : ndarray of float64
        When each came, seconds since 1970.
    version : ndarray of int64
    point : ndarray of uint32
        Drawn, or of its key.
    keyed : ndarray of bool
        Whether its key decided.
    status : ndarray of uint8
        `StatusCode`, or `GIVEN_UP` for those that their clients gave up before any deadline.
    total_s : ndarray of float64
        Seconds from taking the request to its end.
    run_ns : ndarray of int64
        Nanoseconds in the graph; 0: not known; negative: of a batch that an earlier one of these requests was in.
    """

    sequence: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    version: npt.NDArray[np.int64]
    point: npt.NDArray[np.uint32]
    keyed: npt.NDArray[np.bool_]
    status: npt.NDArray[np.uint8]
    total_s: npt.NDArray[np.float64]
    run_ns: npt.NDArray[np.int64]

    def part(self, start: int, stop: int) -> Exposures:
        """Return those between two places."""
        columns: list[Any] = [values[start:stop] for values in self]
        return Exposures(*columns)


class ExposureLog:
    """Takes the ends of the requests of one model, hands them to the outcomes of their arms and remembers the latest.

    Parameters
    ----------
    capacity : int
        How many are remembered; 0: none.

    Attributes
    ----------
    arrived, ended : array of double
        When requests came and ended, by `time.perf_counter`: those that are not sorted in.
    runs : array of int64
        Nanoseconds in the graph, as `Exposures.run_ns`; from `FAILED` on downwards: an error.
    points : array of int64
        With `KEYED` and the number of the arm above it.
    last : int
        Sequence number of the latest; 0 before the first.
    """

    __slots__ = (
        "_arms",
        "_columns",
        "_numbers",
        "arrived",
        "capacity",
        "ended",
        "last",
        "points",
        "remembered",
        "runs",
    )

    def __init__(self, capacity: int) -> None:
        self.arrived = array("d")
        self.ended = array("d")
        self.runs = array("q")
        self.points = array("q")
        self.capacity = capacity
        self.last = 0
        self.remembered = 0
        self._numbers = 0
        self._arms: dict[int, tuple[int, Outcomes]] = {}
        self._columns = _empty(capacity)

    def open(self, version: int, objective: float | None = None) -> Outcomes:
        """Return what the requests of a new arm count in."""
        self._numbers += 1
        made = Outcomes(self, self._numbers << _ARM_SHIFT, objective)
        self._arms[self._numbers] = version, made
        return made

    def forget(self, outcomes: Outcomes) -> None:
        """Sort in what an arm has, and nothing that comes for it later."""
        self.settle()
        self._arms.pop(outcomes.base >> _ARM_SHIFT, None)

    def settle(self) -> None:
        """Sort in what has ended since the last time."""
        if not self.points:
            return
        arrived, ended, runs, words = (np.array(part) for part in (self.arrived, self.ended, self.runs, self.points))
        for part in (self.arrived, self.ended, self.runs, self.points):
            del part[:]  # not another array: whoever notes an end holds its `append`
        status = np.where(runs <= FAILED, FAILED - runs, 0)
        runs[status > 0] = 0
        totals = ended - arrived
        numbers = words >> _ARM_SHIFT
        versions = np.zeros(len(words), np.int64)
        known = np.ones(len(words), bool)
        lowest = int(numbers.min())
        for number in (np.flatnonzero(np.bincount(numbers - lowest)) + lowest).tolist():  # `np.unique` sorts
            mine = numbers == number
            if number not in self._arms:  # its period is forgotten: there were hundreds since it came
                known &= ~mine
                continue
            version, outcomes = self._arms[number]
            versions[mine] = version
            outcomes.add(totals[mine], runs[mine], status[mine])
        came = arrived + (time.time() - perf_counter())
        points, keyed = words & _POINT, (words & KEYED) != 0
        columns = came, versions, points, keyed, status, totals, runs
        self._remember(columns if known.all() else tuple(column[known] for column in columns))

    def _remember(self, columns: tuple[npt.NDArray[Any], ...]) -> None:
        count = len(columns[0])
        self.last += count
        kept = min(count, self.capacity)
        self.remembered = min(self.remembered + count, self.capacity)
        if not kept:
            return
        start = (self.last - kept) % self.capacity
        first = min(kept, self.capacity - start)  # the rest goes to the beginning
        for into, column in zip(self._columns.values(), columns, strict=True):
            into[start : start + first] = column[count - kept : count - kept + first]
            into[: kept - first] = column[count - kept + first :]

    def resize(self, capacity: int) -> None:
        """Remember so many from now on; the latest are kept."""
        if capacity == self.capacity:
            return
        kept = self.after(0, self.capacity)
        self.capacity, self._columns = capacity, _empty(capacity)
        last, self.last, self.remembered = self.last, self.last - len(kept.sequence), 0
        self._remember(kept[1:])
        assert self.last == last

    def after(self, sequence: int, limit: int) -> Exposures:
        """Return a copy of the oldest remembered ones with numbers above `sequence`, `limit` at most."""
        self.settle()
        first = max(sequence, self.last - self.remembered)
        count = max(0, min(limit, self.last - first))
        start = first % max(1, self.capacity)
        before = min(count, self.capacity - start)  # the rest is at the beginning; by places it takes ten times as long
        columns: list[Any] = [
            np.concatenate([column[start : start + before], column[: count - before]])
            for column in self._columns.values()
        ]
        return Exposures(np.arange(first + 1, first + count + 1), *columns)

    def __len__(self) -> int:
        self.settle()
        return self.remembered


def _empty(capacity: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty(capacity, dtype) for name, dtype in _COLUMNS.items()}


assert GIVEN_UP < 256, "a status is one byte"
