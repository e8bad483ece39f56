"""From a request to its batch to the ops of its run: in one trace, and as data; with a real server and its traces."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.errors import WorkbenchError
from serving_workbench.profiling.events import BATCHES, OPS, REQUESTS
from serving_workbench.profiling.linking import batch_numbers, contents
from serving_workbench.profiling.operations import FRAMEWORK
from tests.servers import wait_until

#: The model ``dominated`` has these, and no others.
OPS_OF_MODEL = {"heavy_product", "light_product", "Relu", FRAMEWORK}

#: Microseconds: nanoseconds as floats, and sums of them.
ROUNDED = 0.01


@pytest.fixture(scope="module")
def served(warm: str, models_dir: Path) -> Iterator[sw.ServedModel]:
    model = sw.serve(models_dir / "dominated" / "1", "linked", instance=warm, progress=False)
    yield model
    model.close()


@contextlib.contextmanager
def clients(model: sw.ServedModel, count: int = 4) -> Iterator[None]:
    """Requests of one row and more, by several threads, until the end of the block. None may fail."""
    stop = threading.Event()
    answered = [0] * count
    errors: list[Exception] = []

    def ask(number: int) -> None:
        rows = np.ones((number + 1, 512), np.float32)
        while not stop.is_set():
            try:
                model.predict(rows)
            except Exception as error:
                errors.append(error)
                return
            answered[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: bool(errors) or min(answered) > 0, what="a first answer for each")
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


@pytest.fixture(scope="module")
def live(served: sw.ServedModel) -> sw.ProfileResult:
    with clients(served):
        return sw.profile(served, live=True, seconds=0.5, parts=("ops",))


@pytest.fixture(scope="module")
def requests(live: sw.ProfileResult) -> sw.profiling.requests.RequestProfile:
    assert live.live_requests is not None
    return live.live_requests


def slices(events: list[dict[str, Any]], process: int) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X" and event["pid"] == process]


def holds(event: dict[str, Any], at: float) -> bool:
    return bool(event["ts"] - ROUNDED <= at <= event["ts"] + event["dur"] + ROUNDED)


def check_nested(events: list[dict[str, Any]]) -> None:
    """Slices of one track lie inside or beside each other, never across."""
    tracks: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in tracks.values():
        until: list[float] = []
        for event in sorted(track, key=lambda each: (each["ts"], -each["dur"])):
            assert event["dur"] >= 0
            while until and until[-1] <= event["ts"] + ROUNDED:
                until.pop()
            assert not until or event["ts"] + event["dur"] <= until[-1] + ROUNDED
            until.append(event["ts"] + event["dur"])


def check_arrows(events: list[dict[str, Any]]) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Each begins once and ends once, both in slices that are there; returns them by category."""
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {"batch": [], "run": []}
    starts = [event for event in events if event["ph"] == "s"]
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert len({event["id"] for event in starts}) == len(starts) == len(ends)
    for start in starts:
        end = ends[start["id"]]
        assert (start["cat"], start["ts"]) == (end["cat"], end["ts"])
        for event in (start, end):
            track = (each for each in slices(events, event["pid"]) if each["tid"] == event["tid"])
            assert any(holds(each, event["ts"]) for each in track)
        found[start["cat"]].append((start, end))
    return found


def test_each_run_is_linked_with_the_batch_that_it_was(live: sw.ProfileResult, requests: Any) -> None:
    assert live.ops_data is not None
    assert live.ops_data["events_left_out"] == 0
    batches = requests.batches
    numbers = batch_numbers(live, [{"batch": number, **row} for number, row in batches.to_dict("index").items()])
    assert len(numbers) == live.runs > 20
    assert len(set(numbers.values())) == len(numbers)
    for run, _, start, duration in live.ops_data["runs"]:
        batch = batches.loc[numbers[run]]
        assert batch["run_began_ns"] <= start <= start + duration <= batch["run_ended_ns"]
    # The clients' rows are one to four.
    assert set(batches["rows"]) & {1, 2, 3, 4}


