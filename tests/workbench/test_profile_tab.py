"""The profile tab by its traits and its drawings: it follows the requests, keeps the one that is chosen, and saves."""

from __future__ import annotations

import json
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.commands.profiling import PROFILE
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.profiling.tab import drawings
from serving_workbench.profiling.tab.dashboard import ProfileTab
from serving_workbench.profiling.tab.residents import Residents
from serving_workbench.profiling.tab.texts import numbers_html
from serving_workbench.profiling.tab.waterfall import bars_of, waterfall
from serving_workbench.profiling.waits import KINDS, advice
from tests.servers import wait_until

STAGES = list(KINDS)


def answer(*rows: tuple[int, dict[str, float]], padding: int = 0) -> dict[str, Any]:
    """As the server tells it: one batch per request, with these stages in us; the others take nothing."""
    requests, batches = [], []
    for number, (came, stages) in enumerate(rows, 1):
        times = dict.fromkeys(STAGES, 0.0) | stages
        total, at = sum(times.values()), 1_000_000 * came
        request = {"id": f"{number}-0", "request_id": None, "batch": number, "version": 1, "rows": 1, "pieces": 0}
        request |= {"status": "OK", "signature": "serving_default"}
        requests.append({**request, "received_ns": at, "total_us": total, "stages_us": times})
        end = at + round(1000 * total)
        facts = {"version": 1, "signature": "serving_default", "reason": "timeout", "requests": 1, "rows": 1}
        facts |= {"lane": 0, "retried": False}
        points = {"taken_ns": at, "handed_over_ns": at, "run_began_ns": at, "run_ended_ns": end, "came_ns": end}
        batches.append({"batch": number, **facts, "padding_rows": padding, "mates": [f"{number}-0"], **points})
    clock = {"monotonic_ns": 0, "unix_ns": 0}
    return {"stages": STAGES, "clock": clock, "requests": requests, "batches": batches}


def test_a_percentile_has_the_median_stages_of_its_requests_and_not_of_all() -> None:
    fast = [(number, {"run": 100.0}) for number in range(95)]
    slow = [(number, {"batch_wait": 5000.0 + number, "run": 100.0}) for number in range(95, 100)]
    stopped = (100, {"handback": 80_000.0, "batch_wait": 5000.0, "run": 100.0})
    profile = RequestProfile("m", answer(*fast, *slow, stopped))
    found = drawings.percentiles(profile)
    assert found.loc["p50", "batch_wait_us"] == 0
    assert found.loc["p99", "batch_wait_us"] == pytest.approx(5097, abs=3)
    assert found.loc["p99", "handback_us"] == 0, "a mean would have it"
    assert found.loc["p99", "run_us"] == 100
    panel = drawings.stage_bars(profile)
    assert [bar[-1].split(":")[0] for bar in panel.bars] == [
        *("p50, run", "p95, batch_wait", "p95, run", "p99, batch_wait", "p99, run")
    ]
    longest = max(panel.bars, key=lambda bar: bar[2])
    assert longest[-1].startswith("p99, batch_wait: 5,09")
    assert "p50 100 µs, most in run (100%)" in panel.reading


def test_many_requests_are_drawn_in_few_dots_with_the_slowest_among_them() -> None:
    rows = [(number, {"run": 100.0 + (number == 777) * 90_000}) for number in range(5000)]
    panel = drawings.scatter(RequestProfile("m", answer(*rows)))
    assert 100 <= len(panel.dots) <= 130
    assert [dot[3:] for dot in panel.dots].count(["778-0", "90.1 ms, run"]) == 1
    assert all(0 < x < panel.width and 0 < y < panel.height for x, y, *_ in panel.dots)


def test_batches_are_on_the_lanes_of_their_threads() -> None:
    apart = RequestProfile("m", answer((0, {"run": 500.0}), (1, {"run": 500.0})))
    assert [each[2] for each in drawings.timeline(apart).texts] == ["thread 1"]
    data = answer((0, {"run": 1500.0}), (1, {"run": 500.0}))
    for batch in data["batches"]:
        batch["lane"] = 3 - batch["batch"]  # from 0
    told = drawings.timeline(RequestProfile("m", data))
    assert [each[2] for each in told.texts] == ["thread 2", "thread 3"]
    first = next(bar for bar in told.bars if "batch 1:" in bar[-1])
    second = next(bar for bar in told.bars if "batch 2:" in bar[-1])
    assert first[1] > second[1]
    assert "on 2 threads" in told.reading


