"""A timer of the event loop that is exact enough to send requests by."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Alarm"]

#: <time.h> and <sys/timerfd.h> of Linux.
_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1


class _Spec(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Calls a function at a time of `time.perf_counter`, which is CLOCK_MONOTONIC on Linux.

    The loops' own timers have the resolution of epoll, 1 ms, which is more than most answers take. Where the system has
    no timerfd, they must do.

    Parameters
    ----------
    function : callable
        Without arguments, called on the loop; it should set the alarm again, or silence it.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "timerfd_create"):
            self._settime = libc.timerfd_settime
            self._spec = _Spec(0, 0, 0, 0)
            self._spec_at = ctypes.byref(self._spec)
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._fired)

    def set(self, at: float) -> None:
        """Ring at this time, once; an earlier setting is forgotten."""
        if self._fd >= 0:
            spec = self._spec
            spec.at_s = seconds = int(at)
            spec.at_ns = max(1, int((at - seconds) * 1e9))
            self._settime_or_raise()
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, at - time.perf_counter()), self._function)

    def silence(self) -> None:
        """Do not ring, until it is set again."""
        if self._fd >= 0:
            self._spec.at_s = self._spec.at_ns = 0  # disarms it
            self._settime_or_raise()
        elif self._timer is not None:
            self._timer.cancel()

    def _settime_or_raise(self) -> None:
        if self._settime(self._fd, _TFD_TIMER_ABSTIME, self._spec_at, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _fired(self) -> None:
        # Not read: setting it again, or silencing it, takes the expiration back, and saves a system call.
        self._function()

    def close(self) -> None:
        """Ring no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
