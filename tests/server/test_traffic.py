"""A split on real servers: every API follows it, explicit versions do not, changes lose no request."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from serving_server.tensors import to_array, to_proto
from serving_server.traffic.journal import Journal
from serving_server.traffic.router import point_of
from serving_server.traffic.shares import POINTS
from serving_server.wire import messages
from tests.examples import CLASSIFY, MULTI, REGRESS, example, multi_request, request
from tests.load import HalfPlusTwoLoad
from tests.metrics_page import MetricsPage
from tests.servers import ServerProcess, SharedServer, wait_until

KEY = "x-serving-key"
ZERO = {"instances": [0.0]}
#: f(0) of half_plus_two tells its version over REST, which does not name it.
VERSION_OF = {2.0: 1, 3.0: 2}


@pytest.fixture(scope="module")
def split_server(grpc_server: SharedServer, models_dir: Path) -> Iterator[SharedServer]:
    """Both versions of half_plus_two as "split", of "examples" as "split-examples"; no weights yet."""
    for name, base in (("split", "half_plus_two"), ("split-examples", "examples")):
        grpc_server.put_model(name, models_dir / base, policy={"all": {}})
        grpc_server.wait_available(name, 1, 2)
    yield grpc_server
    for name in ("split", "split-examples"):
        assert grpc_server.control("DELETE", f"/models/{name}")[0] == 204


def put(server: ServerProcess, weights: dict[int, float], model: str = "split", **fields: Any) -> dict[str, Any]:
    body = {"weights": {str(version): weight for version, weight in weights.items()}, **fields}
    status, answer = server.control("PUT", f"/models/{model}/traffic", body)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def ask(server: ServerProcess, method: str, message: Any, response: Any, key: str | None = None) -> Any:
    stub = server.channel().unary_unary(
        method, request_serializer=type(message).SerializeToString, response_deserializer=response.FromString
    )
    return stub(message, timeout=30, metadata=() if key is None else ((KEY, key),))


def predict_request(model: str = "split", version: int = 0) -> Any:
    message = messages.PredictRequest()
    message.model_spec.name = model
    if version:
        message.model_spec.version.value = version
    message.inputs["x"].CopyFrom(to_proto(np.float32([0.0])))
    return message


def predict(server: ServerProcess, key: str | None = None, version: int = 0) -> int:
    """Version that the answer names; its value must be that version's."""
    message = predict_request(version=version)
    answer = ask(server, "/tensorflow.serving.PredictionService/Predict", message, messages.PredictResponse, key)
    assert VERSION_OF[float(to_array(answer.outputs["y"])[0])] == answer.model_spec.version.value
    return int(answer.model_spec.version.value)


def rest_predict(server: ServerProcess, key: str | None = None) -> int:
    headers = {} if key is None else {"X-Serving-Key": key}
    status, answer = server.rest("POST", "/v1/models/split:predict", ZERO, headers=headers)
    assert status == 200
    return VERSION_OF[answer["predictions"][0]]


@pytest.mark.parametrize("one", [predict, rest_predict])
def test_predict_follows_the_weights(split_server: SharedServer, one: Callable[[ServerProcess], int]) -> None:
    put(split_server, {1: 75, 2: 25})
    found = Counter(one(split_server) for _ in range(400))
    # Five standard deviations: nobody seeds this server.
    assert abs(found[2] - 100) < 5 * math.sqrt(400 * 0.25 * 0.75)
    put(split_server, {1: 0, 2: 1})
    assert {one(split_server) for _ in range(50)} == {2}
    put(split_server, {1: 1})
    assert {one(split_server) for _ in range(50)} == {1}
    assert split_server.control("DELETE", "/models/split/traffic")[1]["weights"] is None
    assert {one(split_server) for _ in range(50)} == {2}


