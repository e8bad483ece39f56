"""The periods of a split, in which its shares did not change: which belong together, and what a version did in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving_server.sequential import Sums

__all__ = ["ArmCounts", "counts_of", "objective_of", "steady"]


class ArmCounts(NamedTuple):
    """What a version of a split did since the comparison began.

    Attributes
    ----------
    given : int
        Requests that the split gave to it.
    expected : float
        Those that it should have been given by its shares.
    answered, errors, misses : int
        Of all methods.
    run, total : Sums
        Of the logarithm of seconds in the graph, and from taking a request to its answer.
    """

    given: int
    expected: float
    answered: int
    errors: int
    misses: int
    run: Sums
    total: Sums

    @property
    def requests(self) -> int:
        """Answered and failed."""
        return self.answered + self.errors


def objective_of(traffic: Mapping[str, Any]) -> float | None:
    """Return the objective of the present split in milliseconds, None when it has none."""
    for period in traffic["periods"][-1:]:
        for outcome in period["outcomes"].values():
            if outcome["objective_s"] is not None:
                return 1e3 * float(outcome["objective_s"])
    return None


def steady(periods: Sequence[Mapping[str, Any]], a: int, b: int, since: float) -> list[Mapping[str, Any]]:
    """Return the last periods in which both versions had a share, all of one ratio.

    Periods of other shares are not added up: were all requests slower while B had more of them, B would look slow
    (Simpson's paradox). Those at the end in which one version had none, as when it was down, are left out.
    """
    ratio: float | None = None
    found: list[Mapping[str, Any]] = []
    for period in reversed(periods):
        if period["since"] < since:
            break
        first, second = (period["shares"].get(str(version), 0.0) for version in (a, b))
        if not first or not second:
            if found:
                break
            continue
        if ratio is not None and not math.isclose(second / first, ratio, rel_tol=1e-9):
            break
        ratio = second / first
        found.insert(0, period)
    return found


def counts_of(periods: Sequence[Mapping[str, Any]], version: int) -> ArmCounts:
    """Return what a version did in these periods together."""
    name = str(version)
    given = answered = errors = misses = runs = 0
    expected = 0.0
    run, total = [0.0, 0.0], [0.0, 0.0]
    for period in periods:
        everything = sum(period["requests"].values())
        expected += period["shares"].get(name, 0.0) * everything
        given += period["requests"].get(name, 0)
        found = period["outcomes"].get(name)
        if found is None:
            continue
        answered += found["answered"]
        errors += sum(found["errors"].values())
        misses += found["misses"]
        runs += found["runs"]
        for place in (0, 1):
            run[place] += found["log_run"][place]
            total[place] += found["log_total"][place]
    return ArmCounts(
        given, expected, answered, errors, misses, Sums(runs, run[0], run[1]), Sums(answered, total[0], total[1])
    )
