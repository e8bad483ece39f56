"""The profile tab's pictures of many requests: their stages at percentiles, each as it came, and the batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from serving_workbench.profiling.panels import LEFT, ROW, Panel, color_of, time_in_words
from serving_workbench.profiling.waits import kind_of

if TYPE_CHECKING:
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["answered", "dominant", "failures", "newest_batches", "percentiles", "scatter", "stage_bars", "timeline"]

#: Dots of the scatter plot: the slowest of all are among them.
_DOTS: Final = 128
#: Batches of the timeline, the newest.
_BATCHES: Final = 30
_LANES: Final = 12
_PERCENTS: Final = (50, 95, 99)
#: Part of the requests that stands for a percentile, and how many at least.
_NEAR: Final = 0.02
_LEAST: Final = 5
_OK: Final = "OK"


def answered(profile: RequestProfile) -> pd.DataFrame:
    """Return the requests that were answered."""
    return profile.frame[profile.frame["status"] == _OK]


def failures(profile: RequestProfile) -> pd.DataFrame:
    """Return the requests that failed."""
    return profile.frame[profile.frame["status"] != _OK]


def dominant(profile: RequestProfile, frame: pd.DataFrame) -> list[str]:
    """Return the stage that took most of each of these requests."""
    times = frame[[f"{name}_us" for name in profile.stages]].fillna(0.0).to_numpy()
    return [profile.stages[which] for which in times.argmax(axis=1)] if len(frame) else []


def percentiles(profile: RequestProfile) -> pd.DataFrame:
    """Return a row per percentile: ``requests`` that are nearest to it, the median of their totals and of each stage.

    Not of all requests: a slow one spends its time elsewhere than a fast one. Not means: one that stood still would
    be in all of them.
    """
    frame = answered(profile)
    times = [f"{name}_us" for name in profile.stages]
    order = np.argsort(frame["total_us"].to_numpy(), kind="stable")
    rows = {}
    for percent in _PERCENTS:
        middle = (len(order) - 1) * percent / 100
        reach = max(_LEAST, _NEAR * len(order)) / 2
        near = frame.iloc[order[max(0, math.floor(middle - reach)) : math.ceil(middle + reach) + 1]]
        rows[f"p{percent}"] = {"requests": len(near), **near[["total_us", *times]].median().to_dict()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("percentile")


def stage_bars(profile: RequestProfile) -> Panel:
    """Return one bar per percentile, of the stages of requests near it."""
    found = percentiles(profile)
    panel = Panel("percentiles", "Stages of the requests near p50, p95 and p99", len(found) * ROW + 4)
    times = found[[f"{name}_us" for name in profile.stages]].set_axis(profile.stages, axis="columns")
    longest = float(times.sum(axis="columns").max()) or 1.0
    words = []
    for number, name in enumerate(found.index):
        y, at, total = number * ROW + 2, 0.0, float(found["total_us"].iloc[number])
        panel.text(0, y + 12, str(name))
        took = times.iloc[number]
        for stage in profile.stages:
            share = took[stage] / max(took.sum(), 1e-9)
            told = f"{name}, {stage}: {time_in_words(took[stage])}, {share:.0%}"
            panel.bar(at / longest, took[stage] / longest, y, stage, told, stage)
            at += took[stage]
        panel.text(panel.x(at / longest) + 5, y + 12, time_in_words(total))
        most = str(took.idxmax())
        words.append(f"{name} {time_in_words(total)}, most in {most} ({took[most] / max(took.sum(), 1e-9):.0%})")
    panel.reading = f"{'; '.join(words)}. Medians of the {found['requests'].iloc[0]} requests nearest to each."
    panel.label = "Stages of requests at percentiles"
    return panel


def scatter(profile: RequestProfile) -> Panel:
    """Return a dot per request: when it came, how long it took (logarithmic), and what it spent most time with."""
    frame, failed = _drawn(answered(profile)), failures(profile).tail(_DOTS // 4)
    panel = Panel("requests", "Requests as they came: choose one", 170)
    both = pd.concat([frame, failed]) if len(failed) else frame
    last = int(profile.frame["received_ns"].max())
    first = min(float((both["received_ns"].min() - last) / 1e9), -1e-3)
    low, high = (math.log10(max(1.0, each)) for each in (both["total_us"].min(), both["total_us"].max()))
    top, room, reach = 12, panel.height - 40, max(high - low, 0.1)

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        part = 1 - (row["received_ns"] - last) / 1e9 / first
        return part, top + room * (high - math.log10(max(1.0, row["total_us"]))) / reach

    for value, y in ((high, top), (low, top + room)) if high - low > 0.1 else ((high, top),):
        panel.text(LEFT - 8, y + 4, time_in_words(10**value), "end")
    panel.line(-1, "", [(0.0, top - 8), (0.0, top + room + 8), (1.0, top + room + 8)])
    panel.text(LEFT, panel.height - 4, f"{-first:.3g} s ago")
    panel.text(panel.x(1), panel.height - 4, "the newest", "end")
    for row, stage in zip(_rows(frame), dominant(profile, frame), strict=True):
        panel.dot(*place(row), color_of(stage), row["id"], f"{time_in_words(row['total_us'])}, {stage}")
    for row in _rows(failed):
        panel.dot(*place(row), -1, row["id"], f"{row['status']} after {time_in_words(row['total_us'])}")
    panel.reading = _told(profile)
    panel.label = f"{len(both)} requests by the time they came and how long they took"
    return panel


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = frame[["id", "received_ns", "total_us", "status"]]
    return [{str(name): value for name, value in row.items()} for row in columns.to_dict("records")]


def _drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out what would be too many dots, but none of the slowest."""
    if len(frame) <= _DOTS:
        return frame
    slow = frame.nlargest(_DOTS // 3, "total_us").index
    rest = frame.index.difference(slow)
    return frame.loc[slow.union(rest[:: max(1, -(-len(rest) // (_DOTS - _DOTS // 3)))])]


def _told(profile: RequestProfile) -> str:
    frame, failed = answered(profile), failures(profile)
    words = []
    if len(frame):
        came = profile.frame["received_ns"]
        seconds = float(came.max() - came.min()) / 1e9
        rate = f", {len(profile) / seconds:,.0f}/s" if seconds > 0 and len(profile) > 1 else ""
        kinds = pd.Series([kind_of(each) for each in dominant(profile, frame)]).value_counts()
        words.append(f"{len(frame)} answered{rate}")
        words.append(f"most time of {kinds.iloc[0] / len(frame):.0%} of them: {kinds.index[0]}")
    if len(failed):
        codes = ", ".join(f"{code} {count}" for code, count in failed["status"].value_counts().items())
        words.append(f"{len(failed)} failed (crosses): {codes}")
    return "; ".join(words) + "."


def newest_batches(profile: RequestProfile) -> pd.DataFrame:
    """Return the batches that the timeline shows, as of `RequestProfile.batches`."""
    found = profile.batches
    return found.sort_values("taken_ns").tail(_BATCHES) if len(found) else found


def timeline(profile: RequestProfile) -> Panel:
    """Return the newest batches in time, a row per thread."""
    batches = newest_batches(profile)
    several = batches["version"].nunique() > 1
    rows = sorted(set(zip(batches["version"], batches["lane"], strict=True)))
    shown = rows[:_LANES]
    panel = Panel("batches", "The newest batches, by the thread that ran them", len(shown) * ROW + 4)
    begin, end = int(batches["taken_ns"].min()), int(batches["came_ns"].max())
    whole = max(1, end - begin)
    for number, batch in zip(batches.index, batches.to_dict("records"), strict=True):
        place = (batch["version"], batch["lane"])
        if place not in shown:
            continue
        y = shown.index(place) * ROW + 2
        for name, start, stop in (
            ("assembly", "taken_ns", "run_began_ns"),
            ("run", "run_began_ns", "run_ended_ns"),
            ("handback", "run_ended_ns", "came_ns"),
        ):
            took = batch[stop] - batch[start]
            told = f"{name}: {time_in_words(took / 1e3)}"
            if name == "run":
                told = f"batch {number}: {in_rows(batch)}, {batch['reason']}, {told}"
            panel.bar((batch[start] - begin) / whole, took / whole, y, name, told)
    for number, (version, lane) in enumerate(shown):
        panel.text(0, number * ROW + 14, f"v{version} thread {lane + 1}" if several else f"thread {lane + 1}")
    panel.reading = _batches_told(batches, whole, len(rows))
    panel.label = "Batches in time"
    return panel


def _batches_told(batches: pd.DataFrame, whole: int, lanes: int) -> str:
    busy = (batches["came_ns"] - batches["taken_ns"]).sum() / (whole * lanes)
    ran = batches["rows"] + batches["padding_rows"]
    told = f"{len(batches)} batches in {time_in_words(whole / 1e3)} on {lanes} thread{'s' if lanes != 1 else ''}, "
    told += f"busy {min(1.0, busy):.0%}; {batches['rows'].mean():.3g} rows each"
    padding = batches["padding_rows"].sum() / max(1, ran.sum())
    reasons = batches["reason"].value_counts()
    told += f", {padding:.0%} padding" if padding else ""
    return f"{told}; most ran as {reasons.index[0]} ({reasons.iloc[0] / len(batches):.0%})."


def in_rows(batch: Mapping[Any, Any]) -> str:
    """Return how large a batch is, in words."""
    padding = int(batch["padding_rows"])
    return f"{batch['rows']:.0f} rows" + (f" and {padding} of padding" if padding else "")
