"""Profiles over gRPC: traces of all workers, asked for by hand; TensorFlow's own client is in `tests/foreign`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving_server.wire.messages import message_class
from tests.servers import ServerProcess, SharedServer, wait_until

Request = message_class("tensorflow.ProfileRequest")
Response = message_class("tensorflow.ProfileResponse")
Terminate = message_class("tensorflow.TerminateRequest")
Terminated = message_class("tensorflow.TerminateResponse")

PROFILE = "/tensorflow.ProfilerService/Profile"


@contextlib.contextmanager
def _load(server: SharedServer, *names: str) -> Iterator[None]:
    """Requests, one after another, until the end of the block."""
    stop = threading.Event()
    errors: list[Exception] = []
    # TensorFlow names ops that it takes for expensive; those of half_plus_two are so for their first runs only.
    rows = np.zeros((64, 784), np.float32)

    def ask() -> None:
        try:
            while not stop.is_set():
                for name in names:
                    server.predict(name, {"image": rows})
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert errors == []


@pytest.fixture
def second(grpc_server: SharedServer, models_dir: Path) -> Iterator[str]:
    grpc_server.put_model("profiled", models_dir / "mlp")
    grpc_server.wait_available("profiled", 1)
    yield "profiled"
    grpc_server.control("DELETE", "/models/profiled")


def _request(root: Path | str, **fields: Any) -> Any:
    settings = {"duration_ms": 300, "repository_root": str(root), "session_id": "s", "host_name": "here:1", **fields}
    return Request(**settings)


_READ = """
import json, sys
from tensorflow.tsl.profiler.protobuf import xplane_pb2
space = xplane_pb2.XSpace.FromString(open(sys.argv[1], "rb").read())
(plane,) = [plane for plane in space.planes if plane.name == "/host:CPU"]
print(json.dumps([plane.event_metadata[event.metadata_id].name for line in plane.lines for event in line.events]))
"""


def _events(file: Path) -> list[str]:
    """The names of all events of a trace, read by TensorFlow's own message, as TensorBoard does."""
    command = [sys.executable, "-c", _READ, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    events: list[str] = json.loads(done.stdout)
    return events


def test_each_worker_writes_its_trace(grpc_server: SharedServer, second: str, tmp_path: Path) -> None:
    first = grpc_server.serve("mlp")
    with _load(grpc_server, first, second):
        answer = grpc_server.call(PROFILE, _request(tmp_path / "profile"), Response)
    assert not answer.empty_trace
    for name in (f"{first}_1", f"{second}_1"):
        events = _events(tmp_path / "profile" / "s" / f"here_1_{name}.xplane.pb")
        assert any("SessionRun" in event for event in events)
        assert any("MatMul" in event for event in events)
    assert not list(tmp_path.rglob("*.part"))


def test_one_profile_at_a_time_and_it_can_be_ended(grpc_server: SharedServer, tmp_path: Path) -> None:
    stub = grpc_server.channel().unary_unary(
        PROFILE, request_serializer=Request.SerializeToString, response_deserializer=Response.FromString
    )
    profile = stub.future(_request(tmp_path, duration_ms=300_000), timeout=60)

    def refused() -> bool:
        try:
            # No folder of that name can be made, should this one run.
            grpc_server.call(PROFILE, _request("/proc/nix", duration_ms=1), Response)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.ALREADY_EXISTS and "session s" in error.details()
        return False

    try:
        wait_until(refused, what="a second profile to be refused")
        path = "/tensorflow.ProfilerService/Terminate"
        grpc_server.call(path, Terminate(session_id="another"), Terminated)
        assert not profile.done()
        grpc_server.call(path, Terminate(session_id="s"), Terminated)
        profile.result()
    finally:
        profile.cancel()  # no effect on one that has ended
    assert list((tmp_path / "s").glob("*.xplane.pb"))


def test_a_client_that_goes_away_ends_its_profile(grpc_server: SharedServer, tmp_path: Path) -> None:
    stub = grpc_server.channel().unary_unary(PROFILE, request_serializer=Request.SerializeToString)
    before = len(grpc_server.log_text())
    profile = stub.future(_request(tmp_path, duration_ms=300_000), timeout=60)
    try:
        # Others may log as well, before it and after it.
        wait_until(lambda: "profiling" in grpc_server.log_text()[before:], what="the profile to begin")
    finally:
        profile.cancel()

    def again() -> bool:
        try:
            grpc_server.call(PROFILE, _request(tmp_path, session_id="t", duration_ms=1), Response)
        except grpc.RpcError as error:
            assert error.code() in {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNKNOWN}, error  # noqa: PT017
            return False
        return True

    wait_until(again, 30, "another profile")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"root": "logs"}, 'repository_root "logs" must be an absolute path'),
        ({"session_id": "../s"}, 'session_id "../s" is no name of a folder'),
        ({"session_id": ""}, 'session_id "" is no name of a folder'),
        ({"duration_ms": 0}, "duration_ms is 0"),
        ({"duration_ms": 10**7}, "duration_ms is 1e+07"),
    ],
)
def test_requests_that_cannot_be(grpc_server: SharedServer, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_server.call(PROFILE, _request(**{"root": tmp_path, **fields}), Response)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told in caught.value.details()


def test_a_folder_that_cannot_be_made(grpc_server: SharedServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        grpc_server.call(PROFILE, _request("/proc/nix", duration_ms=1), Response)
    assert "/proc/nix" in caught.value.details()
    # Nothing else has suffered.
    assert grpc_server.predict("half_plus_two", {"x": np.float32([1])})


def test_without_models_and_when_off(server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    for flags, code in (
        ((), grpc.StatusCode.FAILED_PRECONDITION),
        (("--enable_profiler=false",), grpc.StatusCode.UNIMPLEMENTED),
    ):
        process = server(*flags)
        with pytest.raises(grpc.RpcError) as caught:
            process.call(PROFILE, _request(tmp_path), Response)
        assert caught.value.code() is code
