"""Files of a load test: saved whole, and exported for other tools."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving_workbench.errors import WorkbenchError
from serving_workbench.load.objective import Objective
from serving_workbench.load.records import Client, Records
from serving_workbench.load.result import LoadResult
from serving_workbench.load.summary import Setup, plain

__all__ = ["load", "save", "to_csv", "to_hgrm", "to_json"]

#: Written into each file; a reader refuses others.
_FORMAT: Final = "serving-workbench load test 1"
_ARRAYS: Final = ("scheduled", "sent", "answered", "status", "waited", "ticks")


def save(result: LoadResult, path: Path) -> Path:
    """See `LoadResult.save`."""
    records, setup = result.records, result.setup
    head = {
        "format": _FORMAT,
        "setup": dataclasses.asdict(setup),
        "client": dataclasses.asdict(records.client),
        "texts": {str(code): text for code, text in records.texts.items()},
        "reason": records.reason,
        "began_unix": records.began_unix,
        "began": records.began,
    }
    arrays = {name: getattr(records, name) for name in _ARRAYS}
    if not setup.open:
        del arrays["scheduled"]  # it is `sent`
    buffer = io.BytesIO()
    np.savez_compressed(buffer, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
    return _write(path, buffer.getvalue())


def load(path: Path) -> LoadResult:
    """See `LoadResult.load`."""
    try:
        with path.expanduser().open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            if head["format"] != _FORMAT:
                raise ValueError(f"its format is {head['format']!r}")
            arrays = {name: file[name] for name in _ARRAYS if name in file.files}
        objective = head["setup"].pop("slo")
        setup = Setup(**head["setup"], slo=None if objective is None else Objective(**objective))
        if "scheduled" not in arrays:
            arrays["scheduled"] = arrays["sent"]
        records = Records(
            **arrays,
            texts={int(code): text for code, text in head["texts"].items()},
            reason=head["reason"],
            client=Client(**head["client"]),
            began_unix=head["began_unix"],
            began=head["began"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"'{path}' is no saved load test: {error}") from error
    return LoadResult(setup, records)


def to_csv(result: LoadResult, path: Path) -> Path:
    """See `LoadResult.to_csv`."""
    return _write(path, result.to_frame().to_csv(index=False, float_format="%.9g").encode())


def to_json(result: LoadResult, path: Path | None) -> str:
    """See `LoadResult.to_json`."""
    facts: dict[str, Any] = {
        "setup": plain(result.setup),
        "summary": plain(result.summary),
        "client": plain(result.records.client),
        "complete": result.complete,
        "began_unix": result.records.began_unix,
    }
    text = json.dumps(facts, indent=2)
    if path is not None:
        _write(path, text.encode())
    return text


def to_hgrm(result: LoadResult, path: Path) -> Path:
    """See `LoadResult.to_hgrm`."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise WorkbenchError(
            "The distribution is written by the package 'hdrhistogram', which is not installed.",
            hint="Install it, in the clone, with: pip install '.[tune]'.",
        ) from None
    summary, records = result.summary, result.records
    counted = records.good & (records.scheduled >= summary.start) & (records.scheduled < summary.stop)
    micros = np.maximum(records.latency[counted] * 1e6, 1).astype(np.int64)
    histogram = HdrHistogram(1, max(2, int(micros.max(initial=1))), 3)
    for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    buffer = io.BytesIO()
    histogram.output_percentile_distribution(buffer, 1000.0)
    return _write(path, buffer.getvalue())


def _write(path: Path, data: bytes) -> Path:
    """Replace a file whole or not at all."""
    path = path.expanduser()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise WorkbenchError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path
