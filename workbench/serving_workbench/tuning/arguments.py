"""What a search is asked for, checked before it begins: each argument by its name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from serving_workbench.errors import WorkbenchError

__all__ = ["check_numbers", "check_rate", "whole_numbers"]

#: Least and most of what is a whole number.
_WHOLE: Final = {"rows": (1, 65_536), "repeats": (2, 100), "trials": (1, 10_000), "seed": (0, 2**63 - 1)}
#: The same of the axes of the grid: rows and threads as the server takes them, microseconds.
_AXES: Final = {"sizes": (1, 65_536), "timeouts": (0, 60_000_000), "threads": (1, 64)}
_MAX_SECONDS: Final = 24 * 3600.0


def check_numbers(*, rate: Any, seconds: Any, **whole: Any) -> None:
    """Check a search's numbers; those of `whole` by their names, None where it may be left out.

    Raises
    ------
    WorkbenchError
    """
    if rate is not None:
        check_rate(rate)
    if not (_is_number(seconds) and 0 < seconds <= _MAX_SECONDS):
        raise WorkbenchError(f"seconds={seconds!r} is no number between 0 and {_MAX_SECONDS:g}.")
    for name, value in whole.items():
        least, most = _WHOLE[name]
        if value is not None and not _is_whole(value, least, most):
            why = " (an interval needs at least 2)" if name == "repeats" else ""
            raise WorkbenchError(f"{name}={value!r} is not a whole number from {least} to {most}{why}.")


def check_rate(rate: Any) -> None:
    """Check requests per second.

    Raises
    ------
    WorkbenchError
    """
    if not (_is_number(rate) and 0 < rate < math.inf):
        raise WorkbenchError(f"rate={rate!r} is no number of requests per second.")


def whole_numbers(name: str, values: Any) -> tuple[int, ...] | None:
    """Return an axis of the grid, ascending and each once; None when it is not given.

    Raises
    ------
    WorkbenchError
    """
    if values is None:
        return None
    least, most = _AXES[name]
    found = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else []
    if not found or not all(_is_whole(each, least, most) for each in found):
        raise WorkbenchError(f"{name}={values!r} is no list of whole numbers from {least} to {most}.")
    return tuple(sorted({int(each) for each in found}))


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | str)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and least <= value <= most
