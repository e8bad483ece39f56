"""Values of arguments: each function takes the text that was typed, or the object that an expression gave."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

__all__ = [
    "assignment",
    "increase",
    "label",
    "metric",
    "number",
    "rate",
    "rate_or_ramp",
    "seconds",
    "setting",
    "text",
    "tolerance",
    "weight",
    "whole",
]


#: Suffixes of a length of time, the longest of those that end alike first.
_UNITS = {"ms": 1e-3, "min": 60.0, "s": 1.0}


def text(value: Any) -> str:
    """Anything as text."""
    return str(value)


def seconds(value: Any) -> float:
    """A positive, finite number of seconds; text may have a unit: 500ms, 10s, 2min."""
    factor = 1.0
    given = value
    if isinstance(given, str):
        for unit, size in _UNITS.items():
            if given.endswith(unit):
                given, factor = given.removesuffix(unit), size
                break
    try:
        number = float(given) * factor
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a positive number of seconds")
    return number


def rate(value: Any) -> float:
    """A positive, finite number of requests per second."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a positive number of requests per second")
    return number


def rate_or_ramp(value: Any) -> Any:
    """A rate, or two as `100:1000`."""
    if isinstance(value, str) and ":" in value:
        value = value.split(":")
    if not isinstance(value, list | tuple):
        return rate(value)
    if len(value) != 2:
        raise argparse.ArgumentTypeError(f"{value!r} is no pair of rates")
    return rate(value[0]), rate(value[1])


def whole(value: Any) -> int:
    """A whole number from 1 on."""
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1 on")
    return number


def tolerance(value: Any) -> Any:
    """Text as `1e-3`, `1e-3,1e-5` or `none`; anything else is judged by the library."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not 1 <= len(numbers) <= 2 or not all(number >= 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"{value!r} is not RTOL, RTOL,ATOL or none")
    return numbers[0] if len(numbers) == 1 else numbers


def number(value: Any) -> float:
    """Any finite number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not abs(found) < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number")
    return found


def percent(value: Any) -> float:
    """Return percent: ``10%``, ``10``."""
    found = increase(value)
    if found > 100:
        raise argparse.ArgumentTypeError(f"{value!r} is not from 0% to 100%")
    return found


def increase(value: Any) -> float:
    """Return percent that may be more than all: ``150%`` longer."""
    try:
        found = float(str(value).strip().removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is no percentage such as 10%") from None
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{value!r} is not 0% or more")
    return found


def assignment(value: Any, example: str) -> tuple[str, str]:
    """Text as `name=value`."""
    name, equals, rest = str(value).partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=VALUE, such as {example}")
    return name, rest


def label(value: Any) -> tuple[str, int | None]:
    """`stable=2`, or `stable=` to remove the label."""
    name, version = assignment(value, "stable=2")
    return name, whole(version) if version else None


def metric(value: Any) -> tuple[str, float]:
    """`accuracy=0.97`."""
    name, measured = assignment(value, "accuracy=0.97")
    return name, number(measured)


def setting(value: Any) -> tuple[str, Any]:
    """`max_batch_size=32`; the value is JSON, or numbers with commas between."""
    name, text_given = assignment(value, "max_batch_size=32")
    try:
        return name, json.loads(text_given)
    except ValueError:
        pass
    try:
        return name, [int(each) for each in text_given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text_given!r} is no value of {name}") from None


def weight(value: Any) -> tuple[int, float]:
    """`2=10`: version 2 gets ten parts of all."""
    version, parts = assignment(value, "2=10")
    return whole(version), number(parts)
