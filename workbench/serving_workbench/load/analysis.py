"""What arrays of a load test say: pure functions, each with its source.

Distributions are those of `scipy.special` (``bdtr`` is the binomial's), as `scipy.stats` takes 0.8 s to import.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = [
    "Estimate",
    "LittlesLaw",
    "Saturation",
    "WarmUp",
    "binomial_verdict",
    "in_flight",
    "littles_law",
    "mser5",
    "needed_requests",
    "order_interval",
    "percentiles",
    "saturation",
    "warm_up",
]

Floats = NDArray[np.float64]

#: Level of the intervals that are shown.
CONFIDENCE: Final = 0.95
#: Of the block bootstrap: blocks, resamples, and bins of the logarithm over which they are counted.
_BLOCKS: Final = 50
_MIN_BLOCK: Final = 20
_RESAMPLES: Final = 500
_BINS: Final = 2000
#: Part by which a count of the requests in flight and their latencies may disagree, beside the noise of sampling.
_AGREE: Final = 0.05


# -- percentiles -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its interval at the level `CONFIDENCE`; an infinite end means that the data give none."""

    value: float
    low: float
    high: float


def percentiles(values: ArrayLike, percents: tuple[float, ...]) -> dict[float, Estimate]:
    """Estimate percentiles of latencies.

    Parameters
    ----------
    values : array_like, [n]
        In the order of their requests.
    percents : tuple of float

    Returns
    -------
    dict of float to Estimate
        Values as `numpy.percentile` has them. The interval is the wider one of two: order statistics (binomial, exact
        for independent values; `scipy.stats.quantile_test` has the same), and a bootstrap of 50 blocks of neighbours,
        as a queue makes neighbours alike. Either can only be too narrow, so the wider one counts.
    """
    given = np.asarray(values, np.float64)
    count = len(given)
    if not count:
        return {percent: Estimate(math.nan, -math.inf, math.inf) for percent in percents}
    ordered = np.sort(given)
    points = np.percentile(ordered, percents)
    blocks = _block_bootstrap(given, ordered, percents)
    found = {}
    for place, percent in enumerate(percents):
        low, high = order_interval(ordered, percent / 100, CONFIDENCE)
        if blocks is not None:
            low, high = min(low, blocks[place, 0]), max(high, blocks[place, 1])
        found[percent] = Estimate(float(points[place]), min(low, float(points[place])), max(high, float(points[place])))
    return found


def order_interval(ordered: Floats, part: float, confidence: float) -> tuple[float, float]:
    """Return the order statistics between which a quantile lies with this confidence, for independent values.

    Infinite where there are too few values (Conover, Practical Nonparametric Statistics, section 3.2).
    """
    count = len(ordered)
    tail = (1 - confidence) / 2
    low, high = (special.bdtrik(share, count, part) for share in (tail, 1 - tail))
    # The least k whose probability reaches the tail; one less stays below it. Not a number: even that of 0 does.
    low = (0 if math.isnan(low) else max(0, math.ceil(low))) - 1
    high = (0 if math.isnan(high) else max(0, math.ceil(high))) + 1
    return (
        float(ordered[low]) if low >= 0 else -math.inf,
        float(ordered[high - 1]) if high <= count else math.inf,
    )


def _block_bootstrap(given: Floats, ordered: Floats, percents: tuple[float, ...]) -> Floats | None:
    """Return intervals [percents, 2] from resampled blocks; None when there are too few values for blocks.

    Blocks are counted into bins of the logarithm, so a resample is a weighted sum of histograms, however many requests.
    """
    size = len(given) // _BLOCKS
    positive = float(ordered[min(len(ordered) - 1, int(np.searchsorted(ordered, 0.0, "right")))])
    if size < _MIN_BLOCK or positive <= 0 or ordered[-1] <= positive:
        return None
    edges = np.geomspace(positive, ordered[-1], _BINS + 1)
    logs = np.log(np.maximum(given[: size * _BLOCKS], positive) / positive)
    bins = np.minimum((logs * (_BINS / math.log(ordered[-1] / positive))).astype(np.int64), _BINS - 1)
    cells = np.repeat(np.arange(_BLOCKS) * _BINS, size) + bins
    counts = np.bincount(cells, minlength=_BLOCKS * _BINS).reshape(_BLOCKS, _BINS)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(_BLOCKS, np.full(_BLOCKS, 1 / _BLOCKS), _RESAMPLES)
    sums = np.cumsum(weights @ counts, axis=1) / (size * _BLOCKS)
    tail = 100 * (1 - CONFIDENCE) / 2
    found = np.empty((len(percents), 2))
    for place, percent in enumerate(percents):
        where = np.minimum((sums < percent / 100).sum(axis=1), _BINS - 1)
        low, high = np.percentile(where, (tail, 100 - tail))
        found[place] = edges[int(low)], edges[min(_BINS, math.ceil(high) + 1)]
    return found


