"""Pictures of a search: drawn once, by matplotlib's `Figure` without pyplot. Each panel has its numbers in a frame."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.simulator import unbatched
from serving_workbench.tuning.verdict import TRUSTED, objective, short
from serving_workbench.tuning.workload import Workload

if TYPE_CHECKING:
    from serving_workbench.tuning.result import Candidate, TuneResult

__all__ = ["draw"]

#: Okabe and Ito's colours, which all eyes tell apart; the objective is red and dashed everywhere.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
_RED: Final = "#D55E00"
_GREY: Final = "#999999"

#: Objectives of the sensitivity panel, as multiples of the one that was tuned for.
_OBJECTIVES: Final = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)


def draw(result: TuneResult) -> Figure:
    """Return five panels: throughput and latency, prediction and measurement, heat map, run time, sensitivity."""
    figure = Figure(figsize=(13, 7), layout="constrained", dpi=80)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 6)
    _plane(figure.add_subplot(grid[0, 0:3]), result)
    _predictions(figure.add_subplot(grid[0, 3:6]), result)
    _sensitivity(figure.add_subplot(grid[1, 4:6]), result)
    _curve(figure.add_subplot(grid[1, 2:4]), result)
    _heat(figure, figure.add_subplot(grid[1, 0:2]), result)
    title = f"{result.model} version {result.version}. {result.verdict}"
    figure.suptitle("\n".join(textwrap.wrap(title, 150)), fontsize=10)
    return figure


def _name(candidate: Candidate) -> str:
    return candidate.label if candidate.parameters is None else short(candidate.parameters)


def _plane(axes: Any, result: TuneResult) -> None:
    """Throughput against latency: one line per configuration that was measured repeatedly, its spread shaded."""
    axes.set_title("p99 by rate; the star is chosen", fontsize=9)
    decision = result.decision if result.measured else None
    highest = 0.0
    for index, candidate in enumerate(result.measured):
        evidence = candidate.evidence
        assert evidence is not None
        colour = _COLOURS[index % len(_COLOURS)]
        latencies = evidence.latencies[evidence.counts]
        logs = np.log(np.where(np.isfinite(latencies), latencies, np.nan))
        known = np.isfinite(logs).all(axis=0)
        rates = evidence.rates[known]
        if not known.any():
            continue
        middle = np.exp(logs[:, known].mean(axis=0)) * 1e3
        low, high = np.exp(logs[:, known].min(axis=0)) * 1e3, np.exp(logs[:, known].max(axis=0)) * 1e3
        highest = max(highest, float(middle.max()))
        current = candidate.label == "current"
        label = f"{_name(candidate)}{' (current)' if current and candidate.parameters else ''}"
        axes.plot(rates, middle, color=colour, label=label, marker="o", markerfacecolor="none" if current else colour)
        axes.fill_between(rates, low, high, color=colour, alpha=0.15)
        if decision is not None and index == decision.best:
            axes.plot(decision.sustained[index].sure, result.slo * 1e3, "*", color=colour, markersize=16)
    axes.axhline(result.slo * 1e3, color=_RED, linestyle="--", label=objective(result))
    if highest > 0:
        axes.set_ylim(0, 1.05 * min(highest, 4e3 * result.slo))
    axes.set_xlabel("requests/s")
    axes.set_ylabel(f"p{result.percent:g}, ms")
    axes.legend(fontsize=7, loc="upper left")


def _predictions(axes: Any, result: TuneResult) -> None:
    axes.set_title("predicted and measured, requests/s", fontsize=9)
    pairs = [(each.screened, each.predicted, _COLOURS[-1], "one run") for each in result.candidates if each.screened]
    if result.measured:
        pairs += [
            (found.rate, each.predicted, _COLOURS[0], "repeats")
            for each, found in zip(result.measured, result.decision.sustained, strict=True)
            if found.rate > 0
        ]
    if not pairs:
        return
    top = 1.1 * max(max(pair[0], pair[1]) for pair in pairs)
    line = np.array([0, top])
    axes.plot(line, line, color=_GREY, linewidth=0.8)
    axes.fill_between(line, line * (1 - TRUSTED), line * (1 + TRUSTED), color=_GREY, alpha=0.15)
    for kind in ("one run", "repeats"):
        chosen = [pair for pair in pairs if pair[3] == kind]
        if chosen:
            axes.plot([p[0] for p in chosen], [p[1] for p in chosen], "o", color=chosen[0][2], label=kind)
    axes.set_xlabel("measured")
    axes.set_ylabel("predicted")
    axes.legend(fontsize=7)


def _heat(figure: Figure, axes: Any, result: TuneResult) -> None:
    """Predicted rate over size and timeout, for the number of threads of the winner; measured points are marked."""
    space = result.space
    best = result.best.parameters if result.best is not None else None
    threads = best.num_batch_threads if best is not None and best.num_batch_threads in space.threads else None
    if threads is None and result.predictions:
        threads = space.threads[max(result.predictions, key=result.predictions.__getitem__).threads]
    values = np.full((len(space.timeouts), len(space.sizes)), np.nan)
    for point, rate in result.predictions.items():
        if space.threads[point.threads] == threads and point.padding == 0:
            values[point.timeout, point.size] = rate
    axes.set_title(f"predicted requests/s, {threads} threads (grey: not looked at)", fontsize=9)
    axes.set_facecolor("#dddddd")
    if np.isfinite(values).any():
        image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis")
        figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_xticks(range(len(space.sizes)), space.sizes, fontsize=7)
    axes.set_yticks(range(len(space.timeouts)), [f"{timeout / 1000:g}" for timeout in space.timeouts], fontsize=7)
    axes.set_xlabel("max_batch_size")
    axes.set_ylabel("timeout, ms")
    for candidate in result.candidates:
        place = _place(candidate.parameters, result)
        if place is not None and candidate.parameters is not None and candidate.parameters.num_batch_threads == threads:
            chosen = candidate is result.best
            axes.plot(
                *place, "*" if chosen else "o", color="white", markeredgecolor="black", markersize=12 if chosen else 6
            )


def _place(parameters: BatchingParameters | None, result: TuneResult) -> tuple[int, int] | None:
    space = result.space
    if parameters is None or parameters.max_batch_size not in space.sizes:
        return None
    if parameters.batch_timeout_micros not in space.timeouts:
        return None
    return space.sizes.index(parameters.max_batch_size), space.timeouts.index(parameters.batch_timeout_micros)


def _curve(axes: Any, result: TuneResult) -> None:
    curve = result.curve
    axes.set_title("time of a run, and per row", fontsize=9)
    sizes = np.array(curve.sizes)
    for index, level in enumerate(curve.at_once):
        medians = [curve.median(int(rows), level) * 1e3 for rows in sizes]
        axes.plot(sizes, medians, "o-", color=_COLOURS[index % len(_COLOURS)], label=f"{level} at once", markersize=4)
    fit = curve.fit(curve.at_once[0])
    for piece in fit.pieces:
        ends = np.array([piece.first, piece.last])
        axes.plot(ends, (piece.fixed + piece.per_row * ends) * 1e3, color=_GREY, linewidth=3, alpha=0.4, zorder=0)
    lone = [curve.median(int(rows), curve.at_once[0]) * 1e3 / rows for rows in sizes]
    axes.plot(sizes, lone, ":", color=_COLOURS[0], label="per row")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, sizes, fontsize=7)
    axes.set_xlabel("rows")
    axes.set_ylabel("ms")
    axes.legend(fontsize=7)


def _sensitivity(axes: Any, result: TuneResult) -> None:
    axes.set_title("rate by objective (from the model)", fontsize=9)
    objectives = np.array(_OBJECTIVES) * result.slo
    # A picture needs fewer requests than a choice does.
    simulator = result.simulate(Workload(1500))
    shown = [candidate for candidate in (result.best, *result.candidates[:2]) if candidate is not None]
    for index, candidate in enumerate(dict.fromkeys(map(id, shown))):
        each = next(known for known in shown if id(known) == candidate)
        wanted = unbatched(result.lanes) if each.parameters is None else each.parameters
        rates = [
            capacity(simulator, wanted, float(slo), quantile=result.percent / 100, precision=0.03).rate
            for slo in objectives
        ]
        axes.plot(objectives * 1e3, rates, "o-", color=_COLOURS[index], label=_name(each), markersize=4)
    axes.axvline(result.slo * 1e3, color=_RED, linestyle="--")
    axes.set_xlabel(f"objective: p{result.percent:g}, ms")
    axes.set_ylabel("requests/s")
    axes.set_ylim(bottom=0)
    if shown:
        axes.legend(fontsize=7)
