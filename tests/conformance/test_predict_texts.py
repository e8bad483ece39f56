"""Every refusal of Predict and of ModelSpecs over gRPC, on both transports: code and text are TensorFlow Serving's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving_server.tensors import to_proto
from serving_server.wire import messages
from tests.conformance.told import differs
from tests.examples import refused
from tests.servers import ServerProcess, SharedServer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

INVALID = "INVALID_ARGUMENT"
ONE = np.float32([1])


def _request(model: str, *filtered: str, signature: str = "", **inputs: Any) -> Any:
    """A PredictRequest; inputs are arrays, or TensorProtos as they are."""
    request = messages.PredictRequest(output_filter=filtered)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(value if isinstance(value, messages.TensorProto) else to_proto(value))
    return request


def _tensor(size: int = 1, **fields: Any) -> Any:
    proto = messages.TensorProto(**fields)
    proto.tensor_shape.dim.add(size=size)
    return proto


def _version(request: Any, version: int) -> Any:
    request.model_spec.version.value = version
    return request


UNTYPED = _tensor(float_val=[1])
CUT = _tensor(2, dtype=1, tensor_content=b"123")
NEGATIVE = _tensor(-1, dtype=1)

#: name: (request, code, text)
PREDICTIONS: dict[str, tuple[Any, str, str]] = {
    "no spec": (messages.PredictRequest(), INVALID, "Missing ModelSpec"),
    "no name": (_request("", x=ONE), INVALID, "ModelSpec has no name specified."),
    "no model": (_request("absent", x=ONE), "NOT_FOUND", "Servable not found for request: Latest(absent)"),
    "no version": (
        _version(_request("half_plus_two", x=ONE), 9),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 9)",
    ),
    "version 0 is a version": (
        _version(_request("half_plus_two", x=ONE), 0),
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 0)",
    ),
    "no version of no model": (
        _version(_request("absent", x=ONE), 3),
        "NOT_FOUND",
        "Servable not found for request: Specific(absent, 3)",
    ),
    "no signature": (
        _request("half_plus_two", signature="other", x=ONE),
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    ),
    "the signature before the inputs": (
        _request("half_plus_two", "nothing", signature="other", z=UNTYPED),
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    ),
    "too many inputs": (
        _request("half_plus_two", x=ONE, z=ONE),
        INVALID,
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "too few inputs": (
        _request("multi", a=ONE),
        INVALID,
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    "too many inputs for a signature with defaults": (
        _request("with_default", x=ONE, bias=np.float32(1), z=ONE),
        INVALID,
        (
            "input size does not match signature: 3!=2 len({bias,x,z}) != len({bias,x}). Sent extra: {z}. "
            "Missing but required: {}."
        ),
    ),
    "the count before the tensors": (
        _request("multi", a=CUT),
        INVALID,
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    "an input without a default": (
        _request("with_default", bias=np.float32(1)),
        INVALID,
        (
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {bias}, or default input alias set: bias"
        ),
    ),
    "another name": (
        _request("multi", a=ONE, z=ONE),
        INVALID,
        (
            "Signature input alias: b(feed name: b:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {a,z}, or default input alias set: "
        ),
    ),
    "another name where there is a default": (
        _request("with_default", x=ONE, z=ONE),
        INVALID,
        "Inputs contains invalid name. Used request inputs: x, request input: x,z",
    ),
    "no dtype": (_request("half_plus_two", x=UNTYPED), INVALID, "tensor parsing error: x"),
    "content of another length": (_request("half_plus_two", x=CUT), INVALID, "tensor parsing error: x"),
    "a negative size": (_request("half_plus_two", x=NEGATIVE), INVALID, "tensor parsing error: x"),
    "the tensors before the filter": (
        _request("half_plus_two", "nothing", x=CUT),
        INVALID,
        "tensor parsing error: x",
    ),
    "an output that there is not": (
        _request("multi", "sum", "z", a=ONE, b=ONE),
        INVALID,
        "output tensor alias not found in signature: z Outputs expected to be in the set {diff,sum}.",
    ),
    "an output twice": (
        _request("multi", "sum", "sum", a=ONE, b=ONE),
        INVALID,
        "duplicate output tensor alias: sum",
    ),
    "the filter before the dtypes": (
        _request("half_plus_two", "z", x=np.float64([1])),
        INVALID,
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
    ),
    "dtype": (
        _request("half_plus_two", x=np.float64([1])),
        INVALID,
        "Expects arg[0] to be float but double is provided",
    ),
    "dtype of the second input": (
        _request("multi", a=ONE, b=np.int64([1])),
        INVALID,
        "Expects arg[1] to be float but int64 is provided",
    ),
    "text for numbers": (
        _request("half_plus_two", x=np.array([b"1"], dtype=object)),
        INVALID,
        "Expects arg[0] to be float but string is provided",
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_refusals_of_predict(grpc_server: SharedServer, case: str) -> None:
    request, code, text = PREDICTIONS[case]
    if request.model_spec.name not in {"", "absent"}:
        grpc_server.serve(request.model_spec.name)
    assert not differs(refused(grpc_server, PREDICT, request), (code, text))


def test_errors_of_the_graph(grpc_server: SharedServer) -> None:
    """The op's own code and text, and the node."""
    model = grpc_server.serve("fails")
    for signature, value, text in (
        ("", np.float32([13]), "assertion failed: [input 13 is not allowed:] [13]"),
        ("numerics", np.float32([-1]), "log of the input : Tensor had NaN values"),
        ("divide", np.int32([0]), "Integer division by zero"),
    ):
        code, told = refused(grpc_server, PREDICT, _request(model, signature=signature, x=value))
        assert (code, text in told, "{{node " in told) == (INVALID, True, True), told