# -- objectives --------------------------------------------------------------------------------------------------------


def binomial_verdict(overshoots: int, count: int, percent: float, confidence: float = 0.99) -> bool | None:
    """Say whether a percentile lies within its bound, given how many requests went beyond it.

    The rule of MLPerf's LoadGen for stopping early: requests are coins, and a verdict is given when the other one has
    become unlikely. Overshoots come in bursts, so this screens; a claim needs repeated runs.

    Returns
    -------
    bool or None
        None: not decided, more requests are needed.
    """
    if not count:
        return None
    allowed = 1 - percent / 100
    if special.bdtr(overshoots, count, allowed) <= 1 - confidence:
        return True
    if overshoots and special.bdtrc(overshoots - 1, count, allowed) <= 1 - confidence:
        return False
    return None


def needed_requests(overshoots: int, percent: float, confidence: float = 0.99) -> int:
    """Return how many requests `binomial_verdict` needs to say yes after so many overshoots.

    >>> [needed_requests(overshoots, 99.0) for overshoots in (0, 1, 5, 10)]
    [459, 662, 1307, 2010]
    """
    low, high = overshoots, max(16, 2 * overshoots)
    allowed = 1 - percent / 100
    while special.bdtr(overshoots, high, allowed) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if special.bdtr(overshoots, middle, allowed) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


# -- warm-up -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WarmUp:
    """What to leave out of the beginning.

    Attributes
    ----------
    cut : int
        So many values.
    steady : bool
        False: the best cut lies beyond half of the run, so no part of it is known to be in a steady state, and nothing
        is cut.
    """

    cut: int
    steady: bool


def mser5(values: ArrayLike) -> int:
    """Return the cut that minimises the marginal standard error of the rest, on means of 5 values.

    White, Cobb and Spratt 2000; recommended for automatic use by Hoad and Robinson 2011. The last 5 means are never a
    rest of their own, as few values look steady by chance.

    Returns
    -------
    int
        So many values, a multiple of 5; beyond half of them, the series has no steady state that the method can see.
    """
    return 5 * _mser(_means_of_5(np.asarray(values, np.float64)))


def _means_of_5(values: Floats) -> Floats:
    means: Floats = values[: len(values) // 5 * 5].reshape(-1, 5).mean(axis=1)
    return means


def _mser(means: Floats) -> int:
    count = len(means)
    if count < 10:
        return 0
    # Sums over what is left after cutting d means, for all d at once; centred for the sake of digits.
    centred = means - means.mean()
    left = np.arange(count, 0, -1)
    sums = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred * centred)[::-1])[::-1]
    errors = np.maximum(squares - sums * sums / left, 0) / (left * left)
    return int(np.argmin(errors[: count - 5]))


