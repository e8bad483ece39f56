"""Time as the lifecycle sees it."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Clock", "LoopClock"]


class Clock(Protocol):
    """Seconds that never step back, and waiting in them; tests put their own in its place."""

    def time(self) -> float:
        """Return the present in seconds since any fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class LoopClock:
    """The event loop's own clock."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
