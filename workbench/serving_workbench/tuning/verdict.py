"""Results in words and rows: pure functions of a `TuneResult`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tables import Table
from serving_workbench.tuning.decision import Decision, sustained
from serving_workbench.tuning.parameters_text import SIGNED

if TYPE_CHECKING:
    from serving_workbench.tuning.result import Candidate, TuneResult

__all__ = ["at_rate", "cautions", "comments", "facts", "rows", "sentence", "short", "table", "text"]

#: Prediction and measurement may differ by this much before it is said.
TRUSTED = 0.15


def short(parameters: BatchingParameters | None) -> str:
    """Return the knobs in a few words."""
    if parameters is None:
        return "batching off"
    wait = parameters.batch_timeout_micros
    timeout = f"{wait / 1000:g} ms" if wait else "0"
    threads = parameters.num_batch_threads
    padding = f", padded to {list(parameters.allowed_batch_sizes)}" if parameters.allowed_batch_sizes else ""
    return f"batch {parameters.max_batch_size}, timeout {timeout}, {threads} thread{'s' * (threads > 1)}{padding}"


def at_rate(measured: Sequence[Candidate], slo: float, rate: float) -> Decision:
    """Choose the configuration of lowest latency at a given rate, among those that surely keep the objective there.

    Configurations whose mean logarithms are within the noise of the lowest tie; then the smallest batch is chosen.
    """
    found = [sustained(each.evidence, slo) for each in measured if each.evidence is not None]
    middles, errors, able = [], [], []
    for index, each in enumerate(measured):
        assert each.evidence is not None
        place = int(np.argmin(np.abs(np.log(each.evidence.rates / rate))))
        column = np.log(np.minimum(each.evidence.latencies[each.evidence.counts][:, place], 20 * slo))
        middles.append(float(column.mean()))
        errors.append(float(column.std(ddof=1) / math.sqrt(len(column))) if len(column) > 1 else 0.0)
        if found[index].sure >= rate * 0.999:
            able.append(index)
    if not able:
        return Decision(None, False, [], found)
    first = min(able, key=middles.__getitem__)
    tied = [i for i in able if middles[i] - middles[first] <= 2 * math.hypot(errors[i], errors[first])]
    best = min(tied, key=lambda i: (_batch(measured[i]), middles[i]))
    return Decision(best, True, tied, found)


def _batch(candidate: Candidate) -> int:
    return 1 if candidate.parameters is None else candidate.parameters.max_batch_size


def objective(result: TuneResult) -> str:
    """Return the objective as text."""
    return f"p{result.percent:g} <= {result.slo * 1e3:.3g} ms"


def sentence(result: TuneResult) -> str:
    """Return the verdict."""
    if not result.feasible:
        return (
            f"{objective(result)} cannot be kept: a lone request to '{result.model}' takes "
            f"{result.floor * 1e3:.3g} ms (p{result.percent:g}). The smallest objective worth trying is "
            f"{result.floor * 1.25e3:.3g} ms."
        )
    best = result.best
    if best is None:
        if not result.complete:
            return f"Not finished: no verdict for '{result.model}' under {objective(result)}."
        lowest = min(
            (float(np.min(each.evidence.latencies)) for each in result.measured if each.evidence), default=math.inf
        )
        told = f" The lowest p{result.percent:g} seen was {lowest * 1e3:.3g} ms." if math.isfinite(lowest) else ""
        if result.floor > result.slo:
            told = (
                f" Lone requests had p{result.percent:g} {result.floor * 1e3:.3g} ms already, so the smallest "
                f"objective worth trying is {result.floor * 1.25e3:.3g} ms."
            )
        at = "any measured rate" if result.rate is None else f"{result.rate:,.0f} requests/s"
        return f"Nothing keeps {objective(result)} for '{result.model}' at {at}.{told}"
    index = result.decision.best
    assert index is not None
    found = result.decision.sustained[index]
    name = "The current setting" if best.label == "current" else short(best.parameters).capitalize()
    if result.rate is None and not result.decision.sure:
        middle = float(np.nanmedian(found.by_repeat))
        repeats = f"the median of {len(found.by_repeat)} repeats, which differ too much to be sure of any rate"
        parts = [f"{name} did best: {middle:,.0f} requests/s within {objective(result)} in {repeats}"]
    elif result.rate is None:
        mean = f"mean of repeats {found.rate:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"
        parts = [f"{name} sustains {found.sure:,.0f} requests/s within {objective(result)} ({mean})"]
    else:
        up_to = f"{'at least ' if math.isinf(found.high) else ''}up to {found.sure:,.0f}"
        parts = [f"{name} keeps {objective(result)} at {result.rate:,.0f} requests/s ({up_to})"]
    gained = result.gain() if best.label != "current" else None
    if gained is not None:
        current = result.decision.sustained[[each.label for each in result.measured].index("current")]
        known = math.isfinite(found.high) and math.isfinite(current.high)
        interval = f" [{gained.low:.2f}, {gained.high:.2f}]" if known else " in what was tried"
        parts.append(f"{gained.ratio:.2f} times the current setting{interval}")
    ties = len(result.decision.tied) - 1
    if ties:
        parts.append(f"{ties} more cannot be told from it, and the smallest batch is chosen")
    return "; ".join(parts) + "."


def rows(result: TuneResult) -> list[dict[str, Any]]:
    """Return one row per candidate."""
    measured = result.measured
    decision = result.decision if measured else None
    found = []
    for candidate in result.candidates:
        parameters = candidate.parameters
        row: dict[str, Any] = {
            "label": candidate.label,
            "max_batch_size": None if parameters is None else parameters.max_batch_size,
            "batch_timeout_micros": None if parameters is None else parameters.batch_timeout_micros,
            "num_batch_threads": result.lanes if parameters is None else parameters.num_batch_threads,
            "allowed_batch_sizes": None if parameters is None else list(parameters.allowed_batch_sizes) or None,
            "predicted": candidate.predicted,
            "screened": candidate.screened,
            "sustained": None,
            "low": None,
            "high": None,
            "gain": None,
            "chosen": False,
        }
        if decision is not None and candidate.evidence is not None:
            index = measured.index(candidate)
            here = decision.sustained[index]
            row |= {"sustained": here.sure, "low": here.low, "high": here.high, "chosen": index == decision.best}
            labels = [each.label for each in measured]
            if "current" in labels:
                now = decision.sustained[labels.index("current")]
                row["gain"] = here.rate / now.rate if now.rate > 0 else None
        found.append(row)
    return found


def table(result: TuneResult) -> Table:
    """Return the candidates as a table for people."""

    def number(value: float | None) -> str | None:
        return None if value is None or not math.isfinite(value) else f"{value:,.0f}"

    shown = [
        {
            "": "*" if row["chosen"] else "",
            "configuration": candidate.label if candidate.parameters is None else short(candidate.parameters),
            "is": candidate.label if candidate.label != short(candidate.parameters) else None,
            "predicted/s": number(row["predicted"]),
            "one run/s": number(row["screened"]),
            "sustained/s": number(row["sustained"]),
            "interval": None if row["low"] is None else f"{number(row['low'])} to {number(row['high']) or '?'}",
            "times current": None if row["gain"] is None else f"{row['gain']:.2f}",
        }
        for row, candidate in zip(rows(result), result.candidates, strict=True)
    ]
    columns = [
        "",
        "configuration",
        "is",
        "predicted/s",
        "one run/s",
        "sustained/s",
        "interval",
        "times current",
    ]
    return Table(shown, columns, "", result)


def cautions(result: TuneResult) -> list[str]:
    """Return what the measurements themselves say against relying on them."""
    if not result.measured:
        return []
    return [each for each in (_at_least(result), _trust(result)) if each]


def _at_least(result: TuneResult) -> str | None:
    """Say whose rates are those of the ladder's end: their intervals are of what was asked for, not of the server."""
    if result.rate is not None:
        return None
    ended = [
        f"{candidate.label} ({candidate.evidence.rates[-1]:,.0f} requests/s)"
        for candidate, here in zip(result.measured, result.decision.sustained, strict=True)
        if candidate.evidence is not None and math.isinf(here.high)
    ]
    if not ended:
        return None
    return f"Kept the objective at the highest rate that was tried, so may sustain more: {'; '.join(ended)}."


