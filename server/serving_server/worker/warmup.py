"""Replay recorded requests before a version is AVAILABLE, so that its first client does not pay for lazy start-up.

The file is TensorFlow Serving's: `assets.extra/tf_serving_warmup_requests`, a TFRecord of `PredictionLog` with at most
1,000 records. The model name and version inside a record are not looked at, only the signature; the names of a
MultiInference must be there and agree, as in a request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from serving_server import classification, multi_inference, regression
from serving_server.errors import DataLossError, InvalidArgumentError, ServingError, UnimplementedError
from serving_server.examples import feed_input
from serving_server.inputs import (
    check_dtypes,
    check_inputs,
    check_method,
    example_signature,
    select_outputs,
    signature_of,
)
from serving_server.multi_inference import InferenceTask
from serving_server.place import Place
from serving_server.signatures import Signature
from serving_server.tensors import Array, TensorParsingError, to_array
from serving_server.wire import tfrecord
from serving_server.wire.messages import PredictionLog, SerializedInput
from serving_server.wire.warmup_file import MAX_RECORDS, warmup_file
from serving_server.worker import files
from serving_server.worker.model import as_serving_error
from serving_server.worker.runner import Runner

__all__ = ["WarmupRequest", "of_request", "read", "replay"]


def _records(path: Place) -> Iterator[Any]:
    try:
        for count, record in enumerate(tfrecord.read(path, files.open_binary), 1):
            if count > MAX_RECORDS:
                msg = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                raise InvalidArgumentError(msg)
            try:
                yield PredictionLog.FromString(record)
            except DecodeError as error:
                raise InvalidArgumentError(f"Failed to parse warmup record: {count} of {path}") from error
    except DataLossError as error:
        msg = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise DataLossError(msg) from error


@dataclasses.dataclass(frozen=True, slots=True)
class WarmupRequest:
    """One recorded request, checked against its signature.

    Attributes
    ----------
    signature : Signature
    inputs : dict of str to ndarray
    outputs : sequence of str
        Aliases to compute.
    check : callable
        Takes the outputs by alias; raises ServingError when they are not what the request's method needs.
    """

    signature: Signature
    inputs: dict[str, Array]
    outputs: Sequence[str]
    check: Callable[[Mapping[str, Array]], object]


def read(
    signatures: Mapping[str, Signature], definitions: Any, version_folder: Place, *, check_method_names: bool
) -> list[WarmupRequest]:
    """Return every recorded request of a version; none without a file.

    Parameters
    ----------
    signatures : mapping of str to Signature
    definitions : mapping of str to message
        The same as `SignatureDef`.
    version_folder : Path or RemotePath
    check_method_names : bool
        As requests are checked (``--enable_signature_method_name_check``).

    Raises
    ------
    ServingError
        When a record cannot be read or does not fit the model: the version must not become AVAILABLE.
    """
    path = warmup_file(version_folder)
    if not files.exists(path):
        return []
    reader = _Reader(signatures, definitions, check_method_names=check_method_names)
    requests = []
    for number, entry in enumerate(_records(path), 1):
        try:
            request = reader.read(entry)
        except ServingError as error:
            raise ServingError(f"{error.message} (warmup record {number} of {path})", error.code) from error
        if request is not None:
            requests.append(request)
    return requests


def of_request(signatures: Mapping[str, Signature], request: Any) -> WarmupRequest:
    """Return a PredictRequest as what can be run.

    Raises
    ------
    ServingError
        It does not fit the model.
    """
    return _Reader(signatures, {}, check_method_names=False).predict(request)


class _Reader:
    """Turns records into requests by the rules that requests of clients are under."""

    def __init__(self, signatures: Mapping[str, Signature], definitions: Any, *, check_method_names: bool) -> None:
        self._signatures = signatures
        self._definitions = definitions
        self._check = check_method_names

    def read(self, entry: Any) -> WarmupRequest | None:
        """Return the request of a `PredictionLog`; None when it holds none."""
        kind = entry.WhichOneof("log_type")
        if kind == "predict_log":
            return self.predict(entry.predict_log.request)
        if kind == "classify_log":
            return self._examples(entry.classify_log.request, classification.check, classification.result)
        if kind == "regress_log":
            return self._examples(entry.regress_log.request, regression.check, regression.result)
        if kind == "multi_inference_log":
            return self._multi(entry.multi_inference_log.request)
        if kind is None:
            # An empty one, or a kind that is no longer part of the definition: it is there, but cannot be read.
            unknown = [field.field_number for field in cast("Any", UnknownFieldSet(entry))]
            if not unknown:
                return None
            number = unknown[0]
        else:
            number = entry.DESCRIPTOR.fields_by_name[kind].number
        raise UnimplementedError(f"Unsupported log_type for warmup: {number}")

    def predict(self, request: Any) -> WarmupRequest:
        """Return what a PredictRequest asks for."""
        signature = signature_of(self._signatures, request.model_spec.signature_name)
        if self._check:
            check_method(signature)
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
        return WarmupRequest(signature, inputs, outputs, dict)  # any outputs will do

    def _examples(
        self, request: Any, check: Callable[..., tuple[str, ...]], result: Callable[[Mapping[str, Array], int], object]
    ) -> WarmupRequest:
        signature = example_signature(self._signatures, request.model_spec.signature_name)
        outputs = check(signature, self._definitions[signature.name], method_name=self._check)
        inputs, count = _feed(signature, request)
        return WarmupRequest(signature, inputs, outputs, lambda given: result(given, count))

    def _multi(self, request: Any) -> WarmupRequest:
        tasks = [
            InferenceTask(task.model_spec.name, task.model_spec.signature_name, task.method_name)
            for task in request.tasks
        ]
        wanted = multi_inference.plan(tasks, self._signatures, self._definitions, method_name=self._check)
        signature = multi_inference.union(wanted)
        inputs, count = _feed(signature, request)
        return WarmupRequest(
            signature, inputs, wanted.fetches, lambda given: multi_inference.results(wanted, given, count)
        )


def _feed(signature: Signature, request: Any) -> tuple[dict[str, Array], int]:
    """Return the examples of a request for each input of a signature, and how many they are."""
    strings = feed_input(SerializedInput.FromString(request.input.SerializeToString()))
    inputs = dict.fromkeys(signature.inputs, strings)
    check_dtypes(signature, inputs)
    return inputs, len(strings)


def replay(model: Runner, requests: Sequence[WarmupRequest], iterations: int = 1) -> None:
    """Run each request, `iterations` times.

    Raises
    ------
    ServingError
        When one fails.
    """
    for request in requests:
        feeds = [request.signature.inputs[alias].tensor_name for alias in request.inputs]
        fetches = [request.signature.outputs[alias].tensor_name for alias in request.outputs]
        runnable, _ = model.runnable(feeds, fetches)
        for _ in range(iterations):
            try:
                outputs = runnable(*request.inputs.values())
                request.check(dict(zip(request.outputs, map(np.asarray, outputs), strict=True)))
            except Exception as error:
                raise as_serving_error(error) from error