def with_mates() -> RequestProfile:
    """Three requests, two of which shared a batch, and one that failed in a queue."""
    data = answer(
        (0, {"batch_wait": 300.0, "run": 100.0}), (0, {"batch_wait": 200.0, "run": 100.0}), (2, {"run": 50.0})
    )
    first, second, _ = data["requests"]
    second |= {"id": "1-1", "request_id": "mine", "batch": 1}
    first["received_ns"], second["received_ns"] = 0, 100_000
    ran = {"taken_ns": 300_000, "handed_over_ns": 300_000, "run_began_ns": 300_000, "run_ended_ns": 400_000}
    data["batches"][0] |= {"mates": ["1-0", "1-1"], "requests": 2, "rows": 2, "came_ns": 400_000, **ran}
    del data["batches"][1]
    for row in data["requests"]:
        row["status"] = "OK"
    failed = {**data["requests"][0], "id": "f7", "request_id": None, "batch": None, "status": "DEADLINE_EXCEEDED"}
    data["requests"].append(
        {**failed, "total_us": 9000.0, "stages_us": dict.fromkeys(STAGES, 0.0) | {"batch_wait": 9e3}}
    )
    return RequestProfile("m", data)


def test_a_request_lies_over_its_batch_with_its_mates() -> None:
    profile = with_mates()
    bars = bars_of(profile, "1-0")
    assert set(bars["of"]) == {"request", "batch", "1-1"}
    assert bars.query("of == 'batch' and stage == 'run'")["began_us"].item() == 300
    assert bars.query("of == 'request' and stage == 'run'")["began_us"].item() == 300
    assert bars.query("of == '1-1'")["began_us"].min() == 100, "it came later"
    panel = waterfall(profile, "1-0")
    assert "Request 1-0 of m version 1: 400 µs, in batch 1" in panel.reading
    assert "Batch mates: 1-1 (mine)." in panel.reading
    own = next(bar for bar in panel.bars if bar[-1] == "run: 100 µs")
    (band,) = panel.bands
    assert (band[0], band[2]) == (own[0], own[2]), "its run is over its batch's run"
    assert band[1] < own[1] < band[1] + band[3]
    assert [text[2] for text in panel.texts if text[2].startswith(("batch 1", "mate"))] == ["batch 1", "mate 1-1"]


def test_requests_that_failed_are_crosses_and_counted() -> None:
    profile = with_mates()
    panel = drawings.scatter(profile)
    assert [dot[3:] for dot in panel.dots if dot[2] < 0] == [["f7", "DEADLINE_EXCEEDED after 9,000 µs"]]
    assert len(panel.dots) == 4
    assert "3 answered" in panel.reading
    assert "1 failed (crosses): DEADLINE_EXCEEDED 1" in panel.reading
    assert drawings.percentiles(profile)["total_us"].max() < 9000, "what failed took no time to answer"
    alone = waterfall(profile, "f7")
    assert "Request f7 of m: DEADLINE_EXCEEDED after 9,000 µs, before it was in a batch." in alone.reading
    assert set(bars_of(profile, "f7")["of"]) == {"request"}
    assert "1 failed" in numbers_html(profile)


def test_an_update_is_small() -> None:
    rows = [(number, dict.fromkeys(STAGES, 1234.5)) for number in range(123_456_000, 123_456_300)]
    data = answer(*rows, padding=3)
    for shift, part in ((123_456_000, data["requests"]), (123_456_000, data["batches"])):
        for row in part:
            row["batch"] += shift
    for request in data["requests"]:
        request["id"] = f"{request['batch']}-0"
    for batch in data["batches"]:
        batch["mates"] = [f"{batch['batch']}-0"]
        for number, name in enumerate(("taken_ns", "run_began_ns", "run_ended_ns", "came_ns")):
            batch[name] = batch["taken_ns"] + 250_000 * number if number else batch["taken_ns"]
    residents = Residents()
    for second in range(1000):
        residents.add(second, {"version": 1, "worker_pid": 7, "rss_bytes": 300_000_000 + second, "peak_rss_bytes": 4e8})
    profile = RequestProfile("m", data)
    panels = [drawings.stage_bars(profile), drawings.scatter(profile), drawings.timeline(profile), waterfall(profile)]
    drawn = [each.data() for each in [*panels, residents.panel(1_000_000)] if each is not None]
    assert len(drawn) == 5
    assert len(json.dumps(drawn, ensure_ascii=False).encode()) < 19_000, "with palette, legend and lines 20 KB"
    assert len(residents.frame) <= 300
    assert residents.frame["seconds"].max() == 999


