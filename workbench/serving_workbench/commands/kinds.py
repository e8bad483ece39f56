"""Values of arguments: each function takes the text that was typed, or the object that an expression gave."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["rate", "seconds", "text", "tolerance", "whole"]


def text(value: Any) -> str:
    """Anything as text."""
    return str(value)


def seconds(value: Any) -> float:
    """A positive, finite number of seconds."""
    try:
        number = float(value)
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
