"""The A/B tab by its traits and its data: what is clicked reaches the server, what the server counts is shown."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.commands.comparing import AB
from serving_workbench.comparison.evidence import Check, Estimate, Head, Metric
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.result import CompareResult, Rows
from serving_workbench.comparison.tab.browsing import RowBrowser, image_of
from serving_workbench.comparison.tab.chart import EMPTY, make_chart, sequence_data
from serving_workbench.comparison.tab.dashboard import ABTab
from serving_workbench.comparison.tab.finished import ResultTab
from tests import leaks
from tests.servers import wait_until
from tests.workbench.test_ramps import Load, journal_of

X = np.arange(120, dtype=np.float32)
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def tab(arms: sw.ServedModel) -> Iterator[ABTab]:
    leaks.allow_path(journal_of(arms.server.name))
    found = sw.ab(arms, 1, 2, margins={"run time": 5, "error rate": 0.2}, data=X, labels=X.astype(int) % 3)
    yield found
    found.close()
    arms.ramp(action="abort")
    arms.traffic({})
    arms.config(policy={"specific": {"versions": [1]}})
    wait_until(lambda: arms.serving_version == 1, what="version 1")


def weights(arms: sw.ServedModel) -> Any:
    return (arms.describe()["traffic"] or {}).get("weights")


def done(tab: ABTab) -> str:
    """What the last action said, once it is over."""
    wait_until(lambda: tab._actions.running is None, 60, lambda: tab._message.value)
    return str(tab._message.value)


def test_the_slider_moves_the_split_and_the_chart_goes_on(arms: sw.ServedModel, tab: ABTab) -> None:
    assert tab.controls.arms == (1, 2)
    assert "No requests are split" in tab._verdict.value
    assert tab.chart.data == EMPTY
    tab.view.start()
    tab.controls.percent.value = 40  # not yet: nothing is split
    assert weights(arms) is None
    tab.controls.split.click()
    wait_until(lambda: weights(arms) == {"1": 60.0, "2": 40.0}, 60, lambda: tab._message.value)
    wait_until(lambda: tab.controls.split.description == "Stop split", 60, "the other button")
    with Load(arms) as load:
        wait_until(lambda: len(tab.chart.data["n"]) >= 3, 30, lambda: str(tab.chart.data))
        tab.controls.percent.value = 70
        wait_until(lambda: weights(arms) == {"1": 30.0, "2": 70.0}, 60, lambda: tab._message.value)
        seen = tab.chart.data["n"][-1]
        wait_until(lambda: tab.chart.data["n"][-1] > seen, 60, "more requests")
        wait_until(lambda: "SHIP" in tab._verdict.value, 30, lambda: tab._verdict.value)
        arms.traffic({1: 90, 2: 10})  # by somebody else
        wait_until(lambda: tab.controls.percent.value == 10, 60, "the slider follows")
    assert load.failed == []
    assert weights(arms) == {"1": 90.0, "2": 10.0}
    assert tab.chart.widget.data == tab.chart.data
    assert tab.chart.data["margins"] == [500.0]
    assert tab.result is not None
    assert tab.result.verdict == "SHIP"
    assert "sample ratio" in tab._checks.value
    assert ">AVAILABLE<" in tab._counts.value
    tab.controls.split.click()
    wait_until(lambda: weights(arms) is None, 60, "the end of the split")
    wait_until(lambda: "The split has ended" in tab._checks.value, 60, "the end is told")
    assert tab.chart.data["n"], "what was found stays"
    tab.controls.close.click()
    wait_until(lambda: tab.view.is_closed, 60, "the end")
    assert not tab.view.poller.is_running
    wait_until(
        lambda: not [each for each in threading.enumerate() if each.name == "serving-workbench live"], 20, "its thread"
    )


def test_a_ramp_is_begun_paused_and_taken_back(arms: sw.ServedModel, tab: ABTab) -> None:
    controls = tab.controls
    controls.steps.value = "20, sixty"
    controls.ramp.click()
    assert "are percents, not" in done(tab)
    controls.steps.value = "20, 60"
    controls.ramp.click()
    assert "running at 20 %" in done(tab)
    tab.refresh()
    assert controls.percent.value == 20
    assert controls.percent.disabled
    assert controls.ramp.disabled
    controls.pause.click()
    assert "paused at 20 %" in done(tab)
    tab.refresh()
    assert controls.pause.description == "Resume ramp"
    assert "paused" in tab._more.value
    controls.pause.click()
    assert "running at 20 %" in done(tab)
    controls.abort.click()
    assert "aborted" in done(tab)
    tab.refresh()
    assert not controls.percent.disabled
    assert weights(arms) is None
    controls.a.value = 2
    controls.b.value = 1
    controls.ramp.click()
    assert "A ramp goes from the version that answers, 1" in done(tab)
    controls.b.value = 2
    controls.split.click()
    assert "A and B are both version 2" in done(tab)
    tab.refresh()
    assert "Choose two different versions" in tab._verdict.value


def test_a_mirror_is_counted_and_its_pairs_are_compared(
    warm: str, name: str, source: Callable[[str, int], Path]
) -> None:
    # A model of its own: pairs stay with the model, and other tests of `arms` begin without any.
    for version in (1, 2):
        served = sw.serve(source("arms", version), name, instance=warm, progress=False)
    served.rollback()
    tab = sw.ab(served)
    try:
        assert tab.controls.arms == (1, 2)
        tab.controls.mirror.click()
        assert "copied to version 2" in done(tab)
        with Load(served, np.float32([6, 7, 8])):
            wait_until(lambda: (served.describe()["mirror"] or {}).get("answered", 0) >= 20, 30, "pairs")
        tab.refresh()
        assert "requests have a pair; " in tab._more.value
        assert " dropped" in tab._more.value
        assert " ms behind" in tab._more.value
        assert tab.controls.mirror.description == "Stop mirror"
        tab.controls.pairs.click()
        assert "REJECT" in done(tab)
        assert tab.finished is not None
        assert "mirrored requests" in tab.finished.result.source
        tab.controls.mirror.click()
        done(tab)
        assert not served.describe()["mirror"]["active"]
    finally:
        tab.close()


def test_rows_are_compared_and_looked_through(tab: ABTab, monkeypatch: pytest.MonkeyPatch) -> None:
    tab.controls.rows.click()
    assert "INCONCLUSIVE" in done(tab)
    found = tab.finished
    assert found is not None
    assert tab._below.children == (found.root,)
    assert found.pages.titles[:1] == ("Metrics",)
    browser = found.browser
    assert browser is not None
    assert browser.row.max == 3  # 7, 57, 107
    assert "<code>7.0</code>" in browser.shown.value
    browser.row.value = 2
    assert "<code>57.0</code>" in browser.shown.value
    assert "0 (0.800)" in browser.shown.value
    assert "1 (0.800)" in browser.shown.value
    browser.output.value = "value"
    assert "agree in all rows" in browser.shown.value
    assert browser.pair.disabled
    assert browser.grid.children == ()
    browser.output.value = "scores"
    assert [label for label, _ in browser.pair.options] == [
        "all that differ",
        "0 and 1 (1)",
        "1 and 2 (1)",
        "2 and 0 (1)",
    ]
    (grid,) = browser.grid.children
    cells = {each.tooltip: each for each in grid.children if isinstance(each, widgets.Button)}
    assert len(cells) == 3
    cells["Show the rows where A says 1 and B says 2"].click()
    assert browser.pair.value == (1, 2)
    assert browser.row.max == 1
    assert "1 of 1" in browser.shown.value
    outputs = found.pages.children[found.pages.titles.index("Outputs")].value
    assert outputs.count("<img") == 1
    browser.output.value = "label"
    assert "A</th>" not in browser.shown.value.partition("(A)")[2].partition("(B)")[0]
    assert ">label<" in browser.shown.value
    assert ">scores<" not in browser.shown.value
    monkeypatch.setattr("serving_workbench.comparison.tab.dashboard._AA_RUNS", 2)
    tab.controls.aa.click()
    assert "A/A of arms@1, 2 times" in done(tab)


def test_without_rows_it_says_what_it_needs(arms: sw.ServedModel) -> None:
    tab = sw.ab(arms)
    try:
        assert tab.controls.arms == (1, 6)
        tab.controls.aa.click()
        assert "sw.ab(&quot;arms&quot;, data=X_test" in done(tab)
        bundle = tab._repr_mimebundle_()
        assert bundle["text/plain"].startswith("A/B of 'arms'")
        assert "No requests are split" in bundle["text/html"]
        assert VIEW in bundle
    finally:
        tab.close()
    assert VIEW not in tab._repr_mimebundle_()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"b": 77}, "has no version 77; it has 6, 5"),
        ({"labels": [1]}, "labels= goes with data="),
        ({"margins": {"run tme": 1}}, "run time"),
    ],
)
def test_what_is_wrong_is_named(arms: sw.ServedModel, options: dict[str, Any], words: str) -> None:
    with pytest.raises(sw.WorkbenchError, match=words):
        sw.ab(arms, **options)


def test_the_magic_opens_it_without_rows_and_refuses_what_needs_them(arms: sw.ServedModel) -> None:
    place: Any = SimpleNamespace(in_notebook=True, spelled=lambda command: f"%{command}")
    parser = AB.parser("%ab", in_notebook=True)

    def run(*words: str) -> Any:
        return AB.run(parser.read(["arms", *words, "--instance", "arms"], str), place)

    tab = run("1", "3", "--margin", "run time=20%")
    try:
        assert isinstance(tab, ABTab)
        assert tab.controls.arms == (1, 3)
    finally:
        tab.close()
    for words, problem in (
        (("--labels", "y"), "--labels needs rows: --data X_test"),
        (("--for", "5s"), "--for needs rows"),
        (("1", "canary"), "arms that are not versions need rows"),
        (("--aa",), "needs rows: --data X_test"),
    ):
        with pytest.raises(sw.CommandLineError, match=problem):
            run(*words)


# -- without a server --------------------------------------------------------------------------------------------------


def live_result(**changes: Any) -> CompareResult:
    estimate = Estimate(0.02, 0.01, 0.05, 900, "confidence sequence")
    metric = Metric(
        "run time", 1.0, 1.02, estimate, relative=True, higher_is_better=False, margin=0.1, role="primary", unit="ms"
    )
    sequence = {
        "seconds": [0.5, 1.0, 1.5, 2.0],
        "n": [100.0, 300.0, 600.0, 900.0],
        "value": [0.3, 0.04, 0.03, 0.02],
        "low": [-math.inf, -0.2, -0.01, 0.01],
        "high": [math.inf, 0.25, 0.09, 0.05],
        "share": [math.nan, 0.5, 0.52, 0.5],
    }
    found = CompareResult(
        model="m<b>", a="m<b>@1", b="m@2", source="live split", date="", metrics=[metric], heads=[], slices=[],
        checks=[Check("sample ratio", True, "fine <i>")], margins=Margins(), sequence=sequence,
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def test_the_chart_has_numbers_that_json_has_and_marks_the_crossing() -> None:
    data = sequence_data(live_result())
    json.dumps(data, allow_nan=False)
    assert data["low"] == [None, -20.0, -1.0, 1.0]
    assert data["share"] == [None, 50.0, 52.0, 50.0]
    assert data["margins"] == [10.0]
    assert data["crossed"] == {"n": 600.0, "text": "within the margin, after 600"}
    bottom, top = data["range"]
    assert bottom < -20 < 25 < top < 30
    assert "after 900 requests: +2 %, surely between +1 and +5 %" in data["alt"]


def test_the_crossing_is_on_the_side_that_is_worse() -> None:
    result = live_result()
    metric = dataclasses.replace(result.metrics[0], margin=0.005)
    assert sequence_data(dataclasses.replace(result, metrics=[metric]))["crossed"]["text"] == "worse, after 900"
    metric = dataclasses.replace(metric, higher_is_better=True, margin=0.05)
    data = sequence_data(dataclasses.replace(result, metrics=[metric]))
    assert data["crossed"]["text"] == "within the margin, after 600"
    assert data["margins"] == [-5.0]
    assert (
        sequence_data(dataclasses.replace(result, metrics=[dataclasses.replace(metric, margin=None)]))["crossed"]
        is None
    )
    assert sequence_data(dataclasses.replace(result, sequence={})) == EMPTY


def test_without_anywidget_it_is_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    chart = make_chart()
    chart.show(sequence_data(live_result()))
    assert chart.widget.value[:8] == b"\x89PNG\r\n\x1a\n"
    chart.widget.close()


def test_a_finished_live_comparison_shows_its_sequence_and_escapes_names() -> None:
    tab = live_result().tab()
    assert isinstance(tab, ResultTab)
    assert tab.pages.titles == ("Metrics", "Sequence", "Health")
    html = tab.root.children[0].value + tab.pages.children[-1].value
    assert "m&lt;b&gt;@1" in html
    assert "fine &lt;i&gt;" in html
    assert "<i>" not in html
    bundle = tab._repr_mimebundle_()
    assert bundle["text/plain"].startswith("SHIP")
    assert VIEW in bundle
    tab.close()
    assert VIEW not in tab._repr_mimebundle_()


def test_images_are_shown_as_images() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels = image_of(ramp)
    assert pixels is not None
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.uint8, 0, 255)
    assert image_of(ramp[:, :, None]).shape == (8, 8)  # type: ignore[union-attr]
    colors = np.full((5, 6, 3), 9, np.uint8)
    assert np.array_equal(image_of(colors), colors)  # type: ignore[arg-type]
    big = image_of(np.zeros((2000, 10)))
    assert big is not None
    assert big.shape == (500, 3)
    for other in (np.zeros(64), np.zeros((2, 8)), np.zeros((8, 8, 2)), [[b"a"] * 8] * 8, "text"):
        assert image_of(other) is None
    rows = Rows(
        inputs={"<x>": np.stack([ramp, ramp])}, ids=["a", "b<"], labels=None, answered=np.array([0, 1]),
        a={"y": np.array([1, 1])}, b={"y": np.array([1, 2])}, failed_a={}, failed_b={0: "broken <tag>"},
    )  # fmt: skip
    head = Head("y", "integer", 2, differing=(1,))
    browser = RowBrowser(live_result(heads=[head], rows=rows))
    assert "alt='&lt;x&gt; of row b&lt;'" in browser.shown.value
    assert "src='data:image/png;base64," in browser.shown.value
    browser.row.value = 2
    assert "B: broken &lt;tag&gt;" in browser.shown.value
