"""The profile tab's pictures as SVG, drawn here: small enough to be sent every second, and in the notebook's colors.

All coordinates are pixels. Texts take the color around them; kinds of time have those of Okabe and Ito, and each bar
says its name and time when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_workbench.profiling.waits import kind_of

if TYPE_CHECKING:
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["COLORS", "legend", "near_percentile", "scatter", "stage_bars", "timeline", "waterfall"]

COLORS: Final = {
    "codec": "#56B4E9",
    "wait for a fuller batch": "#E69F00",
    "wait for a free thread": "#D55E00",
    "batch assembly and split": "#CC79A7",
    "between processes": "#999999",
    "wait for batch mates' answers": "#F0E442",
    "run": "#0072B2",
}
_OTHER: Final = "#009E73"

_WIDTH: Final = 720
_LEFT: Final = 92
_RIGHT: Final = 70
_ROW: Final = 22

#: Dots of the scatter plot: the slowest of all are among them.
_DOTS: Final = 200
#: Batches of the timeline, the newest; and pixels from which on a part of one is drawn.
_BATCHES: Final = 40
_SEEN: Final = 0.2
_PERCENTS: Final = (50, 95, 99)
#: Part of the requests that stands for a percentile, and how many at least.
_NEAR: Final = 0.02
_LEAST: Final = 5


def near_percentile(profile: RequestProfile, percent: float) -> dict[str, float]:
    """Return the mean time of each stage, us, over the few requests whose total is nearest to a percentile of it.

    Not over all: a slow request spends its time elsewhere than a fast one. Means, so that the stages add up to a total.
    """
    order = np.argsort(profile.frame["total_us"].to_numpy())
    middle = (len(order) - 1) * percent / 100
    reach = max(_LEAST, _NEAR * len(order)) / 2
    near = order[max(0, math.floor(middle - reach)) : math.ceil(middle + reach) + 1]
    return {name: float(profile.frame[f"{name}_us"].to_numpy()[near].mean()) for name in profile.stages}


def legend(profile: RequestProfile) -> str:
    """Return what the colors mean."""
    kinds = dict.fromkeys(kind_of(name) for name in profile.stages)
    swatch = "display:inline-block;width:10px;height:10px;margin:0 4px 0 12px;background"
    parts = (f"<span style='{swatch}:{_color(kind)}'></span>{escape(kind)}" for kind in kinds)
    return " ".join(f"<span style='white-space:nowrap'>{each}</span>" for each in parts)


def stage_bars(profile: RequestProfile) -> str:
    """Return one bar per percentile, of the stages of requests near it."""
    rows = [(f"p{percent}", near_percentile(profile, percent)) for percent in _PERCENTS]
    longest = max(sum(times.values()) for _, times in rows) or 1.0
    parts = []
    for number, (name, times) in enumerate(rows):
        y, at = number * _ROW + 2, 0.0
        parts.append(_text(0, y + 13, name))
        for stage, took in times.items():
            parts.append(_bar(at / longest, took / longest, y, stage, took))
            at += took
        parts.append(_text(_LEFT + _inner() * at / longest + 6, y + 13, _time(at)))
    told = ", ".join(f"{name} {_time(sum(times.values()))}" for name, times in rows)
    return _svg(len(rows) * _ROW + 4, f"Stages of requests at percentiles: {told}", parts)


def scatter(profile: RequestProfile) -> str:
    """Return a dot per request: when it came, how long it took (logarithmic), and what it spent most time with."""
    frame = profile.frame
    if len(frame) > _DOTS:
        slow = frame.nlargest(_DOTS // 3, "total_us").index
        rest = frame.index.difference(slow)
        frame = frame.loc[slow.union(rest[:: max(1, -(-len(rest) // (_DOTS - _DOTS // 3)))])]
    height = 150
    came = (frame["received_ns"] - profile.frame["received_ns"].max()) / 1e9
    first = min(float(came.min()), -1e-3)
    low, high = (math.log10(max(1.0, each)) for each in (frame["total_us"].min(), frame["total_us"].max()))
    reach = max(high - low, 0.1)
    columns = [f"{name}_us" for name in profile.stages]
    most = [str(name).removesuffix("_us") for name in frame[columns].idxmax(axis=1)]
    parts = [_text(0, 16, _time(10**high)), _text(0, height - 20, _time(10**low))]
    parts += [_text(_LEFT, height - 2, f"{-first:.3g} s ago"), _text(_WIDTH - _RIGHT - 20, height - 2, "now")]
    for seconds, total, stage, name in zip(came, frame["total_us"], most, frame["id"], strict=True):
        x = _LEFT + _inner() * (1 - seconds / first)
        y = 12 + (height - 36) * (high - math.log10(max(1.0, total))) / reach
        parts.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{_color(kind_of(stage))}'>"
            f"<title>{escape(name)}: {_time(total)}, most in {stage}</title></circle>"
        )
    return _svg(height, f"{len(frame)} requests by the time they came and how long they took", parts)


def timeline(profile: RequestProfile) -> str:
    """Return the newest batches in time; those that ran at once are on lanes below each other."""
    batches = profile.batches.sort_values("taken_ns").tail(_BATCHES)
    begin, end = int(batches["taken_ns"].min()), int(batches["came_ns"].max())
    whole = max(1, end - begin)
    lanes: list[int] = []  # until when each is taken
    parts = []
    for number, batch in zip(batches.index, batches.to_dict("records"), strict=True):
        lane = next((index for index, until in enumerate(lanes) if until <= batch["taken_ns"]), len(lanes))
        lanes[lane : lane + 1] = [int(batch["came_ns"])]
        y = lane * _ROW + 2
        size = f"{batch['rows']} rows" + (f" and {batch['padding_rows']} padding" if batch["padding_rows"] else "")
        title = f"batch {number}: {size}, {batch['reason']}"
        for name, start, stop in (
            ("assembly", "taken_ns", "run_began_ns"),
            ("run", "run_began_ns", "run_ended_ns"),
            ("handback", "run_ended_ns", "came_ns"),
        ):
            took = int(batch[stop] - batch[start])
            if took * _inner() < _SEEN * whole:
                continue
            parts.append(_bar((batch[start] - begin) / whole, took / whole, y, name, took / 1e3, title))
    parts += [_text(0, lane * _ROW + 15, f"lane {lane + 1}") for lane in range(len(lanes))]
    return _svg(len(lanes) * _ROW + 4, f"{len(batches)} batches in {_time(whole / 1e3)}, {len(lanes)} at once", parts)


def waterfall(profile: RequestProfile, which: str | None = None) -> str:
    """Return one request: its stages one below the other, where they lie in time; errors as of its `request`."""
    row = profile.request(which)
    whole = max(row["total_us"], 1e-9)
    parts, at = [], 0.0
    for number, stage in enumerate(profile.stages):
        took, y = row["stages_us"][stage], number * _ROW + 2
        parts += [_text(0, y + 13, stage), _bar(at / whole, took / whole, y, stage, took)]
        at += took
        parts.append(_text(_LEFT + _inner() * at / whole + 6, y + 13, _time(took)))
    title = profile.title(row["id"])
    svg = _svg(len(profile.stages) * _ROW + 4, title, parts)
    mates = [each for each in row["batch"]["mates"] if each != row["id"]]
    more = f" and {len(mates) - 8} more" if len(mates) > 8 else ""
    told = f"<div>Batch mates: {escape(', '.join(map(str, mates[:8])))}{more}</div>" if mates else ""
    return f"<div><b>{escape(title)}</b></div>{svg}{told}"


def _inner() -> int:
    return _WIDTH - _LEFT - _RIGHT


def _color(kind: str) -> str:
    return COLORS.get(kind, _OTHER)


def _bar(start: float, length: float, y: int, stage: Any, took: float, title: str = "") -> str:
    x, width = _LEFT + _inner() * start, max(0.3, _inner() * length)
    color = _color(kind_of(str(stage)))
    told = escape(f"{title}; {stage} {_time(took)}" if title else f"{stage}: {_time(took)}")
    return (
        f"<rect x='{x:.1f}' y='{y}' width='{width:.1f}' height='{_ROW - 5}' fill='{color}'><title>{told}</title></rect>"
    )


def _text(x: float, y: float, text: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='12' fill='currentColor'>{escape(text)}</text>"


def _svg(height: int, label: str, parts: Iterable[str]) -> str:
    return (
        f"<svg role='img' aria-label='{escape(label, quote=True)}' viewBox='0 0 {_WIDTH} {height}' "
        f"style='width:100%;max-width:{_WIDTH}px;display:block;margin:4px 0'>{''.join(parts)}</svg>"
    )


def _time(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds < 10_000 else f"{microseconds / 1000:,.1f} ms"
