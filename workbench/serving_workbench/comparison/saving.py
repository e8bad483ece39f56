"""Comparisons in files (``.npz``: numeric arrays, and the rest as JSON): all comes back but the server."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.evidence import Check, Estimate, Head, Metric, Slice
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.result import CompareResult, Evidence, Rows
from serving_workbench.errors import WorkbenchError

__all__ = ["load", "save"]

_FORMAT: Final = "serving-workbench comparison 1"
_PLAIN: Final = ("model", "a", "b", "source", "date", "seconds", "complete", "sequence")


def save(result: CompareResult, path: Path) -> Path:
    """Write a result; an existing file is replaced whole.

    Raises
    ------
    WorkbenchError
        It cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    value: dict[str, Any] = {
        "format": _FORMAT,
        **{name: getattr(result, name) for name in _PLAIN},
        "metrics": [dataclasses.asdict(each) for each in result.metrics],
        "heads": [dataclasses.asdict(each) for each in result.heads],
        "slices": [dataclasses.asdict(each) for each in result.slices],
        "checks": [dataclasses.asdict(each) for each in result.checks],
        "margins": dict(result.margins.declared),
        "latency": vars(result.latency),
        "rows": None if result.rows is None else vars(result.rows),
    }
    arrays["comparison"] = np.frombuffer(json.dumps(_put(value, arrays)).encode(), np.uint8)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for a name
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path


def load(path: Path) -> CompareResult:
    """Read a file of `save`.

    Raises
    ------
    WorkbenchError
        There is none, or it is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        value = _take(json.loads(arrays.pop("comparison").tobytes()), arrays)
        if value["format"] != _FORMAT:
            raise WorkbenchError(f"'{path}' is of another format: {value['format']!r}.")
        return CompareResult(
            **{name: value[name] for name in _PLAIN},
            metrics=[_metric(each) for each in value["metrics"]],
            heads=[_head(each) for each in value["heads"]],
            slices=[Slice(**{**each, "metric": _metric(each["metric"])}) for each in value["slices"]],
            checks=[Check(**each) for each in value["checks"]],
            margins=Margins(value["margins"]),
            latency=Evidence(**value["latency"]),
            rows=None if value["rows"] is None else Rows(**value["rows"]),
        )
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise WorkbenchError(f"'{path}' is no saved comparison: {error!r}.") from error


def _metric(value: dict[str, Any]) -> Metric:
    return Metric(**{**value, "difference": Estimate(**value["difference"])})


def _head(value: dict[str, Any]) -> Head:
    drift = value["drift"]
    return Head(
        **{
            **value,
            "differing": tuple(value["differing"]),
            "failures": tuple(value["failures"]),
            "confusion": [tuple(each) for each in value["confusion"]],
            "drift": None if drift is None else _metric(drift),
        }
    )


def _put(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return a value as JSON has it; numeric arrays go to `arrays`, and their names stay."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            return {"$objects": [_put(each, arrays) for each in value.ravel().tolist()], "shape": list(value.shape)}
        name = f"array{len(arrays)}"
        arrays[name] = value if value.dtype.kind in "biufc" else value.astype(np.float32)  # bfloat16 is numpy's to none
        return {"$array": name}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _put(each, arrays) for key, each in value.items()}
        return {"$pairs": [[_put(key, arrays), _put(each, arrays)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_put(each, arrays) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _take(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_take(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$float" in value:
        return float(value["$float"])
    if "$objects" in value:
        whole = np.empty(len(value["$objects"]), dtype=object)
        for index, each in enumerate(value["$objects"]):
            whole[index] = _take(each, arrays)
        return whole.reshape(value["shape"])
    if "$pairs" in value:
        return {_take(key, arrays): _take(each, arrays) for key, each in value["$pairs"]}
    return {key: _take(each, arrays) for key, each in value.items()}
