"""One load test that climbs: the same server at one rate after another, to see where it leaves the objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ladder", "around", "meeting"]

Floats = NDArray[np.float64]

#: Requests of a rung that its p99 must rest on at least, and the part of each that is not judged: the queue is still
#: that of the rung before.
LEAST_REQUESTS: Final = 150
_TRANSITION: Final = 0.1

#: Requests before the first rung, which nobody looks at.
_WARMING: Final = 40


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Rates to climb.

    Attributes
    ----------
    rates : tuple of float
        Requests per second, ascending.
    seconds : float
        Of each rung; longer when `LEAST_REQUESTS` take longer.
    seed : int
        The same seed gives every rung the same gaps but for the factor of its rate.
    """

    rates: tuple[float, ...]
    seconds: float
    seed: int = 0

    @property
    def counts(self) -> list[int]:
        """Requests of each rung."""
        return [max(LEAST_REQUESTS, math.ceil(rate * self.seconds)) for rate in self.rates]

    @property
    def duration(self) -> float:
        """Seconds of the whole, about."""
        return sum(count / rate for count, rate in zip(self.counts, self.rates, strict=True)) + _WARMING / self.rates[0]

    def times(self) -> Floats:
        """Return the arrival times in seconds from 0 on: a Poisson process in each rung."""
        parts = []
        start = 0.0
        for rung, (rate, count) in enumerate(zip((self.rates[0], *self.rates), (_WARMING, *self.counts), strict=True)):
            gaps = np.random.default_rng([self.seed, rung]).standard_exponential(count)
            # The drawn mean is not exactly 1: the rung keeps its rate, so that repeats differ in bursts only.
            steps = np.cumsum(gaps * (count / gaps.sum())) / rate
            parts.append(start + steps)
            start += float(steps[-1])
        times = np.concatenate(parts)
        return np.asarray(times - times[0])

    def judge(self, latencies: Floats, percent: float) -> Floats:
        """Return a percentile of the latency in each rung.

        Parameters
        ----------
        latencies : numpy.ndarray
            Seconds of the requests in the order of `times`, infinite or NaN for those without a good answer. Fewer than
            were scheduled when the run ended early.

        Returns
        -------
        numpy.ndarray
            Seconds, infinite for rungs that were not run to their end.
        """
        found = np.full(len(self.rates), np.inf)
        whole = np.where(np.isfinite(latencies), latencies, np.inf)
        first = _WARMING
        for rung, count in enumerate(self.counts):
            part = whole[first + int(_TRANSITION * count) : first + count]
            first += count
            if first > len(whole):
                break
            found[rung] = np.quantile(part, percent / 100, method="higher")
        return found


def around(rate: float, factors: tuple[float, ...], seconds: float, seed: int) -> Ladder:
    """Return a ladder of a rate times each factor."""
    return Ladder(tuple(rate * factor for factor in factors), seconds, seed)


def meeting(plans: Sequence[tuple[float, ...]], seconds: float) -> list[tuple[float, ...]]:
    """Give each ladder a first rung that is no higher than the last one of any other.

    On a bad day a fast configuration may fail at the lowest rate of its own ladder. That must not make it worse than a
    slow one that kept the objective at rates which the fast one was never asked for.

    Parameters
    ----------
    plans : sequence of tuple of float
        Rates of each ladder, ascending.
    seconds : float
        Of a rung: where the slowest one takes much longer, as its p99 has to rest on `LEAST_REQUESTS`, the first rung
        is as low as time allows.
    """
    lowest = max(min(rates[-1] for rates in plans), LEAST_REQUESTS / (2 * seconds))
    return [(lowest, *rates) if lowest < 0.8 * rates[0] else rates for rates in plans]
