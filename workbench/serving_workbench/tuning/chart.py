"""The live chart: an anywidget, drawn by `chart.js`; where that package is missing, a picture now and then."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, Final

import ipywidgets
import traitlets

__all__ = ["LiveChart", "make_chart"]

#: Seconds between two pictures: one costs as much as a hundred updates of the widget.
_PICTURE_SECONDS: Final = 4.0


def _anywidget() -> Any:
    import anywidget

    class Chart(anywidget.AnyWidget):  # type: ignore[misc]  # published without types
        """Draws the trait `data`."""

        _esm = Path(__file__).parent / "chart.js"
        data = traitlets.Dict().tag(sync=True)

    return Chart()


class LiveChart:
    """What the dashboard draws with.

    Attributes
    ----------
    widget : ipywidgets.DOMWidget
    data : dict
        What is shown (see `history.History.data`).
    """

    def __init__(self, widget: Any, *, picture: bool) -> None:
        self.widget = widget
        self._picture = picture
        self._drawn = -_PICTURE_SECONDS
        self.data: dict[str, Any] = {}

    def show(self, data: dict[str, Any]) -> None:
        """Show other data."""
        self.data = data
        if not self._picture:
            self.widget.data = data
        elif time.monotonic() - self._drawn >= _PICTURE_SECONDS:
            self._drawn = time.monotonic()
            self.widget.value = picture(data)


def make_chart() -> LiveChart:
    """Return a chart for this environment."""
    try:
        return LiveChart(_anywidget(), picture=False)
    except ImportError:
        return LiveChart(ipywidgets.Image(format="png"), picture=True)


def picture(data: dict[str, Any]) -> bytes:
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
