"""Latency objectives: ``p99 20ms`` says that 99 % of the requests are to be answered well within 20 ms."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from serving_workbench.errors import WorkbenchError

__all__ = ["Objective", "seconds_text"]

_TEXT = re.compile(r"(?:p(?P<percent>\d+(?:\.\d+)?)\s*(?:<=|<|=|:)?\s*)?(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Objective:
    """A bound for a percentile of the latency.

    Attributes
    ----------
    seconds : float
    percent : float
        Between 0 and 100.
    """

    seconds: float
    percent: float = 99.0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or not 0 < self.percent < 100:
            raise WorkbenchError(f"slo: p{self.percent:g} within {self.seconds:g} s is no objective that can be met.")

    @classmethod
    def parse(cls, given: Any) -> Objective | None:
        """Return the objective that a user means.

        Parameters
        ----------
        given : str, float, Objective or None
            ``"p99 20ms"``, ``"p99.9 < 0.5s"``, ``"20ms"`` and 0.02 (seconds) mean p99 where none is named.

        Raises
        ------
        WorkbenchError
            It is none of these.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, int | float) and not isinstance(given, bool):
            return cls(float(given))
        found = _TEXT.fullmatch(str(given).strip())
        if found is None:
            raise WorkbenchError(f"slo={given!r} is no latency objective.", hint='Write "p99 20ms", or seconds: 0.02.')
        return cls(float(found["value"]) * _UNITS[found["unit"]], float(found["percent"] or 99.0))

    def __str__(self) -> str:
        return f"p{self.percent:g} <= {seconds_text(self.seconds)}"


def seconds_text(seconds: float) -> str:
    """Return a duration with three digits and a unit that suits it: ``85 us``, ``1.23 ms``, ``2 s``."""
    if not math.isfinite(seconds):
        return "-" if math.isnan(seconds) else "inf"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
