"""Histograms, counters and the text that is made of them."""

from __future__ import annotations

import math
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_server.batching.task import Task
from serving_server.errors import StatusCode
from serving_server.forkserver.client import ForkServer
from serving_server.lifecycle.states import State
from serving_server.load_options import LoadOptions
from serving_server.metrics.exposition import Family, exposition
from serving_server.metrics.histogram import Histogram, exponential
from serving_server.metrics.loads import LoadCounters
from serving_server.metrics.requests import MAX_NAMES, OTHER, Requests
from serving_server.metrics.serving_families import serving_families
from serving_server.signatures import Signature
from serving_server.statistics import Statistics
from serving_server.worker_loader import ENDED_VERSIONS, MODELS, OTHER_MODELS, WorkerLoader
from tests.metrics_page import MetricsPage

SIGNATURE = Signature("serving_default", "", {}, {}, {})


def _page(*families: Family) -> MetricsPage:
    return MetricsPage.parse(exposition(families).decode())


@given(st.lists(st.floats(0, 1000)), st.lists(st.floats(0, 1000), min_size=1, unique=True))
def test_a_histogram_counts_each_value_below_the_first_bound_that_holds_it(
    values: list[float], bounds: list[float]
) -> None:
    bounds.sort()
    histogram = Histogram(bounds)
    for value in values:
        histogram.add(value)
    assert histogram.count == len(values)
    assert math.isclose(histogram.total, sum(values), abs_tol=1e-6)
    for index, bound in enumerate(bounds):
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)


def test_histograms_add_up() -> None:
    one, two = Histogram((1, 2)), Histogram((1, 2))
    one.add(1)
    two.add(5, times=3)
    one.merge(two)
    assert (one.counts, one.total, two.counts) == ([1, 0, 3], 16, [0, 0, 3])
    assert exponential(10, 1.8, 3) == pytest.approx((10, 18, 32.4))


def test_the_text_is_as_tensorflow_serving_writes_it() -> None:
    histogram = Histogram(exponential(10, 1.8, 5))
    for value in (5, 10, 11, 99.25, 1e9):
        histogram.add(value)
    count = Family(":tensorflow:serving:request_count", "counter", ("model_name", "status"), {("m", "OK"): 3})
    latency = Family(":a:latency", "histogram", ("model_name",), {("m",): histogram})
    runs = Family(":b:runs", "counter", (), {(): 7})
    assert exposition([count, latency, runs, Family(":c:none", "counter")]).decode() == (
        "# TYPE :a:latency histogram\n"
        ':a:latency_bucket{model_name="m",le="10"} 2\n'
        ':a:latency_bucket{model_name="m",le="18"} 3\n'
        ':a:latency_bucket{model_name="m",le="32.4"} 3\n'
        ':a:latency_bucket{model_name="m",le="58.32"} 3\n'
        ':a:latency_bucket{model_name="m",le="104.976"} 4\n'
        ':a:latency_bucket{model_name="m",le="+Inf"} 5\n'
        ':a:latency_sum{model_name="m"} 1000000125.25\n'
        ':a:latency_count{model_name="m"} 5\n'
        "# TYPE :b:runs counter\n"
        ":b:runs{} 7\n"
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3\n'
    )


@given(st.text())
def test_any_label_value_comes_back(value: str) -> None:
    family = Family("f", "gauge", ("a", "b"), {(value, "x"): 1}, help="One.\nTwo \\ three.")
    expected = value.encode("utf-8", "replace").decode()
    # What Prometheus calls a line ends at \n only.
    assert _page(family).samples == {("f", frozenset({("a", expected), ("b", "x")})): 1}


@pytest.mark.parametrize("value", [0, -3, 2**53, 0.1, 1e300, math.inf, -math.inf, math.nan])
def test_any_number_comes_back(value: float) -> None:
    (found,) = _page(Family("f", "gauge", (), {(): value})).samples.values()
    assert found == value or (math.isnan(value) and math.isnan(found))


def _task(rows: int) -> Task:
    task = Task(SIGNATURE, {"x": np.zeros(rows)}, ("y",), 0.0, None, lambda *_: None)
    task.rows = rows
    return task


def _families(statistics: Statistics, requests: Requests | None = None) -> MetricsPage:
    return _page(*serving_families({("m", 1): statistics}, requests or Requests(), LoadCounters(), {}))


