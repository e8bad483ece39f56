"""Verdicts are functions of numbers and margins: golden texts, every kind, and honest on data without a difference."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from serving_workbench.comparison.evidence import Check, Estimate, Head, Metric
from serving_workbench.comparison.latency import block_pairs, paired_rows
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.quality import quality, scorer
from serving_workbench.comparison.verdict import decide, more_needed
from serving_workbench.errors import WorkbenchError


def accuracy(value: float, half: float, n: int = 1000, margin: float = 0.01) -> Metric:
    difference = Estimate(value, value - half, value + half, n, "paired BCa bootstrap, 5000 resamples")
    return Metric(
        "accuracy",
        0.95,
        0.95 + value,
        difference,
        margin=margin,
        role="primary",
        p_value=0.5,
        test="McNemar's exact test",
    )


def latency(ratio: float, half: float, margin: float | None = 0.10) -> Metric:
    found = Estimate(ratio, ratio - half, ratio + half, 24, "t over 24 interleaved pairs of blocks")
    return Metric(
        "latency", 2.0, 2.0 * (1 + ratio), found, relative=True, higher_is_better=False, margin=margin, unit="ms"
    )


def test_ship_says_what_was_shown_and_how() -> None:
    found = decide([accuracy(0.002, 0.005), latency(-0.2, 0.05)])
    assert found.kind == "SHIP"
    first = (
        "Accuracy is within the margin, 0.95 in A and 0.952 in B: B less A +0.002 [-0.003, +0.007], margin 0.01 "
        "(n = 1,000; paired BCa bootstrap, 5000 resamples; McNemar's exact test: p 0.5)."
    )
    second = (
        "Latency is better, 2 ms in A and 1.6 ms in B: B against A -20 % [-25, -15] %, margin 10 % "
        "(n = 24; t over 24 interleaved pairs of blocks)."
    )
    assert found.reasons == (first, second)
    assert found == decide([accuracy(0.002, 0.005), latency(-0.2, 0.05)])


def test_reject_names_what_is_worse() -> None:
    found = decide([accuracy(-0.05, 0.02), latency(0.0, 0.05)])
    assert found.kind == "REJECT"
    assert found.reasons[0].startswith("Accuracy is worse than allowed, 0.95 in A and 0.9 in B: B less A -0.05")


def test_inconclusive_says_how_many_rows_would_tell() -> None:
    found = decide([accuracy(0.0, 0.02, n=900)])
    assert found.kind == "INCONCLUSIVE"
    assert found.more_rows == 2700  # half the width needs four times the rows
    assert str(found).count("2,700 more") == 1
    at_the_margin = decide([accuracy(-0.01, 0.02)])
    assert at_the_margin.more_rows is None
    assert "hardly tell" in at_the_margin.reasons[0]


def test_equal_is_never_said_of_an_interval_that_reaches_beyond_the_margin() -> None:
    wide = dataclasses.replace(accuracy(0.0, 0.02), p_value=1.0)
    assert decide([wide]).kind == "INCONCLUSIVE"


def test_an_unsound_experiment_has_no_verdict() -> None:
    broken = Check("sample ratio", False, "The arms got 700 and 300 of 1000 requests.")
    remark = Check("machine", False, "The machine was busy.", fatal=False)
    found = decide([accuracy(-0.5, 0.01)], checks=[broken, remark])
    assert (found.kind, found.reasons) == ("UNHEALTHY", (broken.text, remark.text))
    assert decide([accuracy(0, 0.001)], checks=[remark]).kind == "SHIP"


def test_what_no_margin_excuses_rejects() -> None:
    head = Head("y", "float", 10, failures=("Output 'y' has NaN in B only, in 1 of 10 rows; the first is 3.",))
    found = decide([accuracy(0, 0.001)], [head])
    assert (found.kind, found.reasons[0]) == ("REJECT", head.failures[0])


def test_without_anything_that_decides_nothing_is_decided() -> None:
    assert decide([]).kind == "INCONCLUSIVE"
    assert decide([latency(5, 0.1, margin=None)]).kind == "INCONCLUSIVE"


def test_unknown_is_neither_better_nor_worse() -> None:
    unknown = latency(3.0, math.inf)
    found = decide([accuracy(0, 0.001), unknown])
    assert found.kind == "INCONCLUSIVE"
    assert "not known well enough" in found.reasons[0]
    assert more_needed(unknown) is None
    nothing = Metric("error rate", math.nan, math.nan, Estimate(math.nan, -1, 1, 0, "exact"), margin=0.01, unit="%")
    assert decide([nothing]).reasons == ("Error rate is not known well enough: exact (n = 0; margin 1 %).",)


def test_large_ratios_are_written_out() -> None:
    assert "B against A +3,950 % [+3,930, +3,970] %" in decide([latency(39.5, 0.2)]).reasons[0]


def test_many_guardrails_are_corrected_and_one_primary_is_not() -> None:
    barely = latency(0.15, 0.048)  # its lower bound is just beyond the margin
    assert decide([barely]).kind == "REJECT"
    others = [dataclasses.replace(latency(0.0, 0.05), name=f"latency {number}") for number in range(9)]
    assert decide([barely, *others]).kind == "INCONCLUSIVE"
    primary = dataclasses.replace(barely, role="primary")
    assert decide([primary, *others]).kind == "REJECT"


def test_a_metric_without_a_better_direction_must_stay_near() -> None:
    def drift(low: float, high: float) -> Metric:
        found = Estimate((low + high) / 2, low, high, 100, "bootstrap")
        return Metric("drift", 0, 0, found, higher_is_better=None, margin=0.1, role="guardrail")

    assert decide([drift(-0.05, 0.08)]).kind == "SHIP"
    assert decide([drift(-0.3, -0.2)]).kind == "REJECT"
    assert decide([drift(0.05, 0.2)]).kind == "INCONCLUSIVE"


class TestMargins:
    def test_they_are_read_in_every_spelling(self) -> None:
        assert Margins.parse({"accuracy": 0.02, "latency": "15%"}).declared == {"accuracy": 0.02, "latency": 0.15}
        assert Margins.parse("accuracy=0.02, latency=15%").declared == {"accuracy": 0.02, "latency": 0.15}
        assert Margins.parse(["rows_that_differ=5%"]).of("rows that differ") == 0.05
        assert Margins.parse(None).of("accuracy") == 0.01

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"accuracy": "much"}, "'much': no number"),
            ("accuracy", "no margin"),
            ({"x": -1}, "zero or more"),
            (3, "are no margins"),
        ],
    )
    def test_what_is_none_is_refused(self, given: object, words: str) -> None:
        with pytest.raises(WorkbenchError, match=words):
            Margins.parse(given)

    def test_a_margin_of_no_metric_is_refused_with_what_is_near(self) -> None:
        with pytest.raises(WorkbenchError, match="did you mean 'accuracy'"):
            Margins.parse({"acuracy": 0.1}).check(["accuracy"])

    def test_margins_of_what_was_not_measured_are_no_error(self) -> None:
        assert Margins.parse({"latency": 0.1}).applied([accuracy(0, 0.001)])[0].margin == 0.01

    def test_what_has_no_margin_decides_nothing(self) -> None:
        metric = dataclasses.replace(accuracy(0, 0.1), name="my_metric", margin=None)
        found = Margins().applied([metric, latency(0, 0.01)])
        assert [each.role for each in found] == ["primary", "guardrail"]
        decided = decide(found)
        assert decided.kind == "INCONCLUSIVE", "not SHIP for the latency alone"
        assert decided.reasons[0].startswith("My_metric is what this is about, and no margin says")
        assert decide([*found, latency(1, 0.01)]).kind == "REJECT", "what is worse stays worse"
        assert Margins().applied([dataclasses.replace(metric, role="guardrail")])[0].role == "shown"
        assert Margins.parse({"my_metric": 0.2}).applied([metric])[0].role == "primary"


def test_versions_without_a_difference_are_hardly_ever_told_apart() -> None:
    """A1: 200 simulated A/A experiments with drift, heavy tails and errors; at most 17 may claim a difference."""
    draw = np.random.default_rng(2026)
    rejected = claimed = claimed_blocks = 0
    for number in range(200):
        rows = 400
        y = draw.integers(0, 10, rows)
        answers = [np.where(draw.random(rows) < 0.05, (y + 1) % 10, y) for _ in range(2)]
        drift = np.empty(rows)
        level = 0.0
        for row in range(rows):
            level = 0.98 * level + draw.normal(0, 0.25 * math.sqrt(1 - 0.98**2))
            drift[row] = level
        times = [np.exp(drift) * draw.lognormal(0, 0.3, rows) for _ in range(2)]
        for each in times:
            stalls = draw.random(rows) < 0.02
            each[stalls] *= 1 + draw.pareto(1.5, int(stalls.sum())) * 5
        ratio = paired_rows(times[0], times[1])
        blocks = [list(np.split(each, 20)) for each in times]
        by_block = block_pairs(blocks[0], blocks[1], 99).ratio
        metrics = Margins().applied(
            [
                quality(scorer("accuracy"), y, answers[0], answers[1], seed=number, resamples=500),
                Metric("latency", 1, 1, ratio, relative=True, higher_is_better=False),
            ]
        )
        rejected += decide(metrics).kind == "REJECT"
        claimed += ratio.low > 0 or ratio.high < 0
        claimed_blocks += by_block.low > 0 or by_block.high < 0
    assert rejected <= 17
    assert claimed <= 17
    assert claimed_blocks <= 17
