"""The sentence under the live plots: counters in, regime and words out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.task import Task
from serving_server.errors import StatusCode
from serving_server.metrics.stages import ALONE, FULL, TIMEOUT
from serving_server.signatures import Signature
from serving_server.statistics import Statistics
from serving_workbench.tuning.diagnosis import diagnose
from serving_workbench.tuning.window import Window, window

STAGES = {"queue": 0.001, "assembly": 0.0001, "run": 0.002, "channel": 0.0001, "codec": 0.0002}
CALM = Window(
    seconds=10.0,
    requests=4000,
    errors={},
    p50=0.003,
    p99=0.006,
    batches={(8, 0): 500},
    reasons={"immediate": 500},
    stages=STAGES,
    held=5.0,
    queued=0,
    running=1,
)
PARAMETERS = BatchingParameters(max_batch_size=16, num_batch_threads=1)
WAITING = BatchingParameters(max_batch_size=16, batch_timeout_micros=5000, num_batch_threads=1)


GOLDEN: dict[str, tuple[dict[str, Any], BatchingParameters | None, str]] = {
    "idle": ({"requests": 0}, PARAMETERS, "No requests come."),
    "refusing": (
        {"errors": {"UNAVAILABLE": 400}},
        PARAMETERS,
        (
            "9 % of the requests are refused, as 10 batches wait already (160 rows): more come than can be run. Raise "
            "max_enqueued_batches for bursts, or max_batch_size for more throughput."
        ),
    ),
    "off": (
        {"requests": 40_000},
        None,
        "Batching is off, though 14 requests are in the server at a time: they could share runs.",
    ),
    "one at a time": (
        {"batches": {(1, 0): 4000}, "reasons": {"timeout": 4000}, "stages": {**STAGES, "queue": 0.0055}},
        WAITING,
        (
            "One request at a time arrives: batching cannot help. Each waits 5.5 ms for others that do not come: set "
            "batch_timeout_micros to 0."
        ),
    ),
    "waiting": (
        {"reasons": {"timeout": 450, "full": 50}, "stages": {**STAGES, "queue": 0.0041}, "held": 4.0},
        WAITING,
        (
            "Threads are idle 60 % of the time while batches wait for the timeout: a request waits 4.1 of its 6.5 ms, "
            "for batches of 8.0 rows. Lower batch_timeout_micros (5000)."
        ),
    ),
    "padding": (
        {"batches": {(12, 20): 250, (4, 0): 250}},
        BatchingParameters(max_batch_size=32, num_batch_threads=1, allowed_batch_sizes=(4, 32)),
        "56 % of the rows that run are padding: add 12 to allowed_batch_sizes, and 0 % are.",
    ),
    "full": (
        {"batches": {(16, 0): 250}, "reasons": {"full": 250}, "held": 9.7},
        PARAMETERS,
        "Batches are full (16.0 of 16 rows) and threads are busy 97 % of the time: raise max_batch_size.",
    ),
    "busy": (
        {"held": 9.5},
        PARAMETERS,
        (
            "Threads are busy 95 % of the time with batches of 8.0 rows (limit 16): the graph is the limit, 2.0 ms a "
            "run. A timeout lets batches fill up; more threads help where processors are free."
        ),
    ),
    "codec": (
        {"stages": {**STAGES, "codec": 0.008}},
        PARAMETERS,
        (
            "Reading and writing messages takes 71 % of a request's 11.2 ms in the server: batching has little left to "
            "gain. gRPC costs less than REST, and fewer larger requests less than many."
        ),
    ),
    "balanced": (
        {},
        PARAMETERS,
        "Batches of 8.0 rows, threads busy 50 % of the time, 0 % padding: nothing stands out.",
    ),
}


@pytest.mark.parametrize("regime", GOLDEN)
def test_each_regime_has_its_sentence(regime: str) -> None:
    changes, parameters, sentence = GOLDEN[regime]
    found = diagnose(dataclasses.replace(CALM, **changes), parameters)
    assert (found.regime, found.sentence) == (regime, sentence)


@pytest.mark.parametrize(
    ("changes", "parameters", "part"),
    [
        ({"requests": 12}, PARAMETERS, "Only 12 requests in 10 s"),
        ({}, None, "1.4 requests are in the server at a time: it could not help"),
        ({"batches": {(1, 0): 4000}}, PARAMETERS, "One request at a time arrives: batching cannot help."),
        ({"batches": {(1, 0): 4000}}, BatchingParameters(max_batch_size=1), "max_batch_size is 1"),
        ({"batches": {(16, 0): 4000}, "reasons": {"full": 4000}}, PARAMETERS, "fills a batch of 16 rows by itself"),
        ({"errors": {"UNAVAILABLE": 400}}, None, "Turn batching on"),
        ({"batches": {(3, 1): 500}}, PARAMETERS, "add 3 to allowed_batch_sizes"),
    ],
)
def test_variants(changes: dict[str, Any], parameters: BatchingParameters | None, part: str) -> None:
    assert part in diagnose(dataclasses.replace(CALM, **changes), parameters).sentence


def test_a_window_is_what_happened_between_two_snapshots() -> None:
    statistics = Statistics()

    def snapshot() -> dict[str, Any]:
        return {**statistics.snapshot(), "queued": 3, "running": 2}

    def batch(rows: int, padding: int, reason: int) -> None:
        tasks = [Task(Signature("s", "", {}, {}, {}), {}, ("y",), 0.0, None, lambda *_: None) for _ in range(rows)]
        statistics.started(tasks, batched=True)
        statistics.batch(rows, padding, 2_000_000)
        statistics.stages.add(reason, rows, 100_000, 2_500_000, 2_000_000)
        statistics.succeeded(tasks)
        statistics.requests("s").predict.aside.fromlist([0.004] * rows)

    batch(5, 3, FULL)
    before = snapshot()
    batch(4, 0, FULL)
    batch(4, 4, TIMEOUT)
    statistics.alone(1, 1_000_000)
    statistics.stages.add(ALONE, 1, 0, 1_000_000, 1_000_000)
    statistics.failed(StatusCode.UNAVAILABLE)
    found = window(before, snapshot(), 2.0)
    assert found.requests == 8
    assert found.rate == 4.0
    assert found.errors == {"UNAVAILABLE": 1}
    assert found.batches == {(4, 0): 1, (4, 4): 1, (1, 0): 1}
    assert found.reasons == {"full": 1, "timeout": 1, "alone": 1}
    assert (found.rows, found.runs, found.mean_rows) == (9, 3, 3.0)
    assert found.padding == pytest.approx(4 / 13)
    assert found.held == pytest.approx(2 * 0.0026 + 0.001)
    assert found.busy(1) == pytest.approx(0.0031)
    assert found.stages["run"] == pytest.approx((8 * 0.002 + 0.001) / 9)
    assert found.stages["codec"] > 0
    assert (found.queued, found.running) == (3, 2)
    assert 0 < found.p50 <= found.p99


def test_percentiles_of_a_window_are_within_a_bucket() -> None:
    statistics = Statistics()
    before = {**statistics.snapshot(), "queued": 0, "running": 0}
    values = [0.001 * (1 + index / 100) for index in range(1000)]
    statistics.runtime_of("Predict").aside.fromlist(values)
    found = window(before, {**statistics.snapshot(), "queued": 0, "running": 0}, 1.0)
    assert found.p50 == pytest.approx(0.006, rel=0.04)
    assert found.p99 == pytest.approx(0.0109, rel=0.04)
