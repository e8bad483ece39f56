"""A finished comparison to be looked through: verdict, pictures, slices, and the rows that differ."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from serving_workbench.comparison.figures import drawable, forest, heads, latencies, reliability, rows_drawable, scatter
from serving_workbench.comparison.showing import as_html, verdict_box
from serving_workbench.comparison.tab.browsing import RowBrowser
from serving_workbench.comparison.tab.chart import make_chart, sequence_data
from serving_workbench.comparison.tab.page import checks_html
from serving_workbench.live.view import close_widgets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from serving_workbench.comparison.result import CompareResult

__all__ = ["ResultTab"]

_VIEW = "application/vnd.jupyter.widget-view+json"


class ResultTab:
    """What `CompareResult.tab` returns; show it as the last value of a cell.

    Parameters
    ----------
    result : CompareResult

    Attributes
    ----------
    root : ipywidgets.VBox
    pages : ipywidgets.Tab
        One page per kind of evidence that there is.
    browser : RowBrowser or None
        None where no output was compared, as in a live comparison.
    """

    def __init__(self, result: CompareResult) -> None:
        self.result = result
        self.browser: RowBrowser | None = None
        self.pages = w.Tab()
        titles, children = [], []
        for title, page in self._made():
            titles.append(title)
            children.append(page)
        self.pages.children = children
        self.pages.titles = titles
        self.root = w.VBox([w.HTML(verdict_box(result)), self.pages])

    def _made(self) -> list[tuple[str, w.Widget]]:
        result = self.result
        metrics = f"{_forest(result)}{result.table()._repr_html_()}"
        made: list[tuple[str, w.Widget]] = [("Metrics", w.HTML(metrics))]
        if result.sequence.get("n"):
            chart = make_chart()
            chart.show(sequence_data(result))
            made.append(("Sequence", chart.widget))
        if len(result.latency.a) > 1 and len(result.latency.b) > 1:
            made.append(("Latency", w.HTML(_latencies(result))))
        if result.heads:
            made.append(("Outputs", w.HTML(f"{_heads(result)}{result.outputs_table()._repr_html_()}")))
        if result.slices:
            made.append(("Slices", w.HTML(result.slices_table()._repr_html_())))
        if result.heads:
            self.browser = RowBrowser(result)
            made.append(("Rows that differ", self.browser.box))
        made.append(("Health", w.HTML(checks_html(result))))
        return made

    def close(self) -> None:
        """Take it away wherever it is displayed. Idempotent."""
        close_widgets(self.root)

    def __repr__(self) -> str:
        return self.result.summary()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": as_html(self.result)}
        if self.root.comm is not None:
            bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.root.model_id}
        return bundle


def _forest(result: CompareResult) -> str:
    metrics = drawable(result)
    if not metrics:
        return ""
    figure = _figure(9, max(1.6, 0.6 + 0.42 * len(metrics)))
    forest(figure.add_subplot(), metrics)
    return _img(figure, f"Forest plot: {result.decision}")


def _latencies(result: CompareResult) -> str:
    figure = _figure(9, 3)
    left, right = figure.subplots(1, 2)
    latencies(left, right, result)
    return _img(figure, f"Distribution of {result.latency.what} of A and B, and the difference of their quantiles")


def _heads(result: CompareResult) -> str:
    shown = [head for head in result.heads if head.per_row or head.confusion]
    if not shown:
        return ""
    panels: list[Callable[[Axes], None]] = []
    for head in shown:
        panels.append(partial(heads, head=head))
        dots, reliable = rows_drawable(result, head)
        if dots:
            panels.append(partial(scatter, result=result, head=head))
        if reliable:
            panels.append(partial(reliability, result=result, head=head))
    rows = -(-len(panels) // 2)
    figure = _figure(9, 2.6 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, draw in zip(grid, panels, strict=False):
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return _img(figure, "How the outputs of A and B differ; the numbers are in the table below")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=90)
    FigureCanvasAgg(figure)
    return figure


def _img(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"<img src='data:image/png;base64,{data}' alt='{html.escape(alt, quote=True)}' style='max-width:100%'>"
