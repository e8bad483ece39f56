"""Predict, metadata and status against a real server, over gRPC and REST."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from serving_server.tensors import DTYPES, DType, to_proto
from serving_server.wire import messages
from tests.servers import SharedServer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


def _values(dtype: DType, shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape))
    if dtype.is_string:
        return np.array([b"\0a\xff" * i for i in range(count)] + [None], dtype=object)[:-1].reshape(shape)
    values = np.arange(count) % 2 if dtype.name == "bool" else np.arange(count) * 3
    return values.astype(dtype.numpy).reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_every_dtype_and_rank_passes_through_unchanged(
    grpc_server: SharedServer, dtype: DType, shape: tuple[int, ...]
) -> None:
    model = grpc_server.serve("echo_all_dtypes")
    sent = _values(dtype, shape)
    name = {"float": "float32", "double": "float64"}.get(dtype.name, dtype.name)
    (received,) = grpc_server.predict(model, {"x": sent}, signature=name).values()
    assert received.shape == shape
    assert received.dtype == sent.dtype
    assert received.tolist() == sent.tolist()


def test_all_dtypes_in_one_request(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("echo_all_dtypes")
    signature = _signatures(grpc_server, model)["all"]
    inputs = {alias: _values(_dtype(info.dtype), (3,)) for alias, info in signature.inputs.items()}
    outputs = grpc_server.predict(model, inputs, signature="all")
    assert len(outputs) == len(DTYPES)
    sent = sorted(str(value.tolist()) for value in inputs.values())
    assert sorted(str(value.tolist()) for value in outputs.values()) == sent


def _dtype(enum: int) -> DType:
    return next(dtype for dtype in DTYPES if dtype.enum == enum)


def _signatures(server: SharedServer, model: str) -> Any:
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model
    answer = server.call(METADATA, request, messages.GetModelMetadataResponse)
    entry = answer.metadata["signature_def"]
    assert entry.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    return messages.SignatureDefMap.FromString(entry.value).signature_def


def test_versions_are_told_apart(grpc_server: SharedServer) -> None:
    x = {"x": np.float32([2, 4])}
    outputs, version = grpc_server.predict_versioned("half_plus_two", x)
    assert (outputs["y"].tolist(), version) == ([4.0, 5.0], 2)
    outputs, version = grpc_server.predict_versioned("half_plus_two", x, version=1)
    assert (outputs["y"].tolist(), version) == ([3.0, 4.0], 1)
    assert grpc_server.rest("POST", "/v1/models/half_plus_two/versions/1:predict", {"instances": [2, 4]}) == (
        200,
        {"predictions": [3.0, 4.0]},
    )


def test_the_answer_names_model_version_and_signature(grpc_server: SharedServer) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    answer = grpc_server.call(PREDICT, request, messages.PredictResponse)
    assert answer.model_spec.name == "half_plus_two"
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.signature_name == "serving_default"
    assert answer.outputs["y"].float_val == [3.5]
    assert not answer.outputs["y"].tensor_content


def test_output_filter(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("multi")
    request = messages.PredictRequest(output_filter=["sum"])
    request.model_spec.name = model
    request.inputs["a"].CopyFrom(to_proto(np.float32([[1, 2]])))
    request.inputs["b"].CopyFrom(to_proto(np.float32([[3, 4]])))
    assert set(grpc_server.call(PREDICT, request, messages.PredictResponse).outputs) == {"sum"}
    request.output_filter[:] = ["nothing"]
    code, text = _refused(grpc_server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "output tensor alias not found in signature: nothing Outputs expected to be in the set {diff,sum}."
    request.output_filter[:] = ["sum", "sum"]
    assert _refused(grpc_server, request)[1] == "duplicate output tensor alias: sum"


def test_an_input_with_a_default_may_be_left_out(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("with_default")
    assert grpc_server.predict(model, {"x": np.float32([1])})["y"].tolist() == [6.0]
    given = {"x": np.float32([1]), "bias": np.float32(2)}
    assert grpc_server.predict(model, given)["y"].tolist() == [3.0]


def test_a_shape_other_than_the_signature_s_is_left_to_the_graph(grpc_server: SharedServer) -> None:
    """TensorFlow Serving's clients feed [1] where the signature says [-1, n], when the graph takes it."""
    model = grpc_server.serve("half_plus_two")
    outputs = grpc_server.predict(model, {"x": np.float32([[1, 2], [3, 4]])})
    assert outputs["y"].tolist() == [[3.5, 4.0], [4.5, 5.0]]


