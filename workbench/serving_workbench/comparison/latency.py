"""How much slower B is than A, measured so that the machine's drift falls out.

A and B are measured next to each other, in pairs: the logarithm of their ratio per pair is what is analyzed. Drift that
is slower than a pair moves both. Analyzing requests of blocks as if they were independent would claim a difference
between a version and itself in a third of the cases on a machine that drifts.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving_workbench.comparison.evidence import Estimate

__all__ = ["MIN_BLOCKS", "BlockPairs", "block_pairs", "detectable", "paired_rows"]

Floats = NDArray[np.float64]

#: Pairs of blocks below which nothing is said.
MIN_BLOCKS: Final = 20
#: Pairs of lone requests below which nothing is said.
MIN_ROWS: Final = 20
CONFIDENCE: Final = 0.95
_POWER: Final = 0.8


def paired_rows(a: ArrayLike, b: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Return the median over rows of B's time over A's, less 1, with a distribution-free interval.

    Parameters
    ----------
    a, b : array_like of float, shape [n]
        Seconds of the same row, sent to both arms back to back in random order; positive.

    Notes
    -----
    The interval is that of the median by order statistics (binomial), so a few stalls of the machine do not move it.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    kept = (first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second)
    ratios = np.sort(np.log(second[kept] / first[kept]))
    count = len(ratios)
    if count < MIN_ROWS:
        method = f"{count} pairs of requests: too few for a latency verdict, which needs {MIN_ROWS}"
        value = math.exp(float(np.median(ratios))) - 1 if count else math.nan
        return Estimate(value, -math.inf, math.inf, count, method, confidence)
    from scipy.stats import binom

    rank = int(binom.ppf((1 - confidence) / 2, count, 0.5))
    low, high = ratios[max(rank - 1, 0)], ratios[min(count - rank, count - 1)]
    value = math.expm1(float(np.median(ratios)))
    return Estimate(
        value,
        math.expm1(float(low)),
        math.expm1(float(high)),
        count,
        f"median ratio of {count} pairs of requests back to back, order statistics",
        confidence,
    )


@dataclasses.dataclass(frozen=True)
class BlockPairs:
    """A percentile of B's blocks over that of A's.

    Attributes
    ----------
    ratio : Estimate
        Relative: 0.1 is 10 % slower.
    percent : float
    a, b : float
        Geometric means over the blocks, seconds.
    spread : float
        Standard deviation of the log ratio over pairs.
    detectable : float
        The smallest slowdown that so many pairs would notice in 80 % of the cases, relative.
    """

    ratio: Estimate
    percent: float
    a: float
    b: float
    spread: float
    detectable: float


def block_pairs(
    a: list[Floats] | list[ArrayLike], b: list[Floats] | list[ArrayLike], percent: float, confidence: float = CONFIDENCE
) -> BlockPairs:
    """Compare a percentile over pairs of blocks that were measured next to each other.

    Parameters
    ----------
    a, b : list of array_like of float
        Latencies in seconds of each block; the i-th of both are a pair.
    percent : float
        50 for the median.

    Notes
    -----
    Student's t over pairs of the log ratio of the blocks' percentiles. Below `MIN_BLOCKS` pairs the interval is
    infinite, and `method` says so.
    """
    firsts = np.array([_percentile(block, percent) for block in a])
    seconds = np.array([_percentile(block, percent) for block in b])
    kept = np.isfinite(firsts) & np.isfinite(seconds) & (firsts > 0) & (seconds > 0)
    logs_a, logs_b = np.log(firsts[kept]), np.log(seconds[kept])
    ratios = logs_b - logs_a
    pairs = len(ratios)
    if pairs == 0:
        nothing = Estimate(math.nan, -math.inf, math.inf, 0, "no pair of blocks was answered", confidence)
        return BlockPairs(nothing, percent, math.nan, math.nan, math.nan, math.inf)
    value = float(ratios.mean())
    spread = float(ratios.std(ddof=1)) if pairs > 1 else math.inf
    if pairs < MIN_BLOCKS:
        method = f"{pairs} pairs of blocks: too short for a latency verdict, which needs {MIN_BLOCKS}"
        ratio = Estimate(math.expm1(value), -math.inf, math.inf, pairs, method, confidence)
    else:
        from scipy.stats import t

        half = float(t.ppf(0.5 + confidence / 2, pairs - 1)) * spread / math.sqrt(pairs)
        method = f"t over {pairs} interleaved pairs of blocks"
        ratio = Estimate(
            math.expm1(value), math.expm1(value - half), math.expm1(value + half), pairs, method, confidence
        )
    return BlockPairs(
        ratio,
        percent,
        math.exp(float(logs_a.mean())),
        math.exp(float(logs_b.mean())),
        spread,
        detectable(spread, pairs, confidence),
    )


def _percentile(block: ArrayLike, percent: float) -> float:
    values = np.asarray(block, np.float64)
    return float(np.percentile(values, percent)) if len(values) else math.nan


def detectable(spread: float, pairs: int, confidence: float = CONFIDENCE) -> float:
    """Return the smallest slowdown that would be noticed in 80 % of the cases, relative.

    Parameters
    ----------
    spread : float
        Standard deviation of the log ratio over pairs.
    pairs : int
    """
    if pairs < 2 or not math.isfinite(spread):
        return math.inf
    from scipy.stats import t

    needed = float(t.ppf(0.5 + confidence / 2, pairs - 1)) + float(t.ppf(_POWER, pairs - 1))
    return math.expm1(needed * spread / math.sqrt(pairs))
