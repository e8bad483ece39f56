"""The memory of a version's worker while the tab looks: resident now, and at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from serving_workbench.profiling.memory import in_words
from serving_workbench.profiling.panels import LEFT, Panel, color_of

__all__ = ["Residents", "worker_of"]

#: Points that are kept: when there are more, every other goes, so that hours take no more room than minutes.
_MOST: Final = 120
_RSS: Final = color_of("run")
_PEAK: Final = color_of("thread_wait")
_WEIGHTS: Final = color_of("assembly")


def worker_of(model: Mapping[str, Any], version: int | None) -> dict[str, Any] | None:
    """Return what `ServedModel.describe` tells of the version whose worker is looked at: by default, that answers."""
    wanted = model["serving_version"] if version is None else version
    return next((each for each in model["versions"] if each["version"] == wanted), None)


class Residents:
    """What was seen of one worker; begins anew with another one.

    Attributes
    ----------
    version : int or None
    """

    def __init__(self) -> None:
        self.version: int | None = None
        self._pid: int | None = None
        self._points: list[tuple[float, int, int | None]] = []

    def add(self, seconds: float, worker: Mapping[str, Any] | None) -> None:
        """Take what a reading tells of the worker; `seconds` by any clock."""
        if worker is None or worker.get("rss_bytes") is None:
            return
        if worker["worker_pid"] != self._pid:
            self._points.clear()
        self.version, self._pid = worker["version"], worker["worker_pid"]
        self._points.append((seconds, worker["rss_bytes"], worker.get("peak_rss_bytes")))
        if len(self._points) > _MOST:
            # The first stays where it is, the newest too.
            self._points = [*self._points[:-1:2], self._points[-1]]

    @property
    def frame(self) -> pd.DataFrame:
        """A row per look: ``seconds`` since the first, ``rss_bytes``, ``peak_bytes``."""
        frame = pd.DataFrame(self._points, columns=pd.Index(["seconds", "rss_bytes", "peak_bytes"]))
        return frame.assign(seconds=frame["seconds"] - frame["seconds"].min())

    def panel(self, weights: int | None) -> Panel | None:
        """Return the picture; None before the first look.

        Parameters
        ----------
        weights : int or None
            Bytes of the version's weights, once they are known.
        """
        if not self._points:
            return None
        began, (last, now, peak) = self._points[0][0], self._points[-1]
        seconds = max(last - began, 1e-3)
        most = 1.05 * max([now, peak or 0, *(rss for _, rss, _ in self._points)])
        panel = Panel("memory", f"Memory of the worker of version {self.version}", 130)
        top, room = 8, panel.height - 30

        def height(count: float) -> float:
            return top + room * (1 - count / most)

        if peak is not None:
            panel.line(_PEAK, "5 3", [(0.0, height(peak)), (1.0, height(peak))])
        if weights is not None:
            panel.line(_WEIGHTS, "2 3", [(0.0, height(weights)), (1.0, height(weights))])
        points = [((at - began) / seconds, height(rss)) for at, rss, _ in self._points]
        panel.line(_RSS, "", points if len(points) > 1 else [points[0], (1.0, points[0][1])])
        panel.line(-1, "", [(0.0, height(0)), (1.0, height(0))])
        panel.text(LEFT - 6, height(0) + 4, "0", "end")
        panel.text(LEFT, panel.height - 4, f"{seconds:,.0f} s ago")
        panel.text(panel.x(1), panel.height - 4, "now", "end")
        for text, y in _apart([("peak", peak), ("resident", now), ("weights", weights)], height):
            panel.text(panel.x(1) + 5, y + 4, text)
        told = [f"{in_words(now)} resident, TensorFlow's libraries included"]
        told += [] if peak is None else [f"{in_words(peak)} at the peak since it was started"]
        told += ["weights: press Memory"] if weights is None else [f"weights {in_words(weights)}"]
        panel.reading = f"{'; '.join(told)}."
        panel.label = panel.title
        return panel


def _apart(named: list[tuple[str, int | None]], height: Any) -> list[tuple[str, float]]:
    """Return the names of lines where these end, the lower ones moved down until they can be read."""
    found: list[tuple[str, float]] = []
    for text, count in named:
        if count is not None:
            y = height(count)
            found.append((text, max(y, found[-1][1] + 13) if found else y))
    return found
