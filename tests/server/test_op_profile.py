"""Profiles of one version's ops on request: right about a model that is known, and no disturbance for anybody else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.errors import CancelledError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from serving_server.profiles import WorkerProfiles
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name, to_proto
from serving_server.version_profiles import OpWish
from serving_server.wire.messages import PredictionLog, PredictRequest
from serving_server.wire.tfrecord import frame
from serving_server.wire.warmup_file import warmup_file
from tests.servers import ServerProcess, SharedServer, wait_until

#: As little as tells something.
QUICK: dict[str, Any] = {"batches": 5, "runs": 3, "busy": 1.0}


def profile(server: ServerProcess, model: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    status, answer = server.control(
        "POST", f"/models/{model}/versions/{version}/profile/ops", {**QUICK, **fields}, timeout=60
    )
    assert status == 200, answer
    assert (answer["model"], answer["version"]) == (model, version)
    found: dict[str, Any] = answer["profile"]
    return found


def refused(server: ServerProcess, model: str, version: int = 1, **fields: Any) -> tuple[int, str, str]:
    status, answer = server.control("POST", f"/models/{model}/versions/{version}/profile/ops", fields, timeout=60)
    return status, answer.get("code"), answer.get("error")


def request(signature: str = "", **inputs: Any) -> str:
    message = PredictRequest()
    message.model_spec.signature_name = signature
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(to_proto(np.asarray(value)))
    return base64.b64encode(message.SerializeToString()).decode()


def by_self_time(found: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(found["ops"], key=lambda op: -op["self_ns"])


def test_the_heavy_product_is_found(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    found = profile(shared_server, model, batches=20, batch_size=64, sizes=[64, 1, 8], trace=True)
    assert (found["source"], found["signature"], found["rows"]) == ("drawn", "serving_default", 64)
    assert found["batched"]
    assert found["frozen"]
    assert found["batches"] == len(found["runs"]) == len(found["profiled_ns"]) == len(found["plain_ns"]) == 20
    first, second = by_self_time(found)[:2]
    assert (first["name"], second["name"]) == ("heavy_product", "light_product")
    assert "MatMul" in first["type"]
    assert first["calls"] == 20
    # 16 times the operations of the other product, and some time for ReLU.
    covered = sum(op["self_ns"] for op in found["ops"])
    assert first["self_ns"] / covered > 0.6
    assert 0.8 < covered / found["run_ns"] <= 1.0
    assert first["bytes"] == 20 * 64 * 4096 * 4  # its output
    assert [each["rows"] for each in found["sizes"]] == [1, 8, 64]
    assert all(len(each["run_ns"]) == 3 for each in found["sizes"])
    assert found["failed"] is None
    assert zlib.decompress(base64.b64decode(found["trace"]))


def test_events_lie_within_their_runs(shared_server: SharedServer) -> None:
    found = profile(shared_server, shared_server.serve("dominated"), batch_size=4)
    assert found["events_left_out"] == 0
    assert len(found["events"]) == sum(op["calls"] for op in found["ops"])
    runs = {number: (start, start + duration) for number, _, start, duration in found["runs"]}
    assert sorted(runs) == list(range(5))
    assert found["began_ns"] == [None] * 5  # of no batch
    for op, batch, track, start, duration in found["events"]:
        assert 0 <= op < len(found["ops"])
        assert 0 <= track < len(found["tracks"])
        begin, end = runs[batch]
        assert begin <= start <= start + duration <= end


def test_ops_inside_of_others_count_once(shared_server: SharedServer) -> None:
    # A loop, whose body's ops run in its own executor or the graph's.
    model = shared_server.serve("slow")
    rows = request(x=np.float32([1.0]), steps=np.int32([50]))
    found = profile(shared_server, model, request=rows)
    assert found["source"] == "given"
    assert max(op["calls"] for op in found["ops"]) >= 5 * 50
    assert sum(op["self_ns"] for op in found["ops"]) <= found["run_ns"]
    assert all(0 <= op["self_ns"] <= op["total_ns"] for op in found["ops"])


def test_live_requests_are_watched(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    with asking(shared_server, model, 1, {"x": np.zeros((2, 512), np.float32)}) as answered:
        status, answer = shared_server.control(
            "POST", f"/models/{model}/versions/1/profile/ops", {"live": True, "seconds": 0.5}, timeout=60
        )
    assert status == 200, answer
    assert answer["requests"] > 0
    found = answer["profile"]
    assert found["source"] == "live"
    assert 0 < found["batches"] <= len(answered)
    assert by_self_time(found)[0]["name"] == "heavy_product"
    status, remembered = shared_server.control("GET", f"/models/{model}/profile/requests?limit=10000")
    assert status == 200, remembered
    batches = {each["run_began_ns"]: each["run_ended_ns"] for each in remembered["batches"]}
    assert len(set(found["began_ns"])) == len(found["runs"])
    for began, (_, _, start, duration) in zip(found["began_ns"], found["runs"], strict=True):
        assert began <= start <= start + duration <= batches[began]


@contextlib.contextmanager
def asking(server: ServerProcess, model: str, version: int, inputs: dict[str, Any]) -> Iterator[list[Any]]:
    """Requests, one after another, until the end of the block; gives the list of answers. None may fail."""
    stop = threading.Event()
    answers: list[Any] = []
    errors: list[Exception] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(server.predict_versioned(model, inputs, version))
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until(lambda: bool(answers or errors), what="a first answer")
        yield answers
    finally:
        stop.set()
        thread.join(30)
    assert errors == []


def test_nobody_loses_a_request(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    inputs = {"x": np.ones((1, 512), np.float32)}
    with asking(shared_server, model, 1, inputs) as own, asking(shared_server, model, 2, inputs) as other:
        before = len(own), len(other)
        found = profile(shared_server, model, batches=50, batch_size=32)
        assert len(own) > before[0]
        assert len(other) > before[1]
    assert found["batches"] == 50  # those of the requests are not among them
    assert all(op["calls"] == 50 for op in found["ops"] if op["name"] == "heavy_product")


def test_one_at_a_time_and_none_for_a_client_that_is_gone(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    path = f"/models/{model}/versions/1/profile/ops"
    impatient: list[Exception] = []

    def ask() -> None:
        try:
            shared_server.control("POST", path, {"live": True, "seconds": 30}, timeout=5)
        except OSError as error:
            impatient.append(error)

    first = threading.Thread(target=ask)
    first.start()
    try:
        wait_until(
            lambda: refused(shared_server, model, live=True, seconds=0.01)[:2] == (409, "ALREADY_EXISTS"),
            what="a second profile to be refused",
        )
        assert profile(shared_server, model, 2)["batches"] == 5  # another worker's
    finally:
        first.join(60)
    assert isinstance(impatient[0], TimeoutError)
    # Its profile is ended with it, long before the 30 seconds; the next one waits for that.
    assert profile(shared_server, model)["batches"] == 5


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("ops", {"live": True, "seconds": 30}), ("memory", {"sizes": list(range(1, 33)), "busy": 0.01})],
    ids=["ops", "memory"],
)
def test_a_worker_that_ends_takes_its_profile_along(
    server: Callable[..., ServerProcess], models_dir: Path, kind: str, fields: dict[str, Any]
) -> None:
    process = server()
    process.put_model("dominated", models_dir / "dominated", policy={"specific": {"versions": [1, 2]}})
    process.wait_available("dominated", 1, 2)
    answers: list[tuple[int, Any]] = []

    def ask() -> None:
        answers.append(process.control("POST", f"/models/dominated/versions/1/profile/{kind}", fields, timeout=60))

    thread = threading.Thread(target=ask)
    with asking(process, "dominated", 2, {"x": np.ones((1, 512), np.float32)}) as other:
        thread.start()
        try:
            wait_until(
                lambda: refused(process, "dominated", live=True, seconds=0.01)[:2] == (409, "ALREADY_EXISTS"),
                what="the profile to run",
            )
            answered = len(other)
            os.kill(process.versions("dominated")[1]["worker_pid"], signal.SIGKILL)
        finally:
            thread.join(30)
        assert not thread.is_alive(), "the profile waits for a worker that is gone"
        status, answer = answers[0]
        assert (status, answer["code"]) == (503, "UNAVAILABLE")
        assert "the worker of model 'dominated' version 1 was killed by signal 9" in answer["error"]
        process.wait_available("dominated", 1, retries=True)
        assert profile(process, "dominated")["batches"] == 5
        assert len(other) > answered


def test_nobody_waits_for_a_worker_that_is_gone_already() -> None:
    async def ask() -> None:
        sent: list[Any] = []
        profiles = WorkerProfiles(lambda message, fds=(): sent.append(message))
        early = asyncio.create_task(profiles.ask("profile_ops", {}))
        await asyncio.sleep(0)
        profiles.fail(UnavailableError("it is gone"))
        for late in (early, profiles.ask("profile_ops", {}), profiles.run("gs://nix", 1.0, {})):
            with pytest.raises(UnavailableError, match="it is gone"):
                await asyncio.wait_for(late, 5)
        assert len(sent) == 1

    asyncio.run(ask())


def test_recorded_rows_come_first(server: Callable[..., ServerProcess], model_copy: Callable[..., Path]) -> None:
    folder = model_copy("slow")
    message = PredictRequest.FromString(base64.b64decode(request(x=np.float32([1.0]), steps=np.int32([7]))))
    log = PredictionLog()
    log.predict_log.request.CopyFrom(message)
    file = warmup_file(folder)
    assert isinstance(file, Path)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(frame(log.SerializeToString()))
    process = server()
    process.put_model("slow", folder.parent)
    process.wait_available("slow", 1)
    found = profile(process, "slow")
    assert found["source"] == "warmup record"
    assert 5 * 7 in {op["calls"] for op in found["ops"]}


def test_what_cannot_be_profiled_is_said(shared_server: SharedServer) -> None:
    model = shared_server.serve("half_plus_two")
    assert refused(shared_server, model, signature="nix")[0] == 400
    assert refused(shared_server, model, 77)[0] == 404
    assert refused(shared_server, "nix")[0] == 404
    assert refused(shared_server, model, batch=1)[2].startswith("unknown field 'batch'")
    status, code, text = refused(shared_server, model, request=request(z=np.float32([1])))
    assert (status, code) == (400, "INVALID_ARGUMENT")
    assert "z" in text
    assert "no row to repeat" in refused(shared_server, model, request=request(x=np.zeros(0, np.float32)))[2]
    failing = shared_server.serve("fails")
    assert "13" in refused(shared_server, failing, request=request(x=np.float32([13.0])))[2]
    examples = shared_server.serve("examples")
    assert "drawn to fit the signature" in refused(shared_server, examples)[2]


def test_without_a_batch_dimension_sizes_mean_nothing(shared_server: SharedServer) -> None:
    found = profile(shared_server, shared_server.serve("no_batch_dim"), sizes=[1, 8])
    assert not found["batched"]
    assert found["rows"] == 1
    assert [each["rows"] for each in found["sizes"]] == [1]


def test_too_little_time_is_shared_and_told(shared_server: SharedServer) -> None:
    found = profile(shared_server, shared_server.serve("dominated"), batches=500, sizes=[1, 8], seconds=0.2)
    assert found["asked"] == 500
    assert found["traced_seconds"] == 0.1
    assert 3 <= found["batches"] < 500
    assert len(found["plain_ns"]) >= 3
    assert found["table_seconds"] >= 0


def test_rows_that_would_not_fit_are_refused_before_they_are_drawn() -> None:
    from serving_server.worker import op_profile, profile_inputs  # TensorFlow
    from serving_server.worker.pacing import Pace

    image = TensorSpec("x", "x:0", by_name("float"), (-1, 224, 224, 3))
    signature = Signature("serving_default", "", {"x": image}, {}, {})
    rows = profile_inputs.Rows(signature, {"x": np.zeros((1, 224, 224, 3), np.float32)}, profile_inputs.DRAWN)
    with pytest.raises(ResourceExhaustedError, match="inputs of 65536 rows take "):
        rows.feeds(65_536)
    pace = Pace(1.0, 5.0, threading.Event())
    sizes, failed = op_profile.run_times(lambda *_: [], rows, [1, 4, 2], 3, pace)
    assert [each["rows"] for each in sizes] == [1, 2, 4]
    assert failed is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_profile, "MAX_BYTES", rows.size(4))
        sizes, failed = op_profile.run_times(lambda *_: [], rows, [1, 3, 2], 3, pace)
    assert [each["rows"] for each in sizes] == [1, 2]
    assert failed is not None
    assert "all sizes up to 3 rows" in failed["message"]
    # A given array without a batch dimension stays as it is.
    fixed = TensorSpec("y", "y:0", by_name("float"), (100,))
    both = Signature("serving_default", "", {"x": image, "y": fixed}, {}, {})
    given = {**rows.inputs, "y": np.zeros(100, np.float32)}
    assert profile_inputs.Rows(both, given, profile_inputs.GIVEN).size(10) == 4 * (10 * 224 * 224 * 3 + 100)


def test_nothing_runs_once_nobody_waits() -> None:
    from serving_server.worker.pacing import Pace

    end = threading.Event()
    pace = Pace(1.0, 5.0, end)
    ran: list[int] = []

    def run() -> None:
        ran.append(1)
        end.set()

    with pytest.raises(CancelledError):
        pace.several(3, lambda: pace.run(run, []))
    assert ran == [1]


def synthetic(*events: tuple[str, int, int, int]) -> Any:
    """One thread's trace: names, steps, from and to in ns."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    plane = space.planes.add(name="/host:CPU")
    plane.stat_metadata[1].name = "id"
    line = plane.lines.add(name="thread")
    for number, (name, step, start, end) in enumerate(events, 1):
        plane.event_metadata[number].name = name
        event = line.events.add(metadata_id=number, offset_ps=1000 * start, duration_ps=1000 * (end - start))
        event.stats.add(metadata_id=1, int64_value=step)
    return space