def _trust(result: TuneResult) -> str | None:
    """Say when prediction and measurement differ by more than they should."""
    off = [
        (candidate.predicted / here.rate, candidate)
        for candidate, here in zip(result.measured, result.decision.sustained, strict=True)
        if here.rate > 0 and candidate.predicted > 0
    ]
    if not off:
        return None
    ratio, worst = max(off, key=lambda pair: abs(math.log(pair[0])))
    if abs(math.log(ratio)) <= math.log(1 + TRUSTED):
        return None
    return (
        f"Prediction and measurement differ by up to {abs(ratio - 1):.0%} ({worst.label}): trust what_if() less, or "
        "search without the model: tune(..., method='optuna')."
    )


def text(result: TuneResult) -> str:
    """Return the result as plain text."""
    lines = [result.verdict]
    if result.candidates:
        lines += ["", repr(table(result))]
    if result.feasible:
        lines += ["", f"Run time: {result.curve.fit(result.curve.at_once[0])}."]
    lines += [*result.notes, *cautions(result)]
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
    lines.append(f"Took {sum(result.seconds.values()):.0f} s ({spent}).")
    return "\n".join(lines)


def comments(result: TuneResult) -> list[str]:
    """Return the lines above an exported file."""
    best = result.best
    lines = [
        f"Batching of '{result.model}', tuned {result.date} {SIGNED}",
        f"Model: version {result.version}, {result.digest}.",
        f"Objective: {objective(result)}.",
    ]
    if best is not None:
        index = result.decision.best
        assert index is not None
        found = result.decision.sustained[index]
        repeats = int(np.isfinite(found.by_repeat).sum())
        lines.append(
            f"Measured: {found.sure:,.0f} requests/s surely; mean of {repeats} repeats {found.rate:,.0f} "
            f"[{found.low:,.0f}, {found.high:,.0f}]."
        )
    lines += result.notes
    return lines


def facts(result: TuneResult) -> dict[str, Any]:
    """Return what is compared between runs."""
    best = result.best
    return {
        "date": result.date,
        "model": f"{result.model} version {result.version} ({result.digest})",
        "objective": objective(result),
        "chosen": None if best is None else short(best.parameters),
        "sustained/s": round(result.sustained),
        "run of 1 row, ms": f"{result.curve.median(1) * 1e3:.3g}",
        f"run of {result.curve.sizes[-1]} rows, ms": f"{result.curve.median(result.curve.sizes[-1]) * 1e3:.3g}",
        "lone request, ms": f"{result.floor * 1e3:.3g}",
        "complete": result.complete,
    }
