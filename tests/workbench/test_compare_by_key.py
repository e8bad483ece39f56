"""Splits by key: the key is the observation, so that requests of one user do not make a difference sure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from serving_server.sequential import Sums, difference_of_means
from serving_workbench.comparison.by_key import KeyTotals
from serving_workbench.comparison.live import LiveReader
from serving_workbench.comparison.margins import Margins

_COLUMNS = ("time", "version", "point", "keyed", "status", "total_ms", "run_ms", "shared")


def page(rows: list[dict[str, Any]], after: int = 0) -> dict[str, Any]:
    """What the server answers: requests with the numbers that follow `after`."""
    usual = {
        "time": 100.0,
        "version": 1,
        "keyed": True,
        "status": "OK",
        "total_ms": 2.0,
        "run_ms": 1.0,
        "shared": False,
    }
    columns: dict[str, Any] = {name: [{**usual, **row}[name] for row in rows] for name in _COLUMNS}
    return {**columns, "sequence": list(range(after + 1, after + 1 + len(rows))), "last": after + len(rows)}


def test_a_key_is_one_observation_however_many_requests_it_sends() -> None:
    totals = KeyTotals(1, 2, since=50.0, objective=5.0)
    busy = [
        {"point": 1, "run_ms": 4.0},
        {"point": 1, "run_ms": 1.0},
        {"point": 1, "status": "INTERNAL", "run_ms": None},
    ]
    other = [
        {"point": 2, "run_ms": 8.0, "total_ms": 9.0},
        {"point": 2, "run_ms": 500.0, "shared": True},
        {"point": 3, "version": 2, "run_ms": None},
        {"point": 3, "version": 2, "status": "CANCELLED", "run_ms": None},
        {"point": 4, "keyed": False},
        {"point": 5, "version": 7},
        {"point": 6, "time": 49.0},
    ]
    totals.add(page(busy))
    totals.add(page(other, after=3))
    a, b = totals.counts()
    assert (a.given, a.requests, a.answered, a.errors, a.misses) == (2, 2, 2, pytest.approx(1 / 3), 0.5)
    assert a.run.n == 2
    assert a.run.mean == pytest.approx((math.log(2e-3) + math.log(8e-3)) / 2)
    assert (b.given, b.requests, b.run.n, b.total.n) == (1, 1, 0, 1)
    assert (totals.last, totals.requests, totals.keyless) == (10, 7, 1)
    assert [totals.version_of(point) for point in (1, 2, 3, 4, 5)] == [1, 1, 2, None, None]
    totals.add(page([{"point": 3}], after=10))
    assert totals.version_of(3) is None, "it has seen both"


def test_memory_is_bounded_by_a_fair_sample_of_keys() -> None:
    rng = np.random.default_rng(5)
    totals = KeyTotals(1, 2, max_keys=1000)
    points = rng.integers(0, 2**32, 20_000)
    for start in range(0, len(points), 2000):
        part = points[start : start + 2000].tolist()
        totals.add(page([{"point": p, "version": 1 if p < 2**31 else 2} for p in part], after=start))
    a, b = totals.counts()
    assert totals.level >= 5
    assert 400 <= a.given + b.given <= 1000
    assert abs(a.given - b.given) < 5 * math.sqrt(a.given + b.given), "whichever version"
    assert totals.requests == 20_000
    kept = {int(p) for p in points if totals.version_of(int(p)) is not None}
    totals.add(page([{"point": int(p), "version": 1 if p < 2**31 else 2} for p in points[:5000]], after=20_000))
    assert {int(p) for p in points if totals.version_of(int(p)) is not None} == kept, "who is let go of stays away"


def _experiment(rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether equal versions are told apart at any of ten looks: by requests, by keys."""
    keys = 600
    effect = rng.normal(0, 0.5, keys)  # users send inputs of their own sizes
    busy = rng.geometric(1 / 15, keys).astype(float)
    version = np.where(rng.random(keys) < 0.5, 1, 2)
    totals = KeyTotals(1, 2)
    seen = {1: np.empty(0), 2: np.empty(0)}
    by_request = by_key = False
    for look in range(10):
        chosen = rng.choice(keys, 900, p=busy / busy.sum())
        run = np.exp(effect[chosen] + rng.normal(0, 0.1, 900))
        rows = page([{"point": 0}] * 900, after=900 * look)
        totals.add({**rows, "point": chosen.tolist(), "version": version[chosen].tolist(), "run_ms": run.tolist()})
        for each in (1, 2):
            seen[each] = np.append(seen[each], np.log(run[version[chosen] == each]))
        sums = [Sums(len(x), float(x.sum()), float((x * x).sum())) for x in seen.values()]
        by_request |= _different(*sums)
        a, b = totals.counts()
        by_key |= _different(a.run, b.run)
    return by_request, by_key


