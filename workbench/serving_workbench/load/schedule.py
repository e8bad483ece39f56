"""Arrival times of an open loop, all drawn before the run: no slow answer moves them, a seed gives them again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving_workbench.errors import WorkbenchError

__all__ = ["ARRIVALS", "MAX_REQUESTS", "Schedule", "constant", "gamma", "make", "poisson", "ramp", "replay"]

Times = NDArray[np.float64]

#: Names that `make` takes.
ARRIVALS = ("poisson", "constant", "gamma", "ramp")
#: Of one run: arrays of it take 30 bytes a request.
MAX_REQUESTS = 20_000_000


@dataclass(frozen=True)
class Schedule:
    """When requests are due.

    Attributes
    ----------
    times : numpy.ndarray of float64, [n]
        Seconds from the beginning of the run, ascending, all below `seconds`.
    seconds : float
        Length of the window.
    kind : str
        ``poisson``, ``constant``, ``gamma``, ``ramp`` or ``replay``.
    """

    times: Times
    seconds: float
    kind: str

    @property
    def rate(self) -> float:
        """Requests per second that are really in it."""
        return len(self.times) / self.seconds


def constant(rate: float, seconds: float) -> Schedule:
    """Equal distances, ``i / rate``: what pacing clients send; kinder to a queue than any real crowd."""
    _check(rate, seconds)
    count = math.ceil(rate * seconds - 1e-9)
    return Schedule(np.arange(count, dtype=np.float64) / rate, seconds, "constant")


def poisson(rate: float, seconds: float, seed: int = 0) -> Schedule:
    """Exponential distances: many users who do not know of each other.

    Notes
    -----
    With one seed, the arrivals of all rates are one stream of rate 1, compressed: runs that are compared at other rates
    or settings see the same bursts (common random numbers).
    """
    _check(rate, seconds)
    return Schedule(_renewal(np.random.Generator.standard_exponential, rate, seconds, seed), seconds, "poisson")


def gamma(rate: float, seconds: float, seed: int = 0, burstiness: float = 0.25) -> Schedule:
    """Gamma-distributed distances: bursts and pauses.

    Parameters
    ----------
    burstiness : float
        Shape of the distribution, as vLLM's benchmark has it: 1 is Poisson, smaller is burstier (the squared
        coefficient of variation of the distances is its inverse), larger is more regular.
    """
    _check(rate, seconds)
    if not 0.01 <= burstiness <= 1000:
        raise WorkbenchError(
            f"burstiness={burstiness!r} is not between 0.01 (bursts) and 1000 (regular); 1 is Poisson."
        )

    def draw(generator: np.random.Generator, size: int) -> Times:
        return generator.standard_gamma(burstiness, size) / burstiness

    return Schedule(_renewal(draw, rate, seconds, seed), seconds, "gamma")


def ramp(first: float, last: float, seconds: float, seed: int = 0) -> Schedule:
    """A Poisson process whose rate goes linearly from `first` to `last`: to see where a server gives way."""
    _check(max(first, last), seconds)
    if min(first, last) < 0:
        raise WorkbenchError(f"A ramp from {first:g} to {last:g} requests per second has a negative end.")
    mean = (first + last) / 2
    # Arrivals of rate 1 over the expected count, put through the inverse of the cumulative rate.
    counts = _renewal(np.random.Generator.standard_exponential, 1.0, mean * seconds, seed)
    slope = (last - first) / seconds
    if abs(slope) * seconds < 1e-9 * mean:
        times = counts / mean
    else:
        times = (np.sqrt(first * first + 2 * slope * counts) - first) / slope
    return Schedule(times[times < seconds], seconds, "ramp")


def replay(timestamps: ArrayLike, speed: float = 1.0) -> Schedule:
    """Recorded arrivals, the first of which is moved to 0.

    Parameters
    ----------
    timestamps : array_like, [n]
        Seconds as numbers, or dates (datetime64, a Series or an index of them); sorted here.
    speed : float
        2 is twice as fast.
    """
    if not 0 < speed < math.inf:
        raise WorkbenchError(f"speed={speed!r} is not a positive number; 1 keeps the recorded pace.")
    given = np.asarray(timestamps).ravel()
    if given.dtype == object and all(hasattr(each, "timestamp") for each in given):
        given = np.array([each.timestamp() for each in given])  # dates with a time zone
    elif np.issubdtype(given.dtype, np.datetime64) and not np.isnat(given).any():
        # From the first on, as float64 has no nanoseconds since 1970.
        given = (given - given.min()).astype("timedelta64[ns]").astype(np.int64) / 1e9
    if not np.issubdtype(given.dtype, np.number) or not given.size or not np.isfinite(given).all():
        raise WorkbenchError(
            f"arrivals= holds no times that can be replayed ({given.size} values of {given.dtype}).",
            hint="Give seconds as finite numbers, or dates.",
        )
    times = np.sort(given.astype(np.float64))
    times = (times - times[0]) / speed
    gap = times[-1] / (len(times) - 1) if len(times) > 1 else 1.0
    # The last arrival belongs to the window as well, so it ends one mean distance later.
    _check(max(len(times) / (times[-1] + gap), 1e-9) if gap else math.inf, times[-1] + gap)
    return Schedule(times, float(times[-1] + gap), "replay")


def make(
    arrivals: str | ArrayLike,
    rate: float | tuple[float, float] | None,
    seconds: float,
    seed: int,
    burstiness: float = 0.25,
) -> Schedule:
    """Return the schedule that `loadtest`'s arguments ask for.

    Parameters
    ----------
    arrivals : str or array_like
        One of `ARRIVALS`, or times to be replayed.
    rate : float or (float, float)
        Per second; both ends for a ramp. Without meaning for a replay, where it may be None.
    seconds : float
        Length; a replay is cut there.

    Raises
    ------
    WorkbenchError
        An argument is wrong, by its name.
    """
    if not isinstance(arrivals, str):
        found = replay(arrivals)
        if found.seconds <= seconds:
            return found
        return Schedule(found.times[found.times < seconds], seconds, "replay")
    if arrivals not in ARRIVALS:
        known = ", ".join(f"'{name}'" for name in ARRIVALS)
        raise WorkbenchError(f"arrivals={arrivals!r} is not one of {known}.", hint="Or give times to be replayed.")
    if isinstance(rate, tuple | list) != (arrivals == "ramp"):
        what = "a pair, (from, to)," if arrivals == "ramp" else "one number"
        raise WorkbenchError(f"rate={rate!r}: arrivals='{arrivals}' takes {what} of requests per second.")
    if arrivals == "ramp":
        first, last = (_number(each) for each in rate)  # type: ignore[union-attr]
        return ramp(first, last, seconds, seed)
    number = _number(rate)
    if arrivals == "constant":
        return constant(number, seconds)
    return poisson(number, seconds, seed) if arrivals == "poisson" else gamma(number, seconds, seed, burstiness)


def _number(rate: Any) -> float:
    try:
        return float(rate)
    except (TypeError, ValueError):
        raise WorkbenchError(f"rate={rate!r} is not a number of requests per second.") from None


def _check(rate: float, seconds: float) -> None:
    if not 0 < rate < math.inf:
        raise WorkbenchError(f"rate={rate:g} is not a positive number of requests per second.")
    if not 0 < seconds < math.inf:
        raise WorkbenchError(f"seconds={seconds:g} is not a positive length of time.")
    if rate * seconds > MAX_REQUESTS:
        raise WorkbenchError(
            f"{rate:g} requests per second for {seconds:g} s are more than {MAX_REQUESTS:,} requests.",
            hint="Make the run shorter; an interval of p99 is narrow long before.",
        )


def _renewal(draw: Callable[[np.random.Generator, int], Times], rate: float, seconds: float, seed: int) -> Times:
    """Return the arrivals of a renewal process in [0, seconds), from distances of mean 1.

    Distances are drawn one after the other, so their number does not change the first of them.
    """
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    size = int(expected + 6 * math.sqrt(expected) + 16)
    ends = np.cumsum(draw(generator, size))
    while ends[-1] < expected:
        ends = np.concatenate([ends, ends[-1] + np.cumsum(draw(generator, size))])
    times: Times = ends[ends < expected] / rate
    return times[times < seconds]
