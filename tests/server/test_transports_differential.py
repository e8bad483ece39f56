"""Both gRPC transports get the same generated requests, right and broken, and answer with equal bytes and errors."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving_server.tensors import DTYPES
from serving_server.wire import messages
from tests.servers import SharedServer

_PREDICTION = "/tensorflow.serving.PredictionService/"
_MODEL = "/tensorflow.serving.ModelService/"

#: Response class by method; others are refused.
_RESPONSES = {
    _PREDICTION + "Predict": messages.PredictResponse,
    _PREDICTION + "GetModelMetadata": messages.GetModelMetadataResponse,
    _MODEL + "GetModelStatus": messages.GetModelStatusResponse,
}
_OTHER_METHODS = (
    _PREDICTION + "Classify",
    _PREDICTION + "Regress",
    _PREDICTION + "MultiInference",
    _MODEL + "HandleReloadConfigRequest",
    _PREDICTION + "Nothing",
    "/no.Service/Predict",
    "/grpc.health.v1.Health/Watch2",
)

_UNREADABLE = "tensor parsing error: "

#: Model -> (signature, inputs: alias -> DataType). `counter` is left out: each of its answers is another.
_FLOAT, _INT32, _STRING = 1, 3, 7
_MODELS: dict[str, dict[str, dict[str, int]]] = {
    "half_plus_two": {"serving_default": {"x": _FLOAT}},
    "multi": {
        "serving_default": {"a": _FLOAT, "b": _FLOAT},
        "matrix": {"m": _FLOAT, "scale": _FLOAT},
        "join": {"left": _STRING, "right": _STRING},
    },
    "with_default": {"serving_default": {"x": _FLOAT, "bias": _FLOAT}},
    "no_batch_dim": {"total": {"x": _FLOAT}, "transpose": {"x": _FLOAT}},
    "fails": {"serving_default": {"x": _FLOAT}, "divide": {"x": _INT32}},
    "echo_all_dtypes": {
        {"float": "float32", "double": "float64"}.get(dtype.name, dtype.name): {"x": dtype.enum} for dtype in DTYPES
    },
}

_FIELDS = (
    *("float_val", "double_val", "int_val", "string_val", "scomplex_val", "int64_val", "bool_val", "dcomplex_val"),
    *("half_val", "uint32_val", "uint64_val"),
)
_FIELD_OF = {
    1: "float_val",
    2: "double_val",
    7: "string_val",
    8: "scomplex_val",
    9: "int64_val",
    10: "bool_val",
    14: "half_val",
    18: "dcomplex_val",
    19: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float_val": st.floats(width=32) | st.just(13.0),
    "double_val": st.floats(),
    "scomplex_val": st.floats(width=32),
    "dcomplex_val": st.floats(),
    "int_val": st.integers(-(2**31), 2**31 - 1) | st.integers(0, 3),
    "half_val": st.integers(0, 2**16),
    "string_val": st.binary(max_size=20),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "bool_val": st.booleans(),
    "uint32_val": st.integers(0, 2**32 - 1),
    "uint64_val": st.integers(0, 2**64 - 1),
}
#: True once in `n`: most of a request is right, so that what is wrong is reached.
_once_in = {n: st.integers(1, n).map(lambda drawn, n=n: drawn == n) for n in (4, 8, 16)}


@st.composite
def tensors(draw: Any, dtype: int) -> Any:
    """A TensorProto: right for the dtype, or with another dtype, field, count, shape or content."""
    proto = messages.TensorProto(dtype=draw(st.integers(0, 30)) if draw(_once_in[16]) else dtype)
    dims = draw(st.lists(st.integers(0, 4), max_size=3) | st.just([3]) | st.just([2, 3]))
    count = 1
    for size in dims:
        proto.tensor_shape.dim.add(size=size)
        count *= size
    if draw(_once_in[16]):
        proto.tensor_shape.dim.add(size=draw(st.sampled_from([-1, -(2**63), 2**40, 2**63 - 1])))
    if draw(_once_in[16]):
        proto.tensor_shape.unknown_rank = True
    if draw(_once_in[4]):
        proto.tensor_content = draw(
            st.binary(max_size=64) | st.sampled_from([1, 2, 4, 8, 16]).map(lambda width: bytes(count * width))
        )
        if draw(_once_in[4]):
            return proto
    field = draw(st.sampled_from(_FIELDS)) if draw(_once_in[8]) else _FIELD_OF.get(dtype, "int_val")
    wanted = count * (2 if "complex" in field else 1)
    lengths = st.integers(0, 5) if draw(_once_in[4]) else st.just(wanted)
    length = draw(lengths)
    getattr(proto, field).extend(draw(st.lists(_VALUES[field], min_size=length, max_size=length)))
    return proto


@st.composite
def specs(draw: Any, spec: Any) -> str:
    """Fill in a ModelSpec, and return the model's name."""
    spec.name = name = draw(st.sampled_from([*_MODELS] * 3 + ["absent", "", "Ünknown %\n"]))
    if draw(_once_in[8]):
        spec.version.value = draw(st.sampled_from([1, 2, 0, -1, 77, 2**63 - 1]))
    elif draw(_once_in[16]):
        spec.version_label = draw(st.sampled_from(["stable", "", "ü"]))
    if draw(_once_in[16]):
        spec.signature_name = draw(st.text(max_size=8) | st.just("x" * 2000))
    return str(name)