def _different(a: Sums, b: Sums) -> bool:
    _, low, high = difference_of_means(a, b)
    return low > 0 or high < 0


def test_requests_of_the_same_users_raise_no_alarm_where_taken_for_independent_they_do() -> None:
    rng = np.random.default_rng(11)
    found = [_experiment(rng) for _ in range(60)]
    by_request, by_key = (sum(alarms) for alarms in zip(*found, strict=True))
    assert by_key <= 3, "5 %"
    assert by_request >= 15, "what the rule is for"


class Control:
    """A server whose split by key has been seen by so many keys."""

    def __init__(self, rows: list[dict[str, Any]], counted: int) -> None:
        self._rows = rows
        self._counted = counted

    def traffic(self, name: str) -> dict[str, Any]:
        outcome = {"errors": {}, "misses": 0, "runs": 1, "log_run": [0, 0], "log_total": [0, 0], "objective_s": None}
        period = {
            "since": 1.0,
            "shares": {"1": 0.5, "2": 0.5},
            "requests": {"1": self._counted // 2, "2": self._counted // 2},
            "outcomes": {version: {**outcome, "answered": self._counted // 2} for version in ("1", "2")},
        }
        return {"weights": {"1": 1, "2": 1}, "key": "x-user", "ended": None, "unrouted": 0, "periods": [period]}

    def model(self, name: str) -> dict[str, Any]:
        return {"versions": []}

    def exposures(self, name: str, after: int = 0, limit: int | None = None) -> dict[str, Any]:
        return {**page(self._rows[after : after + 500], after), "last": len(self._rows)}


def _read(rows: list[dict[str, Any]], counted: int | None = None) -> Any:
    control: Any = Control(rows, len(rows) if counted is None else counted)
    margins = Margins.parse(None)
    reader = LiveReader(control, "m", 1, 2, since=0.0, margins=margins, objective=None, keyed=True)
    reader.read()
    return reader.read()


def test_the_sample_ratio_is_of_keys_and_what_was_missed_is_told() -> None:
    # Version 1 has one very busy key: of requests, the ratio would be far off.
    rows = [{"point": point, "version": 1 + point % 2} for point in range(800)]
    result = _read(rows + [{"point": 2}] * 3000)
    checks = {check.name: check for check in result.checks}
    assert checks["sample ratio"].ok
    assert "version 1 400, version 2 400 keys, as declared" in checks["sample ratio"].text
    assert "keys" not in checks
    found = result.metric("run time").difference
    assert (found.n, found.method) == (800, "confidence sequence of the mean logarithm over keys")

    skewed = [{"point": point, "version": 1 if point % 3 else 2} for point in range(900)]
    result = _read([*skewed, {"point": 0, "keyed": False}], counted=1000)
    checks = {check.name: check for check in result.checks}
    assert not checks["sample ratio"].ok
    assert result.verdict == "UNHEALTHY"
    assert not checks["keys"].ok
    assert "99 of 1,000 requests were forgotten" in checks["keys"].text
    assert "1 requests came without the key" in checks["keys"].text
