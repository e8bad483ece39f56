"""Copies of requests: the primary first, bounds, books, pairs, health; then on real servers."""

from __future__ import annotations

import asyncio
import base64
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import psutil
import pytest
from test_lifecycle_fakes import FakeClock, FakeLoader, paths, reach, states, turns, until

from serving_server.batching.task import Task
from serving_server.errors import (
    AbortedError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServingError,
    UnavailableError,
)
from serving_server.inference import Resolved
from serving_server.lifecycle import Manager, Specific, State
from serving_server.metrics.requests import SignatureRequests
from serving_server.mirroring.mirror import JUDGED, Mirror
from serving_server.mirroring.mirrors import Mirrors
from serving_server.mirroring.wish import Wish
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name, to_array
from serving_server.wire.messages import MultiInferenceResponse, SavedModel, TensorProto
from tests.examples import MULTI, example, multi_request
from tests.load import HalfPlusTwoLoad
from tests.metrics_page import MetricsPage
from tests.servers import ServerProcess, SharedServer, wait_until


def signature(*inputs: str, outputs: tuple[str, ...] = ("y",), **defaults: float) -> Signature:
    def spec(alias: str) -> TensorSpec:
        return TensorSpec(alias, f"{alias}:0", by_name("float"), (-1,))

    return Signature(
        "serving_default",
        "tensorflow/serving/predict",
        {alias: spec(alias) for alias in (*inputs, *defaults)},
        {alias: spec(alias) for alias in outputs},
        {alias: np.float32(value) for alias, value in defaults.items()},
    )


class Shadow:
    """A version that answers when the test says so."""

    version = 2

    def __init__(self, *signatures: Signature) -> None:
        self.signatures = {each.name: each for each in signatures or (signature("x"),)}
        self.tasks: list[Task] = []
        self.full = False

    def submit(self, task: Task) -> Callable[[], None]:
        if self.full:
            raise ResourceExhaustedError("the queue is full")
        self.tasks.append(task)
        return lambda: self.tasks.remove(task) if task.cancel() else None

    def answer(self, value: float = 1.0, error: ServingError | None = None) -> None:
        task = self.tasks.pop(0)
        buffer = np.full(1, value, np.float32)
        task.finish(None if error else dict.fromkeys(task.outputs, buffer), error)
        buffer.fill(-1)  # as the lane does


class Primary:
    """Requests of version 1, each answered at once."""

    version = 1

    def __init__(self, mirror: Mirror, of: Signature | None = None) -> None:
        self.mirror = mirror
        self.signature = of or signature("x")
        outputs = tuple(self.signature.outputs)
        self.resolved = Resolved(cast("Any", self), self.signature, outputs, SignatureRequests())
        self.answers: list[Any] = []

    def ask(self, number: int = 1, error: ServingError | None = None, outputs: tuple[str, ...] = ()) -> int:
        """Requests that were chosen."""
        chosen = 0
        for value in range(number):
            resolved = self.mirror.marked(self.resolved)
            if resolved.mirror is None:
                continue
            chosen += 1
            inputs = {"x": np.full(1, value, np.float32)} | dict(self.signature.defaults)
            wanted = outputs or resolved.outputs
            done = resolved.mirror.watched(
                resolved, inputs, wanted, "Predict", lambda *answer: self.answers.append(answer)
            )
            buffer = np.full(1, 10.0 + value, np.float32)
            done(None if error else dict.fromkeys(wanted, buffer), error)
            buffer.fill(-1)
        return chosen


class Bench:
    """A mirror between the two."""

    def __init__(
        self,
        shadow: Shadow | None = None,
        primary: Signature | None = None,
        clock: Callable[[], float] = perf_counter,
        **wish: Any,
    ) -> None:
        self.shadow = shadow or Shadow()
        self.reasons: list[str] = []
        wished = Wish.from_json({"version": 2, "busy": 1, **wish})
        self.mirror = Mirror(cast("Any", self.shadow), wished, random.Random(4), self.reasons.append, clock)
        self.primary = Primary(self.mirror, primary)

    def check_books(self) -> dict[str, Any]:
        told = self.mirror.to_json()
        left = told["waiting"] + told["running"]
        assert told["chosen"] == sum(told[name] for name in ("answered", "failed", "dropped", "discarded")) + left
        return told


