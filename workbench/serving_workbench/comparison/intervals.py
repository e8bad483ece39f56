"""Intervals and tests of paired and unpaired data; the statistics are scipy's.

Every function takes arrays of equal length for paired data and returns an `Estimate` whose `method` says in words what
was done, also where the data are degenerate.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving_workbench.comparison.evidence import Estimate

__all__ = [
    "Band",
    "PairedMean",
    "block_quantile_differences",
    "dkw_band",
    "mcnemar",
    "paired_bca",
    "paired_bca_of_means",
    "paired_mean",
    "paired_shares",
    "proportion",
    "quantile_differences",
]

Floats = NDArray[np.float64]

RESAMPLES: Final = 5000
CONFIDENCE: Final = 0.95
#: Rows below which no interval is given: resamples of a few rows say nothing of the rows that were not seen.
MIN_ROWS: Final = 20
#: Seconds that the bootstrap of a metric which is called anew for every resample may take.
_BUDGET: Final = 6.0
#: Numbers that one step of a bootstrap draws at most: 64 MiB of indices.
_DRAWN: Final = 8_000_000


def paired_bca_of_means(
    differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of row-wise differences with its BCa bootstrap interval (Efron 1987, by `scipy.stats.bootstrap`).

    Parameters
    ----------
    differences : array_like of float, shape [n]
        B less A, row by row.

    Notes
    -----
    Where all rows differ by the same, no resample varies. If that is zero, the interval is that of the share of rows
    which could differ and were not seen (Clopper and Pearson's for 0 of n), times the largest difference possible for
    a share, 1; that is right for metrics that are right or wrong per row, and too wide for none that is smaller.
    """
    given = _rows(differences)
    value = float(given.mean())
    if len(given) < MIN_ROWS:
        method = f"{len(given)} rows: too few for an interval, which needs {MIN_ROWS}"
        return Estimate(value, -math.inf, math.inf, len(given), method, confidence)
    if np.all(given == given[0]):
        if value == 0:
            seen = proportion(0, len(given), confidence)
            method = f"no row differs; 0 of {len(given)} rows, Clopper-Pearson"
            return Estimate(0.0, -seen.high, seen.high, len(given), method, confidence)
        return Estimate(value, value, value, len(given), "the same difference in every row", confidence)
    from scipy.stats import bootstrap  # half a second to import, for those who compare

    found = bootstrap(
        (given,),
        _mean,
        n_resamples=resamples,
        batch=max(1, _DRAWN // len(given)),
        vectorized=True,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    method = f"paired BCa bootstrap, {resamples} resamples"
    return Estimate(value, float(found.low), float(found.high), len(given), method, confidence)


def _mean(values: Floats, axis: int = -1) -> Any:
    return values.mean(axis=axis)


def paired_bca(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return a statistic of paired rows with its BCa bootstrap interval.

    Parameters
    ----------
    statistic : callable
        Of an array of row numbers (int64, shape [n], with repetitions): the difference of a metric between both arms
        on these rows.
    count : int
        Rows.

    Notes
    -----
    BCa calls the statistic once per resample and once per row. Where that would take longer than some seconds, as one
    call takes long, it is the percentile bootstrap with as many resamples as there is time for; `method` tells.
    """
    everything = np.arange(count)
    began = time.perf_counter()
    value = float(statistic(everything))
    each = max(1e-7, time.perf_counter() - began)
    if count < 2:
        return Estimate(value, -math.inf, math.inf, count, "one row: no interval", confidence)
    bca = (resamples + count) * each <= _BUDGET
    made = resamples if bca else int(max(200, min(resamples, _BUDGET / each)))
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of degenerate data, which is answered below
        found = bootstrap(
            (everything,),
            lambda rows: float(statistic(rows)),
            n_resamples=made,
            vectorized=False,
            confidence_level=confidence,
            method="BCa" if bca else "percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    method = f"paired {'BCa' if bca else 'percentile'} bootstrap, {made} resamples"
    if math.isnan(low) or math.isnan(high):
        spread = np.asarray(found.bootstrap_distribution, np.float64)
        finite = spread[np.isfinite(spread)]
        if len(finite) < made or math.isnan(value):
            return Estimate(
                value, -math.inf, math.inf, count, "not defined for some resamples: no interval", confidence
            )
        if finite.min() == finite.max():
            seen = proportion(0, count, confidence).high
            return Estimate(value, value - seen, value + seen, count, f"no resample of {made} differs", confidence)
        tail = (1 - confidence) / 2
        low, high = (float(each) for each in np.quantile(finite, (tail, 1 - tail)))
        method = f"paired percentile bootstrap, {made} resamples"
    return Estimate(value, low, high, count, method, confidence)


def paired_shares(only_a: int, only_b: int, found: Estimate) -> Estimate:
    """Return an interval of the difference of two paired shares that holds where few rows differ, too.

    Parameters
    ----------
    only_a, only_b : int
        Rows that only A, and only B, got right.
    found : Estimate
        B's share less A's, with another interval.

    Notes
    -----
    On each side the wider one of the given interval and that of Bonett and Price (2012): Wald's, with a row added to
    both kinds of rows that differ. A bootstrap of a handful of such rows is too narrow.
    """
    if not found.known or found.n == 0:
        return found
    from statistics import NormalDist

    first, second = (only_a + 1) / (found.n + 2), (only_b + 1) / (found.n + 2)
    middle = second - first
    half = NormalDist().inv_cdf(0.5 + found.confidence / 2) * math.sqrt((first + second - middle**2) / (found.n + 2))
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    if low >= found.low and high <= found.high:
        return found
    method = f"{found.method}, widened by Bonett and Price's"
    return Estimate(found.value, min(low, found.low), max(high, found.high), found.n, method, found.confidence)


class PairedMean(NamedTuple):
    """Mean of row-wise differences by Student's t, with the p-values of the t-test and of Wilcoxon's signed ranks."""

    estimate: Estimate
    t_test: float
    wilcoxon: float


def paired_mean(differences: ArrayLike, confidence: float = CONFIDENCE) -> PairedMean:
    """Return the mean of row-wise differences (float, shape [n]) with Student's interval and tests of zero."""
    given = _rows(differences)
    count, value = len(given), float(given.mean())
    if count < 2:
        return PairedMean(Estimate(value, -math.inf, math.inf, count, "one row: no interval", confidence), 1.0, 1.0)
    spread = float(given.std(ddof=1))
    if spread == 0:
        p = 1.0 if value == 0 else 0.0
        same = Estimate(value, value, value, count, "the same difference in every row", confidence)
        return PairedMean(same, p, p)
    from scipy.stats import t, wilcoxon

    half = float(t.ppf(0.5 + confidence / 2, count - 1)) * spread / math.sqrt(count)
    p_t = 2 * float(t.sf(abs(value) / (spread / math.sqrt(count)), count - 1))
    return PairedMean(
        Estimate(value, value - half, value + half, count, "paired t", confidence),
        p_t,
        float(wilcoxon(given, zero_method="zsplit").pvalue),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the p-value of McNemar's exact test: two-sided binomial of the discordant rows.

    Parameters
    ----------
    only_a, only_b : int
        Rows that only A, and only B, got right.
    """
    from scipy.stats import binomtest

    both = only_a + only_b
    return float(binomtest(only_a, both).pvalue) if both else 1.0


def proportion(count: int, of: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return a share with Clopper and Pearson's exact interval."""
    if of == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, "no rows", confidence)
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(confidence, "exact")
    return Estimate(count / of, float(found.low), float(found.high), of, "Clopper-Pearson", confidence)


class Band(NamedTuple):
    """An empirical distribution function: values, ascending, its height at each, and a simultaneous band."""

    values: Floats
    height: Floats
    low: Floats
    high: Floats


def dkw_band(values: ArrayLike, confidence: float = CONFIDENCE) -> Band:
    """Return the ECDF with the band of Dvoretzky, Kiefer and Wolfowitz (Massart 1990): sqrt(log(2 / alpha) / 2n)."""
    ordered = np.sort(_rows(values))
    count = len(ordered)
    height = np.arange(1, count + 1) / count
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * count))
    return Band(ordered, height, np.maximum(height - half, 0), np.minimum(height + half, 1))


def quantile_differences(
    a: ArrayLike,
    b: ArrayLike,
    percents: tuple[float, ...] = (5, 25, 50, 75, 90, 95, 99),
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[float, Estimate]:
    """Return B's quantiles less A's, with percentile bootstrap intervals; rows stay in their pairs.

    Parameters
    ----------
    a, b : array_like of float, shape [n]
    """
    first, second = _rows(a), _rows(b)
    count = len(first)
    draw = np.random.default_rng(seed)
    values = np.percentile(second, percents) - np.percentile(first, percents)
    made = np.empty((resamples, len(percents)))
    for number in range(resamples):
        rows = draw.integers(0, count, count)
        made[number] = np.percentile(second[rows], percents) - np.percentile(first[rows], percents)
    tail = 100 * (1 - confidence) / 2
    lows, highs = np.percentile(made, (tail, 100 - tail), axis=0)
    method = f"paired percentile bootstrap, {resamples} resamples"
    return {
        percent: Estimate(float(value), float(low), float(high), count, method, confidence)
        for percent, value, low, high in zip(percents, values, lows, highs, strict=True)
    }


def block_quantile_differences(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    percents: tuple[float, ...] = (5, 25, 50, 75, 90, 95, 99),
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[float, Estimate]:
    """Return B's quantiles less A's, with percentile bootstrap intervals over pairs of blocks.

    Requests of one block share the moment's load, so they are no independent observations; blocks are.

    Parameters
    ----------
    a, b : sequence of array_like of float
        Blocks in pairs; their lengths may differ.
    """
    blocks_a, blocks_b = [_rows(block) for block in a], [_rows(block) for block in b]
    pairs = len(blocks_a)

    def difference(chosen: Sequence[int]) -> Floats:
        first, second = (np.concatenate([blocks[each] for each in chosen]) for blocks in (blocks_a, blocks_b))
        return np.asarray(np.percentile(second, percents) - np.percentile(first, percents), np.float64)

    draw = np.random.default_rng(seed)
    values = difference(range(pairs))
    made = np.array([difference(draw.integers(0, pairs, pairs).tolist()) for _ in range(resamples)])
    tail = 100 * (1 - confidence) / 2
    lows, highs = np.percentile(made, (tail, 100 - tail), axis=0)
    method = f"percentile bootstrap of {pairs} pairs of blocks, {resamples} resamples"
    return {
        percent: Estimate(float(value), float(low), float(high), pairs, method, confidence)
        for percent, value, low, high in zip(percents, values, lows, highs, strict=True)
    }


def _rows(values: ArrayLike) -> Floats:
    found = np.asarray(values, np.float64).ravel()
    if len(found) == 0:
        raise ValueError("There are no rows to compare.")
    return found
