"""May B replace A? A pure function of what was found and of margins that were declared before.

- UNHEALTHY: a check failed that makes all numbers void.
- REJECT: some output changed in a way that no margin excuses, or a metric is worse than its margin, surely.
- SHIP: every metric that has a margin is within it, surely, and nothing else is wrong.
- INCONCLUSIVE: neither; the reasons say how many more rows would tell.

"Surely" is by the interval of the metric. That all metrics must pass for SHIP needs no correction for their number (an
intersection-union test). For REJECT, guardrails are corrected by Holm's procedure, as one of many could fail by chance;
the primary metric is not, as it is one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, Literal

from serving_workbench.comparison.evidence import Check, Estimate, Head, Metric

__all__ = ["Kind", "Verdict", "decide", "difference_text", "more_needed"]

Kind = Literal["SHIP", "REJECT", "INCONCLUSIVE", "UNHEALTHY"]

#: More rows than this many times those there are would be no help to anybody.
_HOPELESS: Final = 1000


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What follows from a comparison.

    Attributes
    ----------
    kind : str
        ``SHIP``, ``REJECT``, ``INCONCLUSIVE`` or ``UNHEALTHY``.
    reasons : tuple of str
        Sentences with the numbers; the first ones caused the verdict.
    more_rows : int or None
        How many more rows (requests, pairs of blocks: what the undecided metric rests on) would probably tell.
    """

    kind: Kind
    reasons: tuple[str, ...]
    more_rows: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.reasons[0]}"


def decide(metrics: Sequence[Metric], heads: Sequence[Head] = (), checks: Sequence[Check] = ()) -> Verdict:
    """Decide from metrics with margins, the outputs' differences and the health of the experiment.

    Parameters
    ----------
    metrics : sequence of Metric
        Those with a margin that are not merely ``shown`` decide.
    heads : sequence of Head
        Their `failures` reject.
    checks : sequence of Check
        Those that are fatal and not ok void everything.
    """
    ill = [check.text for check in checks if check.fatal and not check.ok]
    remarks = [check.text for check in checks if not check.fatal and not check.ok]
    if ill:
        return Verdict("UNHEALTHY", (*ill, *remarks))
    broken = [failure for head in heads for failure in head.failures]
    judged = [each for each in metrics if each.margin is not None and each.role != "shown"]
    worse = _worse(judged)
    passed = [each for each in judged if _loss(each).high <= (each.margin or 0.0)]
    unsure = [each for each in judged if each not in passed and each not in worse]
    texts = {"worse": [_sentence(each, "worse") for each in worse]}
    texts["unsure"] = [_sentence(each, "unsure") for each in unsure]
    texts["passed"] = [_sentence(each, "passed") for each in passed]
    if broken or worse:
        return Verdict("REJECT", (*broken, *texts["worse"], *texts["unsure"], *texts["passed"], *remarks))
    if not judged and not any(each.role == "primary" for each in metrics):
        return Verdict("INCONCLUSIVE", ("Nothing was measured that has a margin.", *remarks))
    undeclared = [each for each in metrics if each.role == "primary" and each.margin is None]
    if undeclared:
        # What the comparison is about: all else within its margins does not make it good enough.
        texts["undeclared"] = [_undeclared(each) for each in undeclared]
        return Verdict("INCONCLUSIVE", (*texts["undeclared"], *texts["unsure"], *texts["passed"], *remarks))
    if unsure:
        wanted = [more_needed(each) for each in unsure]
        known = [count for count in wanted if count is not None]
        more = max(known) if len(known) == len(wanted) and known else None
        return Verdict("INCONCLUSIVE", (*texts["unsure"], *texts["passed"], *remarks), more)
    return Verdict("SHIP", (*texts["passed"], *remarks))


def _loss(metric: Metric) -> Estimate:
    """Return by how much B is worse; for a metric without a better direction, by how much it is off."""
    found = metric.difference
    if metric.higher_is_better is True:
        return dataclasses.replace(found, value=-found.value, low=-found.high, high=-found.low)
    if metric.higher_is_better is False:
        return found
    largest = max(abs(found.low), abs(found.high))
    least = 0.0 if found.low <= 0 <= found.high else min(abs(found.low), abs(found.high))
    return dataclasses.replace(found, value=abs(found.value), low=least, high=largest)


