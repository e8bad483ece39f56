"""Predictions over gRPC for notebooks: arrays, DataFrames and lists in, arrays or a DataFrame out; no TensorFlow."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray

from serving_server.signatures import Signature, parse_signatures
from serving_server.tensors import TensorParsingError, to_array, to_proto
from serving_server.wire.messages import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from serving_workbench.client_stamps import HEADER, ClientStamp, checked_id, keep
from serving_workbench.errors import PredictError
from serving_workbench.inputs import as_inputs, is_dataframe
from serving_workbench.savedmodel import default_signature_name, usable_signatures

__all__ = ["CHANNEL_OPTIONS", "PredictClient", "decode_text"]

Array = NDArray[Any]
_SERVICE = "/tensorflow.serving.PredictionService/"
CHANNEL_OPTIONS = (
    # The protocol's own limit (a length is 31 bits); gRPC's default of 4 MB is one medium batch of images.
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.max_send_message_length", 2**31 - 1),
    # The server is on this machine: a proxy from the environment would send the request away.
    ("grpc.enable_http_proxy", 0),
)
#: Answers after which a remembered signature may be out of date: another version answers meanwhile.
_MAYBE_CHANGED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"})


class PredictClient:
    """A gRPC channel to one server, with the signatures of its models remembered.

    Parameters
    ----------
    endpoint : str
        ``host:port``.
    credentials : grpc.ChannelCredentials, optional
        For a server with TLS.

    Notes
    -----
    Safe to use from several threads. `close` it, or use it as a context manager.

    Predictions with a `request_id` leave their times in `serving_workbench.client_stamps`.
    """

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.endpoint = endpoint
        if credentials is None:
            self._channel = grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(f"{_SERVICE}Predict")  # of bytes: what encoding takes is stamped
        self._metadata = self._channel.unary_unary(
            f"{_SERVICE}GetModelMetadata",
            request_serializer=GetModelMetadataRequest.SerializeToString,
            response_deserializer=GetModelMetadataResponse.FromString,
        )
        self._lock = threading.Lock()
        self._signatures: dict[tuple[str, int | str | None], dict[str, Signature]] = {}

    def close(self) -> None:
        """Close the channel; idempotent."""
        self._channel.close()

    def __enter__(self) -> PredictClient:  # noqa: PYI034 - not meant to be derived from
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def signatures(self, name: str, version: int | str | None = None, *, timeout: float = 10.0) -> dict[str, Signature]:
        """Ask for the callable signatures of a model: of a version by number or label, else of the serving one.

        Raises
        ------
        PredictError
            With the server's code and message.
        """
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        _fill_spec(request.model_spec, name, version)
        answer = self._call(self._metadata, request, timeout, name, version)
        definitions = SignatureDefMap()
        answer.metadata["signature_def"].Unpack(definitions)
        found = usable_signatures(parse_signatures(definitions.signature_def))
        with self._lock:
            self._signatures[name, version] = found
        return found

    def forget(self, name: str) -> None:
        """Drop the remembered signatures of a model: it was deployed anew."""
        with self._lock:
            self._signatures = {key: value for key, value in self._signatures.items() if key[0] != name}

    def predict(
        self,
        name: str,
        x: object,
        *,
        version: int | str | None = None,
        signature: str | None = None,
        timeout: float = 10.0,
        raw_strings: bool = False,
        request_id: str | bool | None = None,
    ) -> Any:
        """Return the model's answer.

        Parameters
        ----------
        name : str
            Model name.
        x : array_like, dict, DataFrame or Series
            See `serving_workbench.inputs`.
        version : int or str, optional
            A number, or a label; by default the version that the server chooses (the serving one).
        signature : str, optional
            By default ``serving_default``, or the only one there is.
        timeout : float
            Seconds until DEADLINE_EXCEEDED.
        raw_strings : bool
            String outputs are arrays of `str` when all their elements are valid UTF-8, else of `bytes`; True keeps
            `bytes` always.
        request_id : str or bool, optional
            Sent as ``x-request-id``, by which `ServedModel.requests` finds it, with its times here; True: a fresh
            one. It makes a request of one row about 0.15 ms longer, so by default there is none.

        Returns
        -------
        numpy.ndarray, dict of str to numpy.ndarray, or DataFrame
            The array of a single output, else a dict by output name. For a DataFrame whose rows all outputs follow
            (shape [n] or [n, k]): a DataFrame with the same index, one column per output or per element of it.

        Raises
        ------
        PredictError
            Refused here (a wrong input), by the server, or not answered in time; ``.code`` says which.
        """
        finish = functools.partial(_answer_for, x, raw_strings=raw_strings)
        return self._outputs(name, x, version, signature, timeout, checked_id(request_id), finish)

    def outputs(
        self,
        name: str,
        x: object,
        *,
        version: int | str | None = None,
        signature: str | None = None,
        timeout: float = 10.0,
    ) -> dict[str, Array]:
        """Return every output by name, strings as `bytes`; see `predict`."""
        found: dict[str, Array] = self._outputs(name, x, version, signature, timeout, None, lambda each: each)
        return found

    def _outputs(
        self,
        name: str,
        x: object,
        version: int | str | None,
        signature: str | None,
        timeout: float,
        request_id: str | None,
        finish: Callable[[dict[str, Array]], Any],
    ) -> Any:
        """Return what `finish` makes of the outputs; that counts as reading the answer."""
        with self._lock:
            remembered = self._signatures.get((name, version))
        if remembered is not None:
            try:
                chosen = _choose(remembered, signature, name)
                return self._ask(name, version, chosen, x, timeout, request_id, finish)
            except PredictError as error:
                if error.code not in _MAYBE_CHANGED:
                    raise
                if self.signatures(name, version, timeout=timeout) == remembered:
                    raise
        found = self.signatures(name, version, timeout=timeout)
        return self._ask(name, version, _choose(found, signature, name), x, timeout, request_id, finish)

    def _ask(
        self,
        name: str,
        version: int | str | None,
        signature: Signature,
        x: object,
        timeout: float,
        request_id: str | None,
        finish: Callable[[dict[str, Array]], Any],
    ) -> Any:
        begun = perf_counter()
        request = PredictRequest()
        _fill_spec(request.model_spec, name, version)
        request.model_spec.signature_name = signature.name
        for key, array in as_inputs(x, signature).items():
            request.inputs[key].CopyFrom(to_proto(array, as_content=True))
        try:
            message = request.SerializeToString()
        except EncodeError as error:
            raise PredictError(f"The request cannot be written: {error}", code="INTERNAL") from error
        sent = perf_counter()
        said = self._call(self._predict, message, timeout, name, version, request_id)
        answered = perf_counter()
        try:
            answer = PredictResponse.FromString(said)
        except DecodeError as error:
            raise PredictError(f"The answer cannot be read: {error}", code="INTERNAL") from error
        found = finish(_arrays(answer.outputs))
        if request_id is not None:
            keep(ClientStamp(request_id, begun, sent, answered, perf_counter()))
        return found

    def _call(
        self,
        method: Any,
        request: Any,
        timeout: float,
        name: str,
        version: int | str | None,
        request_id: str | None = None,
    ) -> Any:
        try:
            metadata = None if request_id is None else ((HEADER, request_id),)
            return method(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code().name
            hint = None
            if code == "DEADLINE_EXCEEDED":
                hint = f"Nothing came in {timeout:g} s: pass a longer timeout=, or look at the status of '{name}'."
            elif code == "UNAVAILABLE" and "failed to connect" in str(error.details()).lower():
                hint = f"No server listens at {self.endpoint}: it was stopped or restarted; serve or connect again."
            elif isinstance(version, str) and "label" in str(error.details()):
                hint = f"See which labels there are: sw.label('{name}') or %serve label {name}."
            # `from None`: gRPC's own traceback fills a screen and says nothing more.
            said = f"{code}: {error.details()}"
            if hint is not None and not said.endswith("."):
                said += "."  # the hint is a sentence of its own
            raise PredictError(said, code=code, hint=hint) from None


def _fill_spec(spec: Any, name: str, version: int | str | None) -> None:
    spec.name = name
    if isinstance(version, str):
        spec.version_label = version
    elif version is not None:
        spec.version.value = version


def _choose(signatures: Mapping[str, Signature], wanted: str | None, name: str) -> Signature:
    if wanted is None and (len(signatures) == 1 or "serving_default" in signatures):
        return signatures[default_signature_name(dict(signatures))]
    if wanted is not None and wanted in signatures:
        return signatures[wanted]
    known = ", ".join(f"'{n}'" for n in signatures) or "none"
    problem = f"has no signature '{wanted}'" if wanted else "has no signature 'serving_default'"
    raise PredictError(
        f"Model '{name}' {problem}; its signatures are {known}.",
        code="INVALID_ARGUMENT",
        hint="Pass signature=<one of these>.",
    )


def _arrays(outputs: Any) -> dict[str, Array]:
    arrays = {}
    for key in sorted(outputs):
        try:
            array = to_array(outputs[key])
        except TensorParsingError as error:
            raise PredictError(f"Output '{key}' cannot be read: {error}", code="INTERNAL") from error
        # A view of the message is read-only and perhaps unaligned; users change what they get.
        arrays[key] = array if array.flags.writeable and array.flags.aligned else array.copy()
    return arrays


def _answer_for(x: object, outputs: dict[str, Array], *, raw_strings: bool) -> Any:
    """Return outputs in the form that fits what was asked; see `PredictClient.predict`."""
    if not raw_strings:
        outputs = {key: decode_text(array) for key, array in outputs.items()}
    if is_dataframe(x):
        frame = _as_frame(outputs, x)
        if frame is not None:
            return frame
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def decode_text(array: Array) -> Array:
    """Return an object array of `bytes` as one of `str` when every element is valid UTF-8, else as it is."""
    if array.dtype != object:
        return array
    whole = np.empty(array.size, dtype=object)
    try:
        for index, element in enumerate(array.ravel()):
            whole[index] = element.decode()
    except UnicodeDecodeError:
        return array
    return whole.reshape(array.shape)


def _as_frame(outputs: Mapping[str, Array], given: Any) -> Any:
    columns: dict[str, Array] = {}
    for key, array in outputs.items():
        if array.ndim not in (1, 2) or array.shape[0] != len(given):
            return None
        if array.ndim == 1 or array.shape[1] == 1:
            columns[key] = array.reshape(-1)
        else:
            columns.update({f"{key}_{i}": array[:, i] for i in range(array.shape[1])})
    return type(given)(columns, index=given.index)
