"""The own gRPC transport in the serving process: its flag, its channel arguments, its socket."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving_server.errors import InvalidArgumentError
from serving_server.flags import parse_flags
from serving_server.flags_to_options import build_options
from serving_server.http2 import frames
from serving_server.http2.limits import Http2Limits
from serving_server.tensors import to_proto
from serving_server.transports.channel_arguments import limits_from_arguments
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.servers import TRANSPORTS, ServerProcess

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def test_channel_arguments_become_limits(caplog: pytest.LogCaptureFixture) -> None:
    limits = limits_from_arguments(
        [
            ("grpc.max_connection_age_ms", 60_000),
            ("grpc.max_connection_age_grace_ms", 5000),
            ("grpc.max_connection_idle_ms", -1),
            ("grpc.max_concurrent_streams", 100),
            ("grpc.keepalive_time_ms", 1500),
            ("grpc.keepalive_timeout_ms", 500),
            ("grpc.max_receive_message_length", 1000),
            ("grpc.max_metadata_size", 16_384),
            ("grpc.http2.max_frame_size", 65_536),
            ("grpc.http2.lookahead_bytes", 8_000_000),
            ("grpc.so_reuseport", 0),
            ("grpc.so_reuseaddr", 1),
            ("grpc.max_send_message_length", -1),
        ]
    )
    assert (limits.max_age, limits.age_grace) == (60.0, 5.0)
    assert limits.idle_timeout > 86_400
    assert limits.max_concurrent_streams == 100
    assert (limits.keepalive_time, limits.keepalive_timeout) == (1.5, 0.5)
    assert (limits.max_message_bytes, limits.max_header_list, limits.max_frame_size) == (1000, 16_384, 65_536)
    assert (limits.stream_window, limits.large_window) == (8_000_000, 8_000_000)
    assert caplog.records == []


def test_no_arguments_and_those_that_mean_no_limit() -> None:
    assert limits_from_arguments([]) == Http2Limits()
    never = [("grpc.max_connection_age_ms", 2**31 - 1), ("grpc.max_receive_message_length", -1)]
    assert limits_from_arguments(never) == Http2Limits()


def test_arguments_without_a_meaning_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    arguments: list[tuple[str, int | str]] = [("grpc.optimization_target", "latency"), ("grpc.so_reuseport", 1)]
    assert limits_from_arguments(arguments) == Http2Limits()
    for name, _ in arguments:
        assert f"{name} has no effect on this transport" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("grpc.max_concurrent_streams", "many", "is not a number"),
        ("grpc.http2.max_frame_size", 100, "max_frame_size=100 is not between"),
        ("grpc.http2.lookahead_bytes", 1, "stream_window=1 is not between"),
    ],
)
def test_arguments_that_cannot_be(name: str, value: int | str, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        limits_from_arguments([(name, value)])


def test_the_flag() -> None:
    def options(*flags: str) -> str:
        return build_options(parse_flags(["--record_file=/tmp/r", *flags])[0]).grpc_transport

    assert options("--grpc_transport=own") == "own"
    assert options("--grpc_transport=grpcio") == "grpcio"
    with pytest.raises(InvalidArgumentError, match="there are own and grpcio"):
        options("--grpc_transport=other")


def _request(value: float) -> bytes:
    message = PredictRequest()
    message.model_spec.name = "half_plus_two"
    message.inputs["x"].CopyFrom(to_proto(np.float32([value])))
    return bytes(message.SerializeToString())


def test_it_serves_by_tcp_and_by_a_unix_socket_within_its_arguments(
    server: Callable[..., ServerProcess], models_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "grpc.sock"
    process = server(
        "--grpc_transport=own",
        f"--grpc_socket_path={path}",
        "--grpc_channel_arguments=grpc.max_receive_message_length=1000,grpc.lb_policy_name=x",
        "--model_name=half_plus_two",
        f"--model_base_path={models_dir / 'half_plus_two'}",
    )
    process.wait_available("half_plus_two")
    assert "grpc.lb_policy_name has no effect on this transport" in process.log_text()
    for target in (process.grpc_endpoint, f"unix:{path}"):
        with grpc.insecure_channel(target) as channel:
            predict = channel.unary_unary(PREDICT, response_deserializer=PredictResponse.FromString)
            for value in range(5):
                answer = predict(_request(value), timeout=30)
                assert list(answer.outputs["y"].float_val) == [value * 0.5 + 3]
            with pytest.raises(grpc.RpcError) as error:
                predict(bytes(1001), timeout=30)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert process.stop() == 0
    assert not path.exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_old_connections_end_in_order_and_lose_no_call(
    server: Callable[..., ServerProcess], models_dir: Path, transport: str
) -> None:
    process = server(
        f"--grpc_transport={transport}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=500,grpc.lb_policy_name=grpclb,grpc.so_reuseaddr=1",
        "--model_name=half_plus_two",
        f"--model_base_path={models_dir / 'half_plus_two'}",
    )
    process.wait_available("half_plus_two")
    host, _, port = process.grpc_endpoint.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as watched,
        grpc.insecure_channel(process.grpc_endpoint) as channel,
    ):
        watched.sendall(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))
        predict = channel.unary_unary(PREDICT, response_deserializer=PredictResponse.FromString)
        watched.setblocking(False)
        seen = b""
        value = 0
        while frames.GOAWAY not in _kinds(seen):
            # Meanwhile the channel's connection comes of age too, about as old as this one.
            answer = predict(_request(value), timeout=30)
            assert list(answer.outputs["y"].float_val) == [value * 0.5 + 3]
            value += 1
            with contextlib.suppress(BlockingIOError):
                seen += watched.recv(65_536)
        for _ in range(100):
            predict(_request(value), timeout=30)


def _kinds(data: bytes) -> list[int]:
    """Types of the frames."""
    found = []
    while len(data) >= 9:
        word, _, _ = frames.unpack_header(data)
        found.append(word & 0xFF)
        data = data[9 + (word >> 8) :]
    return found