@st.composite
def predict_requests(draw: Any) -> bytes:
    request = messages.PredictRequest()
    name = draw(specs(request.model_spec))
    signatures = _MODELS.get(name, {"serving_default": {"x": _FLOAT}})
    signature = draw(st.sampled_from([*signatures]))
    request.model_spec.signature_name = request.model_spec.signature_name or signature
    for alias, dtype in signatures[signature].items():
        if not draw(_once_in[16]):
            request.inputs[alias].CopyFrom(draw(tensors(dtype)))
    if draw(_once_in[16]):
        request.inputs[draw(st.text(max_size=5))].CopyFrom(draw(tensors(_FLOAT)))
    if draw(_once_in[8]):
        request.output_filter.extend(draw(st.lists(st.sampled_from(["y", "sum", "diff", "no", ""]), max_size=3)))
    if draw(_once_in[16]):
        request.ClearField("model_spec")
    return bytes(request.SerializeToString())


@st.composite
def other_requests(draw: Any) -> bytes:
    """GetModelStatusRequest and GetModelMetadataRequest, whose model_spec has the same number."""
    request = messages.GetModelMetadataRequest()
    if not draw(_once_in[8]):
        draw(specs(request.model_spec))
    request.metadata_field.extend(draw(st.lists(st.sampled_from(["signature_def", "graph"]), max_size=2)))
    return bytes(request.SerializeToString())


@st.composite
def broken(draw: Any, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a request with an end cut off, a byte changed, or something behind."""
    data = bytearray(draw(whole))
    where = draw(st.integers(0, max(0, len(data) - 1)))
    match draw(st.integers(0, 2)):
        case 0:
            del data[where:]
        case 1 if data:
            data[where] = draw(st.integers(0, 255))
        case _:
            data += draw(st.binary(max_size=8))
    return bytes(data)


_predicts = predict_requests()
_others = other_requests()
calls = st.one_of(
    st.tuples(st.just(_PREDICTION + "Predict"), _predicts),
    st.tuples(st.just(_PREDICTION + "Predict"), _predicts),
    st.tuples(st.sampled_from([*_RESPONSES]), _others | broken(_predicts) | broken(_others)),
    st.tuples(st.sampled_from([*_RESPONSES, *_OTHER_METHODS]), st.binary(max_size=40)),
)
metadata = st.lists(
    st.tuples(st.just("x-text"), st.text("abc ~%", max_size=8).map(str.strip))
    | st.tuples(st.just("x-some-bin"), st.binary(max_size=8)),
    max_size=2,
)
compressions = st.sampled_from([grpc.Compression.NoCompression] * 3 + [grpc.Compression.Gzip, grpc.Compression.Deflate])


def _unknown_signature() -> bytes:
    """The one refusal that chance may leave out: a request that is right but for its signature's name."""
    request = messages.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = "unknown"
    return bytes(request.SerializeToString())


def _outcome(channel: Any, method: str, data: bytes, **options: Any) -> tuple[Any, Any]:
    """(OK, response bytes) or (code, details)."""
    try:
        return grpc.StatusCode.OK, channel.unary_unary(method)(data, timeout=60, **options)
    except grpc.RpcError as caught:
        error: Any = caught
        return error.code(), error.details()


def _comparable(method: str, data: bytes, outcome: tuple[Any, Any]) -> tuple[Any, Any]:
    """The outcome without the order of protobuf's maps, which is another in each process.

    Maps of an answer are put in the order of their keys; NaNs and unknown fields stay what they are. Of several inputs
    that cannot be read the first in the map is the one that the text names, so only its beginning counts.
    """
    code, content = outcome
    if code is grpc.StatusCode.OK:
        answer = _RESPONSES[method].FromString(content)
        for packed in answer.metadata.values() if method.endswith("GetModelMetadata") else ():
            packed.value = messages.SignatureDefMap.FromString(packed.value).SerializeToString(deterministic=True)
        return code, answer.SerializeToString(deterministic=True)
    if content.startswith(_UNREADABLE) and len(messages.PredictRequest.FromString(data).inputs) > 1:
        return code, _UNREADABLE
    return outcome


def test_generated_requests_are_answered_alike(both_servers: dict[str, SharedServer]) -> None:
    servers = list(both_servers.values())
    # A text for an unknown model lists those that are there: both must have what other tests loaded.
    for name in {*_MODELS, *(name for server in servers for name in server.served)}:
        for server in servers:
            server.serve(name)
    codes: dict[Any, int] = {}
    channels: list[Any] = []

    @settings(max_examples=500, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(call=calls, metadata=metadata, compression=compressions)
    @example((_PREDICTION + "Predict", _unknown_signature()), [], grpc.Compression.NoCompression)
    def check(call: tuple[str, bytes], metadata: list[tuple[str, Any]], compression: Any) -> None:
        method, data = call
        own, stock = (
            _outcome(channel, method, data, metadata=metadata, compression=compression) for channel in channels
        )
        codes[own[0]] = codes.get(own[0], 0) + 1
        if own != stock:
            assert _comparable(method, data, own) == _comparable(method, data, stock)

    with contextlib.ExitStack() as stack:
        channels += [stack.enter_context(grpc.insecure_channel(server.grpc_endpoint)) for server in servers]
        check()
    # The generator must reach all of these, or the comparison says little.
    wanted = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "INTERNAL", "UNIMPLEMENTED"}
    assert wanted <= {code.name for code in codes}, codes
    assert codes[grpc.StatusCode.OK] >= 50, codes