async def test_the_primary_is_answered_before_anything_is_copied() -> None:
    bench = Bench()
    bench.primary.ask()
    ((answer, error),) = bench.primary.answers
    assert error is None
    assert answer["y"].tolist() == [-1], "the very arrays of its version"
    assert not bench.shadow.tasks, "not in the same turn of the loop"
    await turns()
    (task,) = bench.shadow.tasks
    assert (task.api, task.inputs["x"].tolist(), task.outputs) == ("Mirror", [0], ("y",))
    assert task.deadline is not None
    bench.shadow.answer(11.5)
    (pair,) = bench.mirror.pairs.page(0)
    assert pair.primary.outputs is not None
    assert pair.shadow.outputs is not None
    assert pair.primary.outputs["y"].tolist() == [10]
    assert pair.shadow.outputs["y"].tolist() == [11.5], "copied before the lane was used again"
    assert (pair.primary.version, pair.shadow.version, pair.signature) == (1, 2, "serving_default")
    assert bench.check_books()["coverage"] == 1.0


async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    bench = Bench(queue=3, at_once=2)
    bench.primary.ask(10)
    assert len(bench.primary.answers) == 10
    books = bench.check_books()
    assert books | {"chosen": 10, "dropped": 7, "waiting": 3, "running": 0} == books
    assert books["lag_seconds"] > 0
    await turns()
    told = bench.check_books()
    assert (told["waiting"], told["running"], len(bench.shadow.tasks)) == (1, 2, 2)
    bench.primary.ask(3)
    assert bench.check_books()["dropped"] == 8
    while bench.shadow.tasks:
        bench.shadow.answer()
        await turns()
    told = bench.check_books()
    assert (told["seen"], told["answered"], told["dropped"]) == (13, 5, 8)
    assert told["coverage"] == pytest.approx(5 / 13)


async def test_the_shadow_is_busy_for_a_share_of_the_time() -> None:
    now = [100.0]
    bench = Bench(clock=lambda: now[0], busy=0.5, at_once=2)
    bench.primary.ask(3)
    await turns()
    assert len(bench.shadow.tasks) == 2
    bench.shadow.answer()
    now[0] += 0.05  # the burst has taken so long
    bench.shadow.answer()
    bench.primary.ask()
    await turns()
    assert not bench.shadow.tasks, "a pause as long"
    assert bench.check_books()["waiting"] == 2
    await until(lambda: len(bench.shadow.tasks) == 2)
    for _ in range(2):
        bench.shadow.answer()
    now[0] += 1000.0
    bench.primary.ask()
    await turns()
    assert bench.shadow.tasks, "the pause was over"
    now[0] += 0.05
    bench.shadow.answer()
    bench.primary.ask()
    await turns()
    assert not bench.shadow.tasks, "a pause also when nothing waited at its beginning"
    bench.mirror.close()
    bench = Bench(busy=1e-4)
    bench.primary.ask()
    await turns()
    bench.shadow.answer()
    bench.primary.ask()
    bench.mirror.close()
    await turns()
    assert not bench.shadow.tasks, "nor after the end"


async def test_a_fraction_is_chosen_by_lot() -> None:
    bench = Bench(fraction=0.2, queue=10_000)
    chosen = bench.primary.ask(10_000)
    assert abs(chosen - 2000) <= 3 * math.sqrt(10_000 * 0.2 * 0.8)
    told = bench.check_books()
    assert (told["seen"], told["chosen"]) == (10_000, chosen)
    bench.mirror.close()


async def test_what_the_shadow_answers_itself_and_what_fails_is_not_copied() -> None:
    bench = Bench()
    own = Resolved(cast("Any", bench.shadow), signature("x"), ("y",), SignatureRequests())
    assert bench.mirror.marked(own) is own
    bench.primary.ask(error=UnavailableError("gone"))
    await turns()
    assert isinstance(bench.primary.answers[0][1], UnavailableError)
    assert bench.check_books() | {"seen": 1, "chosen": 0} == bench.check_books()
    assert not bench.shadow.tasks


async def test_the_shadow_gets_what_the_client_sent() -> None:
    shadow = Shadow(signature("x", outputs=("y", "z"), w=7.0))
    bench = Bench(shadow, signature("x", outputs=("y",), v=3.0))
    bench.primary.ask()
    bench.primary.ask(outputs=("y",))
    await turns()
    task = shadow.tasks[0]
    assert {alias: float(array) if array.ndim == 0 else array.tolist() for alias, array in task.inputs.items()} == {
        "x": [0],
        "w": 7.0,
    }, "its own defaults, not the primary's"
    assert task.outputs == ("y", "z"), "all of its outputs, as no filter was given"
    bench.mirror.close()


