"""Where the time of a version's runs goes, op by op: TensorFlow's tracer around runs of this worker.

The runs are the profile's own, on a thread of their own beside the lanes, so that their number and size are known and
no request waits for the profile; or those of live requests. What tracing costs is measured with them: half of as many
runs without it before, and half after, so that a drift of the machine's speed does not look like a cost.
"""

from __future__ import annotations

import base64
import itertools
import os
import random
import secrets
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from serving_server.errors import ResourceExhaustedError, ServingError
from serving_server.tensors import Array
from serving_server.worker import marks, op_trace
from serving_server.worker.model import Model, as_serving_error
from serving_server.worker.pacing import LEAST_RUNS, Pace
from serving_server.worker.profile_inputs import DRAWN, MAX_BYTES, Loaded, Rows, choose

__all__ = ["collect", "profile_ops", "run_times"]

#: TensorFlow's tracer names only ops that it takes for expensive at level 2, its default, and all of them at 3.
_TRACER: Final = {"host_tracer_level": 3}

#: Calls of ops that are told one by one; the sums are of all of them.
_MAX_EVENTS: Final = 20_000

#: Longest time of own traced runs: requests of this worker are traced meanwhile, and each leaves events. Seconds.
_MAX_TRACED: Final = 5.0

#: Of two clocks, to know their difference.
_CLOCK_READINGS: Final = 9

#: Bytes of a compressed trace that still travels.
_MAX_TRACE: Final = 24 << 20


def collect(during: Callable[[], None], options: dict[str, int]) -> bytes:
    """Trace this process while `during` runs; return a serialized XSpace.

    Raises
    ------
    tf.errors.OpError
        Another trace of this process goes on.
    """
    # `stop` returns the events of the trace viewer; what TensorBoard reads, an XSpace, is only ever exported. The
    # folder is made for the export only: a worker that ends in the middle of a trace leaves none behind.
    folder = Path(tempfile.gettempdir()) / f"serving-profile-{secrets.token_hex(16)}"
    session = _pywrap_profiler.ProfilerSession()
    with marks.watching():
        session.start(str(folder), options)
        try:
            during()
        finally:
            folder.mkdir(mode=0o700)
            try:
                session.export_to_tb()
                (exported,) = folder.rglob("*.xplane.pb")
                trace = exported.read_bytes()
            finally:
                shutil.rmtree(folder)
    return trace


def profile_ops(model: Model, loaded: Loaded, wish: dict[str, Any], end: threading.Event) -> dict[str, Any]:
    """Profile and return a JSON object (`serving_server.version_profiles` tells its fields).

    Parameters
    ----------
    model : Model
    loaded : Loaded
    wish : dict
        ``batches``, ``batch_size``, ``sizes``, ``runs``, ``signature``, ``request``, ``seconds``, ``busy``, ``live``,
        ``trace``; checked by the front.
    end : threading.Event
        Set when nobody waits for it any more.

    Raises
    ------
    ServingError
        The runs fail, there is no such signature, or nobody waits any more.
    """
    answer: dict[str, Any] = {"tensorflow": tf.__version__, "processors": os.cpu_count(), "threads": _threads(model)}
    busy, seconds = wish["busy"], wish["seconds"]
    if wish["live"]:
        raw = collect(lambda: _wait(end, seconds), _TRACER)
        Pace(busy, seconds, end).check()
        answer |= {"source": "live", "signature": None, "rows": None, "plain_ns": [], "profiled_ns": []}
        return answer | _read(raw, wish, own=False)
    rows = choose(loaded, wish["signature"], wish["request"])
    runnable = _runnable(model, rows)
    wished = (wish["batch_size"] or 1) if rows.batched else 1
    feeds = _feeds(rows, wished)  # too large is told before anything runs
    # Each part has a time of its own: none can take that of the next.
    sizes, failed = run_times(runnable, rows, wish["sizes"], wish["runs"], Pace(busy, seconds / 4, end))
    size = wished if wish["batch_size"] or not sizes else max(each["rows"] for each in sizes)
    if size != wished:
        feeds = _feeds(rows, size)
    _first_run(runnable, feeds, rows)
    before, marked = wish["batches"] // 2, wish["batches"]
    pace = Pace(busy, seconds / 8, end)
    plain = pace.several(before, lambda: pace.run(runnable, feeds))
    profiled: list[int] = []
    traced_seconds = min(_MAX_TRACED, seconds / 2)
    last = 0.0

    def during() -> None:
        nonlocal last
        runnable(*feeds)  # the tracer's own first steps: without a mark, so not counted
        pace = Pace(busy, traced_seconds, end)
        numbers = itertools.count()
        profiled.extend(pace.several(marked, lambda: _marked(runnable, feeds, next(numbers), pace)))
        last = time.monotonic()

    raw = collect(during, _TRACER)
    between = time.monotonic()
    pace = Pace(busy, seconds / 8, end)
    plain += pace.several(max(LEAST_RUNS, len(profiled) - len(plain)), lambda: pace.run(runnable, feeds))
    between = time.monotonic() - between
    frozen = model.frozen is not None and rows.signature.name in model.frozen.signatures
    answer |= {
        "source": rows.source,
        "signature": rows.signature.name,
        "batched": rows.batched,
        "frozen": frozen,
        "rows": size,
        "asked": marked,
        "traced_seconds": traced_seconds,
        "plain_ns": plain,
        "profiled_ns": profiled,
        "sizes": sizes,
        "failed": failed,
    }
    answer |= _read(raw, wish, own=True)
    answer["table_seconds"] = time.monotonic() - last - between
    return answer


