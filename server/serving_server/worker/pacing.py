"""Runs that a profile makes itself: timed, a few at a time, with pauses so that others find the processors free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from serving_server.errors import CancelledError
from serving_server.tensors import Array

__all__ = ["LEAST_RUNS", "Pace"]

#: Runs of each kind that are made whatever the time.
LEAST_RUNS: Final = 3

#: Longest pause after one run. Seconds.
_MAX_PAUSE: Final = 1.0


class Pace:
    """Makes runs, one after another.

    Parameters
    ----------
    busy : float
        Part of the time in which a run may go on; the rest are pauses.
    seconds : float
        After so long, `late`.
    end : threading.Event
        Set when nobody waits for the profile any more: it runs no more then.
    """

    def __init__(self, busy: float, seconds: float, end: threading.Event) -> None:
        self._idle = 1.0 / busy - 1.0
        self._until = time.monotonic() + seconds
        self._end = end

    @property
    def late(self) -> bool:
        """Whether it should come to an end."""
        return time.monotonic() >= self._until

    def check(self) -> None:
        """Go on.

        Raises
        ------
        CancelledError
            Nobody waits for the profile any more.
        """
        if self._end.is_set():
            raise CancelledError("the profile was ended")

    def run(self, runnable: Callable[..., Any], feeds: Sequence[Array]) -> int:
        """Run once, then pause; return the run's nanoseconds.

        Raises
        ------
        CancelledError
            As `check`.
        """
        self.check()
        started = time.monotonic_ns()
        runnable(*feeds)
        ns = time.monotonic_ns() - started
        if self._idle > 0:
            self._end.wait(min(_MAX_PAUSE, self._idle * ns / 1e9))
        return ns

    def several(self, count: int, run: Callable[[], int]) -> list[int]:
        """Return the times of `count` calls of `run`; of fewer, though `LEAST_RUNS`, when it is late."""
        times: list[int] = []
        while len(times) < count and not (self.late and len(times) >= LEAST_RUNS):
            times.append(run())
        return times