@pytest.mark.parametrize(
    ("of", "message"),
    [(signature("other"), "not found in request|Sent extra: {x}"), (signature("x", "u"), "Missing but required: {u}")],
)
async def test_what_the_shadow_would_refuse_is_a_failed_pair(of: Signature, message: str) -> None:
    bench = Bench(Shadow(of))
    bench.primary.ask()
    await turns()
    (pair,) = bench.mirror.pairs.page(0)
    assert pair.shadow.outputs is None
    assert isinstance(pair.shadow.error, InvalidArgumentError)
    with pytest.raises(InvalidArgumentError, match=message):
        raise pair.shadow.error
    assert bench.check_books()["failed"] == 1


async def test_a_full_shadow_and_a_missing_signature_fail_too() -> None:
    shadow = Shadow()
    shadow.full = True
    bench = Bench(shadow)
    bench.primary.ask()
    await turns()
    shadow.full = False
    shadow.signatures.clear()
    bench.mirror._targets.clear()
    bench.primary.ask()
    await turns()
    assert [pair.shadow.error.code.name for pair in bench.mirror.pairs.page(0) if pair.shadow.error] == [
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
    ]


async def test_an_unhealthy_shadow_is_told_and_the_end_discards_what_waits() -> None:
    bench = Bench(at_once=1)
    for number in range(JUDGED):
        bench.primary.ask()
        await turns()
        bench.shadow.answer(error=UnavailableError("down") if number % 2 else None)
    assert bench.reasons == ["10 of the last 20 copies failed; last: UNAVAILABLE: down"]
    bench.primary.ask(4)
    await turns()
    bench.mirror.close()
    told = bench.check_books()
    assert (told["discarded"], told["waiting"], told["running"]) == (4, 0, 0)
    assert not bench.shadow.tasks, "what ran was cancelled"
    bench.primary.ask()
    await turns()
    assert bench.check_books()["chosen"] == JUDGED + 4
    assert len(bench.primary.answers) == JUDGED + 5
    bench.mirror.close()
    assert bench.check_books()["discarded"] == 4


async def test_pairs_are_bounded_and_read_by_pages() -> None:
    bench = Bench(pairs=300)
    for value in range(500):
        bench.primary.ask()
        await turns(3)
        bench.shadow.answer(value)
    assert len(bench.mirror.pairs) == 300
    first = bench.mirror.pairs.page(0)
    assert [first[0].number, first[-1].number] == [201, 250]
    rest = bench.mirror.pairs.page(460)
    assert [rest[0].number, rest[-1].number] == [461, 500]
    assert bench.mirror.pairs.page(500) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "version must be a version number, of the shadow; got None"),
        ({"version": "2"}, "version must be a version number"),
        ({"version": 2, "fraction": 0}, "fraction must be a number from 1e-06 to 1; got 0"),
        ({"version": 2, "fraction": 1.5}, "fraction must be a number from 1e-06 to 1"),
        ({"version": 2, "queue": 0}, "queue must be a whole number from 1 to 10000"),
        ({"version": 2, "at_once": 1.5}, "at_once must be a whole number"),
        ({"version": 2, "timeout": math.nan}, "timeout must be a number"),
    ],
)
def test_what_is_no_wish(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Wish.from_json(fields)


# --- with the lifecycle ---


async def test_the_end_of_a_shadow_leaves_the_one_that_is_to_follow(caplog: pytest.LogCaptureFixture) -> None:
    loader = FakeLoader()
    manager = Manager(loader, clock=FakeClock(), close_timeout=2.0, max_load_retries=0)
    manager.add_model("m", Specific([1]))
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v1=State.AVAILABLE)

    async def poll(_model: str) -> None:
        raise AssertionError("all is known")

    mirrors = Mirrors(manager, poll)
    await mirrors.put("m", Wish(2))
    loader.auto = False
    following = asyncio.create_task(mirrors.put("m", Wish(3)))
    await until(lambda: states(manager).get(3) is State.LOADING)
    assert manager.kept("m") == {2, 3}
    next(each for each in loader.servables if each.version == 2).crash()
    assert mirrors.by_model == {}
    assert manager.kept("m") == {3}, "the shadow that has crashed is not wanted any more"
    told = mirrors.to_json("m")
    assert told is not None
    assert told["ended"]["reason"].startswith("version 2 is not available any more")
    loader.waiting(3).finish()
    await following
    assert mirrors.by_model["m"].wish.version == 3
    # An operator's word ends both.
    loader.auto = True
    following = asyncio.create_task(mirrors.put("m", Wish(2)))
    await turns(1)
    assert mirrors.end("m")
    with pytest.raises(AbortedError):
        await following
    assert manager.kept("m") == frozenset()
    await mirrors.put("m", Wish(2))
    await manager.close(drain_timeout=1.0)
    assert mirrors.by_model == {}
    assert "listener failed" not in caplog.text


