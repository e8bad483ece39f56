"""Requests and their stages, from Python: frames, texts, pictures, trace events; and of a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_server.stamps.rows import STAGES
from serving_workbench.errors import ControlError, ModelNotServedError, WorkbenchError
from serving_workbench.profiling.events import BATCHES, REQUESTS
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.profiling.waits import advice

#: Two batches: of two requests, and of one that was slow.
ROWS: list[tuple[str, str | None, int, int, list[int]]] = [
    ("1-0", None, 1, 1_000, [1, 10, 0, 2, 3, 20, 3, 1, 0, 4]),
    ("1-1", "mine", 1, 3_000, [1, 8, 0, 2, 3, 20, 3, 1, 4, 5]),
    ("2-0", "mine", 2, 40_000, [2, 0, 900, 2, 3, 40, 3, 1, 0, 4]),
]


def batch(number: int, mates: list[str], taken: int, run: int) -> dict[str, Any]:
    return {
        "batch": number,
        "version": 3,
        "signature": "serving_default",
        "reason": "full",
        "lane": 0,
        "retried": number == 2,
        "requests": len(mates),
        "rows": len(mates),
        "padding_rows": number - 1,
        "mates": mates,
        "ready_ns": taken,
        "taken_ns": taken,
        "handed_over_ns": taken + 2_000,
        "run_began_ns": taken + 5_000,
        "run_ended_ns": taken + 5_000 + run,
        "came_ns": taken + 8_000 + run,
    }


def answer() -> dict[str, Any]:
    requests = [
        {
            "id": name,
            "request_id": given,
            "status": "OK",
            "batch": number,
            "version": 3,
            "signature": "serving_default",
            "rows": 1,
            "pieces": 0,
            "received_ns": received,
            "total_us": float(sum(stages)),
            "stages_us": dict(zip(STAGES, map(float, stages), strict=True)),
        }
        for name, given, number, received, stages in ROWS
    ]
    return {
        "stages": list(STAGES),
        "settings": {"enabled": True, "every": 1, "per_second": 10_000, "capacity": 10_000},
        "recorded": 3,
        "clock": {"monotonic_ns": 10**9, "unix_ns": 1_800_000_000 * 10**9},
        "requests": requests,
        "batches": [batch(1, ["1-0", "1-1"], 12_000, 20_000), batch(2, ["2-0"], 942_000, 40_000)],
    }


@pytest.fixture
def profile() -> RequestProfile:
    return RequestProfile("digits", answer())


def test_a_frame_has_a_column_per_stage(profile: RequestProfile) -> None:
    frame = profile.frame
    assert len(profile) == len(frame) == 3
    assert list(frame["id"]) == ["1-0", "1-1", "2-0"]
    stages = list(frame.columns).index("total_us") + 1
    assert [column.removesuffix("_us") for column in frame.columns[stages : stages + len(STAGES)]] == list(STAGES)
    assert frame[[f"{name}_us" for name in STAGES]].sum(axis=1).tolist() == frame["total_us"].tolist()
    assert frame.loc[0, ["signature", "reason", "mates", "batch_rows", "padding_rows"]].tolist() == [
        "serving_default", "full", 1, 2, 0,
    ]  # fmt: skip
    assert frame["received"][0] == pd.Timestamp(1_800_000_000 - 1, unit="s", tz="UTC") + pd.Timedelta(1, "us")
    assert profile.batches.loc[1, "mates"] == ["1-0", "1-1"]


def test_the_slowest_come_first(profile: RequestProfile) -> None:
    assert profile.slowest(2)["id"].tolist() == ["2-0", "1-1"]


def test_stages_in_sum(profile: RequestProfile) -> None:
    stages = profile.by_stage()
    assert stages["share"].sum() == pytest.approx(1)
    assert stages.loc["thread_wait", "max_us"] == 900
    assert "most time: thread_wait 8" in repr(profile)
    assert "2-0" in profile._repr_html_()


def test_one_request_in_words(profile: RequestProfile) -> None:
    title, *lines = profile.explain().splitlines()  # of the slowest
    assert title == (
        "Request 2-0 (mine) of digits version 3: 955 us, in batch 2 (full, 1 row and 1 of padding) alone, again after "
        "a batch that failed"
    )
    assert [line.split()[0] for line in lines] == [*STAGES, "total"]
    assert max(lines, key=lambda line: line.count("█")).startswith("thread_wait")
    assert "with 1 other request" in profile.explain("1-0")
    told = answer()
    told["batches"][1] |= {"reason": "alone", "padding_rows": 0, "retried": False}
    title = RequestProfile("digits", told).title("2-0")
    assert title == "Request 2-0 (mine) of digits version 3: 955 us, in batch 2 (alone, 1 row)"


def test_a_request_is_found_by_its_id_and_by_the_clients(profile: RequestProfile) -> None:
    assert profile.request("1-1")["received_ns"] == 3_000
    assert profile.request("mine")["id"] == "2-0"  # the latest
    with pytest.raises(WorkbenchError, match=r"No request 'yours' among the 3 of 'digits'"):
        profile.request("yours")


def test_a_request_that_ended_before_it_was_in_a_batch() -> None:
    late = {**answer()["requests"][0], "id": "f1", "status": "DEADLINE_EXCEEDED", "batch": None, "request_id": "late"}
    profile = RequestProfile("digits", {**answer(), "requests": [*answer()["requests"], late]})
    row = profile.frame.set_index("id").loc["f1"]
    assert row["status"] == "DEADLINE_EXCEEDED"
    assert row[["batch", "lane", "mates", "batch_rows", "padding_rows"]].isna().all()
    assert profile.frame["batch"].dropna().tolist() == [1, 1, 2]
    title = profile.explain("late").splitlines()[0]
    assert title == "Request f1 (late) of digits version 3: DEADLINE_EXCEEDED after 44 us, in no batch"
    assert profile.waterfall("late").axes
    slices = [event for event in profile.trace_events() if event["name"] == "request f1"]
    assert [event["args"]["status"] for event in slices] == ["DEADLINE_EXCEEDED"]
    alone = RequestProfile("digits", {**answer(), "requests": [late], "batches": []})
    assert advice(alone)
    assert "f1" in alone._repr_html_()


def test_a_waterfall_is_a_figure_with_a_bar_per_stage(profile: RequestProfile) -> None:
    (axes,) = profile.waterfall("1-1").axes
    bars = axes.containers[0].patches
    assert [bar.get_width() for bar in bars] == [float(each) for each in ROWS[1][4]]
    assert [bar.get_x() for bar in bars][:3] == [0, 1, 9]
    assert "1-1 (mine)" in axes.get_title()


def test_nothing_remembered_is_no_error() -> None:
    empty = RequestProfile("digits", {**answer(), "requests": [], "batches": []})
    assert len(empty) == len(empty.slowest()) == 0
    assert list(empty.frame.columns) == list(RequestProfile("digits", answer()).frame.columns)
    assert empty.trace_events()
    assert "no requests" in repr(empty)
    with pytest.raises(WorkbenchError, match="No request of 'digits' was read"):
        empty.explain()


def check_events(events: list[dict[str, Any]], requests: int, batches: int) -> None:
    """Slices of a track lie inside or beside each other; each request has an arrow to a batch that is there."""
    json.dumps(events)
    slices = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 for event in slices)
    assert sum(event["name"].startswith("request ") for event in slices) == requests
    assert sum(event["name"].startswith("batch ") for event in slices) == batches
    by_track: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in slices:
        by_track.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in by_track.values():
        open_until: list[float] = []
        for event in sorted(track, key=lambda each: (each["ts"], -each["dur"])):
            end = event["ts"] + event["dur"]
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.01
            open_until.append(end)
    starts = {event["id"]: event for event in events if event["ph"] == "s" and event["cat"] == "batch"}
    ends = {event["id"]: event for event in events if event["ph"] == "f" and event["cat"] == "batch"}
    assert starts.keys() == ends.keys()
    assert len(starts) == requests
    for number, start in starts.items():
        end = ends[number]
        assert (start["pid"], end["pid"], end["bp"]) == (REQUESTS, BATCHES, "e")
        assert start["ts"] == end["ts"]
        for event in (start, end):
            assert any(
                each["ts"] - 0.01 <= event["ts"] <= each["ts"] + each["dur"] + 0.01
                for each in by_track[event["pid"], event["tid"]]
            )


def test_trace_events_are_linked(profile: RequestProfile) -> None:
    events = profile.trace_events()
    check_events(events, 3, 2)
    tracks = {event["tid"] for event in events if event["pid"] == REQUESTS and event["ph"] == "X"}
    assert tracks == {1, 2, 3}  # all overlap


# --- of a real server -----------------------------------------------------------------------------------------------


@pytest.fixture
def handle(warm: str, name: str, source: Callable[..., Path], tmp_path: Path) -> Iterator[sw.ServedModel]:
    served = sw.serve(source("half_plus_two", 2), name, instance=warm, root=tmp_path, progress=False)
    yield served
    served.server.control.delete_model(name)
    served.server.close()


def test_requests_of_a_served_model(handle: sw.ServedModel) -> None:
    handle.stamping(enabled=False)
    assert len(handle.requests()) == 0
    assert handle.stamping(enabled=True, every=1, per_second=5000, capacity=500) == {
        "enabled": True,
        "every": 1,
        "per_second": 5000,
        "capacity": 500,
    }
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: handle.predict(np.float32([value])), range(40)))
    found = handle.requests()
    assert len(found) == 40
    assert set(found.frame["version"]) == {handle.version}
    assert (found.frame[[f"{stage}_us" for stage in found.stages]] >= 0).all(axis=None)
    assert set(found.frame["id"]) == {mate for mates in found.batches["mates"] for mate in mates}
    check_events(found.trace_events(), 40, len(found.batches))
    slowest = handle.requests(slowest=3).frame
    assert slowest["total_us"].tolist() == found.slowest(3)["total_us"].tolist()
    assert len(handle.requests(limit=5)) == 5
    assert len(handle.requests(version=99)) == len(handle.requests(request_id="none")) == 0


def test_bad_arguments_are_named(handle: sw.ServedModel) -> None:
    with pytest.raises(ControlError, match="limit must be a whole number from 1 to 10000; got 0"):
        handle.requests(limit=0)
    with pytest.raises(ControlError, match="capacity must be a whole number from 100 to 100000; got 5"):
        handle.stamping(capacity=5)
    with pytest.raises(ModelNotServedError):
        sw.ServedModel(handle.server, "nobody", version=None).requests()
