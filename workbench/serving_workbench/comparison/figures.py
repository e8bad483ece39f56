"""The pictures of a comparison, as matplotlib `Figure`s: forest plot, latencies, one panel per output.

A is blue, B orange (Okabe and Ito), margins are red and dashed, intervals shaded. The numbers behind each picture are
those of `CompareResult.to_frame`, `CompareResult.latency` and `CompareResult.heads`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.evidence import Head, Metric
from serving_workbench.comparison.intervals import block_quantile_differences, dkw_band, quantile_differences
from serving_workbench.comparison.verdict import difference_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from serving_workbench.comparison.result import CompareResult

__all__ = [
    "BLUE",
    "ORANGE",
    "RED",
    "draw",
    "drawable",
    "forest",
    "heads",
    "latencies",
    "reliability",
    "rows_drawable",
    "scatter",
]

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
RED: Final = "#D55E00"
GRAY: Final = "#555555"

#: Panels of outputs in the picture; the others are in the tables.
_PANELS: Final = 4
#: Classes beyond which a confusion has no numbers in its cells.
_NUMBERS: Final = 12
#: Points of a curve.
_POINTS: Final = 400
#: Rows of each kind in a scatter plot.
_DOTS: Final = 2000
_FEW_IN_BIN: Final = 5
_PERCENTS: Final = (5, 10, 25, 50, 75, 90, 95, 99)


def draw(result: CompareResult) -> Figure:
    """Return all pictures in one figure."""
    from matplotlib.figure import Figure

    different = [head for head in result.heads if head.differing] or result.heads[:1]
    shown = [head for head in different if head.per_row or head.confusion][:_PANELS]
    timed = len(result.latency.a) > 1 and len(result.latency.b) > 1
    rows = 1 + timed + math.ceil(len(shown) / 2)
    metrics = drawable(result)
    heights = [max(1.6, 0.5 + 0.42 * len(metrics)), *([2.6] if timed else []), *([2.6] * math.ceil(len(shown) / 2))]
    figure = Figure(figsize=(9, sum(heights) + 0.3), layout="constrained")
    grid = figure.add_gridspec(rows, 2, height_ratios=heights)
    forest(figure.add_subplot(grid[0, :]), metrics)
    row = 1
    if timed:
        latencies(figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1]), result)
        row = 2
    for number, head in enumerate(shown):
        heads(figure.add_subplot(grid[row + number // 2, number % 2]), head)
    return figure


def drawable(result: CompareResult) -> list[Metric]:
    """Return what the forest plot shows: the metrics and drifts with a number."""
    drifts = [head.drift for head in result.heads if head.drift is not None]
    return [each for each in [*result.metrics, *drifts] if math.isfinite(each.difference.value)]


def forest(axes: Axes, metrics: Sequence[Metric]) -> None:
    """Draw one row per metric: its difference with the interval, in units of its margin where it has one.

    Metrics have different units; measured in margins, all can stand on one axis: beyond 1 on the worse side B is worse
    than allowed. To the right is better.
    """
    reach = 2.5
    for row, metric in enumerate(metrics):
        scale = metric.margin or max(abs(metric.difference.low), abs(metric.difference.high), 1e-12)
        if not math.isfinite(scale):
            scale = abs(metric.difference.value) or 1.0
        sign = -1 if metric.higher_is_better is False or metric.higher_is_better is None else 1
        value, low, high = (
            float(np.clip(sign * each / scale, -reach, reach))
            for each in (metric.difference.value, metric.difference.low, metric.difference.high)
        )
        bad = metric.margin is not None and max(low, high) < -1
        good = metric.margin is not None and min(low, high) >= -1
        color = RED if bad else BLUE if good else GRAY
        axes.plot([low, high], [row, row], color=color, linewidth=2.5, solid_capstyle="butt")
        axes.plot([value], [row], "o" if metric.role != "shown" else "D", color=color, markersize=6)
        for end in (sign * metric.difference.low / scale, sign * metric.difference.high / scale):
            if abs(end) > reach:  # it goes on beyond the axis
                axes.plot(
                    [float(np.clip(end, -reach, reach))], [row], ">" if end > 0 else "<", color=color, markersize=8
                )
        name = f"{metric.name} (primary)" if metric.role == "primary" else metric.name
        axes.text(-reach - 0.08, row, name, ha="right", va="center", fontsize=9)
        axes.text(reach + 0.08, row, difference_text(metric), ha="left", va="center", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(-1, color=RED, linestyle="--", linewidth=1)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([-2, -1, 0, 1, 2], ["2 margins\nworse", "margin", "A", "1 margin", "2 margins\nbetter"], fontsize=8)
    axes.set_title("B against A, in units of the margin", fontsize=10, loc="left")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def latencies(left: Axes, right: Axes, result: CompareResult) -> None:
    """Draw both distributions with their bands, and the difference of quantiles with intervals."""
    found = result.latency
    for name, values, color in (("A", found.a, BLUE), ("B", found.b, ORANGE)):
        band = dkw_band(1e3 * values)
        step = max(1, len(band.values) // _POINTS)
        part = slice(None, None, step)
        left.fill_between(band.values[part], band.low[part], band.high[part], color=color, alpha=0.2, step="post")
        left.step(band.values[part], band.height[part], color=color, where="post", label=f"{name}: n {len(values):,}")
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("ms", fontsize=8)
    left.set_ylabel("share answered", fontsize=8)
    left.set_title(f"Latency of {found.what}", fontsize=10, loc="left")
    left.legend(fontsize=8, loc="lower right")
    if found.blocks_a:
        first, second = ([1e3 * block for block in arm] for arm in (found.blocks_a, found.blocks_b))
        differences = block_quantile_differences(first, second, _PERCENTS, resamples=300)
    else:
        count = min(len(found.a), len(found.b))
        differences = quantile_differences(1e3 * found.a[:count], 1e3 * found.b[:count], _PERCENTS, resamples=300)
    middles = [each.value for each in differences.values()]
    lows = [each.low for each in differences.values()]
    highs = [each.high for each in differences.values()]
    places = range(len(_PERCENTS))
    right.fill_between(places, lows, highs, color=ORANGE, alpha=0.25)
    right.plot(places, middles, color=ORANGE, marker="o", markersize=4)
    right.axhline(0, color=BLUE, linewidth=1)
    right.set_xticks(list(places), [f"p{percent}" for percent in _PERCENTS], fontsize=8)
    right.set_ylabel("B less A, ms", fontsize=8)
    right.set_title("Difference of quantiles", fontsize=10, loc="left")
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)


def heads(axes: Axes, head: Head) -> None:
    """Draw one output: how often which values of A and B came together, or the distribution of their difference."""
    title = f"{head.name} ({head.kind}): {len(head.differing):,} of {head.rows:,} rows differ"
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    if head.confusion:
        _confusion(axes, head.confusion)
        return
    values = np.asarray(head.per_row, np.float64)
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() == finite.max():
        same = f"{finite[0]:.3g} in every row" if len(finite) else "no number"
        axes.text(0.5, 0.5, f"difference: {same}", ha="center", va="center", transform=axes.transAxes, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.hist(finite, bins=min(60, max(10, int(math.sqrt(len(finite))))), color=ORANGE)
    axes.set_yscale("log")
    axes.axvline(0, color=BLUE, linewidth=1)
    what = "B less A" if head.kind == "float" else "confidence, B less A" if head.kind == "scores" else "difference"
    axes.set_xlabel(what, fontsize=8)
    axes.set_ylabel("rows", fontsize=8)


def scatter(axes: Axes, result: CompareResult, head: Head) -> None:
    """Draw B's value against A's, a dot per row: numbers as they are, of scores the highest one.

    Rows that differ are orange. At most 2,000 rows are drawn, and all of few that differ.
    """
    assert result.rows is not None
    first, second = (_numbers_of(outputs[head.name]) for outputs in (result.rows.a, result.rows.b))
    differing = np.zeros(len(first), bool)
    differing[list(head.differing)] = True
    for chosen, color, name in ((~differing, GRAY, "agree"), (differing, ORANGE, "differ")):
        places = np.flatnonzero(chosen & np.isfinite(first) & np.isfinite(second))
        places = places[:: max(1, -(-len(places) // _DOTS))]
        axes.plot(first[places], second[places], ".", color=color, markersize=4, alpha=0.6, label=name)
    axes.axline((0, 0), slope=1, color=BLUE, linewidth=0.8)
    axes.set_xlabel("A, highest score" if head.kind == "scores" else "A", fontsize=8)
    axes.set_ylabel("B", fontsize=8)
    axes.set_title(f"{head.name}: row by row", fontsize=10, loc="left")
    axes.legend(fontsize=8)
    axes.tick_params(labelsize=8)


def reliability(axes: Axes, result: CompareResult, head: Head) -> None:
    """Draw how often the class is right against how sure the arm was, in ten bins of equal width.

    On the diagonal an arm is as often right as it says. Bins of fewer than 5 rows are left out.
    """
    rows = result.rows
    assert rows is not None
    assert rows.labels is not None
    labels = np.asarray(rows.labels)[rows.answered]
    for outputs, color, name in ((rows.a, BLUE, "A"), (rows.b, ORANGE, "B")):
        scores = np.asarray(outputs[head.name], np.float64)
        sure, right = scores.max(axis=1), scores.argmax(axis=1) == labels
        bins = np.minimum((10 * sure).astype(int), 9)
        full = [each for each in range(10) if (bins == each).sum() >= _FEW_IN_BIN]
        x = [float(sure[bins == each].mean()) for each in full]
        y = [float(right[bins == each].mean()) for each in full]
        axes.plot(x, y, color=color, marker="o", markersize=4, label=name)
    axes.axline((0, 0), slope=1, color=GRAY, linewidth=0.8)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("highest score", fontsize=8)
    axes.set_ylabel("share right", fontsize=8)
    axes.set_title(f"{head.name}: reliability", fontsize=10, loc="left")
    axes.legend(fontsize=8)
    axes.tick_params(labelsize=8)


def _numbers_of(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array.max(axis=1) if array.ndim == 2 else array


def rows_drawable(result: CompareResult, head: Head) -> tuple[bool, bool]:
    """Return whether `scatter` and `reliability` can draw this output: its rows were kept, and it is of numbers."""
    rows = result.rows
    if rows is None or head.name not in rows.a or head.name not in rows.b or head.kind not in ("scores", "float"):
        return False, False
    array = np.asarray(rows.a[head.name])
    if array.shape != np.shape(rows.b[head.name]) or len(array) != head.rows:
        return False, False
    if head.kind == "float":
        return array.ndim == 1 or array.shape[1:] == (1,), False
    classes = array.shape[1]
    labels = None if rows.labels is None else np.asarray(rows.labels)
    # Labels that are no numbers of classes are names, or scores of their own.
    numbered = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
    return True, bool(numbered and labels is not None and labels.min() >= 0 and labels.max() < classes)


def _confusion(axes: Axes, confusion: list[tuple[Any, Any, int]]) -> None:
    names = sorted(
        {value for one, other, _ in confusion for value in (one, other)}, key=lambda each: (str(type(each)), each)
    )
    place = {value: number for number, value in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    for one, other, count in confusion:
        counts[place[one], place[other]] = count
    off = counts.copy()
    np.fill_diagonal(off, 0)
    # What agrees would drown what does not: only the disagreements have a color.
    axes.imshow(off, cmap="Oranges", vmin=0, vmax=max(1.0, off.max()), aspect="auto")
    labels = [str(name)[:12] for name in names]
    if len(names) <= _NUMBERS:
        for (row, column), seen in np.ndenumerate(counts):
            if seen:
                light = off[row, column] > 0.5 * off.max() > 0
                color = "white" if light else "black"
                axes.text(column, row, f"{int(seen)}", ha="center", va="center", fontsize=7, color=color)
    every = max(1, math.ceil(len(names) / _NUMBERS))
    axes.set_xticks(range(0, len(names), every), labels[::every], fontsize=7)
    axes.set_yticks(range(0, len(names), every), labels[::every], fontsize=7)
    axes.set_xlabel("B", fontsize=8)
    axes.set_ylabel("A", fontsize=8)