def test_models_without_a_batch_dimension_work_when_batching_is_off(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("no_batch_dim")
    assert grpc_server.predict(model, {"x": np.float32(4)})["y"].tolist() == 5.0
    assert grpc_server.rest("POST", f"/v1/models/{model}:predict", {"inputs": 4.0}) == (200, {"outputs": 5.0})


def test_a_graph_that_writes_a_variable_keeps_its_own_copy(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("counter")
    first = grpc_server.predict(model, {"x": np.float32([1])})["count"].tolist()[0]
    assert grpc_server.predict(model, {"x": np.float32([1])})["count"].tolist()[0] == first + 1


def test_large_tensors_pass_and_answers_are_right(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("echo_all_dtypes")
    sent = np.random.default_rng(1).random((3, 1_000_000), dtype=np.float32)
    for size in (1, 3, 2):
        (received,) = grpc_server.predict(model, {"x": sent[:size]}, signature="float32").values()
        assert received.tobytes() == sent[:size].tobytes()


def _refused(server: SharedServer, request: Any, method: str = PREDICT, answer: Any = None) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.call(method, request, answer or messages.PredictResponse)
    error: Any = caught.value
    return error.code(), error.details()


def _request(model: str, version: int | None = None, signature: str = "", **inputs: Any) -> Any:
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(np.asarray(value)))
    return request


_ONE = np.float32([1])
_BAD = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "code", "start", "hint"),
    [
        pytest.param(
            _request("absent", x=_ONE),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(absent)",
            "half_plus_two",
            id="model",
        ),
        pytest.param(
            _request("half_plus_two", 9, x=_ONE),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(half_plus_two, 9)",
            "",
            id="version",
        ),
        pytest.param(
            _request("half_plus_two", signature="other", x=_ONE),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "other" not found.',
            '"serving_default"',
            id="signature",
        ),
        pytest.param(
            _request("half_plus_two", z=_ONE),
            _BAD,
            "Signature input alias: x(feed name: x:0) not found in request and no default value provided. Inputs "
            "expected to be in the request {z}, or default input alias set: ",
            "takes x: float [-1]",
            id="wrong name",
        ),
        pytest.param(
            _request("half_plus_two", x=_ONE, z=_ONE),
            _BAD,
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}.",
            "takes x: float [-1]",
            id="extra input",
        ),
        pytest.param(
            _request("half_plus_two"),
            _BAD,
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
            "takes x: float [-1]",
            id="missing input",
        ),
        pytest.param(
            _request("half_plus_two", x=np.float64([1])),
            _BAD,
            "Expects arg[0] to be float but double is provided",
            'input "x" of signature "serving_default" is float [-1]',
            id="dtype",
        ),
        pytest.param(_request("", x=_ONE), _BAD, "ModelSpec has no name specified.", "", id="no name"),
        pytest.param(messages.PredictRequest(), _BAD, "Missing ModelSpec", "", id="no spec"),
    ],
)
def test_bad_requests_get_tensorflow_serving_s_text_and_a_hint(
    grpc_server: SharedServer, request_: Any, code: Any, start: str, hint: str
) -> None:
    got, text = _refused(grpc_server, request_)
    assert got is code
    assert text.startswith(start)
    assert hint in text
    assert grpc_server.predict("half_plus_two", {"x": _ONE})["y"].tolist() == [3.5]


def test_a_tensor_that_does_not_parse_names_its_input(grpc_server: SharedServer) -> None:
    request = _request("half_plus_two", x=_ONE)
    request.inputs["x"].tensor_content = b"123"
    code, text = _refused(grpc_server, request)
    assert code is _BAD
    assert text.startswith("tensor parsing error: x")
    assert "3 bytes" in text