# --- on real servers ---


@pytest.fixture(scope="module")
def mirrored_server(shared_server: SharedServer, models_dir: Path) -> Iterator[SharedServer]:
    """Both versions of half_plus_two as "mirrored", version 1 pinned; no mirror yet."""
    shared_server.put_model("mirrored", models_dir / "half_plus_two", policy={"specific": {"versions": [1]}})
    shared_server.wait_available("mirrored", 1)
    yield shared_server
    assert shared_server.control("DELETE", "/models/mirrored")[0] == 204


def put(server: ServerProcess, version: int = 2, **fields: Any) -> dict[str, Any]:
    status, answer = server.control("PUT", "/models/mirrored/mirror", {"version": version, **fields})
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def mirror_of(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = server.model("mirrored")["mirror"]
    return found


def settled(server: ServerProcess, chosen: int) -> dict[str, Any]:
    """The mirror once it has so many chosen requests behind it."""

    def done() -> dict[str, Any] | None:
        told = mirror_of(server)
        return told if told["chosen"] >= chosen and not told["waiting"] + told["running"] else None

    found: dict[str, Any] = wait_until(done)
    return found


def test_pairs_of_both_versions_and_answers_of_one(mirrored_server: SharedServer) -> None:
    put(mirrored_server, busy=1)
    for value in range(10):
        outputs, version = mirrored_server.predict_versioned("mirrored", {"x": np.float32([value])})
        assert (version, outputs["y"].tolist()) == (1, [value / 2 + 2])
    answer = mirrored_server.rest("POST", "/v1/models/mirrored:predict", {"instances": [0.0, 2.0]})
    assert answer == (200, {"predictions": [2.0, 3.0]})
    mirrored_server.predict("mirrored", {"x": np.float32([0])}, version=1)
    told = settled(mirrored_server, 11)
    assert (told["seen"], told["answered"], told["failed"]) == (11, 11, 0), "who names a version is not copied"
    _, page = mirrored_server.control("GET", "/models/mirrored/mirror/pairs/0")
    assert page["last"] == 11

    def values(encoded: dict[str, str], alias: str) -> list[float]:
        found: list[float] = to_array(TensorProto.FromString(base64.b64decode(encoded[alias]))).tolist()
        return found

    for pair in page["pairs"]:
        x = values(pair["inputs"], "x")
        assert values(pair["primary"]["outputs"], "y") == [each / 2 + 2 for each in x]
        assert values(pair["shadow"]["outputs"], "y") == [each / 2 + 3 for each in x]
        assert pair["primary"]["seconds"] > 0 < pair["shadow"]["seconds"]
    assert mirrored_server.control("GET", "/models/mirrored/mirror/pairs/11")[1]["pairs"] == []
    page_of = MetricsPage.of(mirrored_server)
    labels = {"model_name": "mirrored", "version": "2"}
    assert page_of.get("serving_workbench_mirror_requests_total", **labels, result="answered") == 11
    status, told = mirrored_server.control("DELETE", "/models/mirrored/mirror")
    assert (status, told["active"], told["ended"]["reason"]) == (200, False, "it was taken back")
    mirrored_server.predict("mirrored", {"x": np.float32([0])})
    assert mirror_of(mirrored_server)["seen"] == 11
    wait_until(lambda: mirrored_server.versions("mirrored")[2]["state"] == "END", 30)


def test_answers_under_load_are_those_of_the_primary(mirrored_server: SharedServer) -> None:
    put(mirrored_server, queue=2)
    with HalfPlusTwoLoad(mirrored_server.grpc_endpoint, "mirrored", rate=300) as load:
        wait_until(lambda: len(load.answers) > 300)
    assert all(answer.right for answer in load.answers)
    assert {answer.version for answer in load.answers} == {1}
    told = settled(mirrored_server, len(load.answers))
    assert told["chosen"] == told["answered"] + told["dropped"] == len(load.answers)
    mirrored_server.control("DELETE", "/models/mirrored/mirror")


def test_it_ends_with_the_shadow_s_worker(mirrored_server: SharedServer) -> None:
    put(mirrored_server)
    psutil.Process(mirrored_server.versions("mirrored")[2]["worker_pid"]).kill()
    wait_until(lambda: not mirror_of(mirrored_server)["active"])
    assert mirror_of(mirrored_server)["ended"]["reason"].startswith("version 2 is not available any more")
    assert mirrored_server.predict_versioned("mirrored", {"x": np.float32([0])})[1] == 1


def test_multi_inference_is_copied_with_the_shadow_s_own_tensors(
    server: Callable[..., ServerProcess], model_copy: Callable[..., Path]
) -> None:
    base = model_copy("examples", 1).parent
    path = model_copy("examples", 2) / "saved_model.pb"
    bundle = SavedModel.FromString(path.read_bytes())
    signatures = bundle.meta_graphs[0].signature_def
    signatures["regress"].CopyFrom(signatures["regress_column"])  # the same values by another tensor
    path.unlink()  # it is a link to the file that all tests share
    path.write_bytes(bundle.SerializeToString())
    process = server("--model_name=examples", f"--model_base_path={base}")
    process.wait_available("examples", 2)
    assert process.control("PUT", "/models/examples/policy", {"specific": {"versions": [1]}})[0] == 200
    wait_until(lambda: process.model("examples")["serving_version"] == 1, what="version 1")
    assert process.control("PUT", "/models/examples/mirror", {"version": 2, "busy": 1})[0] == 200

    asked = multi_request("examples", {"regress": "regress", "classify": "classify"}, [example(x=1.0), example(x=3.0)])
    for _ in range(3):
        answer = process.call(MULTI, asked, MultiInferenceResponse)
        assert {result.model_spec.version.value for result in answer.results} == {1}
    wait_until(lambda: process.model("examples")["mirror"]["answered"] == 3, what="three pairs")
    pairs = process.control("GET", "/models/examples/mirror/pairs/0")[1]["pairs"]

    def values(encoded: dict[str, str], name: str) -> Any:
        return to_array(TensorProto.FromString(base64.b64decode(encoded[name])))

    for pair in pairs:
        assert (pair["api"], pair["signature"]) == ("MultiInference", "regress, classify")
        assert len(values(pair["inputs"], "inputs")) == 2
        first, second = (pair[side]["outputs"] for side in ("primary", "shadow"))
        assert first.keys() == second.keys() == {"regress/outputs", "classify/classes", "classify/scores"}
        assert values(first, "regress/outputs").tolist() == [2.5, 3.5]
        assert values(second, "regress/outputs").ravel().tolist() == [3.5, 4.5]
        assert values(second, "classify/scores").tolist() == [[1.0, 3.5], [3.0, 4.5]]

    # Promoted, the shadow is no shadow any more.
    assert process.control("PUT", "/models/examples/policy", {"specific": {"versions": [2]}})[0] == 200
    wait_until(lambda: process.model("examples")["serving_version"] == 2, what="version 2")
    told = process.model("examples")["mirror"]
    assert not told["active"]
    assert told["ended"]["reason"] == "version 2 answers the requests that name no version itself now"


def test_what_is_refused(mirrored_server: SharedServer) -> None:
    def refused(fields: Any) -> tuple[int, str, str]:
        status, answer = mirrored_server.control("PUT", "/models/mirrored/mirror", fields)
        return status, answer["code"], answer["error"]

    assert refused({"version": 9})[:2] == (404, "NOT_FOUND")
    assert refused({"version": 1})[:2] == (400, "FAILED_PRECONDITION")
    assert "answers the requests that name no version" in refused({"version": 1})[2]
    assert refused({"shadow": 1})[:2] == (400, "INVALID_ARGUMENT")
    assert mirrored_server.control("GET", "/models/nobody/mirror")[0] == 404
    assert mirrored_server.control("GET", "/models/half_plus_two/mirror") == (200, None)
    assert mirrored_server.control("GET", "/models/half_plus_two/mirror/pairs/0") == (200, {"pairs": [], "last": 0})


def test_classify_and_regress_are_copied_too(mirrored_server: SharedServer, models_dir: Path) -> None:
    name = "mirrored-examples"
    mirrored_server.put_model(name, models_dir / "examples", policy={"specific": {"versions": [1]}})
    try:
        mirrored_server.wait_available(name, 1)
        assert mirrored_server.control("PUT", f"/models/{name}/mirror", {"version": 2, "busy": 1})[0] == 200
        for api in ("classify", "regress"):
            body = {"signature_name": api, "examples": [{"x": 1.0}]}
            assert mirrored_server.rest("POST", f"/v1/models/{name}:{api}", body)[0] == 200
        wait_until(lambda: mirrored_server.model(name)["mirror"]["answered"] == 2)
        pairs = mirrored_server.control("GET", f"/models/{name}/mirror/pairs/0")[1]["pairs"]
        assert [pair["api"] for pair in pairs] == ["Classify", "Regress"]
        assert all(pair["primary"]["outputs"].keys() == pair["shadow"]["outputs"].keys() for pair in pairs)
    finally:
        mirrored_server.control("DELETE", f"/models/{name}")