def warm_up(latency: ArrayLike) -> WarmUp:
    """Find the end of the warm-up in latencies, in the order of their requests.

    MSER-5, made safe against stalls, which a load test must not hide. How slow a very slow mean is does not count:
    means are clipped at about five standard deviations of those of the second half. And a cut is taken only when the
    run began unlike it went on: the median of its first five means lies outside of the central 95 % of the means after
    the cut.
    """
    means = _means_of_5(np.asarray(latency, np.float64))
    if len(means) < 10:
        return WarmUp(0, steady=True)
    middle, high = np.percentile(means[len(means) // 2 :], (50, 90))
    cut = _mser(np.minimum(means, middle + 4 * (high - middle)))
    low, high = np.percentile(means[cut:], (2.5, 97.5))
    if not cut or low <= np.median(means[:5]) <= high:
        return WarmUp(0, steady=True)
    return WarmUp(5 * cut, steady=True) if cut <= len(means) / 2 else WarmUp(0, steady=False)


# -- load and queue ----------------------------------------------------------------------------------------------------


def in_flight(begun: ArrayLike, answered: ArrayLike, at: ArrayLike) -> NDArray[np.int64]:
    """Return how many requests were there and not answered at given times; NaN in `answered` means never."""
    starts = np.sort(np.asarray(begun, np.float64))
    ends = np.asarray(answered, np.float64)
    ends = np.sort(ends[np.isfinite(ends)])
    times = np.asarray(at, np.float64)
    found: NDArray[np.int64] = np.searchsorted(starts, times, "right") - np.searchsorted(ends, times, "right")
    return found


@dataclass(frozen=True)
class Saturation:
    """Whether more comes than is answered, in the second half of a run.

    Attributes
    ----------
    saturated : bool
    ratio : float
        Answers per arrival.
    growth : Estimate
        Of the requests in the system, per second.
    reason : str
        In words; empty when it is not saturated.
    """

    saturated: bool
    ratio: float
    growth: Estimate
    reason: str


def saturation(scheduled: ArrayLike, answered: ArrayLike, seconds: float, start: float = 0.0) -> Saturation:
    """Look whether an open loop was served at its rate: if not, its latencies depend on how long it ran.

    Saturated are runs in whose second half fewer than 98 % of the arrivals were answered, or the number in the system
    grew: its slope over means of ten equal parts is positive at 99 % (Student's t), and what it grew by is more than a
    quarter of its mean and more than 4 requests.

    Parameters
    ----------
    scheduled, answered : array_like, [n]
        Seconds; NaN: never answered.
    seconds : float
        End of the window of arrivals.
    start : float
        Beginning of what counts, after the warm-up.
    """
    begun, ended = np.asarray(scheduled, np.float64), np.asarray(answered, np.float64)
    half = start + (seconds - start) / 2
    arrivals = int(((begun >= half) & (begun < seconds)).sum())
    answers = int(((ended >= half) & (ended < seconds)).sum())
    edges = np.linspace(half, seconds, 11)
    samples = in_flight(begun, ended, np.linspace(half, seconds, 500, endpoint=False)).reshape(10, 50).mean(axis=1)
    middles = (edges[1:] + edges[:-1]) / 2
    growth = _slope(middles, samples, 0.99)
    if not arrivals:
        return Saturation(saturated=False, ratio=math.nan, growth=growth, reason="")
    ratio = answers / arrivals
    # What is in flight at both ends of the half differs by chance, also where everything is answered.
    chance = 3 * math.sqrt(2 * max(1.0, float(samples.mean())))
    total = growth.value * (seconds - half)
    reason = ""
    if ratio < 0.98 and arrivals - answers > chance:
        reason = f"only {100 * ratio:.3g} % of the arrivals of the second half were answered in it"
    elif growth.low > 0 and total > max(4.0, samples.mean() / 4):
        reason = f"the number of waiting requests grew by {growth.value:.3g} a second"
    return Saturation(bool(reason), ratio, growth, reason)


def _slope(x: Floats, y: Floats, confidence: float) -> Estimate:
    """Return the slope of the least squares line through points, with Student's interval."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / square)
    margin = float(special.stdtrit(len(x) - 2, 0.5 + confidence / 2)) * error
    return Estimate(slope, slope - margin, slope + margin)


@dataclass(frozen=True)
class LittlesLaw:
    """The number in the system, counted while it ran, and what the latencies say it must have been.

    Attributes
    ----------
    counted : float
        Mean over samples.
    computed : float
        Rate times mean latency.
    holds : bool
        They agree within 5 % and what sampling explains.
    """

    counted: float
    computed: float
    holds: bool


def littles_law(
    sent: ArrayLike, answered: ArrayLike, times: ArrayLike, counts: ArrayLike, start: float, stop: float
) -> LittlesLaw:
    """Check latencies against a count that was taken independently of them (L = lambda W; Little 1961).

    Parameters
    ----------
    sent, answered : array_like, [n]
        Seconds.
    times, counts : array_like, [samples]
        When how many requests were in flight.
    start, stop : float
        Of the window.
    """
    begun, ended = np.asarray(sent, np.float64), np.asarray(answered, np.float64)
    at, seen = np.asarray(times, np.float64), np.asarray(counts, np.float64)
    inside = (at >= start) & (at < stop)
    # Each request counts with the part of it that lies in the window: the law holds for any window then.
    with np.errstate(invalid="ignore"):
        spans = np.minimum(np.where(np.isfinite(ended), ended, stop), stop) - np.maximum(begun, start)
    computed = float(np.nansum(np.maximum(spans, 0))) / (stop - start) if stop > start else math.nan
    if not inside.any():
        return LittlesLaw(math.nan, computed, holds=True)
    counted = float(seen[inside].mean())
    noise = 4 * float(seen[inside].std()) / math.sqrt(int(inside.sum())) + 0.5
    return LittlesLaw(counted, computed, bool(abs(counted - computed) <= _AGREE * computed + noise))