def run_times(
    runnable: Callable[..., Sequence[Any]], rows: Rows, sizes: Sequence[int], runs: int, pace: Pace
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Measure runs by size, in random order, so that a drift of the machine's speed is no effect of the size.

    Returns
    -------
    list of dict
        ``rows`` and ``run_ns`` of each size; those from the first one that fails on are left out.
    dict or None
        ``rows`` and ``message`` of the one that failed.

    Raises
    ------
    ServingError
        Already the smallest one fails, or nobody waits any more.
    """
    usable: dict[int, list[Array]] = {}
    failed = None
    held = 0
    for size in sorted(set(sizes)) if rows.batched else [1][: len(sizes)]:
        pace.check()
        held += rows.size(size)
        try:
            if held > MAX_BYTES and usable:
                raise ResourceExhaustedError(
                    f"inputs of all sizes up to {size} rows take {held} bytes; the limit of a profile is {MAX_BYTES}"
                )
            feeds = _feeds(rows, size)
            _first_run(runnable, feeds, rows)
        except ServingError as error:
            if not usable:
                raise
            failed = {"rows": size, "message": error.message}
            break
        usable[size] = feeds
    times: dict[int, list[int]] = {size: [] for size in usable}
    order = random.Random(0)  # noqa: S311 - no secret
    for number in range(runs):
        if pace.late and number >= LEAST_RUNS:
            break
        for size in order.sample(sorted(usable), len(usable)):
            times[size].append(pace.run(runnable, usable[size]))
    return [{"rows": size, "run_ns": found} for size, found in times.items()], failed


def _runnable(model: Model, rows: Rows) -> Callable[..., list[Any]]:
    # The key that lanes and freezing use: a second function would hold the weights a second time.
    feeds = [spec.tensor_name for spec in rows.signature.inputs.values()]
    fetches = [spec.tensor_name for spec in rows.signature.outputs.values()]
    return model.runnable(feeds, fetches)[0]


def _feeds(rows: Rows, size: int) -> list[Array]:
    try:
        return rows.feeds(size)
    except MemoryError as error:
        raise ResourceExhaustedError(f"there is no memory for {size} rows") from error


def _first_run(runnable: Callable[..., Sequence[Any]], feeds: Sequence[Array], rows: Rows) -> None:
    try:
        runnable(*feeds)
    except Exception as error:
        known = as_serving_error(error)
        if rows.source == DRAWN:
            hint = "the inputs were drawn to fit the signature; give rows that the model understands"
            raise ServingError(f"{known.message} ({hint})", known.code) from error
        raise known from error


def _marked(runnable: Callable[..., list[Any]], feeds: Sequence[Array], number: int, pace: Pace) -> int:
    return pace.run(lambda *arrays: marks.run_own(runnable, arrays, number), feeds)


def _wait(end: threading.Event, seconds: float) -> None:
    end.wait(seconds)


def _threads(model: Model) -> dict[str, int]:
    config = model.config
    return {"intra_op": config.intra_op_parallelism_threads, "inter_op": config.inter_op_parallelism_threads}


def _read(raw: bytes, wish: dict[str, Any], *, own: bool) -> dict[str, Any]:
    space = xplane_pb2.XSpace.FromString(raw)
    marked = op_trace.marked_steps(space, marks.OWN if own else marks.BATCH)
    # A live run at whose begin or end the trace began or ended has no mark, and may lack ops.
    trace = op_trace.read(space, marked, _MAX_EVENTS)
    packed = base64.b64encode(zlib.compress(raw, 1)).decode() if wish["trace"] and len(raw) else None
    if packed is not None and len(packed) > _MAX_TRACE:
        packed = None
    base = _start_monotonic_ns(space)
    steps = {run.step: number for number, run in enumerate(sorted(trace.runs, key=lambda run: run.start_ns))}
    return {
        "batches": len(trace.runs),
        "run_ns": trace.run_ns,
        "ops": [
            {
                "name": op.name,
                "type": op.type,
                "calls": op.calls,
                "total_ns": op.total_ns,
                "self_ns": max(0, op.self_ns),
                "bytes": op.bytes,
            }
            for op in trace.ops
        ],
        "tracks": trace.tracks,
        "runs": [[steps[run.step], run.track, base + run.start_ns, run.duration_ns] for run in trace.runs],
        "began_ns": [None if own else marked[run.step] for run in trace.runs],
        "events": [
            [event.op, steps.get(event.step, -1), event.track, base + event.start_ns, event.duration_ns]
            for event in trace.events
        ],
        "events_left_out": sum(op.calls for op in trace.ops) - len(trace.events),
        "trace": packed,
    }


def _start_monotonic_ns(space: Any) -> int:
    """Return when the trace began, on the clock of requests (CLOCK_MONOTONIC)."""
    # The shortest of some readings: between two clocks a thread may lose its processor.
    readings = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(_CLOCK_READINGS)]
    before, now, after = min(readings, key=lambda each: each[2] - each[0])
    offset = (before + after) // 2 - now
    for plane in space.planes:
        for number, data in plane.stat_metadata.items():
            if data.name == "profile_start_time":
                return offset + next(int(each.uint64_value) for each in plane.stats if each.metadata_id == number)
    return 0
