"""How well both arms do on labeled rows: a metric of each, and their difference with an interval.

Known by name are metrics that are means over rows (`PER_ROW`), for which per-row scores give exact and fast statistics,
and root mean squared error. Any callable ``metric(y, predicted)`` will do too, scikit-learn's for example.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.evidence import Metric
from serving_workbench.comparison.intervals import mcnemar, paired_bca, paired_bca_of_means, paired_mean, paired_shares
from serving_workbench.errors import WorkbenchError

__all__ = ["NAMES", "PER_ROW", "Scorer", "classes_of", "quality", "scorer"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

_TOP: Final = 5
_TINY: Final = 1e-15


def _correct(y: Array, given: Array) -> Floats:
    return np.asarray(classes_of(given, y) == y, np.float64)


def _in_top(y: Array, given: Array) -> Floats:
    scores = _scores(given, "top5")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
    return np.asarray((best == np.asarray(y)[:, None]).any(axis=1), np.float64)


def _log_loss(y: Array, given: Array) -> Floats:
    scores = _scores(given, "log_loss")
    chosen = scores[np.arange(len(y)), np.asarray(y, np.int64)]
    return np.asarray(-np.log(np.clip(chosen / scores.sum(axis=1), _TINY, 1)), np.float64)


def _absolute(y: Array, given: Array) -> Floats:
    return _row_means(np.abs(_like(given, y) - np.asarray(y, np.float64)))


def _squared(y: Array, given: Array) -> Floats:
    return _row_means((_like(given, y) - np.asarray(y, np.float64)) ** 2)


def _row_means(values: Floats) -> Floats:
    return np.asarray(values.reshape(len(values), -1).mean(axis=1), np.float64)


def _like(given: Array, y: Array) -> Floats:
    found = np.asarray(given, np.float64)
    wanted = np.shape(y)
    if found.shape != wanted and found.size == np.size(y):
        found = found.reshape(wanted)
    if found.shape != wanted:
        raise WorkbenchError(
            f"The labels have shape {list(wanted)}, the output {list(found.shape)}: they cannot be subtracted.",
            hint="Name the output with output=, or a metric of your own.",
        )
    return found


def _scores(given: Array, metric: str) -> Floats:
    found = np.asarray(given)
    if (found.ndim == 2 and found.shape[1] == 1) or found.ndim == 1:
        positive = np.asarray(found, np.float64).reshape(-1)
        return np.column_stack([1 - positive, positive])
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise WorkbenchError(
            f"Metric '{metric}' needs class scores, [rows, classes]; the output is {list(found.shape)}."
        )
    return np.asarray(found, np.float64)


#: Metrics that are means over rows: a function of labels and outputs to scores by row, and whether more is better.
PER_ROW: Final[Mapping[str, tuple[Callable[[Array, Array], Floats], bool]]] = {
    "accuracy": (_correct, True),
    "top5": (_in_top, True),
    "log_loss": (_log_loss, False),
    "mae": (_absolute, False),
    "mse": (_squared, False),
}
NAMES: Final = (*PER_ROW, "rmse")


class Scorer(NamedTuple):
    """A metric that is ready to be applied.

    Attributes
    ----------
    name : str
    by_row : callable or None
        Labels and outputs to float64 [n], for a metric that is their mean.
    whole : callable
        Labels and outputs to one number.
    higher_is_better : bool
    """

    name: str
    by_row: Callable[[Array, Array], Floats] | None
    whole: Callable[[Array, Array], float]
    higher_is_better: bool


def scorer(metric: str | Callable[[Any, Any], float], higher_is_better: bool | None = None) -> Scorer:
    """Return a metric by its name, or a callable as one.

    Parameters
    ----------
    metric : str or callable
        One of `NAMES`, or ``metric(y, predicted) -> float``.
    higher_is_better : bool, optional
        Of a callable; by default its attribute of that name, else true unless its name ends with ``loss``, ``error``
        or ``deviance``, as scikit-learn's names do.

    Raises
    ------
    WorkbenchError
        No such name.
    """
    if callable(metric):
        name = getattr(metric, "__name__", type(metric).__name__)
        better = getattr(metric, "higher_is_better", None) if higher_is_better is None else higher_is_better
        if better is None:
            better = not name.endswith(("loss", "error", "deviance"))
        return Scorer(name, None, lambda y, given: float(metric(y, _as_text(given, y))), bool(better))
    if metric == "rmse":
        return Scorer("rmse", None, lambda y, given: math.sqrt(float(_squared(y, given).mean())), False)
    if metric not in PER_ROW:
        near = difflib.get_close_matches(str(metric), NAMES, 1)
        raise WorkbenchError(
            f"There is no metric '{metric}'{f'; did you mean {near[0]!r}?' if near else '.'}",
            hint=f"Those with names: {', '.join(NAMES)}. Any function metric(y, predicted) will do too.",
        )
    by_row, better = PER_ROW[metric]
    return Scorer(metric, by_row, lambda y, given: float(by_row(y, given).mean()), better)


def classes_of(given: Array, y: Array | None = None) -> Array:
    """Return the class of each row that an output stands for.

    Scores [n, classes] become the number of the largest; [n, 1] or [n] of floats become 0 or 1 by 0.5; integers and
    strings stand for themselves. Strings become `str` where the labels are.
    """
    found = np.asarray(given)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dtype.kind == "f":
        if found.ndim == 2:
            return np.asarray(found.argmax(axis=1))
        if found.ndim == 1:
            return np.asarray((found > 0.5).astype(np.int64))
    if found.ndim != 1:
        raise WorkbenchError(f"An output of shape {list(found.shape)} is no class per row.")
    return found if y is None else _as_text(found, y)


def _as_text(given: Array, y: Array) -> Array:
    """Return strings as `str` where the labels are; all else as it is."""
    found, wanted = np.asarray(given), np.asarray(y)
    are_bytes = found.dtype == object and found.ndim == 1 and len(found) and isinstance(found[0], bytes)
    text_wanted = wanted.dtype.kind == "U" or (
        wanted.dtype == object and len(wanted) and isinstance(wanted.flat[0], str)
    )
    if are_bytes and text_wanted:
        return np.array([each.decode("utf-8", "replace") for each in found], dtype=object)
    return found


def quality(
    metric: Scorer,
    y: Array,
    a: Array,
    b: Array,
    *,
    seed: int = 0,
    resamples: int = 5000,
) -> Metric:
    """Return a metric of both arms and its difference, paired by row.

    Parameters
    ----------
    metric : Scorer
    y : array_like, shape [n, ...]
        Labels.
    a, b : array_like, shape [n, ...]
        The output of both arms that the metric is about.

    Returns
    -------
    Metric
        Of the role ``primary``. The interval is a paired BCa bootstrap's; for accuracy the p-value is McNemar's exact
        one, for other means over rows that of the paired t-test, with Wilcoxon's named beside it.
    """
    labels = np.asarray(y)
    if metric.by_row is None:
        value_a, value_b = metric.whole(labels, a), metric.whole(labels, b)
        difference = paired_bca(
            lambda rows: metric.whole(labels[rows], b[rows]) - metric.whole(labels[rows], a[rows]),
            len(labels),
            seed=seed,
            resamples=resamples,
        )
        return Metric(
            metric.name, value_a, value_b, difference, higher_is_better=metric.higher_is_better, role="primary"
        )
    first, second = metric.by_row(labels, a), metric.by_row(labels, b)
    difference = paired_bca_of_means(second - first, seed=seed, resamples=resamples)
    if set(np.unique(first)) | set(np.unique(second)) <= {0.0, 1.0}:
        only_a, only_b = int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
        difference = paired_shares(only_a, only_b, difference)
        p_value = mcnemar(only_a, only_b)
        test = f"McNemar's exact test, {only_a} rows right in A only and {only_b} in B only"
    else:
        found = paired_mean(second - first)
        p_value, test = found.t_test, f"paired t-test; Wilcoxon's signed ranks p {found.wilcoxon:.3g}"
    return Metric(
        metric.name,
        float(first.mean()),
        float(second.mean()),
        difference,
        higher_is_better=metric.higher_is_better,
        role="primary",
        p_value=p_value,
        test=test,
    )
