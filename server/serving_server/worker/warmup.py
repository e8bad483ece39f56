"""Replay recorded requests before a version is AVAILABLE, so that its first client does not pay for lazy start-up.

The file is TensorFlow Serving's: `assets.extra/tf_serving_warmup_requests`, a TFRecord of `PredictionLog` with at most
1,000 records. The model name and version inside a record are not looked at, only the signature.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tensorflow as tf
from google.protobuf.message import DecodeError

from serving_server.errors import InvalidArgumentError, ServingError, StatusCode, UnimplementedError
from serving_server.inputs import check_inputs, select_outputs, signature_of
from serving_server.signatures import Signature
from serving_server.tensors import TensorParsingError, to_array
from serving_server.wire.messages import PredictionLog
from serving_server.worker.model import Model, as_serving_error

__all__ = ["MAX_RECORDS", "replay", "warmup_file"]

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


def replay(model: Model, signatures: dict[str, Signature], version_folder: Path) -> int:
    """Run every recorded request once and return how many there were (0 without a file).

    Raises
    ------
    ServingError
        When a record cannot be read or fails: the version must not become AVAILABLE.
    """
    path = warmup_file(version_folder)
    if not path.exists():
        return 0
    count = 0
    for entry in _records(path):
        kind = entry.WhichOneof("log_type")
        if kind is None:
            continue
        if kind != "predict_log":
            number = entry.DESCRIPTOR.fields_by_name[kind].number
            raise UnimplementedError(f"Unsupported log_type for warmup: {number}")
        _run(model, signatures, entry.predict_log.request)
        count += 1
    return count


def _run(model: Model, signatures: dict[str, Signature], request: Any) -> None:
    signature = signature_of(signatures, request.model_spec.signature_name)
    check_inputs(signature, request.inputs.keys())
    outputs = select_outputs(signature, request.output_filter)
    try:
        arrays = {alias: to_array(proto) for alias, proto in request.inputs.items()}
    except TensorParsingError as error:
        raise InvalidArgumentError(f"tensor parsing error: {error}") from error
    arrays = {**{k: v for k, v in signature.defaults.items() if k not in arrays}, **arrays}
    feeds = [signature.inputs[alias].tensor_name for alias in arrays]
    runnable, _ = model.runnable(feeds, [signature.outputs[alias].tensor_name for alias in outputs])
    try:
        runnable(*arrays.values())
    except Exception as error:
        raise as_serving_error(error) from error
