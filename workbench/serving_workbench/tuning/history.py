"""The last minutes of a version's counters, as what the live chart draws: bounded, rounded, small."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.window import Window, window

__all__ = ["History"]

#: Points per series, at two a second: two minutes.
POINTS: Final = 240
#: Seconds over which batch sizes, numbers and the diagnosis are taken.
SPAN: Final = 5.0
#: Bars of the histogram: more sizes are joined.
_BARS: Final = 24
_REASONS: Final = ("full", "timeout", "immediate", "alone")
_STAGES: Final = ("queue", "assembly", "run", "channel", "codec")


class History:
    """Takes snapshots of one version's statistics; gives windows and data to draw.

    Parameters
    ----------
    slo : float or None
        Seconds.
    """

    def __init__(self, slo: float | None) -> None:
        self.slo = slo
        self._snapshots: deque[tuple[float, Mapping[str, Any]]] = deque()
        self._points: deque[tuple[float, Window, float | None]] = deque(maxlen=POINTS)
        self._marks: deque[float] = deque(maxlen=50)
        self._parameters: BatchingParameters | None = None
        self._seen = False

    def add(
        self, now: float, snapshot: Mapping[str, Any], parameters: BatchingParameters | None, client: float | None
    ) -> None:
        """Take a snapshot.

        Parameters
        ----------
        now : float
            Seconds on any clock.
        snapshot : dict
        parameters : BatchingParameters or None
            In force; a change is marked.
        client : float or None
            p99 in seconds as the load generator sees it.
        """
        if self._seen and parameters != self._parameters:
            self._marks.append(now)
        self._parameters, self._seen = parameters, True
        if self._snapshots:
            when, before = self._snapshots[-1]
            if snapshot["stages"]["requests"] < before["stages"]["requests"]:
                self._snapshots.clear()  # another version answers, or the server is another one
            elif now > when:
                self._points.append((now, window(before, snapshot, now - when), client))
        self._snapshots.append((now, snapshot))
        while len(self._snapshots) > 2 and now - self._snapshots[1][0] >= SPAN:
            self._snapshots.popleft()

    @property
    def recent(self) -> Window | None:
        """The last `SPAN` seconds, or as many as there are; None before the second snapshot."""
        if len(self._snapshots) < 2:
            return None
        (first, before), (last, after) = self._snapshots[0], self._snapshots[-1]
        return window(before, after, last - first)

    def data(self) -> dict[str, Any]:
        """Return what `chart.js` draws: milliseconds, parts of the whole, rows per second."""
        times = [round(now, 2) for now, _, _ in self._points]
        windows = [each for _, each, _ in self._points]
        recent = self.recent
        last = times[-1] if times else 0.0
        first = times[0] if times else 0.0
        return {
            "t": times,
            "range": [first, max(last, first + 1)],
            "p50": [_ms(each.p50) for each in windows],
            "p99": [_ms(each.p99) for each in windows],
            "client": [_ms(client) for _, _, client in self._points],
            "slo": _ms(self.slo),
            "marks": [round(mark, 2) for mark in self._marks if mark >= first],
            "stages": {
                name: [_ms(each.stages[name] if each.requests else 0.0) for each in windows] for name in _STAGES
            },
            "reasons": {name: [round(each.share(name), 3) for each in windows] for name in _REASONS},
            "sizes": [] if recent is None else _bars(recent),
            "padding": 0.0 if recent is None else round(100 * recent.padding, 1),
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else float(f"{seconds * 1e3:.4g}")


def _bars(recent: Window) -> list[list[float | str]]:
    """Return [size that ran, real rows per second, padding per second], ascending; at most `_BARS`."""
    by_size: dict[int, list[float]] = {}
    for (rows, padding), count in recent.batches.items():
        bar = by_size.setdefault(rows + padding, [0.0, 0.0])
        bar[0] += rows * count / recent.seconds
        bar[1] += padding * count / recent.seconds
    sizes = sorted(by_size)
    step = -(-len(sizes) // _BARS) or 1
    found: list[list[float | str]] = []
    for begin in range(0, len(sizes), step):
        part = sizes[begin : begin + step]
        name = str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}"
        found.append([name, *(float(f"{sum(by_size[size][place] for size in part):.4g}") for place in (0, 1))])
    return found
