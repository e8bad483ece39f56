"""Replay recorded requests before a version is AVAILABLE, so that its first client does not pay for lazy start-up.

The file is TensorFlow Serving's: `assets.extra/tf_serving_warmup_requests`, a TFRecord of `PredictionLog` with at most
1,000 records. The model name and version inside a record are not looked at, only the signature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from google.protobuf.message import DecodeError

from serving_server.errors import InvalidArgumentError, ServingError, StatusCode, UnimplementedError
from serving_server.inputs import check_dtypes, check_inputs, select_outputs, signature_of
from serving_server.signatures import Signature
from serving_server.tensors import Array, TensorParsingError, to_array
from serving_server.wire.messages import PredictionLog
from serving_server.worker.model import Model, as_serving_error

__all__ = ["MAX_RECORDS", "WarmupRequest", "read", "replay", "warmup_file"]

MAX_RECORDS: Final = 1000


def warmup_file(version_folder: Path) -> Path:
    """Return where a version's warmup records lie (the file may not exist)."""
    return version_folder / "assets.extra" / "tf_serving_warmup_requests"


def _records(path: Path) -> Iterator[Any]:
    count = 0
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            count += 1
            if count > MAX_RECORDS:
                msg = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                raise InvalidArgumentError(msg)
            try:
                yield PredictionLog.FromString(record)
            except DecodeError as error:
                raise InvalidArgumentError(f"Failed to parse warmup record: {count} of {path}") from error
    except tf.errors.DataLossError as error:
        msg = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(msg, StatusCode.DATA_LOSS) from error


@dataclasses.dataclass(frozen=True, slots=True)
class WarmupRequest:
    """One recorded Predict request, checked against its signature."""

    signature: Signature
    inputs: dict[str, Array]
    outputs: Sequence[str]


def read(signatures: Mapping[str, Signature], version_folder: Path) -> list[WarmupRequest]:
    """Return every recorded request of a version; none without a file.

    Raises
    ------
    ServingError
        When a record cannot be read or does not fit the model: the version must not become AVAILABLE.
    """
    path = warmup_file(version_folder)
    if not path.exists():
        return []
    requests = []
    for entry in _records(path):
        kind = entry.WhichOneof("log_type")
        if kind is None:
            continue
        if kind != "predict_log":
            number = entry.DESCRIPTOR.fields_by_name[kind].number
            raise UnimplementedError(f"Unsupported log_type for warmup: {number}")
        requests.append(_read_one(signatures, entry.predict_log.request))
    return requests


def _read_one(signatures: Mapping[str, Signature], request: Any) -> WarmupRequest:
    signature = signature_of(signatures, request.model_spec.signature_name)
    check_inputs(signature, request.inputs.keys())
    outputs = select_outputs(signature, request.output_filter)
    given = {}
    for alias, proto in request.inputs.items():
        try:
            given[alias] = to_array(proto)
        except TensorParsingError as error:
            raise InvalidArgumentError(f"tensor parsing error: {alias} ({error})") from error
    inputs = {alias: given[alias] if alias in given else signature.defaults[alias] for alias in signature.inputs}
    check_dtypes(signature, inputs)
    return WarmupRequest(signature, inputs, outputs)


def replay(model: Model, requests: Sequence[WarmupRequest]) -> None:
    """Run each request once.

    Raises
    ------
    ServingError
        When one fails.
    """
    for request in requests:
        feeds = [request.signature.inputs[alias].tensor_name for alias in request.inputs]
        fetches = [request.signature.outputs[alias].tensor_name for alias in request.outputs]
        runnable, _ = model.runnable(feeds, fetches)
        try:
            runnable(*request.inputs.values())
        except Exception as error:
            raise as_serving_error(error) from error
