"""Ends the server with its owner: a pipe that closes, or a process that goes away. Nothing else is cleanup.

A stop hook does not run when its process is killed; a pipe's end and a process's end are always seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

import psutil

__all__ = ["OwnerWatch"]

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5

#: The create time travels through text and clocks of different resolution; pids are not reused within a second.
_CREATE_TIME_TOLERANCE: Final = 1.0


class OwnerWatch:
    """Calls back once when the owner is gone. All calls on the loop.

    Parameters
    ----------
    on_gone : callable
        Gets a sentence that says who went.
    """

    def __init__(self, on_gone: Callable[[str], None]) -> None:
        self._on_gone: Callable[[str], None] | None = on_gone
        self._loop = asyncio.get_running_loop()
        self._fds: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch_pipe(self, fd: int) -> None:
        """Watch the read end of a pipe whose write end the owner holds; owned from now on."""
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        self._fds.append(fd)
        self._loop.add_reader(fd, self._pipe_readable, fd)

    def _pipe_readable(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(fd, 4096):
                self._gone("the lifeline pipe was closed")

    def watch_process(self, pid: int, create_time: float) -> None:
        """Watch a process, known by pid and create time (s since the epoch, as psutil has it; 0: any)."""
        if not _alive(pid, create_time):
            self._loop.call_soon(self._gone, f"the owner, process {pid}, is gone")
            return
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, or a kernel without it
            self._poll(pid, create_time)
            return
        self._fds.append(fd)
        self._loop.add_reader(fd, self._gone, f"the owner, process {pid}, is gone")

    def _poll(self, pid: int, create_time: float) -> None:
        if _alive(pid, create_time):
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll, pid, create_time)
        else:
            self._gone(f"the owner, process {pid}, is gone")

    def _gone(self, reason: str) -> None:
        on_gone = self._on_gone
        self.close()
        if on_gone is not None:
            on_gone(reason)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._on_gone = None
        for fd in self._fds:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._fds.clear()
        if self._timer is not None:
            self._timer.cancel()


def _alive(pid: int, create_time: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = create_time <= 0 or abs(process.create_time() - create_time) < _CREATE_TIME_TOLERANCE
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
