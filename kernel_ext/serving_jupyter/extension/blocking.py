"""Blocking work beside Jupyter's event loop, in daemon threads: none of it may delay the end of the Jupyter server.

The threads of `concurrent.futures` and of `asyncio.to_thread` are joined when the interpreter ends; a start that waits
a minute for its ports would keep a Jupyter server that was told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")

#: Calls at once; more wait for their turn. Each has time limits of its own.
_MAX_THREADS: Final = 16


class Threads:
    """Runs functions in daemon threads, a bounded number at once; all calls on one event loop."""

    def __init__(self, limit: int = _MAX_THREADS) -> None:
        self._free = asyncio.Semaphore(limit)

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Return what the function returns, or raise what it raises.

        Cancelled, it returns at once; the function runs to its end, and what it returns is dropped.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        call = functools.partial(function, *arguments, **named)

        def settle(result: Any, error: BaseException | None) -> None:
            self._free.release()
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - it is raised to whoever awaits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=work, name=f"serving-{getattr(function, '__name__', 'call')}", daemon=True).start()
        return await future