def test_every_api_gives_a_key_the_same_version(split_server: SharedServer) -> None:
    put(split_server, {1: 50, 2: 50}, key=KEY)
    put(split_server, {1: 50, 2: 50}, "split-examples", key=KEY)
    rows = [example(x=1.0)]

    def last() -> tuple[int, bool]:
        _, log = split_server.control("GET", "/models/split-examples/traffic/exposures")
        return log["version"][-1], log["keyed"][-1]

    seen = set()
    for key in (f"user-{number}" for number in range(8)):
        version = 1 if point_of("split", key.encode()) < POINTS // 2 else 2
        assert {predict(split_server, key) for _ in range(3)} == {version}
        assert rest_predict(split_server, key) == version
        version = 1 if point_of("split-examples", key.encode()) < POINTS // 2 else 2
        seen.add(version)
        for method, response in (
            (CLASSIFY, messages.message_class("tensorflow.serving.ClassificationResponse")),
            (REGRESS, messages.message_class("tensorflow.serving.RegressionResponse")),
        ):
            name = "classify" if method == CLASSIFY else "regress"
            answer = ask(split_server, method, request(method, "split-examples", rows, name), response, key)
            assert answer.model_spec.version.value == version
        asked = multi_request("split-examples", {"regress": "regress", "classify": "classify"}, rows)
        results = ask(split_server, MULTI, asked, messages.MultiInferenceResponse, key).results
        assert [result.model_spec.version.value for result in results] == [version, version]
        for name in ("classify", "regress"):
            body = {"signature_name": name, "examples": [{"x": 1.0}]}
            path = f"/v1/models/split-examples:{name}"
            assert split_server.rest("POST", path, body, headers={KEY: key})[0] == 200
            assert last() == (version, True)
    assert seen == {1, 2}


def test_of_a_key_that_comes_twice_the_first_counts(split_server: SharedServer) -> None:
    put(split_server, {1: 50, 2: 50}, key=KEY)
    message, response = predict_request(), messages.PredictResponse
    stub = split_server.channel().unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        request_serializer=type(message).SerializeToString,
        response_deserializer=response.FromString,
    )
    host, port = urllib.parse.urlsplit(split_server.rest_url).netloc.split(":")
    seen = set()
    for number in range(12):
        keys = [f"user-{number}, x", f"user-{number + 1}"]  # the comma is the key's own
        version = 1 if point_of("split", keys[0].encode()) < POINTS // 2 else 2
        seen.add(version)
        answer = stub(message, timeout=30, metadata=tuple((KEY, key) for key in keys))
        assert answer.model_spec.version.value == version
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        for _ in range(2):  # the second time on a connection that has seen the same head
            connection.putrequest("POST", "/v1/models/split:predict")
            for key in keys:
                connection.putheader("X-Serving-Key", key)
            body = json.dumps(ZERO).encode()
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            assert VERSION_OF[json.load(connection.getresponse())["predictions"][0]] == version
        connection.close()
    assert seen == {1, 2}


def test_who_names_a_version_gets_it(split_server: SharedServer) -> None:
    before = put(split_server, {1: 1, 2: 0})["versions"]
    assert {predict(split_server, version=2) for _ in range(20)} == {2}
    path = "/v1/models/split/versions/2:predict"
    assert split_server.rest("POST", path, ZERO) == (200, {"predictions": [3.0]})
    assert split_server.rest("GET", "/v1/models/split/metadata")[1]["model_spec"]["version"] == "2", "not split"
    assert split_server.control("GET", "/models/split/traffic")[1]["versions"] == before


def test_other_weights_keep_the_objective_until_the_split_ends(split_server: SharedServer) -> None:
    def objective() -> float | None:
        found = split_server.control("GET", "/models/split/traffic")[1]["periods"][-1]["outcomes"]["1"]["objective_s"]
        return None if found is None else float(found)

    put(split_server, {1: 1, 2: 1}, slo_ms=20)
    assert objective() == 0.02
    put(split_server, {1: 3, 2: 1})
    assert objective() == 0.02
    put(split_server, {1: 3, 2: 1}, slo_ms=None)
    assert objective() is None
    put(split_server, {1: 1, 2: 3}, slo_ms=20)
    assert split_server.control("DELETE", "/models/split/traffic")[1]["weights"] is None
    put(split_server, {1: 1, 2: 1})
    assert objective() is None


