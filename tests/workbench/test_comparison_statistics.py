"""Intervals, tests and effect sizes of comparisons equal scipy's and published examples, also where data degenerate."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from serving_workbench.comparison import intervals
from serving_workbench.comparison.drift import class_drift, number_drift
from serving_workbench.comparison.intervals import (
    block_quantile_differences,
    dkw_band,
    mcnemar,
    paired_bca,
    paired_bca_of_means,
    paired_mean,
    paired_shares,
    proportion,
    quantile_differences,
)
from serving_workbench.comparison.latency import block_pairs, detectable, paired_rows
from serving_workbench.comparison.quality import classes_of, quality, scorer
from serving_workbench.comparison.sample_ratio import sample_ratio
from serving_workbench.comparison.slices import columns_of, compare_slices
from serving_workbench.errors import WorkbenchError


def test_bca_is_scipys() -> None:
    differences = np.random.default_rng(3).gamma(2, size=300) - 1.8
    ours = paired_bca_of_means(differences, resamples=999, seed=5)
    theirs = stats.bootstrap(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        n_resamples=999,
        batch=8_000_000 // 300,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)
    assert ours.value == differences.mean()
    assert "BCa" in ours.method


def test_bca_of_any_statistic_agrees_with_that_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_BUDGET", math.inf)  # a first call that is interrupted does not count
    differences = np.random.default_rng(4).normal(0.3, 1, 120)
    general = paired_bca(lambda rows: float(differences[rows].mean()), 120, resamples=2000, seed=1)
    special = paired_bca_of_means(differences, resamples=2000, seed=2)
    assert general.low == pytest.approx(special.low, abs=0.03)
    assert general.high == pytest.approx(special.high, abs=0.03)


def test_rows_that_all_agree_do_not_prove_that_all_rows_ever_will() -> None:
    nothing = paired_bca_of_means(np.zeros(299))
    assert (nothing.value, nothing.low) == (0.0, -nothing.high)
    assert nothing.high == pytest.approx(1 - 0.025 ** (1 / 299), abs=1e-9)  # Clopper and Pearson for 0 of n
    constant = paired_bca_of_means(np.full(50, -2.0))
    assert (constant.low, constant.high) == (-2.0, -2.0)
    few = paired_bca_of_means([1.0] * 19)
    assert (few.known, "too few" in few.method) == (False, True)
    alone = paired_bca_of_means([1.0])
    assert not alone.known
    with pytest.raises(ValueError, match="no rows"):
        paired_bca_of_means([])


def test_a_slow_metric_gets_fewer_resamples_and_says_so() -> None:
    values = np.random.default_rng(0).normal(size=50)

    def slow(rows: np.ndarray) -> float:
        deadline = time.perf_counter() + 0.004
        while time.perf_counter() < deadline:
            pass
        return float(values[rows].mean())

    found = paired_bca(slow, 50, resamples=5000)
    assert found.method.startswith("paired percentile bootstrap")
    assert found.low < found.value < found.high


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # Agresti, Categorical Data Analysis (2002), table 10.1 has 150 and 86 discordant pairs.
    assert mcnemar(150, 86) == pytest.approx(stats.binomtest(86, 236).pvalue, abs=1e-9)
    # Computed by hand: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10.
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024, abs=1e-9)
    assert mcnemar(0, 0) == 1.0


def test_paired_mean_is_students_and_wilcoxons() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 40))
    found = paired_mean(b - a)
    assert found.t_test == pytest.approx(stats.ttest_rel(b, a).pvalue, abs=1e-9)
    interval = stats.ttest_1samp(b - a, 0).confidence_interval()
    assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(b - a).pvalue, abs=1e-9)


def test_the_band_holds_the_true_distribution() -> None:
    draw = np.random.default_rng(8)
    outside = 0
    for _ in range(200):
        band = dkw_band(draw.uniform(size=500))
        assert band.height[-1] == 1
        outside += bool(np.any(band.values > band.high + 1 / 500) or np.any(band.values < band.low))
    assert outside <= 17  # at most 5 % of 200, within what chance allows
    assert dkw_band(np.arange(2000)).high[0] - 1 / 2000 == pytest.approx(math.sqrt(math.log(40) / 4000))


def test_quantile_differences_find_a_shift_and_where_it_is() -> None:
    draw = np.random.default_rng(2)
    a = draw.lognormal(0, 0.3, 3000)
    b = a + np.where(a > np.percentile(a, 90), 1.0, 0.0)
    found = quantile_differences(a, b, (50, 99))
    assert found[50].low <= 0 <= found[50].high
    assert found[99].low > 0.5


def test_quantiles_of_blocks_are_as_unsure_as_their_moments() -> None:
    """Each block has a load of its own: taken for independent, its 200 requests would make a difference sure."""
    draw = np.random.default_rng(11)
    beside_blocks = beside_rows = 0
    for _ in range(40):
        a, b = ([draw.lognormal(draw.normal(0, 0.3), 0.2, 200) for _ in range(20)] for _ in "ab")
        found = block_quantile_differences(a, b, (50,), resamples=200)[50]
        beside_blocks += not found.low <= 0 <= found.high
        rows = quantile_differences(np.concatenate(a), np.concatenate(b), (50,), resamples=200)[50]
        beside_rows += not rows.low <= 0 <= rows.high
    assert beside_blocks <= 6, "5 %"
    assert beside_rows >= 15
    slower = block_quantile_differences([np.full(5, 1.0)] * 4, [np.full(7, 1.5)] * 4, (50, 99), resamples=50)
    assert (slower[50].value, slower[99].low, slower[99].n) == (0.5, 0.5, 4)


def test_latency_of_pairs_ignores_drift_and_stalls() -> None:
    draw = np.random.default_rng(7)
    drift = np.exp(np.cumsum(draw.normal(0, 0.1, 2000)))
    a, b = drift * draw.lognormal(0, 0.2, 2000), 1.1 * drift * draw.lognormal(0, 0.2, 2000)
    a[:20] += 100
    found = paired_rows(a, b)
    assert found.low < 0.10 < found.high
    assert found.high - found.low < 0.06
    assert not paired_rows(a[:10], b[:10]).known


def test_blocks_are_compared_in_pairs() -> None:
    draw = np.random.default_rng(9)
    levels = np.exp(draw.normal(0, 0.5, 30))
    a = [level * draw.lognormal(0, 0.1, 200) for level in levels]
    b = [1.2 * level * draw.lognormal(0, 0.1, 200) for level in levels]
    found = block_pairs(a, b, 50)
    assert found.ratio.low < 0.2 < found.ratio.high
    assert found.ratio.low > 0.15
    logs = np.log([np.median(block) for block in b]) - np.log([np.median(block) for block in a])
    assert found.ratio.value == pytest.approx(math.expm1(logs.mean()), abs=1e-9)
    assert found.spread == pytest.approx(logs.std(ddof=1), abs=1e-9)
    assert found.detectable == pytest.approx(detectable(found.spread, 30))
    few = block_pairs(a[:19], b[:19], 50)
    assert not few.ratio.known
    assert "too short" in few.ratio.method
    assert not block_pairs([], [], 50).ratio.known


def test_what_is_called_detectable_is_detected_in_four_of_five_cases() -> None:
    draw = np.random.default_rng(11)
    truth = math.log1p(detectable(0.1, 30))
    seen = 0
    for _ in range(400):
        ratios = draw.normal(truth, 0.1, 30)
        seen += stats.ttest_1samp(ratios, 0).pvalue < 0.05
    assert 0.74 < seen / 400 < 0.88


def test_sample_ratio_is_pearsons() -> None:
    broken = sample_ratio({"A": 900, "B": 1100}, {"A": 50, "B": 50})
    assert not broken.ok
    assert f"{stats.chisquare([900, 1100]).pvalue:.2g}" in broken.text
    assert sample_ratio({"A": 9010, "B": 990}, {"A": 90, "B": 10}).ok
    assert sample_ratio({}, {"A": 1, "B": 1}).ok
    assert not sample_ratio({"A": 10, "B": 10, "C": 1}, {"A": 1, "B": 1}).ok


def test_drift_is_wassersteins_distance_in_standard_deviations() -> None:
    a = np.random.default_rng(5).normal(3, 2, 4000)
    found = number_drift("score", a, a + 1)
    assert found is not None
    assert found.difference.value == pytest.approx(stats.wasserstein_distance(a, a + 1) / a.std(), abs=1e-9)
    assert found.difference.low > 0.1
    still = number_drift("score", a, a + np.random.default_rng(6).normal(0, 0.01, 4000))
    assert still is not None
    assert still.difference.high < 0.1
    same = number_drift("score", a, a.copy())
    assert same is not None
    assert same.difference.high == 0
    assert number_drift("score", [math.nan, math.nan], [1.0, 2.0]) is None


def test_drift_of_classes_is_jensen_shannons() -> None:
    found = class_drift("label", ["a"] * 50 + ["b"] * 50, ["a"] * 50 + ["c"] * 50)
    assert found is not None
    assert found.difference.value == pytest.approx(math.sqrt(0.5), abs=1e-9)  # half of the mass moved, base 2
    assert found.difference.low > 0.5
    moved = class_drift("label", [1, 2, 3, 1], [3, 1, 1, 2])
    assert moved is not None
    assert moved.difference.value == 0  # which rows got them is not what drift is about


def test_shares_of_few_differing_rows_are_not_too_sure() -> None:
    draw = np.random.default_rng(31)
    missed = 0
    for number in range(300):
        cells = draw.choice(3, 100, p=[0.02, 0.01, 0.97])  # right in A only, in B only, in both
        difference = np.where(cells == 0, -1.0, np.where(cells == 1, 1.0, 0.0))
        found = paired_bca_of_means(difference, resamples=300, seed=number)
        wide = paired_shares(int((cells == 0).sum()), int((cells == 1).sum()), found)
        assert wide.low <= found.low
        assert wide.high >= found.high
        missed += not wide.low <= -0.01 <= wide.high
    assert missed <= 24  # 5 % of 300, within what chance allows


class TestQuality:
    y = np.array([0, 1, 2, 1, 0] * 40)

    def test_accuracy_is_paired_and_exact(self) -> None:
        a, b = self.y.copy(), self.y.copy()
        a[:12] = 9  # wrong in A
        b[10:30] = 9  # wrong in B, two of them in both
        found = quality(scorer("accuracy"), self.y, a, b)
        assert (found.a, found.b) == (188 / 200, 180 / 200)
        assert found.p_value == pytest.approx(mcnemar(18, 10), abs=1e-9)
        assert "18 rows right in A only and 10 in B only" in found.test
        assert found.difference.low < -0.04 < found.difference.high

    def test_scores_stand_for_the_largest_and_probabilities_for_one_half(self) -> None:
        assert classes_of(np.array([[0.1, 0.9], [0.8, 0.2]])).tolist() == [1, 0]
        assert classes_of(np.array([[0.7], [0.2]])).tolist() == [1, 0]
        assert classes_of(np.array([b"x", b"y"], object), np.array(["x", "y"])).tolist() == ["x", "y"]
        with pytest.raises(WorkbenchError, match=r"\[4, 2, 2\] is no class"):
            classes_of(np.zeros((4, 2, 2)))

    def test_losses_are_those_of_the_textbook(self) -> None:
        scores = np.tile([0.7, 0.2, 0.1], (200, 1))
        found = quality(scorer("log_loss"), self.y, scores, scores[:, [1, 0, 2]])
        chosen = scores[np.arange(200), self.y]
        assert found.a == pytest.approx(-np.log(chosen).mean(), abs=1e-12)
        assert found.higher_is_better is False
        numbers = self.y + np.random.default_rng(1).normal(size=200)
        mae = quality(scorer("mae"), self.y, numbers, numbers + 0.5)
        assert mae.a == pytest.approx(np.abs(numbers - self.y).mean(), abs=1e-12)
        rmse = quality(scorer("rmse"), self.y, numbers, numbers + 0.5, resamples=300)
        assert rmse.b == pytest.approx(math.sqrt(((numbers + 0.5 - self.y) ** 2).mean()), abs=1e-12)
        with pytest.raises(WorkbenchError, match="shape"):
            quality(scorer("mae"), self.y, np.zeros((200, 3)), np.zeros((200, 3)))

    def test_any_callable_is_a_metric(self) -> None:
        def hinge_loss(y: np.ndarray, given: np.ndarray) -> float:
            return float(np.maximum(0, 1 - given).mean())

        found = quality(scorer(hinge_loss), self.y, np.zeros(200), np.linspace(0, 0.1, 200), resamples=300)
        assert (found.name, found.higher_is_better) == ("hinge_loss", False)
        assert found.difference.high < 0
        assert scorer(hinge_loss, higher_is_better=True).higher_is_better is True

    def test_an_unknown_metric_is_named_with_what_is_near(self) -> None:
        with pytest.raises(WorkbenchError, match="did you mean 'accuracy'"):
            scorer("acuracy")

    def test_slices_are_corrected_together_and_sorted_worst_first(self) -> None:
        y = np.zeros(600, np.int64)
        a, b = y.copy(), y.copy()
        b[:60] = 1  # all within the first slice
        columns = columns_of({"kind": np.repeat(["x", "y", "z"], 200), "size": np.arange(600.0)}, 600)
        found = compare_slices(columns, lambda rows: quality(scorer("accuracy"), y[rows], a[rows], b[rows]))
        assert [(each.column, each.value) for each in found[:2]] == [("kind", "x"), ("size", "<= 199.7")]
        assert [each.worse for each in found] == [True, True, False, False, False, False]
        raw = [each.metric.p_value for each in found]
        adjusted = stats.false_discovery_control(np.array(raw, float), method="bh")
        assert [each.adjusted for each in found] == pytest.approx(adjusted.tolist(), abs=1e-9)
        with pytest.raises(WorkbenchError, match="'kind' has 3 values for 600 rows"):
            columns_of({"kind": ["x", "y", "z"]}, 600)
        with pytest.raises(WorkbenchError, match="600 different values"):
            compare_slices({"id": np.array([f"row {number}" for number in range(600)])}, lambda rows: found[0].metric)


def test_a_share_has_clopper_and_pearsons_interval() -> None:
    found = proportion(3, 50)
    expected = stats.binomtest(3, 50).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == (expected.low, expected.high)
    assert math.isnan(proportion(0, 0).value)


def test_a_metric_of_ones_own_gets_strings_as_the_labels_are() -> None:
    given = np.array([b"cat", b"cat"], dtype=object)
    own = scorer(lambda truth, found: float(np.mean(truth == found)))
    assert own.whole(np.array(["cat", "dog"]), given) == 0.5
    assert own.whole(np.array([b"cat", b"dog"], dtype=object), given) == 0.5
