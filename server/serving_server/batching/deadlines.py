"""Deadlines of all requests of a version by one timer: most requests are answered long before theirs.

A timer per request would be set and stopped for nothing. Here the timer stands at the earliest deadline known when it
was set; when it fires, the requests that are still open are looked through.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final

from serving_server.batching.task import Task

__all__ = ["Deadlines"]

#: Least time between two looks, in seconds: deadlines that are a little late cost less than looks at every one of
#: thousands of requests that each have another.
_RESOLUTION: Final = 0.002


class Deadlines:
    """Calls `expire` for each open task whose deadline has passed.

    Parameters
    ----------
    open_tasks : callable
        Gives the tasks to look through; they may be done, or come twice.
    expire : callable
        May change what `open_tasks` gives.
    """

    def __init__(self, open_tasks: Callable[[], Iterable[Task]], expire: Callable[[Task], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_tasks = open_tasks
        self._expire = expire
        self._due = math.inf
        self._looked = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Take note of the deadline (loop time) of a task that `open_tasks` gives from now on."""
        if deadline < self._due:
            due = max(deadline, self._looked + _RESOLUTION)
            if due < self._due:
                self.stop()
                self._due = due
                self._timer = self._loop.call_at(due, self._look)

    def stop(self) -> None:
        """Forget all deadlines."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._due = math.inf

    def _look(self) -> None:
        self.stop()
        now = self._looked = self._loop.time()
        next_deadline = math.inf
        for task in list(self._open_tasks()):
            deadline = task.deadline
            if deadline is None or task.done:
                continue
            if deadline <= now:
                self._expire(task)
            elif deadline < next_deadline:
                next_deadline = deadline
        self.watch(next_deadline)