def test_counts_by_the_control_channel_and_on_the_metrics_page(split_server: SharedServer) -> None:
    before = {v["version"]: v for v in put(split_server, {1: 3, 2: 1}, key=KEY, exposures=5)["versions"]}
    for number in range(10):
        predict(split_server, str(number))
    rest_predict(split_server)
    _, told = split_server.control("GET", "/models/split/traffic")
    assert (told["weights"], told["key"]) == ({"1": 3.0, "2": 1.0}, KEY)
    assert told["shares"] == {"1": 0.75, "2": 0.25}
    new = {
        v["version"]: [v[count] - before[v["version"]][count] for count in ("requests", "keyed")]
        for v in told["versions"]
    }
    assert [sum(counts) for counts in zip(*new.values(), strict=True)] == [11, 10]
    assert told["exposures"] == {"remembered": 5, "capacity": 5}
    page = split_server.control("GET", "/models/split/traffic/exposures?after=0&limit=2")[1]
    rest = split_server.control("GET", f"/models/split/traffic/exposures?after={page['sequence'][-1]}")[1]
    assert (len(page["sequence"]), len(rest["sequence"]), rest["sequence"][-1]) == (2, 3, rest["last"])
    assert rest["status"] == ["OK"] * 3
    assert all(0 < run <= total for run, total in zip(rest["run_ms"], rest["total_ms"], strict=True))
    status, refused = split_server.control("GET", "/models/split/traffic/exposures?limit=0")
    assert (status, refused["code"]) == (400, "INVALID_ARGUMENT")
    assert told["periods"][-1]["requests"] == {str(version): counts[0] for version, counts in new.items()}
    assert split_server.model("split")["traffic"]["shares"] == told["shares"]
    page = MetricsPage.of(split_server)
    for version in told["versions"]:
        labels = {"model_name": "split", "version": str(version["version"])}
        assert page.get("serving_workbench_traffic_share", **labels) == version["share"]
        assert page.get("serving_workbench_traffic_weight", **labels) == version["weight"]
        assert page.get("serving_workbench_traffic_requests_total", **labels, by="key") == version["keyed"]
    put(split_server, {1: 1})
    assert split_server.control("GET", "/models/split/traffic")[1]["key"] == KEY, "it stays when nothing is said"
    assert put(split_server, {1: 1}, key=None)["key"] is None


def test_weights_change_under_load_without_a_failure(split_server: SharedServer) -> None:
    with HalfPlusTwoLoad(split_server.grpc_endpoint, "split", rate=100) as load:
        for number in range(60):
            put(split_server, {1: number % 10 + 1, 2: 10 - number % 10}, key=KEY)
        wait_until(lambda: len(load.answers) > 50)
        put(split_server, {1: 1})
        asked = len(load.answers) + 10
        wait_until(lambda: len(load.answers) > asked + 20)
    assert all(answer.right for answer in load.answers), [a.error for a in load.answers if not a.right][:3]
    assert {answer.version for answer in load.answers[: asked - 10]} == {1, 2}
    assert {answer.version for answer in load.answers[asked:]} == {1}


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"weights": {"1": 1, "9": 1}}, 404, "NOT_FOUND", "version 9 of model split is not on disk; its versions are"),
        ({"weights": {"1": -1}}, 400, "INVALID_ARGUMENT", "the weight of version 1 must be a number from 0"),
        ({"weights": {"1": 0}}, 400, "INVALID_ARGUMENT", "the weights are all 0"),
        ({"weight": {"1": 1}}, 400, "INVALID_ARGUMENT", "unknown field 'weight'"),
    ],
)
def test_what_is_refused_changes_nothing(
    split_server: SharedServer, body: Any, status: int, code: str, message: str
) -> None:
    put(split_server, {1: 1})
    answer = split_server.control("PUT", "/models/split/traffic", body)
    assert (answer[0], answer[1]["code"]) == (status, code)
    assert message in answer[1]["error"]
    assert predict(split_server) == 1
    assert split_server.control("GET", "/models/nobody/traffic")[0] == 404
    assert split_server.control("DELETE", "/models/nobody/traffic")[0] == 404


