"""Profiles in files: our own (all of it, as JSON), TensorBoard's, and the Trace Event Format of Chrome and Perfetto."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.profiling.events import OPS
from serving_workbench.profiling.result import ProfileResult

__all__ = ["load", "save", "trace_events", "write_chrome", "write_events", "write_tensorboard"]

_FORMAT: Final = "serving-workbench profile 1"


def save(result: ProfileResult, path: Path) -> Path:
    """Write a result as JSON (gzip); an existing file is replaced whole.

    Raises
    ------
    WorkbenchError
        It cannot be written.
    """
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return _write(path, gzip.compress(json.dumps({"format": _FORMAT, **fields}).encode(), 6))


def load(path: Path) -> ProfileResult:
    """Read a file of `save`.

    Raises
    ------
    WorkbenchError
        There is none, or it is something else.
    """
    try:
        value = json.loads(gzip.decompress(path.read_bytes()))
        if value.pop("format") != _FORMAT:
            raise WorkbenchError(f"'{path}' is of another format.")
        return ProfileResult(**value)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkbenchError(f"'{path}' is no saved profile: {error!r}.") from error
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be read: {error.strerror}.") from error


def write_tensorboard(result: ProfileResult, logdir: Path) -> Path:
    """Write TensorFlow's trace as ``<logdir>/plugins/profile/<date>/<model>_<version>.xplane.pb``.

    Raises
    ------
    WorkbenchError
        There is none, or it cannot be written.
    """
    packed = (result.ops_data or {}).get("trace")
    if packed is None:
        raise WorkbenchError(
            "This profile has no trace of TensorFlow's: it was not asked for (trace=True), or is over 24 MiB.",
            hint="Profile fewer batches.",
        )
    run = re.sub(r"[^\w-]", "_", result.date)
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', result.model)}_{result.version}.xplane.pb"
    return _write(logdir / "plugins" / "profile" / run / name, zlib.decompress(base64.b64decode(packed)))


def write_chrome(result: ProfileResult, path: Path) -> Path:
    """Write runs and ops, with the requests of that time, in the Trace Event Format's JSON object form.

    Raises
    ------
    WorkbenchError
        Ops were not looked at, or it cannot be written.
    """
    live = result.live_requests
    return write_events(trace_events(result) if live is None else live.trace_events(result), path)


def write_events(events: list[dict[str, Any]], path: Path) -> Path:
    """Write events in the Trace Event Format's JSON object form; an existing file is replaced whole.

    Raises
    ------
    WorkbenchError
        It cannot be written.
    """
    return _write(path, json.dumps({"displayTimeUnit": "ms", "traceEvents": events}).encode())


def trace_events(
    result: ProfileResult, process: int = OPS, batches: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Return runs and ops as complete events ("X"): one process, a track per thread of the worker.

    Parameters
    ----------
    result : ProfileResult
    process : int
        Their ``pid``, to tell them from events of other sources in one file.
    batches : mapping of int to int, optional
        The server's number of the batch by the number of the run.

    Returns
    -------
    list of dict
        ``ts`` and ``dur`` in microseconds; ``ts`` of CLOCK_MONOTONIC.

    Raises
    ------
    WorkbenchError
        Ops were not looked at.
    """
    data = result.ops_data
    if data is None:
        raise WorkbenchError("This profile has no ops: they were not looked at.")
    events: list[dict[str, Any]] = [
        _named("process_name", f"{result.model} version {result.version}: ops", process, 0),
        *(_named("thread_name", name, process, track) for track, name in enumerate(data["tracks"])),
    ]
    batches = batches or {}
    # The profile counts its runs, the server its batches: no name may make one of the other.
    kind = "profiling run" if result.rows is not None else "live run"
    for run, track, start, duration in data["runs"]:
        batch = batches.get(run)
        name = f"{kind} {run}" if batch is None else f"run of batch {batch}"
        arguments = {"run": run, "batch": batch, "rows": result.rows}
        events.append(_complete(name, "run", process, track, start, duration, arguments))
    for number, run, track, start, duration in data["events"]:
        op = data["ops"][number]
        arguments = {"run": run, "batch": batches.get(run), "type": op["type"]}
        events.append(_complete(op["name"], "op", process, track, start, duration, arguments))
    return events


def _named(what: str, name: str, process: int, track: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}


def _complete(
    name: str, category: str, process: int, track: int, start: int, duration: int, arguments: dict[str, Any]
) -> dict[str, Any]:
    place = {"pid": process, "tid": track, "ts": start / 1e3, "dur": duration / 1e3}
    return {"ph": "X", "name": name, "cat": category, **place, "args": arguments}


def _write(path: Path, content: bytes) -> Path:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path
