"""Predict between bytes and arrays: the part of gRPC that does not depend on the HTTP/2 stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from serving_server.errors import InternalError, InvalidArgumentError, ServingError, StatusCode
from serving_server.inference import Inference, Resolved, VersionStatus
from serving_server.inputs import check_inputs
from serving_server.lifecycle.states import State
from serving_server.stamps.asked import Asked
from serving_server.tensors import Array, TensorParsingError, to_array
from serving_server.traffic.router import Caller
from serving_server.wire import messages, predict_response

__all__ = [
    "ServableSpec",
    "cut_details",
    "decode",
    "encode_metadata",
    "encode_predict",
    "encode_status",
    "predict_inputs",
    "target",
]

#: (model, version, label)
ServableSpec = tuple[str, int | None, str | None]

#: TensorFlow Serving cuts error details there (grpc_status_util.cc).
_MAX_DETAILS: Final = 1024


def cut_details(message: str) -> str:
    """Return an error text as it goes over gRPC."""
    return message if len(message) <= _MAX_DETAILS else message[:_MAX_DETAILS] + "...TRUNCATED"


def decode(message_class: Any, data: bytes, name: str = "") -> Any:
    """Parse a request; `name` is what clients call its message, where ours has another name.

    Raises
    ------
    InternalError
        As gRPC servers say it when bytes are no such message.
    """
    try:
        return message_class.FromString(data)
    except DecodeError as error:
        raise InternalError(f"cannot parse {name or message_class.DESCRIPTOR.full_name}: {error}") from None


def target(request: Any) -> ServableSpec:
    """Return what a request's ModelSpec names.

    Raises
    ------
    InvalidArgumentError
        When there is none.
    """
    if not request.HasField("model_spec"):
        raise InvalidArgumentError("Missing ModelSpec")
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def predict_inputs(
    inference: Inference,
    request: Any,
    caller: Caller | None = None,
    received: float = 0.0,
    asked: Asked | None = None,
) -> tuple[Resolved, dict[str, Array]]:
    """Return the target and the inputs of a PredictRequest.

    Parameters
    ----------
    inference : Inference
    request : PredictRequest
    caller : Caller, optional
        As for `Inference.servable`.
    received, asked
        As of `Task`.

    Raises
    ------
    ServingError
        In TensorFlow Serving's order: the version, the signature, the names, the tensors.
    """
    resolved = inference.signature(*target(request), request.model_spec.signature_name, caller)
    try:
        return resolved, _arrays(resolved, request.inputs)
    except ServingError as error:
        resolved.refused(error, received, asked)
        raise


def _arrays(resolved: Resolved, protos: Mapping[str, Any]) -> dict[str, Array]:
    check_inputs(resolved.signature, protos.keys())
    arrays = {}
    for alias, proto in sorted(protos.items()) if len(protos) > 1 else protos.items():  # the same error for all
        try:
            arrays[alias] = to_array(proto)
        except (TensorParsingError, OverflowError) as error:
            raise InvalidArgumentError(f"tensor parsing error: {alias} ({error})") from None
    return arrays


def encode_predict(name: str, resolved: Resolved, outputs: Mapping[str, Array], *, tensor_content: bool) -> bytes:
    """Return the serialized PredictResponse of outputs by alias (copies them)."""
    signature = resolved.signature
    return predict_response.encode(
        name, resolved.version, signature.name, outputs, signature.output_dtypes, tensor_content=tensor_content
    )


def encode_status(statuses: list[VersionStatus]) -> bytes:
    """Return the serialized GetModelStatusResponse."""
    response = messages.GetModelStatusResponse()
    for version, state, code, message in statuses:
        entry = response.model_version_status.add(version=version, state=State[state])
        entry.status.error_code = StatusCode[code]
        entry.status.error_message = message
    return bytes(response.SerializeToString())


def encode_metadata(inference: Inference, request: Any) -> bytes:
    """Return the serialized answer to a GetModelMetadataRequest.

    Raises
    ------
    ServingError
        With TensorFlow Serving's texts.
    """
    spec = target(request)
    if not request.metadata_field:
        raise InvalidArgumentError("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise InvalidArgumentError(f"Metadata field {field} is not supported")
    version, signature_defs = inference.metadata(*spec)
    response = messages.GetModelMetadataResponse()
    response.model_spec.name = spec[0]
    response.model_spec.version.value = version
    entry = response.metadata["signature_def"]
    entry.type_url = messages.ANY_TYPE_PREFIX + signature_defs.DESCRIPTOR.full_name
    entry.value = signature_defs.SerializeToString()
    return bytes(response.SerializeToString())
