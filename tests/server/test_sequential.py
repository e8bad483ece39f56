"""Confidence sequences equal a worked example, hold under peeking, and find what is there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special

from serving_server.sequential import (
    MIN_REQUESTS,
    Sums,
    difference_of_means,
    difference_of_shares,
    half_width,
    share,
)


def sums(values: np.ndarray) -> Sums:
    return Sums(len(values), float(values.sum()), float((values**2).sum()))


def test_the_half_width_is_the_papers() -> None:
    # By hand, alpha 0.05, tuned for 1000, at n = 500 with variance 4: rho^2 = (5.99146 + 1.94469) / 1000 = 0.00793615.
    rho = (2 * math.log(20) + math.log(2 * math.log(20) + 1)) / 1000
    assert rho == pytest.approx(0.0079362, abs=1e-6)
    expected = 2 * math.sqrt(2 * (500 * rho + 1) / (500**2 * rho) * math.log(math.sqrt(500 * rho + 1) / 0.05))
    assert half_width(4.0, 500, 0.05, 1000) == pytest.approx(expected, abs=1e-12)
    # At the number it is tuned for, it is about 1.55 times as wide as an interval of a fixed number of requests.
    assert half_width(1.0, 1000, 0.05, 1000) / (1.96 / math.sqrt(1000)) == pytest.approx(1.55, abs=0.05)
    assert half_width(1.0, 0) == math.inf


def test_sums_have_numpys_mean_and_variance() -> None:
    values = np.random.default_rng(1).normal(3, 2, 1000)
    assert sums(values).mean == pytest.approx(values.mean())
    assert sums(values).variance == pytest.approx(values.var(ddof=1))
    assert math.isnan(Sums(0, 0, 0).mean)
    assert math.isnan(Sums(1, 2, 4).variance)


def test_nothing_is_said_of_few() -> None:
    few, many = sums(np.ones(MIN_REQUESTS - 1)), sums(np.ones(5000))
    assert difference_of_means(few, many)[1:] == (-math.inf, math.inf)
    assert difference_of_means(many, many) == (0.0, 0.0, 0.0)


def cumulative(values: np.ndarray) -> list[tuple[int, float, float]]:
    looks = np.arange(50, len(values) + 1, 50)
    total, squares = np.cumsum(values), np.cumsum(values**2)
    return [(int(n), float(total[n - 1]), float(squares[n - 1])) for n in looks]


def first_alarm(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether zero is excluded at any of the looks, one every 50 requests of each arm."""
    for one, other in zip(cumulative(a), cumulative(b), strict=True):
        _, low, high = difference_of_means(Sums(*one), Sums(*other))
        if low > 0 or high < 0:
            return True
    return False


def test_looking_all_the_time_raises_no_more_false_alarms_than_promised() -> None:
    """A2: 200 A/A experiments, looked at every 50 requests."""
    draw = np.random.default_rng(26)
    alarms = sum(first_alarm(draw.normal(-6, 0.4, 5000), draw.normal(-6, 0.4, 5000)) for _ in range(200))
    assert alarms <= 10


def test_ten_percent_slower_is_found_in_2000_requests() -> None:
    """A2: power at least 80 %."""
    draw = np.random.default_rng(27)
    found = sum(first_alarm(draw.normal(-6, 0.4, 2000), draw.normal(-6, 0.4, 2000) + math.log(1.1)) for _ in range(200))
    assert found >= 160


@pytest.mark.parametrize(("count", "of"), [(0, 100), (3, 500), (500, 500), (40, 80), (1, 1)])
def test_a_share_is_the_beta_mixtures(count: int, of: int) -> None:
    low, high = share(count, of)
    assert 0 <= low <= count / of <= high <= 1

    def excess(p: float) -> float:
        likelihood = special.xlogy(count, p) + special.xlog1py(of - count, -p)
        return float(likelihood - special.betaln(count + 1, of - count + 1) - math.log(0.05))

    if count:
        assert low == pytest.approx(optimize.brentq(excess, 1e-12, count / of - 1e-9), abs=1e-9)
    if count < of:
        assert high == pytest.approx(optimize.brentq(excess, count / of + 1e-9, 1 - 1e-12), abs=1e-9)


def test_rare_errors_raise_no_false_alarms_and_many_are_found() -> None:
    draw = np.random.default_rng(28)

    def alarm(p: float, q: float) -> bool:
        a, b = np.cumsum(draw.random(4000) < p), np.cumsum(draw.random(4000) < q)
        return any(difference_of_shares(int(a[n - 1]), n, int(b[n - 1]), n)[1] > 0 for n in range(50, 4001, 50))

    assert sum(alarm(0.005, 0.005) for _ in range(100)) <= 5
    assert sum(alarm(0.0, 0.05) for _ in range(50)) >= 48
