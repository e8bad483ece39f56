"""The primary metric in parts of the rows, with the false discovery rate of all parts under control."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.evidence import Metric, Slice
from serving_workbench.errors import WorkbenchError

__all__ = ["MIN_ROWS", "columns_of", "compare_slices"]

Array = NDArray[Any]

#: Rows below which a slice is left out.
MIN_ROWS: Final = 10
#: Different values beyond which a column of numbers is cut in terciles, and one of anything else is refused.
_VALUES: Final = 20
#: False discovery rate (Benjamini and Hochberg 1995).
RATE: Final = 0.05


def columns_of(slices: Any, rows: int) -> dict[str, Array]:
    """Return the columns to slice by, one value per row.

    Parameters
    ----------
    slices : DataFrame, Series, dict of str to array_like, or array_like
    rows : int
        That there must be.

    Raises
    ------
    WorkbenchError
        A column has another length.
    """
    if hasattr(slices, "columns"):
        named = {str(name): slices[name].to_numpy() for name in slices.columns}
    elif isinstance(slices, Mapping):
        named = {str(name): np.asarray(values) for name, values in slices.items()}
    else:
        named = {str(getattr(slices, "name", None) or "slice"): np.asarray(slices)}
    for name, values in named.items():
        if len(values) != rows:
            raise WorkbenchError(f"Slice column '{name}' has {len(values)} values for {rows} rows of data.")
    return named


def compare_slices(
    columns: Mapping[str, Array], metric: Callable[[NDArray[np.int64]], Metric], higher_is_better: bool = True
) -> list[Slice]:
    """Apply a metric to each value of each column, worst first.

    Parameters
    ----------
    columns : mapping of str to array
        Numbers of more than 20 values are cut in terciles.
    metric : callable
        Of row numbers: the metric on these rows, with a p-value.
    higher_is_better : bool
        Of the metric.
    """
    found: list[tuple[str, str, Array, Metric]] = []
    for name, values in columns.items():
        for value, rows in _parts(name, values):
            if len(rows) >= MIN_ROWS:
                found.append((name, value, rows, metric(rows)))
    adjusted = _adjusted([each[3].p_value for each in found])
    sign = 1 if higher_is_better else -1
    made = [
        Slice(name, value, len(rows), one, p, p is not None and p <= RATE and sign * one.difference.value < 0)
        for (name, value, rows, one), p in zip(found, adjusted, strict=True)
    ]
    return sorted(made, key=lambda each: sign * each.metric.difference.value)


def _adjusted(values: list[float | None]) -> list[float | None]:
    known = [p for p in values if p is not None]
    if not known:
        return list(values)
    from scipy.stats import false_discovery_control

    rest = iter(false_discovery_control(known, method="bh").tolist())
    return [None if p is None else float(next(rest)) for p in values]


def _parts(name: str, values: Array) -> list[tuple[str, NDArray[np.int64]]]:
    texts: Array
    if values.dtype.kind in "fiu" and len(np.unique(values)) > _VALUES:
        low, high = np.nanpercentile(values, (100 / 3, 200 / 3))
        bounds = (f"<= {low:.4g}", f"{low:.4g} to {high:.4g}", f"> {high:.4g}")
        places = np.where(values <= low, 0, np.where(values <= high, 1, 2))
        texts = np.array([bounds[place] for place in places], dtype=object)
        texts[np.isnan(np.asarray(values, np.float64))] = "missing"
    else:
        texts = np.array([_text(value) for value in values.tolist()], dtype=object)
    order = list(dict.fromkeys(texts.tolist()))
    if len(order) > 10 * _VALUES:
        raise WorkbenchError(
            f"Slice column '{name}' has {len(order)} different values: slices are for categories.",
            hint="Group them first, for example by pandas.cut or by their first letter.",
        )
    return [(str(value), np.flatnonzero(texts == value)) for value in order]


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    return str(value)