def test_a_split_under_latest_1_through_load_crash_deploy(
    server: Callable[..., ServerProcess], model_copy: Callable[..., Path]
) -> None:
    """The versions are loaded when they are needed, a crash fails over, the next version takes everything."""
    base = model_copy("half_plus_two", 1).parent
    model_copy("half_plus_two", 2)
    process = server("--model_name=split", f"--model_base_path={base}")
    process.wait_available("split", 2)
    assert 1 not in process.versions("split")
    answers: list[dict[str, Any]] = []
    setting = threading.Thread(target=lambda: answers.append(put(process, {1: 50, 2: 50})))
    setting.start()
    while setting.is_alive():
        assert predict(process)
    setting.join()
    assert answers[0]["shares"] == {"1": 0.5, "2": 0.5}
    assert {predict(process) for _ in range(60)} == {1, 2}
    assert process.model("split")["policy"] == {"latest": {"num_versions": 1}}
    process.control("PUT", "/models/split/labels", {"canary": 2})
    for _ in range(10):
        answer = process.rest("POST", "/v1/models/split/labels/canary:predict", ZERO)
        assert answer == (200, {"predictions": [3.0]}), "a label is not split"

    psutil.Process(process.versions("split")[2]["worker_pid"]).kill()
    wait_until(lambda: process.model("split")["traffic"]["shares"] == {"1": 1.0} or _restarted(process))
    wait_until(lambda: _restarted(process), 30)
    assert {predict(process) for _ in range(60)} == {1, 2}

    model_copy("half_plus_two", 1, as_version=3)
    wait_until(lambda: process.model("split")["traffic"]["ended"], 30)
    told = process.model("split")["traffic"]
    assert told["weights"] is None
    assert told["ended"]["reason"] == "version 3 went into service"
    wait_until(lambda: process.versions("split")[2]["state"] == "END", 30)
    assert process.predict_versioned("split", {"x": np.float32([0.0])})[1] == 3


@pytest.fixture
def half_broken(server: Callable[..., ServerProcess], model_copy: Callable[..., Path], tmp_path: Path) -> ServerProcess:
    """Version 2 of "examples" answers no Classify, Regress and MultiInference request with what its client can read."""
    base = model_copy("examples", 1).parent
    path = model_copy("examples", 2) / "saved_model.pb"
    bundle = messages.SavedModel.FromString(path.read_bytes())
    signatures = bundle.meta_graphs[0].signature_def
    signatures["classify"].CopyFrom(signatures["flat_scores"])
    signatures["regress"].CopyFrom(signatures["regress_two_columns"])
    del signatures["classes_only"]
    path.unlink()  # it is a link to the file that all tests share
    path.write_bytes(bundle.SerializeToString())
    monitoring = tmp_path / "monitoring.txt"
    monitoring.write_text("prometheus_config { enable: true }")
    process = server("--model_name=examples", f"--model_base_path={base}", f"--monitoring_config_file={monitoring}")
    process.wait_available("examples", 2)
    assert process.control("PUT", "/models/examples/policy", {"specific": {"versions": [1]}})[0] == 200
    wait_until(lambda: process.model("examples")["serving_version"] == 1, what="version 1")
    return process


def _example_clients(process: ServerProcess) -> dict[str, Callable[[], None]]:
    """What sends one request each; errors of the candidate are expected."""
    rows = [example(x=1.0)]
    classification = messages.message_class("tensorflow.serving.ClassificationResponse")
    regression = messages.message_class("tensorflow.serving.RegressionResponse")

    def grpc_client(method: str, message: Any, response: Any) -> Callable[[], None]:
        def send() -> None:
            with contextlib.suppress(grpc.RpcError):
                ask(process, method, message, response)

        return send

    def rest_client(verb: str, signature: str) -> Callable[[], None]:
        body = {"signature_name": signature, "examples": [{"x": 1.0}]}
        return lambda: assert_known(process.rest("POST", f"/v1/models/examples:{verb}", body)[0])

    def assert_known(status: int) -> None:
        assert status in (200, 400)

    both = multi_request("examples", {"classify": "classify", "regress": "regress"}, rows)
    return {
        "Classify": grpc_client(CLASSIFY, request(CLASSIFY, "examples", rows, "classify"), classification),
        "Classify, no such signature": grpc_client(
            CLASSIFY, request(CLASSIFY, "examples", rows, "classes_only"), classification
        ),
        "Regress": grpc_client(REGRESS, request(REGRESS, "examples", rows, "regress"), regression),
        "MultiInference": grpc_client(MULTI, both, messages.MultiInferenceResponse),
        "REST classify": rest_client("classify", "classify"),
        "REST regress": rest_client("regress", "regress"),
    }