def test_one_trace_leads_from_a_request_to_its_ops(live: sw.ProfileResult, requests: Any, tmp_path: Path) -> None:
    events = json.loads(live.chrome_trace(tmp_path / "trace.json").read_text())["traceEvents"]
    check_nested(events)
    assert sum(event["name"].startswith("request ") for event in slices(events, REQUESTS)) == len(requests)
    arrows = check_arrows(events)
    assert len(arrows["batch"]) == len(requests)
    assert len(arrows["run"]) == live.runs
    runs = {event["args"]["batch"]: event for event in slices(events, OPS) if event["cat"] == "run"}
    assert len(runs) == live.runs
    by_batch = {event["name"]: event for event in slices(events, BATCHES) if "args" in event}
    for start, end in arrows["run"]:
        (run,) = (each for each in runs.values() if each["tid"] == end["tid"] and each["ts"] == end["ts"])
        assert run["name"] == f"run of batch {run['args']['batch']}"
        batch = by_batch[f"batch {run['args']['batch']}"]
        assert batch["tid"] == start["tid"]
        inside = [
            each
            for each in slices(events, BATCHES)
            if each["name"] == "run" and each["tid"] == batch["tid"] and holds(batch, each["ts"])
        ]
        assert any(
            holds(each, run["ts"]) and holds(each, run["ts"] + run["dur"]) and holds(each, start["ts"])
            for each in inside
        )
    ops = [event for event in slices(events, OPS) if event["cat"] == "op"]
    assert {event["name"] for event in ops} == OPS_OF_MODEL - {FRAMEWORK}
    for event in ops:
        run = runs[event["args"]["batch"]]
        assert holds(run, event["ts"])
        assert holds(run, event["ts"] + event["dur"])
        assert event["args"]["run"] == run["args"]["run"]


def test_a_requests_ops_are_those_of_its_run(live: sw.ProfileResult, requests: Any) -> None:
    assert live.ops_data is not None
    numbers = set(batch_numbers(live, live.live_data["batches"]).values())  # type: ignore[index]
    traced = requests.frame[requests.frame["batch"].isin(numbers)]
    frames = {row.batch: requests.ops_of(row.id, live) for row in traced.itertuples()}
    assert len(frames) == live.runs
    assert len(traced) == len(requests)  # no others were kept
    for batch, frame in frames.items():
        assert set(frame["name"]) == OPS_OF_MODEL
        assert frame["share"].sum() == pytest.approx(1.0)
        assert (frame["self_us"].diff().dropna() <= 0).all()
        row = requests.batches.loc[batch]
        assert frame["self_us"].sum() <= (row["run_ended_ns"] - row["run_began_ns"]) / 1e3
    together = sum(frame.set_index("name")["self_us"] for frame in frames.values())
    assert together.to_dict() == pytest.approx(live.ops.set_index("name")["self_us"].to_dict())
    slow = traced.sort_values("total_us").iloc[-1]
    text = requests.explain(slow["id"], live).splitlines()
    (at,) = (at for at, line in enumerate(text) if line.startswith(f"Of the run of batch {slow['batch']}, "))
    assert any("heavy_product MatMul" in line for line in text[at + 1 :])
    assert len(text) == at + 5
    assert f"{live.runs:,} linked with their runs" in contents(live)


