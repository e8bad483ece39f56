"""What was measured at which point: repeats are averaged, and nothing is measured twice for nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serving_workbench.tuning.space import Point

__all__ = ["Trials"]


class Trials:
    """Measured rates by point, in the order in which they came; a larger one is better.

    Parameters
    ----------
    measure : callable
        Measures once: requests per second that a point sustains.
    repeats : int
        A point that is asked for again is measured again, up to this often; then the mean is told.
    """

    def __init__(self, measure: Callable[[Point], float], repeats: int = 1) -> None:
        self._measure = measure
        self._repeats = repeats
        self._values: dict[Point, list[float]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, point: Point) -> bool:
        return point in self._values

    @property
    def runs(self) -> int:
        """Measurements made."""
        return sum(map(len, self._values.values()))

    def ask(self, point: Point) -> float:
        """Return the mean of a point, measuring it once more unless that was done often enough."""
        values = self._values.setdefault(point, [])
        if len(values) < self._repeats:
            values.append(float(self._measure(point)))
        return self.mean(point)

    def mean(self, point: Point) -> float:
        """Return the mean of what was measured at a point."""
        return float(np.mean(self._values[point]))

    def ranked(self) -> list[Point]:
        """Return all measured points, the best first."""
        return sorted(self._values, key=self.mean, reverse=True)

    @property
    def best(self) -> Point:
        """The best point so far."""
        return self.ranked()[0]
