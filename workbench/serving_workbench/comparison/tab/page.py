"""The A/B tab's texts as HTML, in the notebook's own colors; all that comes from elsewhere is escaped."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from serving_workbench.comparison.figures import BLUE, ORANGE
from serving_workbench.comparison.showing import verdict_box
from serving_workbench.mirroring import mirror_text
from serving_workbench.ramping import ramp_text
from serving_workbench.splitting import traffic_text

if TYPE_CHECKING:
    from serving_workbench.comparison.periods import ArmCounts
    from serving_workbench.comparison.result import CompareResult
    from serving_workbench.comparison.tab.reading import Reading

__all__ = ["checks_html", "counts_html", "mirror_html", "plain", "ramp_html", "split_text", "verdict_html"]

_COLUMNS = ("arm", "version", "state", "share", "given", "answered", "errors", "ms in the graph")


def verdict_html(reading: Reading) -> str:
    """Return the live verdict, or what to do to get one."""
    if reading.result is not None:
        return f"<div style='line-height:1.35'>{verdict_box(reading.result)}</div>"
    return f"<p>{html.escape(_nothing(reading))}</p>"


def _nothing(reading: Reading) -> str:
    if reading.arms is None or len(reading.lines) < 2:
        return f"'{reading.model['name']}' has one version only: deploy another one to compare."
    first, second = reading.arms
    if first == second:
        return "Choose two different versions."
    if reading.weights:
        return f"Requests are split, but not over versions {first} and {second}: {split_text(reading)}."
    return "No requests are split: set B's percent, then Start split, or Start ramp. Or compare rows, or A/A."


def split_text(reading: Reading) -> str:
    """Return the split in a line."""
    return traffic_text(reading.model.get("traffic")) or "no split"


def counts_html(reading: Reading) -> str:
    """Return what each arm is and did, as a table."""
    if reading.arms is None:
        return ""
    lines = {line.version: line for line in reading.lines}
    whole = sum(reading.weights.values())
    rows = []
    for place, (arm, version) in enumerate(zip("AB", reading.arms, strict=True)):
        line = lines.get(version)
        weight = reading.weights.get(version)
        cells = [
            str(version),
            "not there" if line is None else line.state,
            "-" if weight is None else f"{100 * weight / whole:.3g} %",
            *_did(None if reading.counts is None else reading.counts[place]),
        ]
        color = (BLUE, ORANGE)[place]
        name = (
            f"<th scope='row' style='text-align:left;border-left:6px solid {color};padding:1px 10px 1px 6px'>{arm}</th>"
        )
        rows.append(f"<tr>{name}{''.join(_cell(each) for each in cells)}</tr>")
    head = "".join(f"<th scope='col' style='text-align:left;padding-right:14px'>{each}</th>" for each in _COLUMNS)
    caption = f"<caption style='text-align:left'>{html.escape(split_text(reading))}</caption>"
    return f"<table style='line-height:1.35'>{caption}<tr>{head}</tr>{''.join(rows)}</table>"


def _did(counts: ArmCounts | None) -> list[str]:
    if counts is None:
        return ["-"] * 4
    run = f"{1e3 * math.exp(counts.run.mean):.3g}" if counts.run.n else "-"
    return [f"{counts.given:,}", f"{counts.answered:,}", f"{counts.errors:,}", run]


def _cell(text: str) -> str:
    return f"<td style='text-align:left;padding-right:14px'>{html.escape(text)}</td>"


def checks_html(result: CompareResult | None) -> str:
    """Return the health checks as a list."""
    if result is None:
        return ""
    lines = "".join(
        f"<li>{'&#10003;' if check.ok else '<b>&#10007; not ok:</b>'} {html.escape(check.name)}: "
        f"{html.escape(check.text)}</li>"
        for check in result.checks
    )
    return f"<ul style='margin:4px 0;line-height:1.35' aria-label='Health of the experiment'>{lines}</ul>"


def ramp_html(ramp: dict[str, Any] | None) -> str:
    """Return the last ramp in a line; empty when there was none."""
    return html.escape(ramp_text(ramp))


def mirror_html(mirror: dict[str, Any] | None) -> str:
    """Return what the mirror did: how many requests have a pair, and how many copies were dropped."""
    if not mirror:
        return ""
    seen = mirror["seen"]
    coverage = (
        f"{100 * mirror['answered'] / seen:.3g} % of {seen:,} requests have a pair" if seen else "no requests yet"
    )
    counts = f"{mirror['dropped']:,} dropped, {mirror['failed']:,} failed, {mirror['waiting']:,} waiting"
    if mirror["active"]:
        counts += f"; {1e3 * mirror['lag_seconds']:,.0f} ms behind"
    return html.escape(f"{mirror_text(mirror)}: {coverage}; {counts}")


def plain(reading: Reading | None, name: str) -> str:
    """Return all of it as text."""
    if reading is None:
        return f"A/B of '{name}': nothing was read yet; it updates while it is shown in a notebook."
    lines = [f"A/B of '{name}': {split_text(reading)}"]
    lines += [text for text in (ramp_text(reading.model.get("ramp")), mirror_text(reading.model.get("mirror"))) if text]
    lines.append(_nothing(reading) if reading.result is None else reading.result.summary())
    return "\n".join(lines)
