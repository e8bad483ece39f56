"""Where the time of a load goes: a stopwatch whose laps have names."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["Stopwatch"]


class Stopwatch:
    """Runs from when it is made.

    Attributes
    ----------
    began_ns : int
        CLOCK_MONOTONIC, which front and workers share.
    """

    def __init__(self) -> None:
        self.began_ns = self._last = time.monotonic_ns()
        self._laps: dict[str, int] = {}

    def lap(self, name: str) -> None:
        """End a lap; the time since the last one is the lap's. A name that comes again adds to its first one."""
        now = time.monotonic_ns()
        self._laps[name] = self._laps.get(name, 0) + now - self._last
        self._last = now

    def to_json(self) -> dict[str, Any]:
        """Return ``began_ns``, ``ended_ns`` (of the last lap) and ``laps``: pairs of name and nanoseconds, in order."""
        return {"began_ns": self.began_ns, "ended_ns": self._last, "laps": list(self._laps.items())}
