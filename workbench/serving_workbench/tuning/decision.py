"""From repeated runs at several rates to a verdict: what each configuration sustains, how surely, and which one wins.

A configuration sustains a rate when the upper confidence bound of the mean of log p99 over repeats is within the log of
the objective (Student's t). Repeats use the same arrivals for all configurations and take turns, so configurations are
compared repeat by repeat.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving_server.batching.parameters import BatchingParameters

__all__ = ["Decision", "Evidence", "Gain", "Sustained", "decide", "gain", "sustained"]

Floats = NDArray[np.float64]

#: A latency of so many objectives is as bad as any: no number of good ones makes up for it.
_HOPELESS: Final = 20.0

#: Repeats that an interval can rest on.
_ENOUGH: Final = 3

#: Of all intervals and bounds.
CONFIDENCE: Final = 0.95


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was measured of one configuration.

    Attributes
    ----------
    parameters : BatchingParameters or None
        None: batching off.
    rates : numpy.ndarray
        Requests per second offered, ascending, shape [k].
    latencies : numpy.ndarray
        p99 in seconds, float64, shape [repeats, k]; infinite where the server did not keep up, or was not asked because
        it had not kept up at the rate before.
    disturbed : tuple of bool
        Repeats in which something else used the processors: they do not count where enough others are left. Empty:
        none.
    """

    parameters: BatchingParameters | None
    rates: Floats
    latencies: Floats
    disturbed: tuple[bool, ...] = ()

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Which repeats count."""
        calm = ~np.array(self.disturbed or (False,) * len(self.latencies), np.bool_)
        return calm if calm.sum() >= _ENOUGH else np.ones(len(self.latencies), np.bool_)


class Sustained(NamedTuple):
    """Requests per second: `sure` by the upper bound of p99; `rate` in the middle of the repeats, with its interval.

    `high` is infinite where at least half of the repeats kept the objective at the highest rate that was tried.
    `by_repeat` is not a number for repeats that do not count.
    """

    sure: float
    rate: float
    low: float
    high: float
    by_repeat: Floats


class Gain(NamedTuple):
    """How many times as much, with an interval."""

    ratio: float
    low: float
    high: float


class Decision(NamedTuple):
    """Which configuration wins.

    Attributes
    ----------
    best : int or None
        Index of the winner; None when none keeps the objective at any measured rate.
    sure : bool
        False: no configuration surely sustains any rate, as repeats differ too much; the winner is the one that did so
        at the highest rate in most of them.
    tied : list of int
        Those that cannot be told from the one with the highest rate, the winner included.
    sustained : list of Sustained
        Of each configuration.
    """

    best: int | None
    sure: bool
    tied: list[int]
    sustained: list[Sustained]


def sustained(evidence: Evidence, slo: float, confidence: float = CONFIDENCE) -> Sustained:
    """Return which rate keeps p99 within `slo` seconds; between two measured rates, on a line in the logarithms."""
    rates = np.asarray(evidence.rates, np.float64)
    counts = evidence.counts
    latencies = np.array([_rising(row, slo) for row in evidence.latencies[counts]])
    crossings = np.array([_crossing(rates, row, slo) for row in latencies])
    by_repeat = np.full(len(counts), np.nan)
    by_repeat[counts] = crossings
    sure = _crossing(rates, _upper_bounds(latencies, confidence), slo)
    middle = float(np.median(crossings))
    # Repeats that end with the ladder agree on where it ended; they say nothing of what is beyond.
    ended = middle >= 0.999 * rates[-1]
    if np.any(crossings <= 0):
        return Sustained(sure, middle, 0.0, math.inf if ended else float(crossings.max()), by_repeat)
    middle, low, high = map(math.exp, _interval(np.log(crossings), confidence))
    return Sustained(sure, middle, low, math.inf if ended else high, by_repeat)


def _rising(latencies: Floats, slo: float) -> Floats:
    """Return latencies that do not fall with the rate (isotonic regression of the logarithms).

    A rung that was lucky, or that a hiccup of the machine has spoiled, counts together with its neighbours.
    """
    from scipy.optimize import isotonic_regression  # as `_student`

    hopeless = _HOPELESS * slo
    logs = np.log(np.minimum(latencies, hopeless))
    risen = np.exp(isotonic_regression(logs).x)
    return np.where(risen >= 0.999 * hopeless, np.inf, risen)


def _upper_bounds(latencies: Floats, confidence: float) -> Floats:
    """Return the upper bound of p99 at each rate, in seconds: one-sided."""
    repeats = latencies.shape[0]
    with np.errstate(invalid="ignore"):
        logs = np.log(latencies)
        middle = logs.mean(axis=0)
        if repeats == 1:
            return np.asarray(np.exp(middle))
        spread = logs.std(axis=0, ddof=1)
        bounds = np.exp(middle + _student(confidence, repeats - 1) * spread / math.sqrt(repeats))
    # More requests are not answered faster: a bound that falls with the rate is one of a rung that was lucky.
    return np.asarray(np.maximum.accumulate(np.where(np.isfinite(bounds), bounds, np.inf)))


def _crossing(rates: Floats, latencies: Floats, slo: float) -> float:
    """Return the highest rate that keeps the objective; 0 when none does."""
    kept = np.flatnonzero(latencies <= slo)
    if len(kept) == 0:
        return 0.0
    last = int(kept[-1])
    if last + 1 == len(rates) or not np.isfinite(latencies[last + 1]):
        return float(rates[last])
    below, above = math.log(latencies[last]), math.log(latencies[last + 1])
    share = (math.log(slo) - below) / (above - below)
    return float(math.exp((1 - share) * math.log(rates[last]) + share * math.log(rates[last + 1])))


def _interval(values: Floats, confidence: float) -> tuple[float, float, float]:
    """Return mean, lower and upper end of a two-sided interval."""
    middle = float(values.mean())
    if len(values) < 2:
        return middle, -math.inf, math.inf
    half = _student(0.5 + confidence / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def _student(probability: float, freedom: int) -> float:
    from scipy.stats import t  # half a second to import, and only those who measured need it

    return float(t.ppf(probability, freedom))


def gain(of: Sustained, over: Sustained, confidence: float = CONFIDENCE) -> Gain | None:
    """Compare two configurations, repeat by repeat; None when one of them never kept the objective."""
    both = np.isfinite(of.by_repeat) & np.isfinite(over.by_repeat)
    first, second = of.by_repeat[both], over.by_repeat[both]
    if not both.any() or np.any(first <= 0) or np.any(second <= 0):
        return None
    middle, low, high = _interval(np.log(first) - np.log(second), confidence)
    return Gain(math.exp(middle), math.exp(low), math.exp(high))


def decide(candidates: Sequence[Evidence], slo: float, confidence: float = CONFIDENCE) -> Decision:
    """Choose the configuration that surely sustains the highest rate; of those that tie, the one of smallest batches.

    Parameters
    ----------
    candidates : sequence of Evidence
        All with the same number of repeats.
    slo : float
        Seconds.
    """
    found = [sustained(each, slo, confidence) for each in candidates]
    able = [index for index, each in enumerate(found) if each.sure > 0]
    sure = bool(able)
    if not able:
        able = [index for index, each in enumerate(found) if np.nanmedian(each.by_repeat) > 0]
    if not able:
        return Decision(None, False, [], found)
    first = max(able, key=lambda index: found[index].sure if sure else float(np.nanmedian(found[index].by_repeat)))
    tied = [index for index in able if index == first or _same(found[index], found[first], confidence)]
    best = min(tied, key=lambda index: (_rows(candidates[index]), -found[index].sure))
    return Decision(best, sure, tied, found)


def _same(one: Sustained, other: Sustained, confidence: float) -> bool:
    found = gain(one, other, confidence)
    return found is not None and len(one.by_repeat) > 1 and found.low <= 1.0 <= found.high


def _rows(evidence: Evidence) -> int:
    return 1 if evidence.parameters is None else evidence.parameters.max_batch_size
