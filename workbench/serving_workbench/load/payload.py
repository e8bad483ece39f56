"""Requests, encoded once before the run: from arrays, DataFrames, a signature alone, or recorded traffic."""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from serving_server.signatures import DEFAULT_SIGNATURE, Signature
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from serving_workbench import sampling
from serving_workbench.errors import WorkbenchError
from serving_workbench.inputs import as_inputs
from serving_workbench.load.job import REST, Request
from serving_workbench.load.target import Target
from serving_workbench.logged_requests import log_files, read_logs

__all__ = ["Payload", "from_data", "from_logs", "from_signature", "is_log"]

Array = NDArray[Any]

#: Different requests of one run, and their bytes: more would only warm the sender's cache less.
MAX_REQUESTS: Final = 4096
MAX_BYTES: Final = 256 * 1024 * 1024
#: Different requests drawn from a signature.
_DRAWN: Final = 32
_PREDICT: Final = "/tensorflow.serving.PredictionService/"


@dataclass(frozen=True)
class Payload:
    """Requests to be sent in turn.

    Attributes
    ----------
    requests : list of Request
    rows : float
        Mean rows per request; NaN when that is not known.
    what : str
        In words.
    times : numpy.ndarray of float64 or None
        When each was recorded, in seconds.
    """

    requests: list[Request]
    rows: float
    what: str
    times: NDArray[np.float64] | None = None


def is_log(data: object) -> bool:
    """Whether it names request logs: paths, where inputs would be arrays, dicts or DataFrames."""
    if isinstance(data, str):
        return data.endswith(".tfrecord") or Path(data).expanduser().exists()
    return isinstance(data, os.PathLike) or (
        isinstance(data, list | tuple) and bool(data) and all(isinstance(each, os.PathLike) for each in data)
    )


def from_signature(target: Target, signature: Signature, rows: int) -> Payload:
    """Return requests of values that fit the signature, the same ones each time (see `sampling.draw`)."""
    batched = sampling.batch_axis(signature)
    drawn = sampling.draw(signature, rows * _DRAWN if batched else 1, with_defaults=target.protocol == REST)
    made = _split(target, signature, drawn, rows)
    return Payload(made, float(rows) if batched else math.nan, f"random values, {_size_text(made)}")


def from_data(target: Target, signature: Signature, data: object, rows: int) -> Payload:
    """Return requests of `rows` neighbouring rows each; without a batch dimension, one request of all.

    Parameters
    ----------
    data : array_like, dict, DataFrame or Series
        See `serving_workbench.inputs`.

    Raises
    ------
    PredictError
        It does not fit the signature.
    WorkbenchError
        There are no rows, or inputs differ in their number.
    """
    arrays = as_inputs(data, signature)
    if target.protocol == REST:
        arrays = {**signature.defaults, **arrays}
    made = _split(target, signature, arrays, rows)
    batched = sampling.batch_axis(signature)
    count = len(next(iter(arrays.values()))) if batched else 1
    known = float(min(rows, count)) if batched else math.nan
    return Payload(made, known, f"{count} rows of data, {_size_text(made)}" if batched else _size_text(made))


def from_logs(target: Target, logs: Any) -> Payload:
    """Return recorded requests, for the target's model.

    Raises
    ------
    WorkbenchError
        A log is not there, holds no requests, or REST is asked for: logs hold gRPC's messages.
    """
    if target.protocol == REST:
        raise WorkbenchError(
            "Request logs hold messages of gRPC, which cannot be sent over REST.", hint="protocol='grpc'"
        )
    files = log_files([logs] if isinstance(logs, str | os.PathLike) else logs)
    unreadable: list[str] = []
    requests: list[Request] = []
    seconds: list[int] = []
    size = 0
    for logged in read_logs(files, target.model, target.version, unreadable):
        size += len(logged.request)
        if size > MAX_BYTES:
            break
        requests.append((_PREDICT + logged.method, logged.request))
        seconds.append(logged.second)
    if not requests:
        raise WorkbenchError(f"There are no requests in {_names(files)}. {' '.join(unreadable[:3])}".strip())
    what = f"{len(requests)} recorded requests of {_names(files)}"
    return Payload(requests, math.nan, what, _spread(seconds))