def test_what_was_not_traced_is_said(live: sw.ProfileResult, requests: Any, served: sw.ServedModel) -> None:
    served.predict(np.ones((1, 512), np.float32))
    later = served.requests(limit=1)
    with pytest.raises(WorkbenchError, match=r"Batch \d+ of version 1 is not among the runs of this profile"):
        later.ops_of(None, live)
    first, last = (requests.frame["batch"].agg(each) for each in ("min", "max"))
    cut = copy.copy(live)
    assert live.ops_data is not None
    numbers = batch_numbers(live, live.live_data["batches"])  # type: ignore[index]
    kept = [event for event in live.ops_data["events"] if numbers[event[1]] <= (first + last) // 2]
    cut.ops_data = {**live.ops_data, "events": kept, "events_left_out": 1}
    by_batch = requests.frame.groupby("batch")["id"].first()
    with pytest.raises(WorkbenchError, match=r"keeps the first .* calls of ops only"):
        requests.ops_of(by_batch[max(numbers.values())], cut)
    assert set(requests.ops_of(by_batch[min(numbers.values())], cut)["name"]) == OPS_OF_MODEL
    assert "(the first " in contents(cut)
    cut.ops_data = {key: value for key, value in live.ops_data.items() if key != "began_ns"}  # an earlier version's
    with pytest.raises(WorkbenchError, match="not among the runs"):
        requests.ops_of(None, cut)


def test_a_trace_of_other_requests_gets_those_of_the_profile(
    live: sw.ProfileResult, requests: Any, served: sw.ServedModel, tmp_path: Path
) -> None:
    served.predict(np.ones((1, 512), np.float32))
    later = served.requests(limit=1)
    file = later.chrome_trace(tmp_path / "trace.json", live)
    events = json.loads(file.read_text())["traceEvents"]
    check_nested(events)
    arrows = check_arrows(events)
    assert len(arrows["batch"]) == len(requests) + 1
    assert len(arrows["run"]) == live.runs
    # Of a server that was started anew the same numbers are other batches: nothing is linked with them.
    other = copy.copy(live)
    other.live_data = copy.deepcopy(live.live_data)
    assert other.live_data is not None
    other.live_data["batches"][0] |= {"batch": int(later.frame["batch"][0])}
    arrows = check_arrows(later.trace_events(other))
    assert (len(arrows["batch"]), len(arrows["run"])) == (1, 0)


def test_runs_of_the_profile_are_no_batches(served: sw.ServedModel, tmp_path: Path) -> None:
    with clients(served):
        own = sw.profile(served, batches=10, batch_sizes=(1,), parts=("ops",))
    found = own.live_requests
    assert found is not None
    events = json.loads(own.chrome_trace(tmp_path / "trace.json").read_text())["traceEvents"]
    check_nested(events)
    arrows = check_arrows(events)
    assert len(arrows["batch"]) == len(found)
    assert arrows["run"] == []
    runs = [event for event in slices(events, OPS) if event["cat"] == "run"]
    assert sorted(event["name"] for event in runs) == [f"profiling run {number}" for number in range(10)]
    first, last = min(event["ts"] for event in runs), max(event["ts"] + event["dur"] for event in runs)
    for batch in (event for event in slices(events, BATCHES) if "args" in event):
        assert batch["ts"] <= last
        assert batch["ts"] + batch["dur"] >= first
    assert contents(own) == (
        f"10 profiling runs with their ops; {len(found):,} requests in {len(found.batches):,} batches, beside them"
    )
    again = sw.ProfileResult.load(own.save(tmp_path / "saved"))
    assert again.live_requests is not None
    assert again.live_requests.frame.equals(found.frame)


def test_without_requests_a_trace_says_so(source: Callable[..., Path], warm: str, name: str, tmp_path: Path) -> None:
    model = sw.serve(source("dominated"), name, instance=warm, progress=False)
    try:
        own = sw.profile(model, batches=5, batch_sizes=(1,), busy=1.0, parts=("ops",))
        assert own.live_requests is None
        assert contents(own) == "5 profiling runs with their ops; the server remembers no request of that time"
        check_nested(json.loads(own.chrome_trace(tmp_path / "trace.json").read_text())["traceEvents"])
        none = sw.profile(model, live=True, seconds=0.05, parts=("ops",))
        assert (none.runs, none.live_requests) == (0, None)
    finally:
        model.close()
