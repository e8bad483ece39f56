"""Whether a candidate is surely worse than its guardrails allow: pure functions of sums."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from serving_server.sequential import ALPHA, Sums, difference_of_means, difference_of_shares
from serving_server.traffic.outcomes import Outcomes
from serving_server.traffic.ramp_plan import RampPlan

__all__ = ["Joined", "Judgment", "joined", "judge"]


class Joined(NamedTuple):
    """The outcomes of one version over several periods."""

    requests: int
    errors: int
    misses: int
    answered: int
    log_run: Sums


class Judgment(NamedTuple):
    """One guardrail: by how much the candidate is worse, with a confidence sequence.

    Attributes
    ----------
    name : str
    value, low, high : float
        Infinite ends: not known yet. Run time is relative.
    guardrail : float
    breached : bool
        Surely worse: `low` is above the guardrail.
    """

    name: str
    value: float
    low: float
    high: float
    guardrail: float
    breached: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, which has no infinity."""
        plain = {
            name: value if math.isfinite(value) else None
            for name, value in zip(("value", "low", "high"), (self.value, self.low, self.high), strict=True)
        }
        return {"name": self.name, **plain, "guardrail": self.guardrail, "breached": self.breached}

    def __str__(self) -> str:
        unit = "relative" if self.name == "run_time" else "of requests"
        known = f"{100 * self.value:+.3g} % {unit}, surely above {100 * self.low:.3g} %"
        return f"{self.name}: {known}, {100 * self.guardrail:.3g} % is allowed"


def joined(found: Iterable[Outcomes]) -> Joined:
    """Return the sum of outcomes."""
    requests = errors = misses = answered = runs = 0
    total = squares = 0.0
    for each in found:
        each.settle()
        requests += each.requests
        errors += each.errors.total()
        misses += each.misses
        answered += each.answered
        runs += each.runs
        total += each.log_run
        squares += each.log_run_squared
    return Joined(requests, errors, misses, answered, Sums(runs, total, squares))


def judge(plan: RampPlan, baseline: Joined, candidate: Joined) -> list[Judgment]:
    """Compare both versions by all guardrails of a plan.

    Notes
    -----
    A ramp looks at each guardrail in each step, so each sequence has its part of the allowed error (Bonferroni):
    a candidate that is no worse is taken back in at most 5 % of all ramps.
    """
    guardrails = plan.guardrails
    alpha = ALPHA / max(1, len(plan.steps) * guardrails.count)
    found = []
    if guardrails.errors is not None:
        value, low, high = difference_of_shares(
            baseline.errors, baseline.requests, candidate.errors, candidate.requests, alpha
        )
        found.append(Judgment("errors", value, low, high, guardrails.errors, low > guardrails.errors))
    if guardrails.run_time is not None:
        value, low, high = difference_of_means(baseline.log_run, candidate.log_run, alpha)
        ends = [math.expm1(each) if each < 50 else math.inf for each in (value, low, high)]
        breached = ends[1] > guardrails.run_time
        found.append(Judgment("run_time", ends[0], ends[1], ends[2], guardrails.run_time, breached))
    if guardrails.slo_misses is not None:
        value, low, high = difference_of_shares(
            baseline.misses, baseline.answered, candidate.misses, candidate.answered, alpha
        )
        found.append(Judgment("slo_misses", value, low, high, guardrails.slo_misses, low > guardrails.slo_misses))
    return found
