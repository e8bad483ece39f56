"""When the requests of an open loop are due, and a timer that is exact enough for them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["Alarm", "arrivals"]

#: <time.h> and <sys/timerfd.h> of Linux.
_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1


def arrivals(rate: float, kind: str) -> Iterator[float]:
    """Yield the times of arrivals in seconds from the start, for ever.

    Parameters
    ----------
    rate : float
        Per second.
    kind : str
        ``fixed``: equal distances; ``poisson``: exponential ones, as of many users who do not know of each other.
    """
    number, at = 0, 0.0
    draw = random.Random(0)
    while True:
        if kind == "poisson":
            at += draw.expovariate(rate)
        else:
            number += 1
            at = number / rate
        yield at


class _Spec(ctypes.Structure):
    """`struct itimerspec`"""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Calls a function at a time of `time.monotonic`.

    The loops' own timers have the resolution of epoll, 1 ms, which is more than most answers take. Where the system has
    no timerfd, they must do.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "timerfd_create"):
            self._settime = libc.timerfd_settime
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._fired)

    def set(self, at: float) -> None:
        """Ring at this time, once."""
        if self._fd >= 0:
            seconds = int(at)
            spec = _Spec(0, 0, seconds, max(1, int((at - seconds) * 1e9)))
            if self._settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
                raise OSError(ctypes.get_errno(), "timerfd_settime")
        else:
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._function)

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set again since
        self._function()

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
