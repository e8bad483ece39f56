"""The one stream of requests that all simulations of a search share: drawn once, seeded, scaled to any rate.

With the same gaps at every rate, latency grows evenly with the rate and a bisection finds where it meets the objective;
with the same gaps for every configuration, differences between configurations are not differences of luck (common
random numbers).
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Workload"]


@dataclasses.dataclass(frozen=True)
class Workload:
    """Requests to simulate.

    Attributes
    ----------
    requests : int
        How many; a p99 of 6,000 rests on the 60 slowest.
    seed : int
    burstiness : float
        Shape of the gamma distribution of the gaps: 1 is a Poisson process, below 1 burstier.
    rows : int
        Of each request.
    """

    requests: int = 6000
    seed: int = 0
    burstiness: float = 1.0
    rows: int = 1

    @cached_property
    def arrivals(self) -> NDArray[np.float64]:
        """Arrival times at one request per second, shape [requests]."""
        generator = np.random.default_rng([self.seed, 1])
        gaps = generator.gamma(self.burstiness, 1 / self.burstiness, self.requests)
        return np.asarray(np.cumsum(gaps) * (self.requests / gaps.sum()))

    @cached_property
    def luck(self) -> NDArray[np.float64]:
        """Where in the spread of run times each run lies, uniform in [0, 1), shape [requests]."""
        return np.random.default_rng([self.seed, 2]).random(self.requests)

    @cached_property
    def transport_luck(self) -> NDArray[np.float64]:
        """The same for what each request takes outside of its batch, shape [requests]."""
        return np.random.default_rng([self.seed, 3]).random(self.requests)
