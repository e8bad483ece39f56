"""What is known of two arms, whatever it was learned from: estimates with intervals, health, differences per output.

Arm A is the one in service (or named first), B the candidate. A difference is B's value less A's, a relative one
B's over A's, less 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

__all__ = ["Check", "Estimate", "Head", "Metric", "Role", "Slice"]

#: One metric is primary: what the decision is about. Guardrails must not become worse than their margins; the rest is
#: shown and decides nothing.
Role = Literal["primary", "guardrail", "shown"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its confidence interval.

    Attributes
    ----------
    value, low, high : float
        `low` and `high` may be infinite: nothing is known on that side.
    n : int
        What it rests on: rows, requests, pairs of blocks.
    method : str
        In words, for the report: ``paired BCa bootstrap, 5000 resamples``.
    confidence : float
        Of the interval; 0.95 is 95 %.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    confidence: float = 0.95

    @property
    def known(self) -> bool:
        """Whether the interval is finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row of the forest plot: a quantity of both arms and their difference.

    Attributes
    ----------
    name : str
        ``accuracy``, ``latency``, ``latency p99``, ``error rate``, ...
    a, b : float
        The arms' values, in `unit`; not a number where only the difference was measured.
    difference : Estimate
        B less A; with `relative`, B over A less 1.
    relative : bool
    higher_is_better : bool or None
        None: neither direction is better, such as a drift.
    margin : float or None
        By how much B may be worse (for `higher_is_better` None: differ) and still do; positive, in the unit of
        `difference`. None: nothing was declared, so it decides nothing.
    role : str
    unit : str
        Of `a` and `b`: ``ms``, ``%``, or empty.
    p_value : float or None
        Of a test of no difference, where there is an exact one, with `test` naming it.
    test : str
    """

    name: str
    a: float
    b: float
    difference: Estimate
    relative: bool = False
    higher_is_better: bool | None = True
    margin: float | None = None
    role: Role = "guardrail"
    unit: str = ""
    p_value: float | None = None
    test: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
    """Whether the experiment itself was sound: shares as declared, machine calm, pairs complete, client not the limit.

    Attributes
    ----------
    name : str
        ``sample ratio``, ``client``, ``machine``, ``pairs``, ``coverage``, ...
    ok : bool
        False makes the verdict UNHEALTHY where `fatal`, and is a remark elsewhere.
    text : str
        With the numbers.
    fatal : bool
    """

    name: str
    ok: bool
    text: str
    fatal: bool = True


@dataclasses.dataclass
class Head:
    """How one output of the two arms differs.

    Attributes
    ----------
    name : str
        Of the output; nested ones by path.
    kind : str
        ``float``, ``scores``, ``embedding``, ``integer``, ``boolean``, ``string``, ``ragged``, ``missing``.
    rows : int
        Compared.
    differing : tuple of int
        Rows (positions) that differ beyond the tolerance; for scores, those with another class.
    measures : dict of str to float
        By name, for the table: ``max abs difference``, ``agreement``, ``Jensen-Shannon``, ``cosine``, ...
    failures : tuple of str
        What no tolerance excuses: another shape or dtype, NaN or infinity in one arm only, a missing output.
    drift : Metric or None
        Of the marginal distribution, as an effect size with its interval.
    confusion : list of (a, b, int)
        Classes, labels or values of A and B, and how often they came together; empty where there are too many.
    per_row : list of float
        The difference row by row, for the histogram.
    """

    name: str
    kind: str
    rows: int
    differing: tuple[int, ...] = ()
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    failures: tuple[str, ...] = ()
    drift: Metric | None = None
    confusion: list[tuple[Any, Any, int]] = dataclasses.field(default_factory=list)
    per_row: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Slice:
    """The primary metric in a part of the rows.

    Attributes
    ----------
    column, value : str
        What the rows have in common.
    rows : int
    metric : Metric
        With its p-value.
    adjusted : float or None
        p-value after Benjamini and Hochberg over all slices.
    worse : bool
        Whether B is worse there at the false discovery rate of the comparison.
    """

    column: str
    value: str
    rows: int
    metric: Metric
    adjusted: float | None
    worse: bool
