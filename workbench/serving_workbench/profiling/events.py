"""Requests and batches as Chrome trace events, which Perfetto and chrome://tracing show.

Times are microseconds of CLOCK_MONOTONIC of the server's machine, so other events on that clock lie beside them.
The format:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["BATCHES", "CLIENTS", "OPS", "REQUESTS", "run_arrows", "trace_events"]

#: Process ids of the groups of tracks; they are names, no processes of the system.
REQUESTS: Final = 1
BATCHES: Final = 2
OPS: Final = 3  # of `serving_workbench.profiling.files`, when both are in one file
CLIENTS: Final = 4

#: What a batch goes through, from one of its points in time to the next.
_BATCH_STAGES: Final = (
    ("assembly", "taken_ns", "handed_over_ns"),
    ("handover", "handed_over_ns", "run_began_ns"),
    ("run", "run_began_ns", "run_ended_ns"),
    ("handback", "run_ended_ns", "came_ns"),
)

Event = dict[str, Any]
Row = Mapping[str, Any]


def trace_events(requests: Sequence[Row], batches: Sequence[Row], stages: Sequence[str]) -> list[Event]:
    """Return events: one slice per request and per batch, their stages inside, an arrow from each request to its batch.

    Parameters
    ----------
    requests, batches : sequence of mapping
        Rows of the server's answer (`serving_server.stamps.rows`); requests with their clients' side (`client_side`).
    stages : sequence of str
        In order.

    Returns
    -------
    list of dict
        For the key ``traceEvents``. Slices of one track do not overlap, and a request that overlaps another is on
        another track.
    """
    events = [_name(REQUESTS, "requests"), _name(BATCHES, "batches")]
    batch_track = _batch_tracks(batches)
    at = {batch["batch"]: (track, batch["taken_ns"] / 1e3) for track, batch in zip(batch_track, batches, strict=True)}
    for track, batch in zip(batch_track, batches, strict=True):
        facts = {
            name: batch[name] for name in ("version", "signature", "reason", "lane", "requests", "rows", "padding_rows")
        }
        begin, end = batch["taken_ns"] / 1e3, batch["came_ns"] / 1e3
        events.append(_slice(BATCHES, track, f"batch {batch['batch']}", begin, end, {**facts, "mates": batch["mates"]}))
        events += [
            _slice(BATCHES, track, name, batch[start] / 1e3, batch[stop] / 1e3) for name, start, stop in _BATCH_STAGES
        ]
    spans = [(row["received_ns"] / 1e3, row["received_ns"] / 1e3 + row["total_us"]) for row in requests]
    request_track = _tracks(spans)
    for number, (track, row, span) in enumerate(zip(request_track, requests, spans, strict=True), 1):
        facts = {name: row[name] for name in ("request_id", "status", "batch", "version", "rows", "pieces")}
        events.append(_slice(REQUESTS, track, f"request {row['id']}", *span, facts))
        begin = span[0]
        for name in stages:
            end = min(begin + row["stages_us"][name], span[1])  # sums of floats
            events.append(_slice(REQUESTS, track, name, begin, end))
            begin = end
        if row["batch"] is None:
            continue
        there, taken = at[row["batch"]]
        link = {"ph": "s", "cat": "batch", "name": "batch", "id": number, "ts": taken}
        events.append({**link, "pid": REQUESTS, "tid": track})
        events.append({**link, "ph": "f", "bp": "e", "pid": BATCHES, "tid": there})
    return events + _client_events(requests, request_track)


def _client_events(requests: Sequence[Row], request_track: Sequence[int]) -> list[Event]:
    """Return a slice per request whose client is on this clock, its stages inside, an arrow to the server's slice."""
    known = [
        (number, row, track)
        for number, (row, track) in enumerate(zip(requests, request_track, strict=True), 1)
        if row.get("client") and not math.isnan(row["client"]["transport_out_us"])
    ]
    if not known:
        return []
    events = [_name(CLIENTS, "clients")]
    begins = [row["client"]["begun_ns"] / 1e3 for _, row, _ in known]
    spans = [
        (begin, begin + row["client"]["client_total_us"]) for begin, (_, row, _) in zip(begins, known, strict=True)
    ]
    for (number, row, there), (begin, end), track in zip(known, spans, _tracks(spans), strict=True):
        client, received = row["client"], row["received_ns"] / 1e3
        sent = begin + client["client_encode_us"]
        answered = end - client["client_decode_us"]
        events.append(_slice(CLIENTS, track, f"client of {row['id']}", begin, end, {"request_id": row["request_id"]}))
        parts = [
            ("client_encode", begin, sent),
            ("transport_out", sent, received),
            ("transport_back", received + row["total_us"], answered),
            ("client_decode", answered, end),
        ]
        events += [_slice(CLIENTS, track, name, start, stop) for name, start, stop in parts if start <= stop]
        link = {"cat": "client", "name": "request", "id": f"client {number}"}
        events.append({**link, "ph": "s", "ts": sent, "pid": CLIENTS, "tid": track})
        events.append({**link, "ph": "f", "bp": "e", "ts": received, "pid": REQUESTS, "tid": there})
    return events


def run_arrows(batches: Sequence[Row], runs: Mapping[int, tuple[int, float]], first: int) -> list[Event]:
    """Return an arrow from each batch that was traced to its run among the `OPS`.

    Parameters
    ----------
    batches : sequence of mapping
        Those of `trace_events`.
    runs : mapping of int to (int, float)
        By the batch's number: track, and when the run began, in microseconds.
    first : int
        Number of the first arrow; none of others is as large.

    Returns
    -------
    list of dict
        To stand behind all slices.
    """
    events: list[Event] = []
    for track, batch in zip(_batch_tracks(batches), batches, strict=True):
        if batch["batch"] in runs:
            there, began = runs[batch["batch"]]
            link = {"cat": "run", "name": "run", "id": first + len(events) // 2, "ts": began}
            events.append({**link, "ph": "s", "pid": BATCHES, "tid": track})
            events.append({**link, "ph": "f", "bp": "e", "pid": OPS, "tid": there})
    return events


def _batch_tracks(batches: Sequence[Row]) -> list[int]:
    return _tracks([(batch["taken_ns"] / 1e3, batch["came_ns"] / 1e3) for batch in batches])


def _name(pid: int, name: str) -> Event:
    return {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}


def _slice(pid: int, tid: int, name: str, begin: float, end: float, args: Row | None = None) -> Event:
    event = {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": begin, "dur": end - begin}
    return event if args is None else {**event, "args": dict(args)}


def _tracks(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return a track for each span, the lowest that is free: those of one track do not overlap."""
    chosen = [0] * len(spans)
    busy: list[tuple[float, int]] = []  # (until when, track)
    free: list[int] = []
    for index in sorted(range(len(spans)), key=lambda each: spans[each]):
        begin, end = spans[index]
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        track = heapq.heappop(free) if free else len(busy) + 1
        chosen[index] = track
        heapq.heappush(busy, (end, track))
    return chosen