def test_the_memory_of_another_worker_begins_anew() -> None:
    residents = Residents()
    assert residents.panel(None) is None
    worker = {"version": 1, "worker_pid": 7, "rss_bytes": 300_000_000, "peak_rss_bytes": 350_000_000}
    residents.add(0.0, worker)
    residents.add(2.0, {**worker, "rss_bytes": 310_000_000})
    residents.add(4.0, None)
    assert residents.frame["rss_bytes"].tolist() == [300_000_000, 310_000_000]
    panel = residents.panel(None)
    assert panel is not None
    assert "310.0 MB resident" in panel.reading
    assert "350.0 MB at the peak" in panel.reading
    measured = residents.panel(8_000_000)
    assert measured is not None
    assert "weights 8.0 MB" in measured.reading
    assert len(measured.lines) == len(panel.lines) + 1
    residents.add(6.0, {**worker, "worker_pid": 8})
    assert residents.frame["seconds"].tolist() == [0.0]


def test_a_panel_is_svg_where_there_is_no_script() -> None:
    profile = with_mates()
    for panel in (drawings.stage_bars(profile), drawings.scatter(profile), waterfall(profile, "1-0")):
        root = ET.fromstring(panel.svg())
        assert root.get("aria-label")
        kinds = [each.tag for each in root]
        assert kinds.count("rect") == len(panel.bars) + len(panel.bands)
        assert kinds.count("circle") + kinds.count("path") == len(panel.dots)
        assert kinds.count("text") == len(panel.texts)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"batch_wait": 60.0, "run": 40.0}, "60 % of the time in the server is wait for a fuller batch"),
        ({"thread_wait": 80.0, "run": 20.0}, "80 % of the time in the server is wait for a free thread"),
        ({"decode": 25.0, "encode": 25.0, "run": 50.0}, "50 % of the time in the server is codec"),
        (dict.fromkeys(STAGES, 10.0) | {"run": 15.0}, "No stage stands out"),
    ],
)
def test_it_says_where_the_time_is(stages: dict[str, float], words: str) -> None:
    assert any(words in each for each in advice(RequestProfile("m", answer((0, stages)))))


def test_padding_is_told() -> None:
    found = advice(RequestProfile("m", answer((0, {"run": 1.0}), padding=3)))
    assert "75 % of the rows that ran are padding: more allowed_batch_sizes, see %tune." in found


@pytest.fixture
def tab(arms: sw.ServedModel) -> Iterator[ProfileTab]:
    found = sw.profile_live(arms)
    yield found
    found.close()


def ask(arms: sw.ServedModel, times: int = 5) -> None:
    for number in range(times):
        arms.predict(np.float32([number]))


def done(tab: ProfileTab) -> str:
    wait_until(lambda: tab._actions.running is None, 90, lambda: tab._message.value)
    return str(tab._message.value)


def panel_of(tab: ProfileTab, name: str) -> dict[str, Any]:
    return next(panel for panel in tab.chart.widget.data["panels"] if panel["name"] == name)


