"""Arrival times: their distribution, their seeds, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import serving_workbench as sw
from serving_workbench.load import schedule
from serving_workbench.load.schedule import Schedule


def gaps(found: Schedule) -> np.ndarray:
    return np.diff(found.times, prepend=0.0)


def test_poisson_gaps_are_exponential_and_the_seed_gives_them_again() -> None:
    """L2."""
    found = schedule.poisson(500.0, 20.0, seed=1)
    assert stats.kstest(gaps(found) * 500, "expon").pvalue > 0.01
    assert stats.kstest(found.times / 20.0, "uniform").pvalue > 0.01
    assert found.rate == pytest.approx(500, rel=0.05)
    assert found.times.dtype == np.float64
    assert found.times.tobytes() == schedule.poisson(500.0, 20.0, seed=1).times.tobytes()
    assert found.times.tobytes() != schedule.poisson(500.0, 20.0, seed=2).times.tobytes()


def test_rates_of_one_seed_see_the_same_stream() -> None:
    slow, fast = schedule.poisson(100.0, 5.0, seed=3), schedule.poisson(400.0, 5.0, seed=3)
    assert slow.times == pytest.approx(4 * fast.times[: len(slow.times)])
    longer = schedule.poisson(100.0, 50.0, seed=3)
    assert slow.times == pytest.approx(longer.times[: len(slow.times)])


def test_constant_gaps_are_equal() -> None:
    found = schedule.constant(1000.0, 5.0)
    assert len(found.times) == 5000
    assert found.times[0] == 0
    assert np.ptp(np.diff(found.times)) < 1e-12
    assert found.times[-1] < 5.0


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_are_as_bursty_as_asked(burstiness: float) -> None:
    found = schedule.gamma(1000.0, 20.0, seed=5, burstiness=burstiness)
    between = gaps(found) * 1000
    assert stats.kstest(between, "gamma", args=(burstiness, 0, 1 / burstiness)).pvalue > 0.01
    assert between.var() / between.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.1)


@pytest.mark.parametrize(("first", "last"), [(0.0, 400.0), (400.0, 0.0), (100.0, 300.0), (200.0, 200.0)])
def test_a_ramp_grows_linearly(first: float, last: float) -> None:
    found = schedule.ramp(first, last, 20.0, seed=7)
    slope = (last - first) / 20.0
    # Expected counts until each arrival are a Poisson process of rate 1, so uniform over the whole.
    counts = first * found.times + slope * found.times**2 / 2
    assert stats.kstest(counts / (10.0 * (first + last)), "uniform").pvalue > 0.01
    assert len(found.times) == pytest.approx(10.0 * (first + last), rel=0.1)
    assert (np.diff(found.times) >= 0).all()


def test_recorded_times_are_replayed() -> None:
    found = schedule.replay([105.0, 101.0, 103.0])
    assert found.times.tolist() == [0.0, 2.0, 4.0]
    assert found.seconds == 6.0
    assert schedule.replay([101.0, 103.0, 105.0], speed=4).times.tolist() == [0.0, 0.5, 1.0]
    for zone in (None, "Europe/Vienna"):
        dates = pd.Series(pd.date_range("2026-01-01", periods=3, freq="250ms", tz=zone))
        assert schedule.replay(dates).times == pytest.approx([0.0, 0.25, 0.5])
    assert schedule.make([0.0, 1.0, 2.0, 3.0], None, 1.5, 0).times.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("poisson", None, 10, 0), "rate=None is not a number"),
        (("poisson", (1, 2), 10, 0), "takes one number"),
        (("ramp", 5, 10, 0), "takes a pair"),
        (("constant", -1, 10, 0), "rate=-1 is not a positive number"),
        (("constant", 1, float("nan"), 0), "seconds=nan"),
        (("uniform", 1, 10, 0), "arrivals='uniform' is not one of 'poisson'"),
        (("poisson", 1e6, 1e6, 0), "are more than 20,000,000 requests"),
        (("gamma", 10, 10, 0, -1), "burstiness=-1"),
        (([], None, 10, 0), "no times that can be replayed"),
        ((["soon"], None, 10, 0), "no times that can be replayed"),
        (([1.0, float("inf")], None, 10, 0), "no times that can be replayed"),
    ],
)
def test_what_is_no_schedule_is_refused(arguments: tuple, text: str) -> None:
    with pytest.raises(sw.WorkbenchError) as error:
        schedule.make(*arguments)
    assert text in str(error.value)
