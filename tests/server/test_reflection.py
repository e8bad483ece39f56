"""Server reflection: a client that has no .proto file finds the services and calls them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving_server.wire.messages import message_class
from tests.servers import SharedServer

SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "tensorflow.ProfilerService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
}


def test_grpc_s_own_client_calls_predict_by_what_it_was_told(grpc_server: SharedServer) -> None:
    database = ProtoReflectionDescriptorDatabase(grpc_server.channel())
    assert set(database.get_services()) == SERVICES
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    assert [method.name for method in service.methods] == [
        "Classify",
        "Regress",
        "Predict",
        "MultiInference",
        "GetModelMetadata",
    ]
    method = service.FindMethodByName("Predict")
    request = message_factory.GetMessageClass(method.input_type)()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].dtype = pool.FindEnumTypeByName("tensorflow.DataType").values_by_name["DT_FLOAT"].number
    request.inputs["x"].tensor_shape.dim.add(size=2)
    request.inputs["x"].float_val.extend([1, 2])
    response_class = message_factory.GetMessageClass(method.output_type)
    path = f"/{service.full_name}/{method.name}"
    answer = grpc_server.call(path, request, response_class)
    assert list(answer.outputs["y"].float_val) == [3.5, 4.0]  # of version 2


def test_every_method_that_is_told_of_is_there(grpc_server: SharedServer) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(grpc_server.channel()))
    for name in SERVICES:
        for method in pool.FindServiceByName(name).methods:
            call = grpc_server.channel().stream_stream(f"/{name}/{method.name}")
            with pytest.raises(grpc.RpcError) as caught:
                list(call(iter([b"\xff"]), timeout=30))  # bytes that are no message
            wanted = grpc.StatusCode.UNIMPLEMENTED if method.name == "Monitor" else grpc.StatusCode.INTERNAL
            assert caught.value.code() is wanted, f"{name}/{method.name}"


def _ask(server: SharedServer, version: str, **requests: Any) -> list[Any]:
    request = message_class(f"grpc.reflection.{version}.ServerReflectionRequest")
    response = message_class(f"grpc.reflection.{version}.ServerReflectionResponse")
    call = server.channel().stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    asked = [request(host="h", **{kind: value}) for kind, value in requests.items()] or [request(host="h")]
    answers = list(call(iter(asked), timeout=30))
    assert [answer.original_request for answer in answers] == asked
    assert {answer.valid_host for answer in answers} == {"h"}
    return answers


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_all_kinds_of_questions_in_one_call(grpc_server: SharedServer, version: str) -> None:
    services, file, symbol, numbers = _ask(
        grpc_server,
        version,
        list_services="",
        file_by_filename="tensorflow.proto",
        file_containing_symbol="tensorflow.serving.PredictionService.Predict",
        all_extension_numbers_of_type="tensorflow.TensorProto",
    )
    assert {service.name for service in services.list_services_response.service} == SERVICES
    assert b"TensorProto" in file.file_descriptor_response.file_descriptor_proto[0]
    # With all that it imports.
    assert len(symbol.file_descriptor_response.file_descriptor_proto) >= 4
    assert numbers.all_extension_numbers_response.base_type_name == "tensorflow.TensorProto"
    assert not numbers.all_extension_numbers_response.extension_number


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nix.proto"},
        {"file_containing_symbol": "tensorflow.Nix"},
        {"file_containing_symbol": "tensorflow.serving.PredictionService.Nix"},
        {"file_containing_symbol": ""},
        {"all_extension_numbers_of_type": "tensorflow.Nix"},
        {"file_containing_extension": {"containing_type": "tensorflow.TensorProto", "extension_number": 5}},
    ],
)
def test_what_is_not_known_is_told_and_the_call_goes_on(grpc_server: SharedServer, question: dict[str, Any]) -> None:
    answers = _ask(grpc_server, "v1", **question, list_services="")
    assert answers[0].error_response.error_code == 5
    assert answers[1].list_services_response.service


def test_no_question(grpc_server: SharedServer) -> None:
    (answer,) = _ask(grpc_server, "v1")
    assert answer.error_response.error_code == 3