def test_it_follows_keeps_what_is_chosen_and_saves(
    arms: sw.ServedModel, tab: ProfileTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    controls = tab.controls
    controls.tensorboard.click()
    assert "No ops were profiled yet" in done(tab)
    ask(arms)
    tab.view.start()
    wait_until(lambda: len(controls.slowest.options) >= 6, 30, lambda: str(controls.slowest.options))
    assert controls.slowest.label == "the slowest of the last"
    assert "p50" in tab._numbers.value
    assert "of the kernel's CPU a reading" in tab._price.value
    drawn = [panel["name"] for panel in tab.chart.widget.data["panels"]]
    assert drawn == ["percentiles", "requests", "request", "batches", "memory"]
    assert set(drawn) <= set(tab.data)
    assert (tab.data["memory"]["peak_bytes"] >= tab.data["memory"]["rss_bytes"]).all()
    which = controls.slowest.options[2][1]
    controls.slowest.value = which
    assert f"Request {which} " in panel_of(tab, "request")["reading"]
    assert tab.chart.widget.chosen == which
    seen = tab.reading
    ask(arms, 20)
    wait_until(lambda: tab.reading is not seen and tab.reading is not None and len(tab.reading) >= 20, 30, "a reading")
    assert controls.slowest.value == which, "it stays"
    assert f"Request {which} " in panel_of(tab, "request")["reading"]
    controls.slowest.value = None
    assert tab.chart.widget.chosen == ""
    controls.batches.value = 12
    controls.ops.click()
    assert "12 runs traced" in done(tab)
    assert tab.result is not None
    assert "share of the run" in tab._result.value
    assert "By type of op" in tab._result.value
    assert "Run time by rows of the batch" in tab._result.value
    controls.tensorboard.click()
    assert "tensorboard --logdir logs" in done(tab)
    assert list(tmp_path.glob("logs/plugins/profile/*/*.xplane.pb"))
    controls.memory.click()
    done(tab)
    tab.refresh()
    assert "weights: press" not in panel_of(tab, "memory")["reading"]
    controls.startup.click()
    done(tab)
    assert tab.result.ops_data is None
    controls.save.click()
    assert "requests and the ops" in done(tab)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = {each["pid"] for each in events if each["name"] == "process_name"}
    assert named == {1, 2, 3}, "requests, batches, ops"
    assert {each["pid"] for each in events} == named
    arrows = [each for each in events if each["ph"] in {"s", "f"}]
    assert arrows
    assert len({each["id"] for each in arrows}) * 2 == len(arrows)
    controls.path.value = " "
    controls.save.click()
    assert "needs a file name" in done(tab)
    text = repr(tab)
    assert "requests in" in text
    assert "thread_wait" in text
    controls.end.click()
    wait_until(lambda: tab.view.is_closed, 20, "the end")
    wait_until(lambda: "serving-workbench live" not in {each.name for each in threading.enumerate()}, 20, "its thread")


def test_a_click_on_a_dot_shows_that_request(arms: sw.ServedModel, tab: ProfileTab) -> None:
    ask(arms, 6)
    tab.refresh()
    dots = [dot[3] for dot in panel_of(tab, "requests")["dots"]]
    fastest = str(tab.data["requests"].nsmallest(1, "total_us")["id"].iloc[0])
    assert fastest in dots
    tab.chart.widget.chosen = fastest  # as the browser does
    assert tab.shown == fastest
    assert f"Request {fastest} " in panel_of(tab, "request")["reading"]
    assert tab.chart.widget.data["shown"] == fastest
    assert tab.controls.slowest.value == fastest
    assert set(tab.data["request"]["of"]) >= {"request", "batch"}
    for _ in range(6):  # readings in which it is no more
        ask(arms, 1)
        tab.refresh()
        tab._kept.clear()
    first = dots[0]
    assert first != fastest
    tab.chart.widget.chosen = first
    assert f"Request {first} is shown" in done(tab)
    assert tab.shown == first
    tab.choose("f1")
    assert "does not remember request f1" in done(tab)
    assert tab.shown == first
    page = tab._repr_mimebundle_()["text/html"]
    assert page.count("<svg") == 5
    assert f"Request {first} " in page


def test_it_is_svg_without_anywidget(arms: sw.ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    ask(arms)
    tab = sw.profile_live(arms)
    try:
        assert tab.chart.widget.value.count("<svg") == 5
        tab.controls.slowest.value = tab.controls.slowest.options[2][1]
        assert f"Request {tab.controls.slowest.value} " in tab.chart.widget.value
    finally:
        tab.close()


def test_the_magic_opens_it(arms: sw.ServedModel) -> None:
    place: Any = SimpleNamespace(in_notebook=True, spelled=lambda command: f"%{command}")
    parser = PROFILE.parser("%profile", in_notebook=True)

    def run(*words: str) -> Any:
        return PROFILE.run(parser.read(["arms", *words, "--instance", arms.server.name], str), place)

    tab = run("--live")
    try:
        assert isinstance(tab, ProfileTab)
    finally:
        tab.close()
    with pytest.raises(sw.CommandLineError, match="--live opens the tab"):
        run("--live", "--batches", "5")
    with pytest.raises(sw.WorkbenchError, match="Version 77 of 'arms' is not loaded"):
        run("--live", "--version", "77")
