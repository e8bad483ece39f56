"""The simulator does what the server's scheduler does: the same requests, the same service times, compared (T2)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.capacity import capacity, floor_latency
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.simulator import Crowding, RequestPath, Simulator, unbatched
from serving_workbench.tuning.workload import Workload
from tests.workbench import virtual_batcher

FIXED, PER_ROW = 0.001, 0.0001
SIZES = (1, 2, 4, 8, 16, 32, 64)
CURVE = ServiceCurve(
    {(at, rows): np.array([(FIXED + PER_ROW * rows) * (0.7 + 0.3 * at)]) for at in (1, 2) for rows in SIZES}
)


def seconds(rows: int, at_once: int) -> float:
    return CURVE.median(rows, at_once)


CASES = {
    "lone requests": (BatchingParameters(max_batch_size=16, num_batch_threads=2), 100.0, 1),
    "no waiting": (BatchingParameters(max_batch_size=32, num_batch_threads=2), 6000.0, 1),
    "waits for more": (
        BatchingParameters(max_batch_size=16, batch_timeout_micros=4000, num_batch_threads=1),
        2500.0,
        1,
    ),
    "full batches": (BatchingParameters(max_batch_size=8, batch_timeout_micros=20_000, num_batch_threads=2), 6000.0, 1),
    "padding": (
        BatchingParameters(
            max_batch_size=32, batch_timeout_micros=2000, num_batch_threads=2, allowed_batch_sizes=(4, 32)
        ),
        3000.0,
        1,
    ),
    "several rows": (BatchingParameters(max_batch_size=16, batch_timeout_micros=3000, num_batch_threads=2), 1500.0, 3),
    "gathering": (
        BatchingParameters(max_batch_size=32, num_batch_threads=2, gather_when_busy_micros=5000),
        2000.0,
        1,
    ),
    "not when idle": (
        BatchingParameters(
            max_batch_size=32, batch_timeout_micros=8000, num_batch_threads=1, skip_timeout_when_idle=True
        ),
        1500.0,
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_simulator_and_scheduler_agree(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    parameters, rate, rows = CASES[name]
    workload = Workload(3000, seed=5, rows=rows)
    simulated = Simulator(CURVE, RequestPath(), workload).run(parameters, rate)
    real = virtual_batcher.run(monkeypatch, parameters, seconds, (workload.arrivals / rate).tolist(), rows=rows)
    latencies = real.latencies[300:]
    assert real.refused == simulated.refused == 0
    # The bars are 10 and 15 %; on a clock without noise it is the same to a rounding.
    assert simulated.mean_rows == pytest.approx(real.mean_rows, rel=0.02)
    for quantile in (0.5, 0.99):
        assert simulated.quantile(quantile) == pytest.approx(float(np.quantile(latencies, quantile)), rel=0.03)
    padding = real.statistics.padding_rows()
    assert int(simulated.padded.sum() - simulated.rows.sum()) == pytest.approx(padding, rel=0.05, abs=20)


def test_a_full_queue_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = BatchingParameters(max_batch_size=4, num_batch_threads=1, max_enqueued_batches=2)
    workload = Workload(2000, seed=1)
    rate = 2 * Simulator(CURVE, None, workload).saturated(parameters)
    assert Simulator(CURVE, None, workload).run(parameters, rate).refused > 0
    assert virtual_batcher.run(monkeypatch, parameters, seconds, (workload.arrivals / rate).tolist()).refused > 0


def test_latency_grows_with_the_rate_and_the_bisection_finds_the_limit() -> None:
    simulator = Simulator(CURVE)
    parameters = BatchingParameters(max_batch_size=16, num_batch_threads=1)
    rates = np.linspace(500, 5500, 12)
    latencies = [simulator.run(parameters, float(rate)).quantile(0.99) for rate in rates]
    assert all(after > before * 0.97 for before, after in itertools.pairwise(latencies))
    slo = float(np.mean(latencies[6:8]))
    found = capacity(simulator, parameters, slo)
    assert rates[6] <= found.rate <= rates[7]
    assert found.at is not None
    assert found.at.quantile(0.99) <= slo
    assert simulator.run(parameters, found.rate * 1.1).quantile(0.99) > slo


def test_an_objective_below_a_lone_request_has_no_rate() -> None:
    simulator = Simulator(CURVE, RequestPath(fixed=0.002))
    parameters = unbatched(2)
    floor = floor_latency(simulator, parameters)
    assert floor == pytest.approx(0.002 + CURVE.median(1), rel=0.01)
    assert capacity(simulator, parameters, floor * 0.9).rate == 0
    assert capacity(simulator, parameters, floor * 1.5).rate > 0


def test_the_front_is_a_limit_too() -> None:
    """However fast the graph: one thread reads all requests."""
    simulator = Simulator(CURVE, RequestPath(per_request=0.001))
    parameters = BatchingParameters(max_batch_size=64, num_batch_threads=2)
    assert simulator.saturated(parameters) == pytest.approx(1000)
    assert capacity(simulator, parameters, 0.02).rate < 1000


def test_timeouts_are_kept_by_the_step_of_the_clock() -> None:
    parameters = BatchingParameters(max_batch_size=64, batch_timeout_micros=500, num_batch_threads=1)
    lone = Simulator(CURVE, RequestPath(clock=0.001), Workload(500)).run(parameters, 0.1).latencies
    waited = lone - CURVE.median(1)
    assert waited.min() >= 0
    assert waited.max() <= 0.001 + 1e-6
    assert waited.max() > 0.0009


def test_a_crowded_machine_is_slower_at_high_rates_only() -> None:
    parameters = BatchingParameters(max_batch_size=16, num_batch_threads=1)
    alone = Simulator(CURVE)
    crowded = Simulator(CURVE, crowding=Crowding(2.0, 5000.0))
    assert crowded.run(parameters, 10.0).quantile(0.5) == pytest.approx(
        alone.run(parameters, 10.0).quantile(0.5), rel=0.01
    )
    most = crowded.saturated(parameters)
    assert most * Crowding(2.0, 5000.0).at(most) == pytest.approx(alone.saturated(parameters))
    assert Simulator(CURVE, crowding=Crowding(2.0, 100.0)).saturated(parameters) == alone.saturated(parameters) / 2
    assert Simulator(CURVE, crowding=Crowding(2.0)).run(parameters, 10.0).quantile(0.5) == pytest.approx(
        2 * alone.run(parameters, 10.0).quantile(0.5)
    )
