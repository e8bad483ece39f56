"""Searches on synthetic services: how much is lost against the best configuration, for how many measurements (T1)."""

from __future__ import annotations

import functools
import sys
from collections import Counter

import pytest

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.blackbox import search
from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.guided import guided, predicted, shortlist
from serving_workbench.tuning.simulator import Simulator
from serving_workbench.tuning.space import POWERS_OF_TWO, Point, Space
from serving_workbench.tuning.trials import Trials
from tests.workbench.synthetic_services import SPACE, SyntheticService

SERVICES = range(20)
ALLOWED_REGRET = 0.05


def regret(service: SyntheticService, point: Point) -> float:
    best = max(service.best(), service.rate(point))
    return 1 - service.rate(point) / best


def _predict(model: Simulator, slo: float, point: Point, hopeless: float) -> float:
    return capacity(model, SPACE.parameters(point), slo, precision=0.02, hopeless=hopeless).rate


@pytest.mark.slow
def test_guided_search_loses_little_and_measures_little() -> None:
    lost = []
    for seed in SERVICES:
        service = SyntheticService(seed)
        predictions = predicted(SPACE, functools.partial(_predict, service.model(), service.slo))
        trials = Trials(service.measure)
        best = guided(predictions, trials, budget=len(SPACE) // 10)
        assert trials.runs <= len(SPACE) // 10
        lost.append(regret(service, best))
    print("regret, guided:", [round(value, 3) for value in sorted(lost)])
    assert sum(value <= ALLOWED_REGRET for value in lost) >= 19, lost


@pytest.mark.slow
def test_black_box_search_needs_more() -> None:
    pytest.importorskip("optuna", reason="in the extra 'tune', which 'test' includes")
    lost = []
    for seed in SERVICES:
        service = SyntheticService(seed)
        trials = Trials(service.measure, repeats=2)
        best = search(SPACE, trials, budget=len(SPACE) // 5, seed=seed)
        assert len(trials) <= len(SPACE) // 5
        lost.append(regret(service, best))
    print("regret, Optuna:", [round(value, 3) for value in sorted(lost)])
    assert sum(value <= ALLOWED_REGRET for value in lost) >= 16, lost


SMALL = Space((1, 4, 16), (0, 2000), (1, 2))


def rate_of(point: Point) -> float:
    return 100.0 * (1 + point.size) - 10 * point.timeout + point.threads


@pytest.mark.parametrize("method", ["optuna", "random", "grid"])
def test_black_box_searches_measure_no_point_more_often_than_asked(method: str) -> None:
    if method == "optuna":
        pytest.importorskip("optuna", reason="in the extra 'tune', which 'test' includes")
    asked: Counter[Point] = Counter()

    def measure(point: Point) -> float:
        asked[point] += 1
        return rate_of(point)

    trials = Trials(measure, repeats=2)
    best = search(SMALL, trials, budget=100, method=method)
    assert set(asked) <= set(SMALL)
    assert max(asked.values()) <= 2
    assert best == max(asked, key=rate_of)
    if method != "optuna":
        assert len(asked) == len(SMALL)


def test_an_unknown_method_and_a_missing_package_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(rate_of)
    with pytest.raises(WorkbenchError, match="optuna, random, grid"):
        search(SMALL, trials, 3, "magic")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(WorkbenchError, match=r"in the clone, with: pip install '\.\[tune\]'"):
        search(SMALL, trials, 3)


def test_the_shortlist_is_spread_out() -> None:
    predictions = {point: rate_of(point) for point in SPACE}
    chosen = shortlist(predictions, 8)
    assert len(set(chosen)) == 8
    assert chosen[0] == max(predictions, key=predictions.__getitem__)
    same = [(a, b) for a in chosen for b in chosen if a < b and (a.threads, a.padding) == (b.threads, b.padding)]
    assert all(abs(a.size - b.size) > 1 or abs(a.timeout - b.timeout) > 1 for a, b in same)
    assert shortlist(dict.fromkeys(SPACE, 0.0), 8) == []
    assert len(shortlist(dict.fromkeys(SMALL, 1.0), 100)) == len(SMALL)


def test_a_point_becomes_parameters() -> None:
    base = BatchingParameters(max_batch_size=7, allowed_batch_sizes=(7,), pad_variable_length_inputs=True)
    space = Space((6, 64), (0, 500), (3,), (POWERS_OF_TWO,), base, waiting=100)
    small = space.parameters(Point(0, 1, 0, 0))
    assert small.allowed_batch_sizes == (1, 2, 4, 6)
    assert (small.batch_timeout_micros, small.num_batch_threads, small.max_enqueued_batches) == (500, 3, 17)
    assert small.pad_variable_length_inputs
    assert space.parameters(Point(1, 0, 0, 0)).max_enqueued_batches == 10
