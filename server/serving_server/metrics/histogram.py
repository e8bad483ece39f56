"""Histograms that cost two additions per value."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

__all__ = ["FINE_BOUNDS", "LATENCY_BOUNDS", "MAX_ASIDE", "FineTally", "Histogram", "Tally", "exponential", "merged"]

#: Values that a `Tally` has aside at most, but for those of one batch.
MAX_ASIDE: Final = 1024


def exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """Return `count` upper bounds: ``scale * growth**i``, as TensorFlow's `monitoring::Buckets::Exponential`."""
    return tuple(scale * growth**i for i in range(count))


#: Upper bounds of latencies, in seconds: 10 us x 1.8^i, 33 of them (to about 20 minutes), as TensorFlow Serving's
#: request_latency has.
LATENCY_BOUNDS = tuple(bound / 1e6 for bound in exponential(10, 1.8, 33))

#: Upper bounds for percentiles that people read, in seconds: 10 us x 1.08^i up to a minute, so within 4 %.
FINE_BOUNDS = np.array(exponential(1e-5, 1.08, 203))


class Histogram:
    """How many values fell between given bounds.

    A value counts for the first bound that is not below it, as ``le`` means in Prometheus. TensorFlow's own samplers
    put a value that equals a bound into the bucket above, which shows for whole numbers only.

    Parameters
    ----------
    bounds : sequence of float
        Increasing upper bounds; values above the last have a bucket of their own.

    Attributes
    ----------
    counts : list of int
        One more than bounds.
    total : float
        Sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def settle(self) -> None:
        """Bring `counts` and `total` up to date; needed before these are read, see `Tally`."""

    def merge(self, other: Histogram) -> None:
        """Add what another one of the same bounds has counted."""
        self.settle()
        other.settle()
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """Values counted."""
        self.settle()
        return sum(self.counts)

    def scaled(self, factor: float, bounds: Sequence[float] | None = None) -> Histogram:
        """Return the same histogram in another unit; `bounds` are given where multiplying would lose digits."""
        self.settle()
        copy = Histogram(tuple(bound * factor for bound in self.bounds) if bounds is None else bounds)
        copy.counts = list(self.counts)
        copy.total = self.total * factor
        return copy


class Tally(Histogram):
    """A histogram that puts values aside and sorts them in by the thousand, at half of the cost.

    Parameters
    ----------
    bounds : sequence of float
        As for `Histogram`.

    Attributes
    ----------
    aside : array of double
        Values not counted yet. Who puts some there calls `settle` when they are `MAX_ASIDE` or more.
    """

    __slots__ = ("aside",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self.aside = array("d")

    def settle(self) -> None:
        if not self.aside:
            return
        values = np.array(self.aside)
        del self.aside[:]
        found = np.bincount(np.searchsorted(self.bounds, values), minlength=len(self.counts))
        self.counts = [count + new for count, new in zip(self.counts, found.tolist(), strict=True)]
        self.total += float(values.sum())


class FineTally(Tally):
    """A tally that counts its values by `FINE_BOUNDS` too, when it sorts them in.

    Attributes
    ----------
    fine : list of int
        One more than `FINE_BOUNDS`.
    """

    __slots__ = ("fine",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self.fine = [0] * (len(FINE_BOUNDS) + 1)

    def settle(self) -> None:
        if self.aside:
            places = np.searchsorted(FINE_BOUNDS, np.array(self.aside))
            for place, count in zip(*(part.tolist() for part in np.unique(places, return_counts=True)), strict=True):
                self.fine[place] += count
        super().settle()

    def merge(self, other: Histogram) -> None:
        super().merge(other)
        if isinstance(other, FineTally):
            self.fine = [mine + theirs for mine, theirs in zip(self.fine, other.fine, strict=True)]


def merged(histograms: Iterable[Histogram], bounds: Sequence[float]) -> Histogram:
    """Return the sum of histograms that have these bounds."""
    whole = Histogram(bounds)
    for histogram in histograms:
        whole.merge(histogram)
    return whole