def test_what_runs_in_a_loop_is_not_the_loops_own_time() -> None:
    from serving_server.worker import op_trace

    space = synthetic(
        ("SessionRun", 7, 0, 100),
        ("ExecutorState::Process", 7, 0, 100),
        ("loop:While", 0, 10, 90),
        ("ExecutorState::Process", 7, 20, 80),
        ("body:MatMul", 0, 30, 70),
        ("inner:If", 0, 71, 79),
        ("ExecutorState::Process", 7, 72, 78),
        ("leaf:Add", 0, 73, 77),
        ("ExecutorState::Process", 8, 81, 89),
        ("other:Add", 0, 82, 88),
    )
    found = op_trace.read(space, {7})
    assert {op.name: op.self_ns for op in found.ops} == {"loop": 32, "body": 40, "inner": 4, "leaf": 4}
    assert {op.name: op.total_ns for op in found.ops} == {"loop": 80, "body": 40, "inner": 8, "leaf": 4}
    few = op_trace.read(space, {7}, 2)
    assert [few.ops[event.op].name for event in few.events] == ["loop", "body"]
    assert [op.calls for op in few.ops] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batches": 2}, "batches is 2"),
        ({"batches": True}, "batches is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"runs": "many"}, "runs is 'many'"),
        ({"sizes": [0]}, "sizes must be"),
        ({"sizes": 8}, "sizes must be"),
        ({"sizes": [1] * 33}, "sizes must be 32 at most; there are 33"),
        ({"sizes": [65_536] * 3}, "sizes must be 131072 rows together at most; they are 196608"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 121}, "seconds is 121"),
        ({"live": True, "seconds": 31}, "seconds is 31"),
        ({"live": True, "batches": 10}, "batches is of runs that the profile makes"),
        ({"live": 1}, "live is 1"),
        ({"busy": 0}, "busy is 0"),
        ({"busy": 2}, "busy is 2"),
        ({"signature": 1}, "signature is 1"),
        ({"request": "?"}, "request must be"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match="^" + message.replace("?", r"\?")):
        OpWish.from_json(fields)