def _names(files: list[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{len(files)} logs"


def _spread(seconds: list[int]) -> NDArray[np.float64] | None:
    """Return times of arrival: logs hold whole seconds, whose requests are spread evenly over them."""
    if not all(seconds):
        return None
    sizes, seen = Counter(seconds), Counter[int]()
    times = np.empty(len(seconds))
    for place, second in enumerate(seconds):
        times[place] = second + seen[second] / sizes[second]
        seen[second] += 1
    return times


def _split(target: Target, signature: Signature, arrays: Mapping[str, Array], rows: int) -> list[Request]:
    if not sampling.batch_axis(signature):
        return [_encode(target, signature, arrays)]
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise WorkbenchError(f"The inputs have different numbers of rows: {text}.")
    count = next(iter(counts.values()))
    if not count:
        raise WorkbenchError("The data have no rows to send.")
    made: list[Request] = []
    size = 0
    # A last request of fewer rows would make latencies of two kinds.
    for begin in range(0, max(count - rows, 0) + 1, rows):
        part = {name: array[begin : begin + rows] for name, array in arrays.items()}
        request = _encode(target, signature, part)
        size += len(request[1])
        if made and (len(made) >= MAX_REQUESTS or size > MAX_BYTES):
            break
        made.append(request)
    return made


def _encode(target: Target, signature: Signature, arrays: Mapping[str, Array]) -> Request:
    if target.protocol == REST:
        return f"{target.rest_path}:predict", _json(signature, arrays)
    request = PredictRequest()
    request.model_spec.name = target.model
    if target.version is not None:
        request.model_spec.version.value = target.version
    if signature.name != DEFAULT_SIGNATURE:
        request.model_spec.signature_name = signature.name
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(to_proto(array, as_content=True))
    return f"{_PREDICT}Predict", bytes(request.SerializeToString())


def _json(signature: Signature, arrays: Mapping[str, Array]) -> bytes:
    """Return the body of a REST request: rows where every input has a batch dimension, else named tensors."""
    values = {name: _plain(name, array) for name, array in arrays.items()}
    single = next(iter(values.values())) if len(signature.inputs) == 1 else None
    body: dict[str, Any] = {} if signature.name == DEFAULT_SIGNATURE else {"signature_name": signature.name}
    if not sampling.batch_axis(signature):
        body["inputs"] = values if single is None else single
    elif single is not None:
        body["instances"] = single
    else:
        names = list(values)
        body["instances"] = [dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(name: str, array: Array) -> Any:
    if array.dtype == object:
        coded = [{"b64": base64.b64encode(element).decode("ascii")} for element in array.ravel()]
        return _nested(coded, array.shape)
    if array.dtype.kind == "c":
        raise WorkbenchError(f"Input '{name}' is complex, which JSON cannot carry.", hint="Use protocol='grpc'.")
    if array.dtype.kind not in "iub" and array.dtype.name not in ("float32", "float64"):
        array = array.astype(np.float32)  # float16 and bfloat16
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WorkbenchError(f"Input '{name}' holds NaN or an infinity, which JSON lacks.", hint="Use protocol='grpc'.")
    return list(np.ascontiguousarray(array)) if array.ndim > 1 else array.tolist()


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _size_text(requests: list[Request]) -> str:
    sizes = [len(body) for _, body in requests]
    mean = sum(sizes) / len(sizes)
    text = f"{mean:.0f} B" if mean < 10_000 else f"{mean / 1024:.0f} KiB"
    return f"{len(requests)} requests of {text}" if len(requests) > 1 else f"a request of {text}"
