"""When the requests of an open loop are due."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["arrivals"]


def arrivals(rate: float, kind: str) -> Iterator[float]:
    """Yield the times of arrivals in seconds from the start, for ever.

    Parameters
    ----------
    rate : float
        Per second.
    kind : str
        ``fixed``: equal distances; ``poisson``: exponential ones, as of many users who do not know of each other.
    """
    number, at = 0, 0.0
    draw = random.Random(0)
    while True:
        if kind == "poisson":
            at += draw.expovariate(rate)
        else:
            number += 1
            at = number / rate
        yield at
