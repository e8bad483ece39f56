"""Run times measured in the worker on request, beside the requests of clients; and where the time of batches goes."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from serving_server import service_times
from serving_server.batching.aside import Timing
from serving_server.batching.task import Task
from serving_server.errors import ResourceExhaustedError
from serving_server.servable import ServedVersion
from serving_server.service_times import Wish
from serving_server.signatures import Signature, TensorSpec
from serving_server.statistics import Statistics
from serving_server.tensors import by_numpy, to_proto
from serving_server.wire.messages import PredictRequest
from tests.servers import ServerProcess, SharedServer, wait_until

_SPEC = TensorSpec("x", "x:0", by_numpy(np.dtype(np.float32)), (-1,))


def request_for(model: str, signature: str = "", **inputs: Any) -> str:
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(np.asarray(value)))
    return base64.b64encode(request.SerializeToString()).decode()


def measure(server: ServerProcess, model: str, request: str, **options: Any) -> tuple[int, Any]:
    return server.control("POST", f"/models/{model}/service_times", {"request": request, "sizes": [1, 4], **options})


def test_every_size_is_run_as_often_as_asked(shared_server: SharedServer) -> None:
    model = shared_server.serve("half_plus_two")
    before = shared_server.control("GET", "/statistics")[1]["models"][model]["2"]
    status, answer = measure(
        shared_server, model, request_for(model, x=np.float32([1, 2])), sizes=[8, 1, 3], at_once=[1, 2, 3], runs=5
    )
    assert status == 200, answer
    assert (answer["version"], answer["signature"], answer["failed"]) == (2, "serving_default", None)
    assert [(kind["rows"], kind["at_once"]) for kind in answer["times"]] == [
        (rows, at_once) for rows in (1, 3, 8) for at_once in (1, 2, 3)
    ]
    for kind in answer["times"]:
        assert len(kind["run"]) == len(kind["lane"]) == len(kind["assembly"]) >= 5
        assert all(0 < run <= lane for run, lane in zip(kind["run"], kind["lane"], strict=True))
    # It is no traffic: neither batches nor requests are counted.
    after = shared_server.control("GET", "/statistics")[1]["models"][model]["2"]
    assert after["batches"] == before["batches"]
    assert after["requests"] == before["requests"]


def test_little_time_still_gives_a_few_runs_of_each(shared_server: SharedServer) -> None:
    model = shared_server.serve("half_plus_two")
    status, answer = measure(shared_server, model, request_for(model, x=np.float32([1])), runs=1000, seconds=1e-6)
    assert status == 200, answer
    assert [len(kind["run"]) for kind in answer["times"]] == [3, 3]


def test_strings_and_several_inputs(shared_server: SharedServer) -> None:
    model = shared_server.serve("multi")
    texts = np.array([b"a", b"bc"], dtype=object)
    status, answer = measure(shared_server, model, request_for(model, "join", left=texts, right=texts), runs=3)
    assert status == 200, answer
    assert answer["signature"] == "join"


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("no_batch_dim", {"x": np.float32(3)}, "at least one dimension"),
        ("bad_output_batch", {"x": np.float32([1, 2])}, "cannot be batched"),
        ("half_plus_two", {"x": np.zeros(0, np.float32)}, "no row to repeat"),
        ("half_plus_two", {"z": np.float32([1])}, "Sent extra|invalid name|not found"),
        ("half_plus_two", {"x": np.int32([1])}, "Expects arg"),
    ],
)
def test_what_cannot_be_batched_is_said(
    shared_server: SharedServer, model: str, inputs: dict[str, Any], message: str
) -> None:
    status, answer = measure(shared_server, shared_server.serve(model), request_for(model, **inputs), runs=3)
    assert status in {400, 412}, answer
    assert any(part in answer["error"] for part in message.split("|")), answer


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"request": "%"}, "base64"),
        ({"sizes": []}, "sizes must be a list"),
        ({"sizes": [0]}, "sizes must be a list"),
        ({"at_once": [65]}, "from 1 to 64"),
        ({"runs": 1}, "runs is 1"),
        ({"seconds": 1e9}, "seconds is"),
        ({"seed": "x"}, "seed is"),
        ({"size": 1}, "unknown field 'size'"),
    ],
)
def test_wrong_fields_are_named(shared_server: SharedServer, wrong: dict[str, Any], message: str) -> None:
    fields = {"request": request_for("half_plus_two", x=np.float32([1])), "sizes": [1], **wrong}
    status, answer = shared_server.control("POST", "/models/half_plus_two/service_times", fields)
    assert status == 400, answer
    assert message in answer["error"]


def test_requests_are_answered_meanwhile_and_their_stages_are_counted(
    server: Callable[..., ServerProcess], model_copy: Callable[..., Any]
) -> None:
    folder = model_copy("half_plus_two").parent
    process = server("--model_name=half", f"--model_base_path={folder}", "--enable_batching")
    process.wait_available("half")
    settings = {"max_batch_size": 4, "batch_timeout_micros": 30_000, "allowed_batch_sizes": [4], "num_batch_threads": 1}
    assert process.control("PATCH", "/models/half/batching", settings)[0] == 200
    answers: list[tuple[int, Any]] = []

    def profile() -> None:
        answers.append(measure(process, "half", request_for("half", x=np.float32([1])), runs=2000, seconds=5.0))

    thread = threading.Thread(target=profile)
    thread.start()
    sent = 0
    while not answers and sent < 2000:
        assert process.predict("half", {"x": np.float32([2])})["y"].tolist() == [3.0]
        sent += 1
    thread.join(30)
    ((status, answer),) = answers
    assert status == 200, answer
    assert 0 < answer["requests"] <= sent
    process.predict("half", {"x": np.float32([1, 2, 3, 4])})
    counted: dict[str, Any] = process.control("GET", "/statistics")[1]["models"]["half"]["1"]
    stages = counted["stages"]
    assert stages["reasons"] == {"full": 1, "timeout": sent, "immediate": 0, "alone": 0}
    assert stages["requests"] == sent + 1
    assert 0 < stages["batch_us"]["run"] < stages["batch_us"]["lane"]
    assert stages["batch_us"]["assembly"] > 0
    assert stages["request_us"] == pytest.approx(stages["batch_us"])  # one request in each batch
    assert counted["batches"]["padded"] == [[1, 3, sent], [4, 0, 1]]
    # Each lone request waited for the timeout; whole steps of the clock may be missing from what was waited.
    assert counted["queue_us"]["count"] == sent + 1
    assert counted["queue_us"]["sum"] > sent * 25_000
    assert counted["answered_us"]["count"] == sent + 1
    assert counted["answered_us"]["sum"] >= counted["latency_us"]["sum"] >= counted["queue_us"]["sum"]
    fine = counted["latency_fine"]
    assert sum(count for _, count in fine["counts"]) == sent + 1
    slowest = fine["scale_us"] * fine["growth"] ** fine["counts"][-1][0]
    assert slowest > 25_000


class _Version:
    """A version whose lanes are always busy, or whose runs last no time."""

    version = 1
    signatures: ClassVar = {
        "serving_default": Signature("serving_default", "", {"x": _SPEC}, {"y": _SPEC}, {}),
    }
    statistics = Statistics()

    def __init__(self, *, busy: bool) -> None:
        self._busy = busy

    def provide_lanes(self, _count: int) -> None:
        """There are enough."""

    def run_aside(self, _task: Task) -> asyncio.Future[Timing] | None:
        if self._busy:
            return None
        future: asyncio.Future[Timing] = asyncio.get_running_loop().create_future()
        future.set_result(Timing(1, 3, 2))
        return future


async def test_lanes_that_are_never_free_end_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_times, "_LANES_BUSY_SECONDS", 0.02)
    wish = Wish.from_json({"request": request_for("m", x=np.float32([1])), "sizes": [1]})
    with pytest.raises(ResourceExhaustedError, match=r"no lane free for 0\.02 s"):
        await service_times.measure(cast("ServedVersion", _Version(busy=True)), wish)


async def test_sizes_that_would_take_too_much_memory_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_times, "MAX_BYTES", 400)
    wish = Wish.from_json({"request": request_for("m", x=np.float32([1])), "sizes": [1, 100, 101, 200], "runs": 3})
    answer = await service_times.measure(cast("ServedVersion", _Version(busy=False)), wish)
    assert [kind["rows"] for kind in answer["times"]] == [1, 100]
    assert answer["failed"]["rows"] == 101
    assert "101 rows take 404 bytes; the limit" in answer["failed"]["message"]


def test_the_end_of_a_worker_ends_the_measurement(
    server: Callable[..., ServerProcess], model_copy: Callable[..., Any]
) -> None:
    import psutil

    folder = model_copy("half_plus_two").parent
    process = server("--model_name=half", f"--model_base_path={folder}")
    worker = psutil.Process(process.wait_available("half")["versions"][0]["worker_pid"])
    answers: list[tuple[int, Any]] = []
    request = request_for("half", x=np.float32([1]))
    thread = threading.Thread(
        target=lambda: answers.append(measure(process, "half", request, sizes=[1, 60_000], runs=10_000, seconds=60.0))
    )
    thread.start()
    wait_until(lambda: worker.cpu_times().user > 0 and worker.num_threads() > 1, what="the worker")
    worker.kill()
    thread.join(30)
    ((status, answer),) = answers
    assert status == 503, answer
    assert "worker" in answer["error"]
    process.wait_available("half", 1, retries=True)
