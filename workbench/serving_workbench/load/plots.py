"""Pictures of a load test: drawn once, by matplotlib's `Figure` without pyplot."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving_workbench.load.analysis import in_flight
from serving_workbench.load.records import status_name

if TYPE_CHECKING:
    from serving_workbench.load.result import LoadResult

__all__ = ["as_html", "draw"]

#: Okabe and Ito's colours, which all eyes tell apart.
_BLUE: Final = "#0072B2"
_ORANGE: Final = "#E69F00"
_GREEN: Final = "#009E73"
_RED: Final = "#D55E00"
_GREY: Final = "#999999"
#: Dots of a scatter, and points of a curve.
_DOTS: Final = 5000
_POINTS: Final = 400


def draw(result: LoadResult) -> Figure:
    """Return six panels: rates, percentiles, latency over time, sender, in flight, statuses."""
    figure = Figure(figsize=(12, 6.4), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    if len(result.records) and len(result.records.ticks):
        _rates(axes[0, 0], result)
        _percentiles(axes[0, 1], result)
        _over_time(axes[0, 2], result)
        _sender(axes[1, 0], result)
        _in_flight(axes[1, 1], result)
    _statuses(axes[1, 2], result)
    figure.suptitle(result.headline, fontsize=11)
    return figure


def as_html(result: LoadResult) -> str:
    """Return table, facts and picture as HTML."""
    buffer = io.BytesIO()
    draw(result).savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in result.facts())
    title = html.escape(result.headline)
    return (
        f"{result.table()._repr_html_()}<ul style='margin:4px 0'>{facts}</ul>"
        f"<img src='data:image/png;base64,{picture}' alt='{title}' style='max-width:100%'>"
    )


def _rates(axes: Any, result: LoadResult) -> None:
    records, ran = result.records, float(result.records.ticks[-1, 0])
    bins = max(4, min(60, int(ran / 0.25)))
    edges = np.linspace(0, max(ran, 1e-3), bins + 1)
    width = edges[1] - edges[0]
    middles = (edges[1:] + edges[:-1]) / 2
    if result.setup.open:
        axes.plot(middles, np.histogram(records.scheduled, edges)[0] / width, color=_GREY, label="scheduled", lw=2)
        sent = records.sent[np.isfinite(records.sent)]
        axes.plot(middles, np.histogram(sent, edges)[0] / width, color=_ORANGE, label="sent", ls="--")
    answered = records.answered[records.good]
    axes.plot(middles, np.histogram(answered, edges)[0] / width, color=_BLUE, label="answered")
    axes.set(title="rate", xlabel="s", ylabel="requests / s", ylim=(0, None))
    axes.legend(fontsize=8)


def _percentiles(axes: Any, result: LoadResult) -> None:
    summary, records = result.summary, result.records
    counted = records.good & (records.scheduled >= summary.start) & (records.scheduled < summary.stop)
    count = int(counted.sum())
    axes.set(title="latency by percentile", xlabel="percentile", ylabel="ms")
    if not count:
        return
    # From the median on over 1 / (1 - p), as HdrHistogram's plots have it.
    rarity = np.geomspace(1, max(count, 10), _POINTS)
    percent = 100 * (1 - 1 / rarity)
    axes.plot(rarity, 1e3 * np.percentile(records.latency[counted], percent), color=_BLUE, label="from the schedule")
    if result.setup.open:
        values = 1e3 * np.percentile(records.send_latency[counted], percent)
        axes.plot(rarity, values, color=_ORANGE, ls="--", label="from sending")
        axes.legend(fontsize=8)
    for mark, found in summary.latency.items():
        if 100 / (100 - mark) <= rarity[-1] and np.isfinite((found.low, found.high)).all():
            axes.vlines(100 / (100 - mark), 1e3 * found.low, 1e3 * found.high, color=_BLUE, alpha=0.4, lw=4)
    _limit(axes, result)
    ticks = [tick for tick in (1, 2, 10, 100, 1000, 10_000, 100_000) if tick <= rarity[-1]]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):.5g}" for tick in ticks])


def _over_time(axes: Any, result: LoadResult) -> None:
    summary, records = result.summary, result.records
    shown = np.flatnonzero(records.good)
    if len(shown) > _DOTS:
        shown = np.sort(np.random.default_rng(0).choice(shown, _DOTS, replace=False))
    latency, at = 1e3 * records.latency[shown], records.scheduled[shown]
    counted = (at >= summary.start) & (at < summary.stop)
    axes.plot(at[~counted], latency[~counted], ".", color=_GREY, ms=2)
    axes.plot(at[counted], latency[counted], ".", color=_BLUE, ms=2)
    if summary.start:
        axes.axvspan(0, summary.start, color=_GREY, alpha=0.2, label="warm-up")
        axes.legend(fontsize=8)
    _limit(axes, result)
    axes.set(title="latency over time", xlabel="s", ylabel="ms")
    if len(shown):
        axes.set_yscale("log")


def _sender(axes: Any, result: LoadResult) -> None:
    ticks, records = result.records.ticks, result.records
    step = max(1, len(ticks) // 60)
    chosen = ticks[::step]
    if len(chosen) > 1:
        share = np.diff(chosen[:, 1]) / np.maximum(np.diff(chosen[:, 0]), 1e-9)
        axes.plot(chosen[1:, 0], 100 * share, color=_GREEN, label="CPU, % of a core")
    axes.set(title="load generator", xlabel="s", ylabel="% of a core", ylim=(0, 110))
    if result.setup.open:
        other = axes.twinx()
        prompt = ~records.waited & np.isfinite(records.sent)
        edges = np.linspace(0, max(float(ticks[-1, 0]), 1e-3), 41)
        place = np.digitize(records.scheduled[prompt], edges) - 1
        lag = 1e3 * records.lag[prompt]
        worst = np.full(40, np.nan)
        for index in range(40):
            here = lag[place == index]
            if len(here):
                worst[index] = np.percentile(here, 99)
        other.plot((edges[1:] + edges[:-1]) / 2, worst, color=_ORANGE, label="sent late by, p99")
        other.set(ylabel="ms", ylim=(0, None))
        lines = [*axes.get_lines(), *other.get_lines()]
        axes.legend(lines, [line.get_label() for line in lines], fontsize=8)


def _in_flight(axes: Any, result: LoadResult) -> None:
    records, ran = result.records, float(result.records.ticks[-1, 0])
    # Means: at a low load a sample is 0 or 1, by chance.
    at = np.linspace(0, max(ran, 1e-3), 60 * 50)
    middles = at.reshape(60, 50).mean(axis=1)
    sent = records.sent[np.isfinite(records.sent)]
    sending = in_flight(sent, records.answered, at).reshape(60, 50).mean(axis=1)
    axes.plot(middles, sending, color=_BLUE, label="in flight")
    if result.setup.open:
        waiting = in_flight(records.scheduled, records.answered, at).reshape(60, 50).mean(axis=1)
        axes.plot(middles, waiting, color=_ORANGE, ls="--", label="due, not answered")
        axes.legend(fontsize=8)
    axes.set(title="requests in flight", xlabel="s", ylim=(0, None))


def _statuses(axes: Any, result: LoadResult) -> None:
    codes, counts = np.unique(result.records.status, return_counts=True)
    names = [status_name(int(code)) for code in codes]
    colours = [_BLUE if name == "OK" else _RED for name in names]
    bars = axes.barh(names, counts, color=colours)
    axes.bar_label(bars, [f"{count:,}" for count in counts], fontsize=8, padding=3)
    axes.set(title="answers")
    axes.margins(x=0.2)


def _limit(axes: Any, result: LoadResult) -> None:
    if result.setup.slo is not None:
        axes.axhline(1e3 * result.setup.slo.seconds, color="red", ls="--", lw=1)
