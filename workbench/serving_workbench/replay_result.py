"""What came of a replay, in numbers, in words and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["MAX_MISMATCHES", "Mismatch", "ReplayResult", "ReplayedRequest"]

#: Mismatches that are kept in full; all are counted.
MAX_MISMATCHES = 100

#: Mismatches and problems that are printed.
_SHOWN = 5


@dataclass(frozen=True)
class Mismatch:
    """An output that is not what was logged.

    Attributes
    ----------
    record : str
        Which record of which file.
    method, model, signature, output : str
    detail : str
        Both values where they differ most; or which shape, dtype or output is another.
    max_abs, max_rel : float or None
        Largest absolute and relative difference; None where there is no such number.
    """

    record: str
    method: str
    model: str
    signature: str
    output: str
    detail: str
    max_abs: float | None
    max_rel: float | None

    def __str__(self) -> str:
        return f"{self.record} ({self.method}, {self.model}), output '{self.output}': {self.detail}"


class ReplayedRequest(NamedTuple):
    """One row of `ReplayResult.to_frame`."""

    file: str
    record: int
    method: str
    model: str
    signature: str
    #: ``OK`` or the code of the error.
    code: str
    #: Whether the answer is the logged one; None where there is nothing to compare.
    same: bool | None
    #: Between sending and the answer.
    milliseconds: float


@dataclass
class ReplayResult:
    """What came of a replay.

    Attributes
    ----------
    target : str
    seconds : float
        From the first request to the last answer.
    requests : list of ReplayedRequest
        In the order of the answers.
    mismatches : list of Mismatch
        The first `MAX_MISMATCHES`.
    errors : Counter of str
        Requests that were refused or not answered, by code.
    first_errors : dict of str to str
        Of each code the first: which record, and the text.
    unreadable : list of str
        Records and files that could not be read.
    """

    target: str
    seconds: float = 0.0
    requests: list[ReplayedRequest] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    first_errors: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Requests that were answered OK."""
        return len(self.requests) - self.errors.total()

    @property
    def same(self) -> int:
        """Answers that are the logged ones."""
        return sum(request.same is True for request in self.requests)

    @property
    def different(self) -> int:
        """Answers that are not."""
        return sum(request.same is False for request in self.requests)

    @property
    def ok(self) -> bool:
        """Whether everything was read and answered, and no answer differs."""
        return not (self.errors or self.unreadable or self.different)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of the time that answers took, in milliseconds; None without an answer."""
        times = [request.milliseconds for request in self.requests if request.code == "OK"]
        return float(np.percentile(times, percent)) if times else None

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each request."""
        import pandas as pd  # only for those who ask

        return pd.DataFrame(self.requests, columns=pd.Index(ReplayedRequest._fields))

    def __repr__(self) -> str:
        pace = f", {len(self.requests) / self.seconds:.0f} per second" if self.seconds else ""
        left = self.answered - self.same - self.different
        lines = [
            f"{len(self.requests)} requests replayed to {self.target} in {self.seconds:.3g} s{pace}",
            f"  {self.answered} answered: {self.same} as logged, {self.different} differently, {left} not compared",
        ]
        if self.answered:
            times = ", ".join(f"p{percent} {self.percentile(percent):.3g}" for percent in (50, 90, 99))
            lines.append(f"  milliseconds until the answer: {times}, most {self.percentile(100):.3g}")
        for code, count in sorted(self.errors.items()):
            lines.append(f"  {count} x {code}, first {self.first_errors[code]}")
        lines += [f"  differs: {mismatch}" for mismatch in self.mismatches[:_SHOWN]]
        if len(self.mismatches) > _SHOWN:
            lines.append(f"  ... more in .mismatches ({len(self.mismatches)})")
        lines += [f"  not read: {problem}" for problem in self.unreadable[:_SHOWN]]
        if len(self.unreadable) > _SHOWN:
            lines.append(f"  ... more in .unreadable ({len(self.unreadable)})")
        return "\n".join(lines)
