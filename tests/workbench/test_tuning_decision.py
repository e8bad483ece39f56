"""Verdicts are a pure function of what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.decision import Evidence, decide, gain, sustained
from serving_workbench.tuning.ladder import meeting

RATES = np.array([100.0, 200.0, 400.0, 800.0])


def evidence(rows: int, capacity: float, noise: float = 0.02, seed: int = 0) -> Evidence:
    """p99 doubles when the rate does; it is 20 ms at `capacity`. Repeats share the luck of their arrivals."""
    shared = np.random.default_rng(1).normal(0, 0.1, (5, 1))
    own = np.random.default_rng([2, seed]).normal(0, noise, (5, len(RATES)))
    latencies = 0.020 * RATES / capacity * np.exp(shared + own)
    return Evidence(BatchingParameters(max_batch_size=rows), RATES, latencies)


def test_the_bound_is_students() -> None:
    logs = np.log(np.array([[0.010, 0.018], [0.011, 0.019], [0.012, 0.022]]))
    found = sustained(Evidence(None, RATES[:2], np.exp(logs)), slo=0.0202)
    upper = np.exp([stats.t.interval(0.9, 2, loc=column.mean(), scale=stats.sem(column))[1] for column in logs.T])
    assert upper[0] < 0.0202 < upper[1]
    share = np.log(0.0202 / upper[0]) / np.log(upper[1] / upper[0])
    assert found.sure == pytest.approx(100 * 2**share)
    assert found.sure < found.rate
    assert found.low < found.rate < found.high


def test_the_highest_sure_rate_wins() -> None:
    decision = decide([evidence(64, 300, seed=1), evidence(8, 500, seed=2), evidence(128, 200, seed=3)], 0.020)
    assert decision.best == 1
    assert decision.tied == [1]
    assert decision.sustained[1].rate == pytest.approx(500, rel=0.1)
    found = gain(decision.sustained[1], decision.sustained[0])
    assert found is not None
    assert found.low < 500 / 300 < found.high
    # Compared repeat by repeat, the luck that all share drops out.
    assert found.high / found.low < 1.1


def test_of_equals_the_smallest_batch_is_chosen() -> None:
    decision = decide([evidence(64, 402, 0.05, seed=1), evidence(16, 400, 0.05, seed=2), evidence(1, 150)], 0.020)
    assert decision.tied == [0, 1]
    assert decision.best == 1


def test_a_rate_that_fails_in_one_repeat_is_not_sure() -> None:
    latencies = np.full((5, 4), 0.010)
    latencies[:, 3] = np.inf
    latencies[2, 2] = np.inf
    found = sustained(Evidence(None, RATES, latencies), 0.020)
    assert found.sure == 200
    assert found.rate < 400


def test_where_the_ladder_ended_is_no_upper_end_of_an_interval() -> None:
    latencies = np.full((5, 4), 0.010)
    found = sustained(Evidence(None, RATES, latencies), 0.020)
    assert (found.sure, found.low, found.high) == (800, pytest.approx(800), np.inf)
    latencies[:3, 3] = 0.021
    assert np.isfinite(sustained(Evidence(None, RATES, latencies), 0.020).high)


def test_nothing_keeps_an_impossible_objective() -> None:
    decision = decide([evidence(8, 300), evidence(64, 400)], 0.001)
    assert decision.best is None
    assert decision.sustained[0].sure == 0
    assert gain(*decision.sustained) is None


def test_disturbed_repeats_do_not_count_where_enough_are_left() -> None:
    calm = evidence(8, 400)
    spoiled = calm.latencies.copy()
    spoiled[:2] = np.inf
    marked = Evidence(calm.parameters, RATES, spoiled, (True, True, False, False, False))
    found = sustained(marked, 0.020)
    assert found.sure > 300
    assert np.isnan(found.by_repeat).tolist() == [True, True, False, False, False]
    compared = gain(found, sustained(calm, 0.020))
    assert compared is not None
    assert compared.ratio == pytest.approx(1.0)
    too_few = Evidence(calm.parameters, RATES, spoiled, (True, True, True, False, False))
    assert sustained(too_few, 0.020).sure == 0


def test_one_spoiled_rung_is_judged_with_its_neighbours() -> None:
    latencies = np.array([[0.004, 0.300, 0.006, 0.050]] * 5)
    assert sustained(Evidence(None, RATES, latencies), 0.020).rate == pytest.approx(
        100 * 2 ** (np.log(5) / np.log(10.6)), rel=0.05
    )
    assert sustained(Evidence(None, RATES, np.array([[0.004, 0.022, 0.006, 0.050]] * 5)), 0.020).rate > 400


def test_ladders_have_a_rung_that_all_climb() -> None:
    """A bad day for the fast one, which fails at 12,000/s, is no reason to choose the slow one."""
    slow, fast = (1000.0, 1500.0, 3000.0), (12_000.0, 19_000.0, 36_000.0)
    assert meeting([slow, fast], 0.3) == [slow, (3000.0, *fast)]
    assert meeting([slow, slow], 0.3) == [slow, slow]
    # 150 requests at 10/s would take 15 s.
    assert meeting([(5.0, 10.0), fast], 0.5) == [(5.0, 10.0), (150.0, *fast)]
    rates = meeting([slow, fast], 0.3)
    crowded = np.where(np.array(rates[1]) > 3000, np.inf, 0.004) * np.ones((5, 1))
    weak = Evidence(None, np.array(slow), np.array([[0.010, 0.030, np.inf]] * 5))
    strong = Evidence(BatchingParameters(max_batch_size=64), np.array(rates[1]), crowded)
    assert decide([weak, strong], 0.020).best == 1
