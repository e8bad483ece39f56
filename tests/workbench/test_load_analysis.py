"""Statistics of load tests, against oracles: SciPy, brute force, and queues whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal, stats

import serving_workbench as sw
from serving_workbench.load import analysis
from serving_workbench.load.analysis import binomial_verdict, needed_requests
from serving_workbench.load.objective import Objective, seconds_text
from serving_workbench.load.records import UNANSWERED, Client, Records, status_name
from serving_workbench.load.summary import Setup, client_limited, summarise

Floats = NDArray[np.float64]


def queue(rate: float, service: float, seconds: float, seed: int, workers: int = 1) -> tuple[Floats, Floats]:
    """Arrivals and answers of a queue with Poisson arrivals and exponential service times of this mean."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 50))
    arrivals = arrivals[arrivals < seconds]
    free = [0.0] * workers
    answers = []
    for at, work in zip(arrivals, rng.exponential(service, len(arrivals)), strict=True):
        place = int(np.argmin(free))
        free[place] = max(at, free[place]) + work
        answers.append(free[place])
    return arrivals, np.array(answers)


def records(scheduled: Floats, answered: Floats, **fields: object) -> Records:
    ticks = np.column_stack([np.linspace(0, scheduled[-1] + 0.01, 200), np.linspace(0, 0.1, 200), np.zeros(200)])
    values: dict[str, object] = {
        "scheduled": scheduled,
        "sent": scheduled + 1e-6,
        "answered": answered,
        "status": np.zeros(len(scheduled), np.uint16),
        "waited": np.zeros(len(scheduled), np.bool_),
        "ticks": ticks,
        "texts": {},
        "reason": "",
        "client": Client(0.1, float(scheduled[-1]), 0.5, 0.0, 2),
        "began_unix": 0.0,
        "began": 0.0,
    }
    return Records(**(values | fields))  # type: ignore[arg-type]


def a_million() -> Records:
    """Of a second's 10,000, with the latencies of a server that keeps up."""
    rng = np.random.default_rng(7)
    scheduled = np.cumsum(rng.exponential(1e-4, 1_000_000))
    return records(scheduled, scheduled + rng.lognormal(-6, 0.5, 1_000_000), sent=scheduled + 1e-5)


def setup(seconds: float, slo: str | None = None, warmup: float | None = 0.0, rate: float = 100.0) -> Setup:
    return Setup(
        target="t",
        model="m",
        protocol="grpc",
        version=None,
        signature=None,
        arrivals="poisson",
        rate=rate,
        concurrency=None,
        seconds=seconds,
        warmup=warmup,
        seed=0,
        connections=1,
        max_in_flight=8,
        rows=1.0,
        data="",
        slo=Objective.parse(slo),
    )


# --- percentiles ---


def test_percentiles_are_numpy_s_and_intervals_are_scipy_s() -> None:
    values = np.random.default_rng(0).lognormal(-6, 0.5, 900)  # too few for blocks
    found = analysis.percentiles(values, (50.0, 95.0, 99.0))
    for percent, estimate in found.items():
        assert estimate.value == np.percentile(values, percent)
        oracle = stats.quantile_test(values, q=0, p=percent / 100).confidence_interval(0.95)
        low, high = analysis.order_interval(np.sort(values), percent / 100, 0.95)
        assert (low, high) == pytest.approx((oracle.low, oracle.high), rel=0.02)
        assert (estimate.low, estimate.high) == (low, high)


def test_intervals_cover_the_truth_also_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(1)
    runs, hits = 60, dict.fromkeys([(0.0, 50.0), (0.0, 99.0), (0.9, 50.0), (0.9, 99.0), (0.9, "independent")], 0)
    for correlation in (0.0, 0.9):
        for _ in range(runs):
            noise = rng.standard_normal(5500) * math.sqrt(1 - correlation**2)
            values = np.exp(signal.lfilter([1], [1, -correlation], noise)[500:])
            for percent, estimate in analysis.percentiles(values, (50.0, 99.0)).items():
                hits[correlation, percent] += estimate.low <= math.exp(stats.norm.ppf(percent / 100)) <= estimate.high
            low, high = analysis.order_interval(np.sort(values), 0.5, 0.95)
            hits[correlation, "independent"] = hits.get((correlation, "independent"), 0) + (low <= 1 <= high)
    assert hits[0.9, "independent"] < 0.7 * runs  # what order statistics alone would claim
    assert min(count for (_, percent), count in hits.items() if percent != "independent") >= 0.85 * runs, hits


