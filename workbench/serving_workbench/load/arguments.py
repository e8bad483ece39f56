"""What a load test is asked for, checked before it begins: each argument by its name, with a `WorkbenchError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.load.schedule import MAX_REQUESTS

__all__ = [
    "MAX_CONNECTIONS",
    "MAX_DRAIN",
    "MAX_SECONDS",
    "check_seconds",
    "check_whole",
    "pairs_of_text",
    "warmup_seconds",
]

MAX_CONNECTIONS: Final = 1024
#: Least and most.
_WHOLE: Final = {
    "rows": (1, 1_000_000),
    "concurrency": (1, 4096),
    "connections": (1, MAX_CONNECTIONS),
    "max_in_flight": (1, 1_000_000),
    "max_backlog": (1, MAX_REQUESTS),
    "seed": (0, 2**63 - 1),
    "stamped": (1, 1_000_000),
}
MAX_SECONDS: Final = 24 * 3600.0
MAX_DRAIN: Final = 600.0


def check_whole(**values: Any) -> None:
    """Check whole numbers by their names; None where one may be left out."""
    for name, value in values.items():
        least, most = _WHOLE[name]
        if value is None and name not in ("rows", "seed"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise WorkbenchError(f"{name}={value!r} is not a whole number from {least} to {most}.")


def check_seconds(name: str, value: Any, most: float, least: float = 0.0) -> None:
    """Check a length of time."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or not least <= value <= most:
        raise WorkbenchError(f"{name}={value!r} is not a number of seconds between 0 and {most:g}.")


def pairs_of_text(given: Any) -> list[tuple[str, str]]:
    """Return metadata as a list, given as one or as a dict."""
    pairs = [] if given is None else list(given.items() if isinstance(given, Mapping) else given)
    if not all(isinstance(pair, tuple | list) and [type(part) for part in pair] == [str, str] for pair in pairs):
        raise WorkbenchError(f"metadata={given!r} is no list of pairs of text, such as [('x-trace', '1')].")
    return [(name, value) for name, value in pairs]


def warmup_seconds(warmup: float | str | None) -> float | None:
    """Return the seconds that do not count; None: they are to be found."""
    if warmup == "auto":
        return None
    if warmup is None or warmup is False:
        return 0.0
    if isinstance(warmup, str) or not 0 <= warmup <= MAX_SECONDS:
        raise WorkbenchError(f"warmup={warmup!r} is neither 'auto' nor a number of seconds.")
    return float(warmup)
