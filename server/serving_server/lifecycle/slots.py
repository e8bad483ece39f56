"""A limit on concurrent loads that gives a free slot to the highest waiting version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["LoadSlots"]


class LoadSlots:
    """At most `limit` holders at once. Models take turns in order of arrival; within a model the highest goes first."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one load must be possible at a time, got {limit}")
        self._free = limit
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, model: str, version: int) -> AsyncIterator[None]:
        """Wait for a slot and keep it for the length of the block."""
        if self._free:
            self._free -= 1
        else:
            granted = asyncio.get_running_loop().create_future()
            waiter = (model, version, granted)
            self._waiting.append(waiter)
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._release()  # granted and cancelled in the same turn of the loop
                elif waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        # A waiter that was cancelled in this turn of the loop has not yet had its chance to leave.
        self._waiting = [waiter for waiter in self._waiting if not waiter[2].done()]
        if not self._waiting:
            self._free += 1
            return
        model = self._waiting[0][0]
        chosen = max((waiter for waiter in self._waiting if waiter[0] == model), key=lambda waiter: waiter[1])
        self._waiting.remove(chosen)
        chosen[2].set_result(None)