def test_too_few_values_give_no_end() -> None:
    found = analysis.percentiles([0.1, 0.2, 0.3], (99.0,))[99.0]
    assert found.high == math.inf
    assert math.isnan(analysis.percentiles([], (50.0,))[50.0].value)


# --- objectives ---


def test_needed_requests_are_mlperf_s() -> None:
    assert [needed_requests(n, 99.0) for n in (0, 1, 5, 10, 50, 100)] == [459, 662, 1307, 2010, 6898, 12571]
    assert needed_requests(0, 99.0, confidence=0.95) == 299
    assert needed_requests(0, 50.0) == 7


@pytest.mark.parametrize("overshoots", [0, 1, 5, 50])
def test_a_percentile_is_met_from_exactly_so_many_requests_on(overshoots: int) -> None:
    needed = needed_requests(overshoots, 99.0)
    assert binomial_verdict(overshoots, needed, 99.0) is True
    assert binomial_verdict(overshoots, needed - 1, 99.0) is not True
    assert stats.binomtest(overshoots, needed, 0.01, "less").pvalue <= 0.01


def test_a_percentile_is_missed_when_there_are_too_many_overshoots() -> None:
    assert binomial_verdict(10, 100, 99.0) is False
    assert binomial_verdict(1, 100, 99.0) is None
    assert binomial_verdict(0, 0, 99.0) is None


@pytest.mark.parametrize(
    ("given", "percent", "seconds"),
    [
        ("p99 20ms", 99, 0.02),
        ("p99.9<0.5s", 99.9, 0.5),
        ("p50 <= 800us", 50, 8e-4),
        ("20 ms", 99, 0.02),
        (0.1, 99, 0.1),
    ],
)
def test_objectives_are_read(given: object, percent: float, seconds: float) -> None:
    for found in (Objective.parse(given), Objective.parse(str(Objective.parse(given)))):
        assert found is not None
        assert (found.percent, found.seconds) == (percent, pytest.approx(seconds))


@pytest.mark.parametrize("given", ["fast", "p99", "p100 1ms", "0ms", -1.0, "p99 20"])
def test_what_is_no_objective_is_refused(given: object) -> None:
    with pytest.raises(sw.WorkbenchError, match="slo"):
        Objective.parse(given)


def test_durations_have_a_unit_that_suits_them() -> None:
    texts = [seconds_text(seconds) for seconds in (2.0, 0.01234, 8.5e-5, math.nan, math.inf)]
    assert texts == ["2 s", "12.3 ms", "85 us", "-", "inf"]


# --- warm-up ---


def test_mser5_minimises_the_standard_error() -> None:
    values = np.random.default_rng(2).standard_normal(203) + 5 * np.exp(-np.arange(203) / 10)
    means = values[:200].reshape(-1, 5).mean(axis=1)
    errors = [((means[d:] - means[d:].mean()) ** 2).sum() / (len(means) - d) ** 2 for d in range(len(means) - 5)]
    assert analysis.mser5(values) == 5 * int(np.argmin(errors))
    assert analysis.mser5(values[:30]) == 0


def test_a_warm_up_is_cut_and_a_steady_run_is_not() -> None:
    rng = np.random.default_rng(3)
    steady = rng.lognormal(-6, 0.3, 4000)
    warming = steady * (1 + 10 * np.exp(-np.arange(4000) / 100))
    found = analysis.warm_up(warming)
    assert found.steady
    assert 200 <= found.cut <= 900
    assert analysis.warm_up(steady).cut <= 200
    rising = np.linspace(1, 30, 4000) + steady
    assert analysis.warm_up(rising) == analysis.WarmUp(0, steady=False)