def test_a_shape_that_the_graph_refuses_is_explained(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("mlp")
    alias = next(iter(_signatures(grpc_server, model)["serving_default"].inputs))
    code, text = _refused(grpc_server, _request(model, **{alias: np.zeros((2, 7), np.float32)}))
    assert code is _BAD
    assert f'input "{alias}" has shape [2, 7], the signature wants [-1, 784]' in text


def test_an_error_of_the_graph_carries_the_op_s_code_and_text(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("fails")
    code, text = _refused(grpc_server, _request(model, x=np.float32([13])))
    assert code is _BAD
    assert "input 13 is not allowed" in text
    status, answer = grpc_server.rest("POST", f"/v1/models/{model}:predict", {"instances": [13.0]})
    assert status == 400
    assert "input 13 is not allowed" in answer["error"]


def test_no_label_is_known_before_a_list_of_models_has_come(grpc_server: SharedServer) -> None:
    request = _request("half_plus_two", x=_ONE)
    request.model_spec.version_label = "stable"
    answer = (grpc.StatusCode.UNAVAILABLE, "Model labels does not init yet.stable")
    assert _refused(grpc_server, request) == answer


def test_long_details_are_cut_on_grpc_only(grpc_server: SharedServer) -> None:
    name = "m" * 2000
    _, text = _refused(grpc_server, _request(name, x=_ONE))
    assert len(text) == 1024 + len("...TRUNCATED")
    assert text.endswith("...TRUNCATED")
    _, answer = grpc_server.rest("POST", f"/v1/models/{name}:predict", {"instances": [1.0]})
    assert name in answer["error"]


def test_bytes_that_are_no_message_are_an_error_of_that_call_only(grpc_server: SharedServer) -> None:
    call = grpc_server.channel().unary_unary(PREDICT)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=60)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "PredictRequest" in error.details()
    assert grpc_server.predict("half_plus_two", {"x": _ONE})["y"].tolist() == [3.5]


def test_status_of_all_versions_and_of_one(grpc_server: SharedServer) -> None:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    answer = grpc_server.call(STATUS, request, messages.GetModelStatusResponse)
    assert [(entry.version, entry.state) for entry in answer.model_version_status] == [(2, 30), (1, 30)]
    request.model_spec.version.value = 1
    answer = grpc_server.call(STATUS, request, messages.GetModelStatusResponse)
    assert [entry.version for entry in answer.model_version_status] == [1]
    request.model_spec.version.value = 7
    code, text = _refused(grpc_server, request, STATUS, messages.GetModelStatusResponse)
    assert code is grpc.StatusCode.NOT_FOUND
    assert text.startswith("Could not find version 7 of model half_plus_two")


def test_metadata_holds_all_signatures(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("multi")
    grpc_names = set(_signatures(grpc_server, model))
    status, answer = grpc_server.rest("GET", f"/v1/models/{model}/metadata")
    assert status == 200
    assert set(answer["metadata"]["signature_def"]["signature_def"]) == grpc_names
    assert "serving_default" in grpc_names


def test_metadata_asks_for_the_field(grpc_server: SharedServer) -> None:
    request = messages.GetModelMetadataRequest()
    request.model_spec.name = "half_plus_two"
    answer = messages.GetModelMetadataResponse
    assert _refused(grpc_server, request, METADATA, answer)[1] == (
        "GetModelMetadataRequest must specify at least one metadata_field"
    )
    request.metadata_field.append("graph")
    assert _refused(grpc_server, request, METADATA, answer)[1] == "Metadata field graph is not supported"


def test_rest_says_not_found_with_its_status(shared_server: SharedServer) -> None:
    status, answer = shared_server.rest("POST", "/v1/models/absent:predict", {"instances": [1.0]})
    assert status == 404
    assert answer["error"].startswith("Servable not found for request: Latest(absent)")


def test_a_deadline_that_passes_while_the_graph_runs(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("slow")
    inputs = {"x": np.float32([1]), "steps": np.int32([3000])}
    with pytest.raises(grpc.RpcError) as caught:
        grpc_server.predict(model, inputs, timeout=0.05)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    quick = {"x": np.float32([1]), "steps": np.int32([1])}
    assert grpc_server.predict(model, quick)["y"].shape == (1,)
