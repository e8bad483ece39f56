"""gRPC's health service on both transports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving_server.wire.messages import message_class
from tests.servers import TRANSPORTS, ServerProcess, SharedServer

Request = message_class("grpc.health.v1.HealthCheckRequest")
Response = message_class("grpc.health.v1.HealthCheckResponse")

CHECK = "/grpc.health.v1.Health/Check"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def _check(server: ServerProcess, service: str) -> int:
    status: int = server.call(CHECK, Request(service=service), Response).status
    return status


def _watch(server: ServerProcess, service: str) -> Any:
    watch = server.channel().unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )
    return watch(Request(service=service), timeout=60)


def _statuses(call: Any) -> Iterator[int]:
    for response in call:
        yield response.status


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService", "tensorflow.serving.PredictionService"])
def test_a_server_whose_models_answer_is_serving(grpc_server: SharedServer, service: str) -> None:
    assert _check(grpc_server, service) == SERVING
    call = _watch(grpc_server, service)
    assert next(_statuses(call)) == SERVING
    call.cancel()


def test_unknown_services(grpc_server: SharedServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _check(grpc_server, "Prediction")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    call = _watch(grpc_server, "Prediction")
    assert next(_statuses(call)) == SERVICE_UNKNOWN  # and the call stays open: it may come
    call.cancel()


def test_bytes_that_are_no_request(grpc_server: SharedServer) -> None:
    for path in (CHECK, "/grpc.health.v1.Health/Watch"):
        with pytest.raises(grpc.RpcError) as caught:
            list(grpc_server.channel().unary_stream(path)(b"\xff", timeout=30))
        assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_is_not_serving_before_its_models_answer(
    server: Callable[..., ServerProcess], tmp_path: Path, transport: str
) -> None:
    process = server(
        f"--grpc_transport={transport}",
        "--enable_grpc_healthcheck_service",
        "--model_name=m",
        f"--model_base_path={tmp_path / 'missing'}",
    )
    assert _check(process, "") == NOT_SERVING
    statuses = _statuses(_watch(process, "PredictionService"))
    assert next(statuses) == NOT_SERVING
    # The list becomes such that all models answer: there are none.
    process.control("DELETE", "/models/m")
    assert next(statuses) == SERVING
    assert _check(process, "") == SERVING


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_watches_is_told_of_the_end(server: Callable[..., ServerProcess], transport: str) -> None:
    process = server(f"--grpc_transport={transport}", "--enable_grpc_healthcheck_service")
    statuses = _statuses(_watch(process, ""))
    assert next(statuses) == SERVING
    assert process.process is not None
    process.process.terminate()
    assert list(statuses) == [NOT_SERVING]
    assert process.wait() == 0


def test_it_is_off_unless_asked_for(server: Callable[..., ServerProcess]) -> None:
    process = server()
    with pytest.raises(grpc.RpcError) as caught:
        _check(process, "")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