@pytest.mark.parametrize("at", [1000, 1500, 3000])
def test_a_stall_is_no_warm_up(at: int) -> None:
    latency = np.random.default_rng(4).lognormal(-6, 0.3, 4000)
    latency[at : at + 400] += np.linspace(1, 0, 400)
    assert analysis.warm_up(latency).cut == 0


# --- load ---


def test_saturation_is_found_and_a_busy_server_is_none() -> None:
    # At 80 % the number in the system swings widely; at 110 % it grows.
    calm = [analysis.saturation(*queue(100, 0.008, 20, seed), 20.0).saturated for seed in range(40)]
    over = [analysis.saturation(*queue(100, 0.0115, 20, seed), 20.0).saturated for seed in range(20)]
    assert sum(calm) <= 2, calm
    assert sum(over) >= 19, over
    heavy = analysis.saturation(*queue(100, 0.02, 20, 0), 20.0)
    assert heavy.saturated
    assert "of the arrivals of the second half were answered" in heavy.reason


def test_growth_is_the_slope_of_least_squares() -> None:
    begun, answered = queue(100, 0.012, 20, 3)
    growth = analysis.saturation(begun, answered, 20.0).growth
    samples = analysis.in_flight(begun, answered, np.linspace(10, 20, 500, endpoint=False)).reshape(10, 50).mean(axis=1)
    fit = stats.linregress(np.linspace(10.5, 19.5, 10), samples)
    margin = stats.t.ppf(0.995, 8) * fit.stderr
    assert (growth.value, growth.low) == pytest.approx((fit.slope, fit.slope - margin))


@pytest.mark.parametrize(
    ("count", "part"), [(1, 0.5), (10, 0.01), (10, 0.99), (300, 0.99), (5000, 0.5), (10**6, 0.999)]
)
def test_order_statistics_hold_the_confidence(count: int, part: float) -> None:
    low, high = analysis.order_interval(np.arange(count) + 1.0, part, 0.95)
    binomial = stats.binom(count, part)
    below, above = 1 if low == -np.inf else binomial.sf(low - 1), 1 if high == np.inf else binomial.cdf(high - 1)
    assert below >= 0.975
    assert above >= 0.975
    # No closer pair would do.
    assert low == -np.inf or low == count or binomial.sf(low) < 0.975
    assert high == np.inf or high == 1 or binomial.cdf(high - 2) < 0.975


def test_requests_in_flight_are_counted() -> None:
    begun, answered = [0.0, 1.0, 2.0, 3.0], [1.5, np.nan, 2.5, 10.0]
    assert analysis.in_flight(begun, answered, [-1, 0.5, 1.2, 2.2, 2.7, 20]).tolist() == [0, 1, 2, 2, 1, 1]


def test_littles_law_holds_for_a_queue_and_not_for_a_clock_that_lies() -> None:
    begun, answered = queue(200, 0.02, 30, 1, workers=8)
    times = np.random.default_rng(5).uniform(5, 25, 400)
    counts = analysis.in_flight(begun, answered, times)
    law = analysis.littles_law(begun, answered, times, counts, 5.0, 25.0)
    assert law.holds
    assert law.counted == pytest.approx(law.computed, rel=0.15)
    wrong = analysis.littles_law(begun, begun + (answered - begun) / 3, times, counts, 5.0, 25.0)
    assert not wrong.holds
    # In a closed loop the count is exact, so that little is left for noise.
    closed = np.arange(2000) / 200
    steady = np.full(400, 20)
    for part, holds in ((0.96, True), (1.04, True), (0.9, False), (1.1, False)):
        assert analysis.littles_law(closed, closed + 0.1 * part, times, steady, 5.0, 10.0).holds is holds


# --- verdicts of a run ---