def test_all_methods_count_and_a_ramp_to_a_version_that_fails_on_them_rolls_back(half_broken: ServerProcess) -> None:
    process = half_broken
    clients = _example_clients(process)
    put(process, {1: 50, 2: 50}, "examples")
    for client in clients.values():
        before = _outcomes(process)
        for _ in range(20):
            client()
        found = _outcomes(process)
        answered, failed = (found[each] - before[each] for each in ("answered", "failed"))
        assert (answered + failed, found["astray"] - before["astray"]) == (20, 0)
    assert found["runs"] == found["answered"], "each was a batch of its own, and its time in the graph is known"
    process.control("DELETE", "/models/examples/traffic")

    for name in ("Classify", "REST regress", "MultiInference"):
        plan = {"from": 1, "to": 2, "steps": [50], "hold_seconds": 60, "min_requests": 10**6}
        status, answer = process.control("PUT", "/models/examples/ramp", plan)
        assert status == 200, answer
        page = MetricsPage.of(process)
        labels = {"model_name": "examples", "version": "2"}
        assert page.get("serving_workbench_ramp_state", **labels, state="running") == 1
        assert page.get("serving_workbench_ramp_weight", **labels) == 0.5

        def over(send: Callable[[], None] = clients[name]) -> bool:
            for _ in range(20):
                send()
            return bool(process.model("examples")["ramp"]["state"] != "running")

        wait_until(over, timeout=60, what=f"the end of the ramp under {name}")
        ramp = process.model("examples")["ramp"]
        assert (ramp["state"], ramp["reason"][:13]) == ("rolled back", "errors: +100 "), name
        gauge = partial(MetricsPage.of(process).get, model_name="examples", version="2")
        states = {state: gauge("serving_workbench_ramp_state", state=state) for state in ("running", ramp["state"])}
        assert states == {"running": 0, "rolled back": 1}
        assert (gauge("serving_workbench_ramp_step"), gauge("serving_workbench_ramp_weight")) == (1, 0)
        assert process.model("examples")["traffic"]["weights"] is None


def test_a_journal_that_began_anew_is_read_with_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.ramps.jsonl"
    monkeypatch.setattr("serving_server.traffic.journal.MAX_BYTES", 150)
    first = Journal(path)
    first.add("m", 7, "begun", plan={"to": 2})
    first.add("m", 7, "step", step=1, note="x" * 100)
    first.add("m", 7, "passed", step=1)
    assert path.with_name("m.ramps.jsonl.1").exists()
    assert path.read_text().count("\n") == 1, "it began anew"
    assert [event["event"] for event in Journal(path).of("m")] == ["begun", "step", "passed"]


def test_a_journal_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.ramps.jsonl"
    path.mkdir()
    assert Journal(path).models() == set()
    path.rmdir()
    path.write_bytes(b'\xff\xfe\n{"model": "m"}\n{"model": "m", "ramp": 1, "event": "begun"}\n{"mod')
    assert [event["event"] for event in Journal(path).of("m")] == ["begun"]


def _outcomes(process: ServerProcess) -> Counter[str]:
    """Answers of version 1 and failures of version 2 in the present period; all else is astray."""
    outcomes = process.control("GET", "/models/examples/traffic")[1]["periods"][-1]["outcomes"]
    first, second = outcomes["1"], outcomes["2"]
    return Counter(
        answered=first["answered"],
        runs=first["runs"],
        failed=second["errors"].get("INVALID_ARGUMENT", 0),
        astray=second["answered"] + sum(first["errors"].values()),
    )


def test_browsers_may_send_the_key(server: Callable[..., ServerProcess], models_dir: Path) -> None:
    process = server(
        "--model_name=split", f"--model_base_path={models_dir / 'half_plus_two'}", "--rest_api_enable_cors_support"
    )
    process.wait_available("split", 2)

    def allowed() -> str | None:
        address = urllib.parse.urlsplit(process.rest_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        headers = {"Origin": "https://example.org", "Access-Control-Request-Headers": KEY}
        connection.request("OPTIONS", "/v1/models/split:predict", headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.headers["Access-Control-Allow-Headers"]

    assert allowed() == "Content-Type"
    put(process, {1: 50, 2: 50}, key=KEY)
    assert allowed() == f"Content-Type, {KEY}"
    process.control("DELETE", "/models/split/traffic")
    assert allowed() == "Content-Type"


def _restarted(process: ServerProcess) -> bool:
    entry = process.versions("split")[2]
    return bool(entry["state"] == "AVAILABLE" and entry["restarts"] == 1)