def _worse(judged: Sequence[Metric]) -> list[Metric]:
    found = [each for each in judged if each.role == "primary" and _loss(each).low > (each.margin or 0.0)]
    guardrails = sorted((each for each in judged if each.role != "primary"), key=_p_value)
    for number, each in enumerate(guardrails):
        level = (1 - each.difference.confidence) / 2  # of one side
        if _p_value(each) * (len(guardrails) - number) > level:
            break
        found.append(each)
    return [each for each in judged if each in found]


def _p_value(metric: Metric) -> float:
    """Return the one-sided p-value of "worse by no more than the margin", from the interval's lower side."""
    loss, margin = _loss(metric), metric.margin or 0.0
    if not math.isfinite(loss.low) or math.isnan(loss.value):
        return 1.0
    half = loss.value - loss.low
    if half <= 0:
        return 0.0 if loss.value > margin else 1.0
    from statistics import NormalDist

    normal = NormalDist()
    error = half / normal.inv_cdf(0.5 + loss.confidence / 2)
    return 1 - normal.cdf((loss.value - margin) / error)


def more_needed(metric: Metric) -> int | None:
    """Return how many more rows would bring the interval to one side of the margin, were the value to stay.

    Intervals shrink with the root of the rows. None: no number of rows is likely to tell, or nothing is known yet.
    """
    loss, margin = _loss(metric), metric.margin or 0.0
    if not loss.known or loss.n <= 0:
        return None
    gap = abs(margin - loss.value)
    half = loss.high - loss.value if loss.value <= margin else loss.value - loss.low
    if gap <= 0 or half <= 0:
        return None
    needed = loss.n * (half / gap) ** 2
    return math.ceil(needed - loss.n) if loss.n < needed <= _HOPELESS * loss.n else None


def difference_text(metric: Metric) -> str:
    """Return a difference with its interval, in the metric's unit: ``+3.1 % [+1.2, +5.0] %``."""
    found = metric.difference
    if metric.relative or metric.unit == "%":
        return f"{_percent(found.value)} % [{_percent(found.low)}, {_percent(found.high)}] %"
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{_signed(found.value)}{unit} [{_signed(found.low)}, {_signed(found.high)}]{unit}"


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return "?"
    return f"{100 * value:+.3g}" if abs(value) < 10 else f"{100 * value:+,.0f}"


def _signed(value: float) -> str:
    return "?" if not math.isfinite(value) else f"{value:+.3g}"


def _sentence(metric: Metric, found: str) -> str:
    margin = metric.margin or 0.0
    size = f"{100 * margin:.3g} %" if metric.relative or metric.unit == "%" else f"{margin:.3g}"
    allowed = f"margin {size}"
    levels = ""
    if math.isfinite(metric.a) and math.isfinite(metric.b):
        levels = f", {_level(metric.a, metric)} in A and {_level(metric.b, metric)} in B"
    estimate = metric.difference
    basis = f"n = {estimate.n:,}; {estimate.method}"
    if metric.p_value is not None:
        basis += f"; {metric.test}: p {metric.p_value:.2g}"
    what = f"{metric.name[:1].upper()}{metric.name[1:]}"
    moved = f"B less A {difference_text(metric)}" if not metric.relative else f"B against A {difference_text(metric)}"
    if not estimate.known or math.isnan(estimate.value):
        return f"{what} is not known well enough: {estimate.method} (n = {estimate.n:,}; {allowed})."
    if found == "worse":
        return f"{what} is worse than allowed{levels}: {moved}, {allowed} ({basis})."
    if found == "passed":
        loss = _loss(metric)
        how = "is better" if metric.higher_is_better is not None and loss.high < 0 else "is within the margin"
        return f"{what} {how}{levels}: {moved}, {allowed} ({basis})."
    more = more_needed(metric)
    hope = (
        f" About {more:,} more would tell."
        if more
        else " More of the same will hardly tell: it lies about at the margin."
    )
    return f"{what} may be worse than allowed or not{levels}: {moved}, {allowed} ({basis}).{hope}"


def _undeclared(metric: Metric) -> str:
    what = f"{metric.name[:1].upper()}{metric.name[1:]}"
    example = f'margins={{"{metric.name}": ...}}'
    moved = f"B less A: {difference_text(metric)} (n = {metric.difference.n:,})"
    return f"{what} is what this is about, and no margin says how much worse B may be: {example}. {moved}."


def _level(value: float, metric: Metric) -> str:
    return f"{100 * value:.4g} %" if metric.unit == "%" else f"{value:.4g}{f' {metric.unit}' if metric.unit else ''}"