def test_batches_in_all_sizes() -> None:
    statistics = Statistics()
    statistics.started([_task(1), _task(1), _task(3), _task(1)], batched=True)
    statistics.batch(6, 2, 1000)
    statistics.started([_task(16)], batched=True)
    statistics.batch(16, 0, 1000)
    statistics.started([_task(1)], batched=False)
    statistics.alone(1, 1000)
    page = _families(statistics)
    assert page.get("batching_session:wrapped_run_count") == 2
    sizes = page.buckets("batching_session:input_batch_size")
    assert list(sizes) == [*(str(2**power) for power in range(14)), "+Inf"]
    assert (sizes["1"], sizes["2"], sizes["4"], sizes["8"], sizes["16"], sizes["+Inf"]) == (3, 3, 4, 4, 5, 5)
    assert page.get("batching_session:input_batch_size_sum") == 22
    assert page.get("batching_session:processed_batch_size_sum") == 24
    assert page.get("batching_session:padding_size_sum", execution_batch_size="8") == 2
    assert page.get("batching_session:padding_size_count", execution_batch_size="16") == 1
    assert page.get("batching_session:queuing_latency_count", thread_pool_name="") == 5
    bounds = list(page.buckets("batching_session:queuing_latency", thread_pool_name=""))
    assert (len(bounds), bounds[:3]) == (53, ["100", "120", "144"])
    assert statistics.snapshot()["batches"] == {
        "count": 3,
        "rows": 23,
        "padding_rows": 2,
        "run_us": 3.0,
        "sizes": {"1": 1, "6": 1, "16": 1},
        "padded": [[6, 2, 1], [16, 0, 1]],
    }


def test_sizes_that_clients_choose_take_a_bounded_number_of_counters() -> None:
    statistics = Statistics()
    for rows in range(1, 10_000):
        statistics.alone(rows, 0)
        statistics.batch(rows, 1, 0)
        statistics.started([_task(rows)], batched=True)
    assert max(len(statistics.single), len(statistics.batches), len(statistics.tasks)) < 4200
    assert statistics.snapshot()["batches"]["count"] == 2 * 9999


def test_versions_that_ended_long_ago_are_joined_and_sums_stay() -> None:
    async def nothing(_model: str, _folder: object) -> None:
        return None

    loader = WorkerLoader(ForkServer(), lambda _model: LoadOptions(), lambda _model, _own: None, nothing)

    def requests() -> tuple[int, int]:
        families = serving_families(loader.statistics, Requests(), loader.loads, {})
        (counts,) = [family for family in families if family.name.endswith(":request_count")]
        (sizes,) = [family for family in families if family.name.endswith(":processed_batch_size")]
        return sum(counts.samples.values()), sizes.samples[()].count

    for number in range(3 * ENDED_VERSIONS):
        counters = loader.statistics[f"m{number % 300}", number] = Statistics()
        counters.requests("serving_default").predict.succeeded(perf_counter())
        counters.requests("serving_default").predict.failed(StatusCode.INVALID_ARGUMENT)
        counters.batch(2, 0, run_ns=1000)
    serving = loader.statistics["m0", 10_000] = Statistics()
    before = requests()
    assert before == (6 * ENDED_VERSIONS, 3 * ENDED_VERSIONS)
    for _ in range(2):  # a state may be told again
        for number in range(3 * ENDED_VERSIONS):
            loader.on_state(f"m{number % 300}", number, State.UNLOADING, State.END)
    assert requests() == before
    assert loader.statistics["m0", 10_000] is serving, "what has not ended is left alone"
    assert len(loader.statistics) <= ENDED_VERSIONS + MODELS + 2
    assert any(model == OTHER_MODELS for model, _ in loader.statistics)


def test_names_that_clients_make_up_take_a_bounded_number_of_counters() -> None:
    requests = Requests()
    for number in range(2 * MAX_NAMES):
        requests.cell(f"model-{number}", "Predict", "GRPC").failed(StatusCode.NOT_FOUND)
    page = _families(Statistics(), requests)
    assert page.get("request_count", model_name="model-0", status="NOT_FOUND") == 1
    assert page.get("request_count", model_name=OTHER, status="NOT_FOUND") == MAX_NAMES
    assert len(page.having("request_count")) == MAX_NAMES + 1


def test_examples_of_multi_inference() -> None:
    requests = Requests()
    for number in (1, 3, 20_000):
        requests.count_examples("m", number)
    page = _families(Statistics(), requests)
    assert page.get("request_example_count_total", model="m") == 20_004
    counts = page.buckets("request_example_counts", model="m")
    assert (counts["1"], counts["4"], counts["16384"], counts["+Inf"]) == (1, 2, 2, 3)


def test_loads_and_warmups_by_directory() -> None:
    loads = LoadCounters()
    loads.failed("/models/m/1")
    loads.loaded("/models/m/1", 1.5)
    loads.warmed("/models/m/1", "OK", 0.25, 10)
    page = _page(*serving_families({}, Requests(), loads, {"m": (5, 2)}))
    assert page.get("request_log_count", model_name="m", status_code="OK") == 5
    assert page.get("request_log_count", model_name="m", status_code="RESOURCE_EXHAUSTED") == 2
    core = ":tensorflow:cc:saved_model:"
    assert page.get(core + "load_attempt_count", model_path="/models/m/1", status="fail") == 1
    assert page.get(core + "load_attempt_count", model_path="/models/m/1", status="success") == 1
    assert page.get(core + "load_latency", model_path="/models/m/1") == 1_500_000
    assert page.get("model_warmup_latency_sum", model_path="/models/m/1", status="OK") == 250_000
    assert page.get("model_warmup_records_read", model_path="/models/m/1", status="OK") == 10
    for number in range(2000):
        loads.loaded(f"/models/m/{number}", 1.0)
    assert len(loads.paths) == 1024
