"""Traced runs and the server's batches, linked.

A live run is marked by the time at which its lane began it, and its batch's stamps tell the same one
(``run_began_ns``), so none is mistaken for another, however many run at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.profiling import events, files
from serving_workbench.profiling.operations import FRAMEWORK, plain_type

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.result import ProfileResult

__all__ = ["batch_numbers", "contents", "during", "ops_of_batch", "trace_events"]

Row = Mapping[str, Any]

_COLUMNS: Final = ("name", "type", "calls", "total_us", "self_us", "share")


def batch_numbers(result: ProfileResult, batches: Iterable[Row]) -> dict[int, int]:
    """Return the number of the batch by the number of the traced run, for runs whose batches are among these."""
    data = result.ops_data or {}
    began = data.get("began_ns") or ()  # files of earlier versions have none
    known = {batch["run_began_ns"]: batch["batch"] for batch in batches if batch["version"] == result.version}
    return {run[0]: known[at] for run, at in zip(data.get("runs", ()), began, strict=False) if at in known}


def during(answer: Row, data: Row) -> dict[str, Any] | None:
    """Return what the server tells of the requests whose runs were traced; of own runs, of those of that time.

    Parameters
    ----------
    answer : mapping
        The server's, of ``/models/<name>/profile/requests``.
    data : mapping
        ``profile`` of `serving_server.version_profiles.profile_ops`.

    Returns
    -------
    dict or None
        None when there is none.
    """
    if not data["runs"]:
        return None
    first = min(start for _, _, start, _ in data["runs"])
    last = max(start + duration for _, _, start, duration in data["runs"])
    batches = [each for each in answer["batches"] if each["taken_ns"] <= last and each["came_ns"] >= first]
    traced = set(data["began_ns"]) - {None}
    if traced:
        batches = [each for each in batches if each["run_began_ns"] in traced]
    numbers = {each["batch"] for each in batches}
    requests = [each for each in answer["requests"] if each["batch"] in numbers]
    if not requests:
        return None
    return {"stages": answer["stages"], "clock": answer["clock"], "requests": requests, "batches": batches}


def trace_events(
    requests: Mapping[str, Row], batches: Mapping[int, Row], stages: Sequence[str], result: ProfileResult | None
) -> list[dict[str, Any]]:
    """Return Chrome trace events of requests and batches, and of a profile's runs and ops, with arrows between them.

    Parameters
    ----------
    requests : mapping of str to mapping
        By id.
    batches : mapping of int to mapping
        By number.
    stages : sequence of str
    result : ProfileResult or None
        Requests of its time are added.

    Raises
    ------
    WorkbenchError
        The profile has no ops.
    """
    if result is None:
        return events.trace_events(list(requests.values()), list(batches.values()), stages)
    chosen, around = _merged(requests, batches, result)
    numbers = batch_numbers(result, around)
    found = events.trace_events(chosen, around, stages)
    found += files.trace_events(result, batches=numbers)
    assert result.ops_data is not None, "has events"
    runs = {numbers[run]: (track, at / 1e3) for run, track, at, _ in result.ops_data["runs"] if run in numbers}
    return found + events.run_arrows(around, runs, len(chosen) + 1)


def _merged(
    requests: Mapping[str, Row], batches: Mapping[int, Row], result: ProfileResult
) -> tuple[list[Row], list[Row]]:
    """Return requests and batches with those that a profile of the same server has of its own time."""
    live = result.live_data or {"requests": (), "batches": ()}
    more = {each["batch"]: each for each in live["batches"]}
    # A server that was started anew numbers from 1 again.
    if any(each["run_began_ns"] != more.get(number, each)["run_began_ns"] for number, each in batches.items()):
        return list(requests.values()), list(batches.values())
    all_requests = {each["id"]: each for each in live["requests"]} | dict(requests)
    return list(all_requests.values()), list((more | dict(batches)).values())


def ops_of_batch(result: ProfileResult, batch: Row) -> pd.DataFrame:
    """Return a row per op of a batch's run, the one with the most time of its own first, and the `FRAMEWORK` row.

    Parameters
    ----------
    result : ProfileResult
        Of live requests.
    batch : mapping
        The server's row.

    Returns
    -------
    DataFrame
        ``name``, ``type``, ``calls``, ``total_us``, ``self_us`` (without the ops inside), ``share`` of the run.

    Raises
    ------
    WorkbenchError
        The run was not traced, or not all of its ops were kept.
    """
    import pandas as pd  # only for those who ask

    number = batch["batch"]
    found = [run for run, of in batch_numbers(result, [batch]).items() if of == number]
    if not found:
        raise WorkbenchError(
            f"Batch {number} of version {batch['version']} is not among the runs of this profile ({result.title}).",
            hint="Watch requests while they come: ops = sw.profile(model, live=True), then ops.live_requests.",
        )
    data = result.ops_data
    assert data is not None, "has runs"
    ((_, _, start, duration),) = (run for run in data["runs"] if run[0] == found[0])
    if data["events_left_out"] and data["events"][-1][3] < start + duration:
        raise WorkbenchError(
            f"Batch {number} was traced, but the profile keeps the first {len(data['events']):,} calls of ops only.",
            hint="Watch for a shorter time: seconds=.",
        )
    rows = _self_times([event for event in data["events"] if event[1] == found[0]], data["ops"])
    rest = max(0, duration - sum(row["self_us"] for row in rows))
    rows.append({"name": FRAMEWORK, "type": "", "calls": 1, "total_us": rest, "self_us": rest})
    rows.sort(key=lambda row: -row["self_us"])
    frame = pd.DataFrame(rows).assign(share=lambda each: each["self_us"] / max(1, duration))
    frame[["total_us", "self_us"]] /= 1e3
    return pd.DataFrame(frame, columns=pd.Index(_COLUMNS))


def _self_times(events: list[list[int]], ops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return sums by op, in nanoseconds: an op that lies in another one on its thread is not that one's own time."""
    rows: dict[int, dict[str, Any]] = {}
    inside: dict[int, list[tuple[int, int]]] = {}  # by track: until when, which op; innermost last
    for op, _, track, start, duration in sorted(events, key=lambda each: (each[3], -each[4])):
        stack = inside.setdefault(track, [])
        while stack and stack[-1][0] <= start:
            stack.pop()
        if stack:
            rows[stack[-1][1]]["self_us"] -= duration
        row = rows.setdefault(op, {"name": ops[op]["name"], "type": plain_type(ops[op]["type"]), "calls": 0})
        row["calls"] += 1
        for time in ("total_us", "self_us"):
            row[time] = row.get(time, 0) + duration
        stack.append((start + duration, op))
    return list(rows.values())


def contents(result: ProfileResult) -> str:
    """Say what a trace of this profile holds."""
    data, live = result.ops_data or {}, result.live_data or {"requests": (), "batches": ()}
    own = result.rows is not None
    runs = f"{result.runs:,} {'profiling' if own else 'live'} runs with their ops"
    if data.get("events_left_out"):
        runs += f" (the first {len(data['events']):,} calls)"
    if not live["requests"]:
        return f"{runs}; the server remembers no request of that time"
    linked = len(batch_numbers(result, live["batches"]))
    arrows = "beside them" if own else f"{linked:,} linked with their runs"
    return f"{runs}; {len(live['requests']):,} requests in {len(live['batches']):,} batches, {arrows}"
