"""The metrics page of a server, after requests whose number and fate are known."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from serving_server import __version__
from serving_server.tensors import to_proto
from serving_server.wire.messages import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    PredictRequest,
    ReloadConfigRequest,
    ReloadConfigResponse,
    message_class,
)
from tests.metrics_page import PATH, MetricsPage
from tests.servers import ServerProcess, SharedServer, wait_until

_names = (f"metered-{number}" for number in itertools.count())


@contextlib.contextmanager
def _metered(server: SharedServer, models_dir: Path, model: str = "half_plus_two", **settings: Any) -> Iterator[str]:
    """A model of a name that nothing has been counted for."""
    name = next(_names)
    server.put_model(name, models_dir / model, policy={"specific": {"versions": [1]}}, **settings)
    server.wait_available(name, 1)
    yield name
    server.control("DELETE", f"/models/{name}")


def _ask(server: SharedServer, name: str, value: list[float]) -> None:
    server.predict(name, {"x": np.float32(value)})


def test_requests_by_grpc(grpc_server: SharedServer, models_dir: Path) -> None:
    with _metered(grpc_server, models_dir) as name:
        for _ in range(3):
            _ask(grpc_server, name, [1, 2])
        with pytest.raises(grpc.RpcError, match="double"):
            grpc_server.predict(name, {"x": np.float64([1])})
        with pytest.raises(grpc.RpcError, match="Missing but required"):
            grpc_server.predict(name, {})
        with pytest.raises(grpc.RpcError, match="not found"):
            grpc_server.predict(name, {"x": np.float32([1])}, signature="nix")
        with pytest.raises(grpc.RpcError, match="Specific"):
            grpc_server.predict(name, {"x": np.float32([1])}, version=77)
        request = GetModelStatusRequest()
        request.model_spec.name = name
        grpc_server.call("/tensorflow.serving.ModelService/GetModelStatus", request, GetModelStatusResponse)
        page = MetricsPage.of(grpc_server)
    assert page.kinds[":tensorflow:serving:request_count"] == "counter"
    # Calls of ModelService do not count.
    assert {
        labels["status"]: page.get("request_count", **labels)
        for labels in page.having("request_count", model_name=name)
    } == {
        "OK": 3,
        "INVALID_ARGUMENT": 2,
        "FAILED_PRECONDITION": 1,
        "NOT_FOUND": 1,
    }
    assert page.get("request_latency_count", model_name=name, API="Predict", entrypoint="GRPC") == 3
    latency = page.get("request_latency_sum", model_name=name, API="Predict", entrypoint="GRPC")
    run_time = page.get("runtime_latency_sum", model_name=name, API="Predict", runtime="TF1")
    assert latency is not None
    assert run_time is not None
    assert 10 < run_time < latency < 30e6
    assert page.get("runtime_latency_count", model_name=name, API="Predict", runtime="TF1") == 3
    buckets = page.buckets("request_latency", model_name=name, API="Predict", entrypoint="GRPC")
    assert list(buckets) == [*(f"{10 * 1.8**power:g}" for power in range(33)), "+Inf"]
    assert buckets["+Inf"] == 3
    ours = {"model_name": name, "version": "1", "signature_name": "serving_default"}
    kind = {**ours, "API": "Predict", "entrypoint": "GRPC"}
    assert page.get("serving_workbench_requests_total", **kind, status="OK") == 3
    assert page.get("serving_workbench_request_duration_seconds_count", **kind) == 3


def test_requests_that_end_without_an_answer(grpc_server: SharedServer, models_dir: Path) -> None:
    with _metered(grpc_server, models_dir, "slow") as name:
        inputs = {"x": np.float32([1]), "steps": np.int32([4000])}

        def count(status: str) -> float | None:
            return MetricsPage.of(grpc_server).get("request_count", model_name=name, status=status)

        with pytest.raises(grpc.RpcError) as caught:
            grpc_server.predict(name, inputs, timeout=0.7)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: count("DEADLINE_EXCEEDED") == 1, what="the expired request to be counted")
        # It still runs: the next one must not be seen in it.
        wait_until(
            lambda: not grpc_server.versions(name)[1]["requests_in_flight"], what="the end of the expired request"
        )
        request = PredictRequest()
        request.model_spec.name = name
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(to_proto(value))
        stub = grpc_server.channel().unary_unary("/tensorflow.serving.PredictionService/Predict")
        call = stub.future(request.SerializeToString(), timeout=60)
        wait_until(lambda: grpc_server.versions(name)[1]["requests_in_flight"], what="the request to run")
        call.cancel()
        wait_until(lambda: count("CANCELLED") == 1, what="the cancelled request to be counted")
        assert count("OK") is None


def test_examples(grpc_server: SharedServer, models_dir: Path) -> None:
    request = message_class("tensorflow.serving.MultiInferenceRequest")()
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1)
    with _metered(grpc_server, models_dir, "examples") as name:
        for signature, method in (("classify", "classify"), ("regress", "regress")):
            task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
            task.model_spec.name = name
            task.model_spec.signature_name = signature
        answer = message_class("tensorflow.serving.MultiInferenceResponse")
        grpc_server.call("/tensorflow.serving.PredictionService/MultiInference", request, answer)
        page = MetricsPage.of(grpc_server)
    assert page.get("request_example_count_total", model=name) == 1
    assert page.get("request_example_counts_count", model=name) == 1
    assert page.get("runtime_latency_count", model_name=name, API="MultiInference", runtime="TF1") == 1
    # TensorFlow Serving does not count these calls as requests.
    assert not page.having("request_count", model_name=name)


def test_requests_by_rest(shared_server: SharedServer, models_dir: Path) -> None:
    with _metered(shared_server, models_dir) as name:
        path = f"/v1/models/{name}"
        before = MetricsPage.of(shared_server)
        for method, target, body, status in (
            ("POST", f"{path}:predict", {"instances": [1.0, 2.0]}, 200),
            ("POST", f"{path}/versions/1:predict", {"inputs": [1.0]}, 200),
            ("POST", f"{path}:predict", {"instances": ["a"]}, 400),
            ("POST", f"{path}:predict", b"{", 400),
            ("POST", f"{path}/versions/9:predict", {"instances": [1.0]}, 404),
            ("GET", path, None, 200),
            ("GET", f"{path}/metadata", None, 200),
            ("GET", f"{path}/versions/5", None, 404),
            ("GET", "/v1/nonsense", None, 400),
        ):
            assert shared_server.rest(method, target, body)[0] == status
        page = MetricsPage.of(shared_server)
    counts = {
        each["status"]: page.get("request_count", **each) for each in page.having("request_count", model_name=name)
    }
    assert counts == {"OK": 4, "INVALID_ARGUMENT": 2, "NOT_FOUND": 2}
    assert page.get("request_latency_count", model_name=name, API="predict", entrypoint="REST") == 2
    assert page.get("request_latency_count", model_name=name, API="", entrypoint="REST") == 2
    assert page.get("runtime_latency_count", model_name=name, API="Predict", runtime="TF1") == 2
    malformed = [each.get("request_count", model_name="", status="INVALID_ARGUMENT") or 0 for each in (before, page)]
    assert malformed[1] - malformed[0] == 1


def test_counters_do_not_go_down_when_a_model_is_unloaded(shared_server: SharedServer, models_dir: Path) -> None:
    with _metered(shared_server, models_dir) as name:
        _ask(shared_server, name, [1])
        assert MetricsPage.of(shared_server).having("serving_workbench_version_state", model_name=name)
    page = MetricsPage.of(shared_server)
    assert page.get("request_count", model_name=name, status="OK") == 1
    assert page.get("request_latency_count", model_name=name, API="Predict", entrypoint="GRPC") == 1
    assert not page.having("serving_workbench_version_state", model_name=name)


def test_batches(shared_server: SharedServer, models_dir: Path) -> None:
    batching = {"max_batch_size": 8, "allowed_batch_sizes": [8], "batch_timeout_micros": 1_000_000}
    before = MetricsPage.of(shared_server)
    with _metered(shared_server, models_dir, batching=batching) as name:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            # Seven of the eight rows; more would make the batch full before its time.
            list(pool.map(lambda value: _ask(shared_server, name, value), ([1, 2, 3], [4, 5, 6, 7])))
        page = MetricsPage.of(shared_server)
        status, statistics = shared_server.control("GET", "/statistics")
    assert status == 200
    batches = statistics["models"][name]["1"]["batches"]

    def grown(metric: str, **labels: str) -> float:
        return (page.get(metric, **labels) or 0) - (before.get(metric, **labels) or 0)

    assert grown("batching_session:wrapped_run_count") == batches["count"]
    assert grown("batching_session:input_batch_size_count") == 2
    assert grown("batching_session:input_batch_size_sum") == 7
    assert grown("batching_session:processed_batch_size_sum") == 8 * batches["count"]
    assert grown("batching_session:padding_size_sum", execution_batch_size="8") == 8 * batches["count"] - 7
    assert grown("batching_session:queuing_latency_count", thread_pool_name="") == 2
    labels = {"model_name": name, "version": "1"}
    assert page.get("serving_workbench_batch_rows_sum", **labels) == 7
    assert page.get("serving_workbench_padding_rows_total", **labels) == batches["padding_rows"]
    assert page.get("serving_workbench_queue_seconds_count", **labels) == 2
    graph = page.get("serving_workbench_graph_seconds_total", **labels) or 0
    assert graph > 0
    assert page.get("serving_workbench_batches_total", **labels, reason="timeout") == batches["count"]
    assert page.get("serving_workbench_batches_total", **labels, reason="full") == 0
    assert (page.get("serving_workbench_batch_stage_seconds_total", **labels, stage="lane") or 0) > graph
    assert (page.get("serving_workbench_batch_stage_seconds_total", **labels, stage="assembly") or 0) > 0


def test_versions_workers_and_the_server(shared_server: SharedServer, models_dir: Path) -> None:
    with _metered(shared_server, models_dir) as name:
        shared_server.control("PUT", f"/models/{name}/labels", {"stable": 1})
        page = MetricsPage.of(shared_server)
        worker = shared_server.versions(name)[1]["worker_pid"]
        memory = psutil.Process(worker).memory_info().rss
    labels = {"model_name": name, "version": "1"}
    states = {
        each["state"]: page.get("serving_workbench_version_state", **each)
        for each in page.having("serving_workbench_version_state", **labels)
    }
    assert states == {"START": 0, "LOADING": 0, "AVAILABLE": 1, "UNLOADING": 0, "END": 0}
    assert page.get("serving_workbench_serving_version", model_name=name) == 1
    assert page.get("serving_workbench_version_label", label="stable", **labels) == 1
    assert page.get("serving_workbench_worker_restarts_total", **labels) == 0
    assert page.get("serving_workbench_requests_running", **labels) == 0
    assert page.get("serving_workbench_requests_queued", **labels) == 0
    seen = page.get("serving_workbench_worker_resident_memory_bytes", **labels)
    assert seen is not None
    assert memory / 2 < seen < memory * 2
    path = str(models_dir / "half_plus_two" / "1")
    core = ":tensorflow:cc:saved_model:"
    assert (page.get(core + "load_attempt_count", model_path=path, status="success") or 0) >= 1
    assert (page.get(core + "load_latency", model_path=path) or 0) > 1000
    (build,) = page.having("serving_workbench_build_info")
    assert build["version"] == __version__
    assert build["tensorflow"].startswith("2.")
    process = psutil.Process(shared_server.pid)
    assert page.get("process_start_time_seconds") == pytest.approx(process.create_time(), abs=1)
    assert (page.get("process_resident_memory_bytes") or 0) > 10_000_000


def test_a_restart_after_a_crash_is_counted(shared_server: SharedServer, models_dir: Path) -> None:
    with _metered(shared_server, models_dir) as name:
        _ask(shared_server, name, [1])
        worker = psutil.Process(shared_server.versions(name)[1]["worker_pid"])
        worker.kill()
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, what="its end")
        shared_server.wait_available(name, 1, retries=True)

        def restarted() -> bool:
            page = MetricsPage.of(shared_server)
            return page.get("serving_workbench_worker_restarts_total", model_name=name, version="1") == 1

        wait_until(restarted, 30, "a restart on the metrics page")
        shared_server.wait_available(name, 1, retries=True)
        _ask(shared_server, name, [1])
        assert MetricsPage.of(shared_server).get("request_count", model_name=name, status="OK") == 2


def test_a_reload_tells_by_how_much_a_metric_rose(server: Callable[..., ServerProcess]) -> None:
    process = server()
    process.rest("GET", "/v1/models")
    request = ReloadConfigRequest(metric_names=["/tensorflow/serving/request_count", ":tensorflow:serving:nix"])
    request.config.model_config_list.SetInParent()
    path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    answer = process.call(path, request, ReloadConfigResponse)
    assert [(metric.name, metric.int64_value_increase) for metric in answer.metric] == [
        ("/tensorflow/serving/request_count", 0)
    ]


def test_any_other_target_of_that_path_is_an_error(shared_server: SharedServer) -> None:
    assert shared_server.rest("GET", f"{PATH}?x=1") == (400, f"Unexpected path: {PATH}?x=1. Should be {PATH}")
    assert shared_server.rest("GET", f"{PATH}/")[0] == 404


def test_models_are_listed(shared_server: SharedServer, models_dir: Path) -> None:
    with _metered(shared_server, models_dir) as name:
        shared_server.control("PUT", f"/models/{name}/labels", {"stable": 1})
        status, answer = shared_server.rest("GET", "/v1/models")
    assert status == 200
    (entry,) = [entry for entry in answer["models"] if entry["name"] == name]
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert entry == {"name": name, "model_version_status": [available], "version_labels": {"stable": "1"}}


def _config(path: Path, text: str) -> str:
    path.write_text(text)
    return f"--monitoring_config_file={path}"


def test_the_page_is_where_the_file_says(server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    missing = f"--model_base_path={tmp_path / 'missing'}"
    config = _config(tmp_path / "a.pbtxt", 'prometheus_config { enable: true path: "/Metrics" }')
    process = server("--model_name=m", missing, config)
    status, text = process.rest("GET", "/Metrics")
    assert status == 200
    assert MetricsPage.parse(text).get("serving_workbench_ready") == 0
    assert process.rest("GET", PATH)[0] == 404
    # Who is not ready, and why.

    def explained() -> bool:
        status, answer = process.rest("GET", "/readyz")
        assert (status, answer["status"]) == (503, "loading")
        return str(tmp_path / "missing") in answer["models"]["m"]

    wait_until(explained, what="the reason in /readyz")
    assert process.rest("GET", "/healthz") == (200, {"status": "alive"})


def test_there_is_no_page_unless_it_is_enabled(server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    for number, text in enumerate(("", "prometheus_config { enable: false }")):
        process = server(_config(tmp_path / f"{number}.pbtxt", text))
        assert process.rest("GET", PATH)[0] == 404


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prometheus { }", "Error parsing text-format tensorflow.serving.MonitoringConfig"),
        ('prometheus_config { enable: true path: "metrics" }', 'path "metrics" must begin with /'),
        ('prometheus_config { enable: true path: "/v1/models" }', "lie outside of /v1/"),
    ],
)
def test_a_wrong_file_stops_the_start(tmp_path: Path, text: str, told: str) -> None:
    process = ServerProcess(_config(tmp_path / "m.pbtxt", text), directory=tmp_path / "server").launch()
    try:
        assert process.wait() == 255
        assert told in process.log_text()
    finally:
        process.stop()
