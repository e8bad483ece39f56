"""How far the distribution of an output moved: effect sizes with intervals, never p-values.

With enough rows every difference is significant, and with few none is; so what is judged is how large it is.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving_workbench.comparison.evidence import Estimate, Metric

__all__ = ["MARGIN", "class_drift", "jensen_shannon", "number_drift"]

Floats = NDArray[np.float64]

#: By default, what is called a drift: a tenth of A's standard deviation (for classes: of the largest distance, 1).
MARGIN: Final = 0.1
_RESAMPLES: Final = 400
#: Rows of a resample at most: the distance of distributions needs no more, and each resample sorts them.
_ROWS: Final = 4000
_CONFIDENCE: Final = 0.95


def number_drift(name: str, a: ArrayLike, b: ArrayLike, *, seed: int = 0, margin: float = MARGIN) -> Metric | None:
    """Return Wasserstein's distance of B's values from A's in units of A's standard deviation.

    Parameters
    ----------
    a, b : array_like of float, shape [n]
        Of the same rows; resampled in pairs. Values that are not finite are left out.

    Returns
    -------
    Metric or None
        None where nothing is finite. The difference is the distance, so it is never below zero; it is called a drift
        when its lower bound is above the margin.
    """
    first, second = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if len(first) == len(second):
        kept = np.isfinite(first) & np.isfinite(second)
        first, second = first[kept], second[kept]
    if len(first) < 2 or len(second) < 2:
        return None
    deviation = float(first.std())
    unit = deviation or max(abs(float(first.mean())), 1.0)
    from scipy.stats import wasserstein_distance

    def distance(rows: Any) -> float:
        return float(wasserstein_distance(first[rows], second[rows])) / unit

    if np.array_equal(first, second):
        estimate = Estimate(0.0, 0.0, 0.0, len(first), "the same values", _CONFIDENCE)
    else:
        estimate = _bootstrapped(distance, len(first), seed)
    return _metric(name, estimate, margin, "Wasserstein distance", "sd" if deviation else "")


def class_drift(name: str, a: ArrayLike, b: ArrayLike, *, seed: int = 0, margin: float = MARGIN) -> Metric | None:
    """Return Jensen and Shannon's distance (base 2, so from 0 to 1) of how often B gives each value from A's."""
    first, second = list(np.asarray(a).ravel().tolist()), list(np.asarray(b).ravel().tolist())
    if len(first) < 2:
        return None
    numbers = {value: number for number, value in enumerate(dict.fromkeys([*first, *second]))}
    coded_a = np.array([numbers[value] for value in first])
    coded_b = np.array([numbers[value] for value in second])
    known = len(numbers)

    def distance(rows: Any) -> float:
        shares = [np.bincount(coded[rows], minlength=known) / len(coded[rows]) for coded in (coded_a, coded_b)]
        return float(jensen_shannon(shares[0][None], shares[1][None])[0])

    if Counter(first) == Counter(second):
        estimate = Estimate(0.0, 0.0, 0.0, len(first), "the same values as often", _CONFIDENCE)
    else:
        estimate = _bootstrapped(distance, len(first), seed)
    return _metric(name, estimate, margin, "Jensen-Shannon distance")


def _metric(name: str, estimate: Estimate, margin: float, test: str, unit: str = "") -> Metric:
    return Metric(
        f"drift of {name}",
        0.0,
        estimate.value,
        estimate,
        higher_is_better=None,
        margin=margin,
        role="shown",
        unit=unit,
        test=test,
    )


def _bootstrapped(distance: Any, count: int, seed: int) -> Estimate:
    draw = np.random.default_rng(seed)
    value = distance(slice(None))
    size = min(count, _ROWS)
    # A resample's distance is larger than the sample's, as it has noise of its own; that is taken off, and with the
    # smaller size of a resample its spread is the wider one, so the interval is scaled.
    made = np.array([distance(draw.integers(0, count, size)) for _ in range(_RESAMPLES)])
    middle = float(np.median(made))
    scale = math.sqrt(size / count)
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = (middle + scale * (float(each) - middle) for each in np.percentile(made, (tail, 100 - tail)))
    shift = middle - value
    return Estimate(
        value,
        max(0.0, low - shift),
        max(value, high - shift),
        count,
        f"paired bootstrap, {_RESAMPLES} resamples of {size} rows, bias removed",
        _CONFIDENCE,
    )


def jensen_shannon(a: Floats, b: Floats) -> Floats:
    """Return Jensen and Shannon's distance (the root of the divergence, base 2) row by row; float64, shape [n]."""
    from scipy.spatial.distance import jensenshannon

    return np.asarray(jensenshannon(a, b, base=2, axis=1), np.float64)
