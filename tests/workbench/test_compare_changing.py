"""Live comparisons while the shares change: what was answered under other shares is not added up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from serving_workbench.comparison.live import LiveReader
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.periods import steady
from serving_workbench.comparison.verdict import difference_text

RNG = np.random.default_rng(7)


def period(since: float, shares: dict[str, float], seconds: float = 1e-3, requests: int = 10_000) -> dict[str, Any]:
    """All versions take so long, whatever their share."""
    outcomes, given = {}, {}
    for version, share in shares.items():
        count = round(share * requests)
        logs = np.log(seconds) + RNG.normal(0, 0.1, count)
        sums = [float(logs.sum()), float((logs**2).sum())]
        outcome = {"errors": {}, "misses": 0, "objective_s": None, "log_run": sums, "log_total": sums}
        outcomes[version] = {**outcome, "answered": count, "runs": count}
        given[version] = count
    return {"since": since, "shares": shares, "requests": given, "outcomes": outcomes}


class Control:
    def __init__(self, *periods: dict[str, Any]) -> None:
        self.periods = list(periods)

    def traffic(self, name: str) -> dict[str, Any]:
        return {"weights": {"1": 1, "2": 1}, "key": None, "ended": None, "unrouted": 0, "periods": self.periods}

    def model(self, name: str) -> dict[str, Any]:
        return {"versions": []}


def reader(control: Control, **margins: float) -> LiveReader:
    given: Any = control
    return LiveReader(given, "m", 1, 2, since=0.0, margins=Margins.parse(margins or None), objective=None)


def test_equal_versions_stay_equal_when_all_is_slower_while_b_has_more() -> None:
    """Added up, B would look 40 % slower than A, and surely."""
    control = Control(period(1, {"1": 0.6, "2": 0.4}))
    live = reader(control)
    first = live.read()
    assert first.metric("run time").difference.n == 10_000
    control.periods.append(period(2, {"1": 0.45, "2": 0.55}, seconds=1.5e-3))
    result = live.read()
    found = result.metric("run time").difference
    assert found.low <= 0 <= found.high
    assert found.n == 10_000
    assert result.verdict != "REJECT"
    assert result.sequence["n"] == [10_000.0], "it has begun anew"
    (told,) = [check.text for check in result.checks if check.name == "changes"]
    assert told == "The shares have changed 1 times: what was answered before the last time is left out."


def test_which_periods_are_steady() -> None:
    half, third, other = {"1": 0.5, "2": 0.5}, {"1": 0.5, "2": 0.25, "3": 0.25}, {"1": 0.5, "3": 0.5}
    periods = [{"since": float(at), "shares": shares} for at, shares in enumerate([half, half, third, half, half])]

    def since(given: list[dict[str, Any]], from_: float = 0.0) -> list[float]:
        return [each["since"] for each in steady(given, 1, 2, from_)]

    assert since(periods) == [3, 4]
    assert since(periods[:3]) == [2]
    assert since(periods, 4) == [4]
    assert since([]) == []
    # One version is down at the end, or the split is over: what was seen before stays.
    assert since([*periods, {"since": 5.0, "shares": {"1": 1.0}}, {"since": 6.0, "shares": {}}]) == [3, 4]
    assert since([periods[0], {"since": 1.0, "shares": other}, periods[3]]) == [3]


def test_without_requests_nothing_is_known() -> None:
    result = reader(Control(period(1, {"1": 0.5, "2": 0.5}, requests=0))).read()
    found = result.metric("run time").difference
    assert math.isnan(found.value)
    assert result.verdict == "INCONCLUSIVE"
    assert difference_text(result.metric("run time")).startswith("? % ")


@pytest.mark.parametrize("margins", [{}, {"run time": 0.1}])
def test_at_unequal_shares_run_time_decides_nothing(margins: dict[str, float]) -> None:
    control = Control(period(1, {"1": 0.9, "2": 0.1}, requests=100_000))
    outcome = control.periods[0]["outcomes"]["2"]
    outcome["log_run"] = [outcome["log_run"][0] + outcome["runs"], outcome["log_run"][1]]  # e times as long, or so
    result = reader(control, **margins).read()
    assert result.metric("run time").role == "shown"
    assert result.verdict != "REJECT"