def test_typed_fields_are_repeated_cut_and_outdone_by_content(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("half_plus_two")
    for tensor, answer in (
        (_tensor(3, dtype=1, float_val=[2, 4]), [4.0, 5.0, 5.0]),
        (_tensor(2, dtype=1), [3.0, 3.0]),
        (_tensor(1, dtype=1, float_val=[2, 4, 6]), [4.0]),
        (_tensor(1, dtype=1, float_val=[8], tensor_content=np.float32(2).tobytes()), [4.0]),
    ):
        response = grpc_server.call(PREDICT, _request(model, x=tensor), messages.PredictResponse)
        assert list(response.outputs["y"].float_val) == answer


def test_a_label_and_no_list_of_models(server: Callable[..., ServerProcess]) -> None:
    """Over both protocols, of a server that nobody has told which models to serve."""
    running = server()
    request = _request("m", x=ONE)
    request.model_spec.version_label = "stable"
    text = "Model labels does not init yet.stable"
    assert refused(running, PREDICT, request) == ("UNAVAILABLE", text)
    metadata = messages.GetModelMetadataRequest(model_spec=request.model_spec, metadata_field=["signature_def"])
    assert refused(running, METADATA, metadata) == ("UNAVAILABLE", text)
    assert running.rest("POST", "/v1/models/m/labels/stable:predict", {"instances": [1]}) == (503, {"error": text})
    assert running.rest("GET", "/v1/models/m/labels/stable/metadata") == (503, {"error": text})


@pytest.mark.parametrize(
    "method", ["SessionService/SessionRun", "PredictionService/Nothing", "PredictionService/predict", "X/Predict"]
)
def test_what_is_not_registered(grpc_server: SharedServer, method: str) -> None:
    assert refused(grpc_server, f"/tensorflow.serving.{method}", _request("half_plus_two", x=ONE))[0] == "UNIMPLEMENTED"


def test_refusals_of_status(grpc_server: SharedServer) -> None:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "absent"
    text = "Could not find any versions of model absent"
    assert not differs(refused(grpc_server, STATUS, request), ("NOT_FOUND", text))
    status, answer = grpc_server.rest("GET", "/v1/models/absent")
    assert not differs((status, answer["error"]), (404, text))
    request.model_spec.version.value = 3
    text = "Could not find version 3 of model absent"
    assert not differs(refused(grpc_server, STATUS, request), ("NOT_FOUND", text))
    request.model_spec.name = "half_plus_two"
    text = "Could not find version 3 of model half_plus_two"
    assert not differs(refused(grpc_server, STATUS, request), ("NOT_FOUND", text))
    status, answer = grpc_server.rest("GET", "/v1/models/half_plus_two/versions/3")
    assert not differs((status, answer["error"]), (404, text))


def test_details_are_cut_for_every_method_and_not_over_rest(grpc_server: SharedServer) -> None:
    name = "m" * 1100
    wanted = {
        PREDICT: (_request(name, x=ONE), f"Servable not found for request: Latest({name})"),
        STATUS: (messages.GetModelStatusRequest(), f"Could not find any versions of model {name}"),
        METADATA: (
            messages.GetModelMetadataRequest(metadata_field=["signature_def"]),
            f"Servable not found for request: Latest({name})",
        ),
    }
    for method, (request, text) in wanted.items():
        request.model_spec.name = name
        assert refused(grpc_server, method, request) == ("NOT_FOUND", text[:1024] + "...TRUNCATED")
    for path, text in ((f"/v1/models/{name}", wanted[STATUS][1]), (f"/v1/models/{name}/metadata", wanted[METADATA][1])):
        status, answer = grpc_server.rest("GET", path)
        assert not differs((status, answer["error"]), (404, text))
