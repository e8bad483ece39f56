"""The live chart of a comparison: its data, and what draws them, `sequence.js` or a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving_workbench.comparison.evidence import Metric
from serving_workbench.comparison.figures import BLUE, ORANGE, RED
from serving_workbench.live.chart import LiveChart

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult

__all__ = ["EMPTY", "make_chart", "sequence_data"]

#: What is drawn before there is anything.
EMPTY: Final[dict[str, Any]] = {
    **{name: [] for name in ("n", "value", "low", "high", "seconds", "share", "margins")},
    "title": "B against A",
    "unit": "",
    "range": [-1.0, 1.0],
    "crossed": None,
    "alt": "Confidence sequence: no requests yet",
    "shareAlt": "Share of the requests over time: no requests yet",
}


def sequence_data(result: CompareResult) -> dict[str, Any]:
    """Return what the chart draws of a live comparison, as JSON: numbers that are not finite become None.

    ``n``, ``value``, ``low``, ``high``, ``seconds`` and ``share`` are as long as the sequence; relative differences and
    shares are in percent. ``range`` is what is shown of the values, ``crossed`` where the interval first lay on one
    side of the margin.
    """
    # The sequence is of the first metric, also while that decides nothing.
    sequence, metric = result.sequence, next(iter(result.metrics), None)
    if metric is None or not sequence.get("n"):
        return EMPTY
    percent = metric.relative or metric.unit == "%"
    factor = 100.0 if percent else 1.0
    value, low, high = (_scaled(sequence[name], factor) for name in ("value", "low", "high"))
    for place, ends in enumerate(zip(low, high, strict=True)):
        if None in ends:  # a ratio has an end at -100 % when nothing is known
            low[place] = high[place] = None
    margins = _margins(metric, factor)
    crossed = _crossed(sequence, metric)
    share = _scaled(sequence["share"], 100.0)
    unit = " %" if percent else f" {metric.unit}" if metric.unit else ""
    words = _text(value[-1], low[-1], high[-1], unit)
    return {
        "title": f"{metric.name}: B against A" if metric.relative else f"{metric.name}: B less A",
        "unit": unit,
        "n": list(sequence["n"]),
        "value": value,
        "low": low,
        "high": high,
        "margins": margins,
        "range": _range(value, low, high, margins),
        "crossed": crossed,
        "seconds": list(sequence["seconds"]),
        "share": share,
        "alt": f"Confidence sequence of {metric.name} after {sequence['n'][-1]:,.0f} requests: {words}",
        "shareAlt": "Share of the requests that B got so far: " + ("?" if share[-1] is None else f"{share[-1]:.3g} %"),
    }


def _scaled(values: Sequence[float], factor: float) -> list[float | None]:
    return [factor * each if math.isfinite(each) else None for each in values]


def _margins(metric: Metric, factor: float) -> list[float]:
    if metric.margin is None or not math.isfinite(metric.margin):
        return []
    size = factor * metric.margin
    return {True: [-size], False: [size], None: [-size, size]}[metric.higher_is_better]


def _crossed(sequence: Mapping[str, Sequence[float]], metric: Metric) -> dict[str, Any] | None:
    """Return the requests after which the interval lay wholly on one side of the margin, and in words which."""
    if metric.margin is None:
        return None
    for n, low, high in zip(sequence["n"], sequence["low"], sequence["high"], strict=True):
        least, most = low, high
        if metric.higher_is_better is True:
            least, most = -high, -low
        elif metric.higher_is_better is None:
            least, most = max(low, -high, 0.0), max(abs(low), abs(high))
        if least > metric.margin:
            return {"n": n, "text": f"worse, after {n:,.0f}"}
        if most <= metric.margin:
            return {"n": n, "text": f"within the margin, after {n:,.0f}"}
    return None


def _range(
    value: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None], margins: Sequence[float]
) -> list[float]:
    """Return what to show: zero, the margins, and the interval as it was lately; the wide beginning is cut off."""
    late = len(value) // 3
    ends = [each for part in (value, low, high) for each in part[late:] if each is not None]
    bottom, top = min([0.0, *margins, *ends]), max([0.0, *margins, *ends])
    room = 0.08 * (top - bottom) or 1.0
    return [bottom - room, top + room]


def _text(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    if value is None or low is None or high is None:
        return "not known yet"
    return f"{value:+.3g}{unit}, surely between {low:+.3g} and {high:+.3g}{unit}"


def make_chart() -> LiveChart:
    """Return a chart for this environment."""
    return LiveChart(Path(__file__).parent / "sequence.js", picture, EMPTY)


def picture(data: Mapping[str, Any]) -> bytes:
    """Return the same two panels as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 2.8), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    value, low, high, share = (
        [math.nan if each is None else each for each in data[name]] for name in ("value", "low", "high", "share")
    )
    left.fill_between(data["n"], low, high, color=ORANGE, alpha=0.25)
    left.plot(data["n"], value, color=ORANGE)
    left.axhline(0, color=BLUE, linewidth=1.3)
    for margin in data["margins"]:
        left.axhline(margin, color=RED, linestyle="--", linewidth=1.3)
    if data["crossed"]:
        left.axvline(data["crossed"]["n"], color="black", linestyle=":", linewidth=1)
        left.set_xlabel(f"requests; {data['crossed']['text']}", fontsize=8)
    else:
        left.set_xlabel("requests", fontsize=8)
    left.set_ylim(*data["range"])
    left.set_ylabel(data["unit"].strip(), fontsize=8)
    left.set_title(data["title"], fontsize=9, loc="left")
    right.plot(data["seconds"], share, color=ORANGE)
    right.plot(data["seconds"], [100 - each for each in share], color=BLUE)
    right.set_ylim(0, 100)
    right.set_xlabel("seconds", fontsize=8)
    right.set_title("share of the requests so far, %: A blue, B orange", fontsize=9, loc="left")
    for axes in (left, right):
        axes.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
