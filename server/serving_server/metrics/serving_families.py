"""TensorFlow Serving's metrics, made of our counters when somebody looks: its names, labels and buckets.

Names follow tensorflow_serving/util/prometheus_exporter.cc: ``/tensorflow/serving/request_count`` is
``:tensorflow:serving:request_count``. Latencies are in microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from serving_server.errors import StatusCode
from serving_server.metrics.exposition import Family
from serving_server.metrics.histogram import Histogram, exponential
from serving_server.metrics.loads import LoadCounters
from serving_server.metrics.requests import RequestCell, Requests
from serving_server.statistics import Statistics

__all__ = ["serving_families"]

_PREFIX: Final = ":tensorflow:serving:"

_LATENCY_BOUNDS_US: Final = exponential(10, 1.8, 33)
_QUEUING_BOUNDS_US: Final = exponential(100, 1.2, 52)
_SIZE_BOUNDS: Final = exponential(1, 2, 14)

#: What the one thread pool is called in TensorFlow Serving's own session batching.
_THREAD_POOL: Final = ""

_ByVersion = Mapping[tuple[str, int], Statistics]


def serving_families(
    versions: _ByVersion, requests: Requests, loads: LoadCounters, logs: Mapping[str, tuple[int, int]]
) -> list[Family]:
    """Return the families.

    Parameters
    ----------
    versions : mapping of (str, int) to Statistics
        By model and version, of all that were ever loaded: counters do not go down when one is unloaded.
    requests : Requests
    loads : LoadCounters
    logs : mapping of str to (int, int)
        Records of the request log that were written and dropped, by model.
    """
    return [
        *_requests(versions, requests),
        _runtime(versions),
        *_examples(requests),
        *_batching(versions.values()),
        *_loads(loads),
        _logs(logs),
    ]


def _requests(versions: _ByVersion, requests: Requests) -> list[Family]:
    counts: Counter[tuple[str, StatusCode]] = Counter()
    latencies: dict[tuple[str, ...], Histogram] = {}

    def take(model: str, api: str, entrypoint: str, cell: RequestCell) -> None:
        if api == "MultiInference":
            return  # counted in families of ours; TensorFlow Serving does not
        answered = cell.count
        if answered:
            counts[model, StatusCode.OK] += answered
            latency = cell.scaled(1e6, _LATENCY_BOUNDS_US)
            _add(latencies, (model, api, entrypoint), latency)
        for code, count in cell.errors.items():
            counts[model, code] += count

    for (model, api, entrypoint), cell in requests.cells.items():
        take(model, api, entrypoint, cell)
    for (model, _), statistics in versions.items():
        for signature in statistics.signatures.values():
            for (api, entrypoint), cell in signature.cells.items():
                take(model, api, entrypoint, cell)
            for code, count in signature.ended.items():
                counts[model, code] += count
    samples = {(model, code.name): count for (model, code), count in sorted(counts.items())}
    return [
        Family(_PREFIX + "request_count", "counter", ("model_name", "status"), samples),
        Family(_PREFIX + "request_latency", "histogram", ("model_name", "API", "entrypoint"), latencies),
    ]


def _runtime(versions: _ByVersion) -> Family:
    found: dict[tuple[str, ...], Histogram] = {}
    for (model, _), statistics in versions.items():
        for api, histogram in statistics.runtime.items():
            _add(found, (model, api, "TF1"), histogram.scaled(1e6, _LATENCY_BOUNDS_US))
    return Family(_PREFIX + "runtime_latency", "histogram", ("model_name", "API", "runtime"), found)


def _examples(requests: Requests) -> list[Family]:
    histograms = {(model,): histogram for model, histogram in requests.examples.items()}
    totals = {labels: int(histogram.total) for labels, histogram in histograms.items()}
    return [
        Family(_PREFIX + "request_example_counts", "histogram", ("model",), histograms),
        Family(_PREFIX + "request_example_count_total", "counter", ("model",), totals),
    ]


def _batching(versions: Iterable[Statistics]) -> list[Family]:
    queuing = Histogram(_QUEUING_BOUNDS_US)
    tasks = Histogram(_SIZE_BOUNDS)
    processed = Histogram(_SIZE_BOUNDS)
    padding: dict[int, Histogram] = {}
    for statistics in versions:
        queuing.merge(statistics.queuing.scaled(1e6, _QUEUING_BOUNDS_US))
        for rows, count in statistics.tasks.items():
            tasks.add(rows, count)
        for (rows, padded), count in statistics.batches.items():
            processed.add(rows + padded, count)
            padding.setdefault(rows + padded, Histogram(_SIZE_BOUNDS)).add(padded, count)
    name = _PREFIX + "batching_session:"
    runs = processed.count
    if not runs:
        return []
    return [
        Family(name + "queuing_latency", "histogram", ("thread_pool_name",), {(_THREAD_POOL,): queuing}),
        Family(name + "wrapped_run_count", "counter", (), {(): runs}),
        Family(name + "input_batch_size", "histogram", (), {(): tasks}),
        Family(name + "processed_batch_size", "histogram", (), {(): processed}),
        Family(
            name + "padding_size",
            "histogram",
            ("execution_batch_size",),
            {(str(size),): histogram for size, histogram in sorted(padding.items())},
        ),
    ]


def _loads(loads: LoadCounters) -> list[Family]:
    attempts: dict[tuple[str, ...], int | float | Histogram] = {}
    latencies: dict[tuple[str, ...], int | float | Histogram] = {}
    warmups: dict[tuple[str, ...], int | float | Histogram] = {}
    records: dict[tuple[str, ...], int | float | Histogram] = {}
    for path, entry in loads.paths.items():
        for status, count in entry.attempts.items():
            attempts[path, status] = count
        if entry.load_us:
            latencies[path,] = entry.load_us
        for status, histogram in entry.warmups.items():
            warmups[path, status] = histogram.scaled(1e6, _LATENCY_BOUNDS_US)
        for status, count in entry.records.items():
            records[path, status] = count
    core = ":tensorflow:cc:saved_model:"
    return [
        Family(core + "load_attempt_count", "counter", ("model_path", "status"), attempts),
        Family(core + "load_latency", "counter", ("model_path",), latencies),
        Family(_PREFIX + "model_warmup_latency", "histogram", ("model_path", "status"), warmups),
        Family(_PREFIX + "model_warmup_records_read", "counter", ("model_path", "status"), records),
    ]


def _logs(logs: Mapping[str, tuple[int, int]]) -> Family:
    counts = {}
    for model, (written, dropped) in logs.items():
        counts[model, StatusCode.OK.name] = written
        if dropped:
            counts[model, StatusCode.RESOURCE_EXHAUSTED.name] = dropped
    return Family(_PREFIX + "request_log_count", "counter", ("model_name", "status_code"), counts)


def _add(histograms: dict[tuple[str, ...], Histogram], labels: tuple[str, ...], histogram: Histogram) -> None:
    known = histograms.get(labels)
    if known is None:
        histograms[labels] = histogram
    else:
        known.merge(histogram)
