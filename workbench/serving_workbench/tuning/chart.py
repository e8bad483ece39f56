"""The live chart of a model's batching: drawn by `chart.js`, or as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_workbench.live.chart import LiveChart

__all__ = ["make_chart", "picture"]


def make_chart() -> LiveChart:
    """Return a chart for this environment."""
    return LiveChart(Path(__file__).parent / "chart.js", picture)


def picture(data: Mapping[str, Any]) -> bytes:
    """Return the same four panels as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.6), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    latency, stages, sizes, reasons = figure.subplots(2, 2).ravel()
    times = data["t"]
    for name, label in (("p50", "p50"), ("p99", "p99"), ("client", "p99 of the client")):
        values = [float("nan") if value is None else value for value in data[name]]
        latency.plot(times, values, label=label)
    if data["slo"]:
        latency.axhline(data["slo"], color="#D55E00", linestyle="--", label="objective")
    for mark in data["marks"]:
        latency.axvline(mark, color="#E69F00", linewidth=0.8)
    latency.legend(fontsize=7)
    stages.stackplot(times, list(data["stages"].values()), labels=list(data["stages"]))
    stages.legend(fontsize=7)
    reasons.stackplot(times, list(data["reasons"].values()), labels=list(data["reasons"]))
    reasons.legend(fontsize=7)
    places = range(len(data["sizes"]))
    real = [row[1] for row in data["sizes"]]
    sizes.bar(places, real, label="rows")
    sizes.bar(places, [row[2] for row in data["sizes"]], bottom=real, label="padding")
    sizes.set_xticks(list(places), [row[0] for row in data["sizes"]], fontsize=7)
    for axes, title in zip(
        (latency, stages, sizes, reasons),
        ("ms in the server", "mean ms of a request", "rows/s by size that ran", "why batches ran"),
        strict=True,
    ):
        axes.set_title(title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
