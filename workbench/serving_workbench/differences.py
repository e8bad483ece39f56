"""Whether two answers are the same, and where they differ most.

Floats are compared as `numpy.allclose` does, ``|served - expected| <= atol + rtol * |expected|``; everything else must
be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_workbench.errors import DeployError

__all__ = ["DEFAULT_TOLERANCE", "Array", "Difference", "difference", "tolerance_pair"]

Array = NDArray[Any]

#: (rtol, atol); they fit float32 summed in another order.
DEFAULT_TOLERANCE = (1e-4, 1e-5)


@dataclass(frozen=True)
class Difference:
    """How two arrays of one shape differ.

    Attributes
    ----------
    index : tuple of int
        Where the largest absolute difference is.
    count, size : int
        Values that differ, and all values.
    max_abs, max_rel : float or None
        Largest absolute and relative difference; None where values have no size.
    allowed : str
        The limit that was passed.
    """

    index: tuple[int, ...]
    count: int
    size: int
    max_abs: float | None
    max_rel: float | None
    allowed: str

    def __str__(self) -> str:
        text = f"{self.count} of {self.size} values differ"
        if self.max_abs is None:
            return text
        return f"{text}; largest difference {self.max_abs:.6g} absolute, {self.max_rel:.6g} relative"


def tolerance_pair(tolerance: object) -> tuple[float, float] | None:
    """Return ``(rtol, atol)`` of what a user gave: both, rtol alone, or None for no comparison.

    Raises
    ------
    DeployError
        It is none of these.
    """
    if tolerance is None:
        return None
    pair = (tolerance, DEFAULT_TOLERANCE[1]) if isinstance(tolerance, int | float) else tolerance
    if isinstance(pair, tuple | list) and len(pair) == 2:
        rtol, atol = pair
        if all(isinstance(x, int | float) and not isinstance(x, bool) and x >= 0 for x in (rtol, atol)):
            return float(rtol), float(atol)
    raise DeployError(
        f"tolerance={tolerance!r} is not a tolerance.",
        step="prove",
        hint="Give (rtol, atol), both at least 0, or rtol alone, or None for no comparison.",
    )


def difference(served: Array, expected: Array, tolerance: tuple[float, float]) -> Difference | None:
    """Compare two arrays of one shape; None when they are the same.

    Parameters
    ----------
    served, expected : numpy.ndarray
    tolerance : tuple of float
        ``(rtol, atol)``, for floats; rtol is at least 4 units in the last place.
    """
    if served.dtype.kind in "fc" or served.dtype.name == "bfloat16":
        rtol = max(tolerance[0], 4 * _epsilon(served.dtype))
        wide = np.complex128 if served.dtype.kind == "c" else np.float64
        equal = np.isclose(served.astype(wide), expected.astype(wide), rtol=rtol, atol=tolerance[1], equal_nan=True)
        allowed = f"rtol {rtol:g}, atol {tolerance[1]:g}"
    else:
        allowed = "exactly equal"
        equal = np.asarray(served == expected)
    if np.all(equal):
        return None
    index, max_abs, max_rel = _worst(served, expected, equal)
    return Difference(
        index, int(np.size(equal) - np.count_nonzero(equal)), int(np.size(equal)), max_abs, max_rel, allowed
    )


def _epsilon(dtype: np.dtype[Any]) -> float:
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype).eps)


def _worst(served: Array, expected: Array, equal: Array) -> tuple[tuple[int, ...], float | None, float | None]:
    """Return where the difference is largest, and the largest absolute and relative one (None where it has no size)."""
    if served.dtype.kind not in "fciu" and served.dtype.name != "bfloat16":
        where = np.unravel_index(int(np.argmin(equal)), equal.shape)
        return tuple(int(i) for i in where), None, None
    wide = np.complex128 if served.dtype.kind == "c" else np.float64
    left, right = served.astype(wide), expected.astype(wide)
    with np.errstate(all="ignore"):
        difference = np.abs(left - right)
        difference = np.where(equal, 0.0, np.where(np.isnan(difference), np.inf, difference))
        relative = np.where(difference == 0, 0.0, difference / np.abs(right))
    where = np.unravel_index(int(np.argmax(difference)), difference.shape)
    return tuple(int(i) for i in where), float(np.max(difference)), float(np.nanmax(relative))
