"""Tries to load a version, and its warmup, by the version's directory."""

from __future__ import annotations

from collections import Counter
from typing import Final

from serving_server.metrics.histogram import LATENCY_BOUNDS, Histogram

__all__ = ["LoadCounters"]

#: Directories that are remembered; a notebook that deploys all day makes many.
_MAX_PATHS: Final = 1024


class _Path:
    __slots__ = ("attempts", "load_us", "records", "warmups")

    def __init__(self) -> None:
        self.attempts: Counter[str] = Counter()
        self.load_us = 0
        self.warmups: dict[str, Histogram] = {}
        self.records: Counter[str] = Counter()


class LoadCounters:
    """Counters by directory; the oldest directories are forgotten.

    Attributes
    ----------
    paths : dict of str to object
        With ``attempts`` (by ``success`` or ``fail``), ``load_us`` (microseconds of the good ones), ``warmups`` (a
        histogram in seconds by status code name) and ``records`` (warmup records by status code name).
    """

    def __init__(self) -> None:
        self.paths: dict[str, _Path] = {}

    def _of(self, path: str) -> _Path:
        found = self.paths.get(path)
        if found is None:
            if len(self.paths) >= _MAX_PATHS:
                del self.paths[next(iter(self.paths))]
            found = self.paths[path] = _Path()
        return found

    def loaded(self, path: str, seconds: float) -> None:
        """Count a good load of a SavedModel: restore and init op, without warmup."""
        entry = self._of(path)
        entry.attempts["success"] += 1
        entry.load_us += round(seconds * 1e6)

    def failed(self, path: str) -> None:
        """Count a failed one."""
        self._of(path).attempts["fail"] += 1

    def warmed(self, path: str, status: str, seconds: float, records: int) -> None:
        """Count a replay of warmup records that ended with a status code's name."""
        entry = self._of(path)
        entry.warmups.setdefault(status, Histogram(LATENCY_BOUNDS)).add(seconds)
        entry.records[status] += records