def test_a_client_that_was_the_limit_is_told() -> None:
    """L6."""
    assert client_limited(0.84, 0.0009, 0.01) == ""
    assert "86 % of a core" in client_limited(0.86, 0.0, 0.01)
    assert "late by 11 %" in client_limited(0.1, 0.0011, 0.01)
    scheduled = np.arange(2000) / 100
    late = records(scheduled, scheduled + 0.01, sent=scheduled + 0.005)
    summary = summarise(setup(20.0, "p99 20ms"), late)
    assert summary.client_limited
    assert summary.slo_met is None
    assert "No verdict: the load generator was late" in summary.notes[0]
    busy = records(
        scheduled, scheduled + 0.01, ticks=np.column_stack([np.arange(21), 0.9 * np.arange(21), np.ones(21)])
    )
    assert summarise(setup(20.0, "p99 20ms"), busy).client_limited
    # What waits because of the cap is late by the caller's will.
    capped = records(scheduled, scheduled + 0.01, sent=scheduled + 0.005, waited=np.ones(2000, np.bool_))
    summary = summarise(setup(20.0, "p99 20ms"), capped)
    assert not summary.client_limited
    assert summary.slo_met is True
    assert "2000 requests waited in the client, as 8 were in flight." in summary.notes


def test_goodput_counts_what_was_answered_well_in_time() -> None:
    scheduled = np.arange(1000) / 100
    answered = scheduled + np.where(np.arange(1000) % 10 == 0, 0.05, 0.001)
    status = np.zeros(1000, np.uint16)
    status[1::10] = 14
    status[2] = UNANSWERED
    answered[2] = np.nan
    summary = summarise(setup(10.0, "p90 20ms"), records(scheduled, answered, status=status, texts={14: "gone away"}))
    assert (summary.requests, summary.good, summary.within) == (1000, 899, 799)
    assert summary.goodput == pytest.approx(79.9)
    assert summary.offered_rate == 100
    assert summary.slo_met is False
    assert summary.statuses == {"OK": 899, "UNAVAILABLE": 100, "unanswered": 1}
    assert any("101 of 1000 requests got no good answer" in note and "gone away" in note for note in summary.notes)


def test_a_saturated_run_misses_its_objective_and_says_so() -> None:
    scheduled, answered = queue(100, 0.02, 20, 0)
    summary = summarise(setup(20.0, "p99 60s"), records(scheduled, answered))
    assert summary.saturated
    assert summary.slo_met is False
    assert any(note.startswith("Saturated") for note in summary.notes)


def test_an_objective_without_enough_requests_is_undecided() -> None:
    scheduled = np.arange(200) / 100
    summary = summarise(setup(2.0, "p99 20ms"), records(scheduled, scheduled + 0.001))
    assert summary.slo_met is None
    assert "p99 <= 20 ms is not decided: it takes 259 more requests without another miss." in summary.notes
    assert "p99 needs 800 more requests." in summary.notes


def test_the_warm_up_is_cut_by_time_or_found() -> None:
    scheduled = np.arange(2000) / 100
    latency = np.random.default_rng(6).lognormal(-6, 0.3, 2000) * np.where(np.arange(2000) < 300, 20, 1)
    asked = summarise(setup(20.0, warmup=5.0), records(scheduled, scheduled + latency))
    assert (asked.start, asked.requests, asked.warmup_cut) == (5.0, 1500, 500)
    found = summarise(setup(20.0, warmup=None), records(scheduled, scheduled + latency))
    assert found.start == pytest.approx(3.0, abs=0.2)
    assert found.p99 < latency[:300].min()


def test_statuses_have_names() -> None:
    assert [status_name(code) for code in (0, 14, 200, 404, UNANSWERED)] == [
        "OK",
        "UNAVAILABLE",
        "OK",
        "HTTP 404",
        "unanswered",
    ]


def test_a_million_requests_are_small_and_summarised() -> None:
    """L8: under 100 MB; how soon, `tests.bench.loadgen` measures."""
    many = a_million()
    assert many.nbytes < 100e6
    summary = summarise(setup(float(many.scheduled[-1]) + 1e-4, "p99 20ms", None, 1e4), many)
    assert summary.good > 990_000
