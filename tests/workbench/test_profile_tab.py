"""The profile tab by its traits and its drawings: it follows the requests, keeps the one that is chosen, and saves."""

from __future__ import annotations

import json
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
        requests.append({**request, "received_ns": at, "total_us": total, "stages_us": times})
        end = at + round(1000 * total)
        facts = {"version": 1, "signature": "serving_default", "reason": "timeout", "requests": 1, "rows": 1}
        points = {"taken_ns": at, "handed_over_ns": at, "run_began_ns": at, "run_ended_ns": end, "came_ns": end}
        batches.append({"batch": number, **facts, "padding_rows": padding, "mates": [f"{number}-0"], **points})
    clock = {"monotonic_ns": 0, "unix_ns": 0}
    return {"stages": STAGES, "clock": clock, "requests": requests, "batches": batches}


def shapes(svg: str, kind: str) -> list[ET.Element]:
    """The shapes of a drawing, which is well-formed and named."""
    root = ET.fromstring(svg)
    assert root.get("aria-label")
    return [each for each in root if each.tag == kind]


def test_a_percentile_has_the_stages_of_its_requests_and_not_of_all() -> None:
    fast = [(number, {"run": 100.0}) for number in range(95)]
    slow = [(number, {"batch_wait": 5000.0 + number, "run": 100.0}) for number in range(95, 100)]
    found = RequestProfile("m", answer(*fast, *slow))
    assert drawings.near_percentile(found, 50)["batch_wait"] == 0
    assert drawings.near_percentile(found, 99)["batch_wait"] == pytest.approx(5097, abs=3)
    assert drawings.near_percentile(found, 99)["run"] == 100
    bars = shapes(drawings.stage_bars(found), "rect")
    assert len(bars) == 3 * len(STAGES)
    longest = max(float(each.get("width", 0)) for each in bars)
    last = [each for each in bars if "batch_wait: 5,09" in (each.findtext("title") or "")]
    assert longest in {float(each.get("width", 0)) for each in last}


def test_many_requests_are_drawn_in_few_dots_with_the_slowest_among_them() -> None:
    rows = [(number, {"run": 100.0 + (number == 777) * 90_000}) for number in range(5000)]
    dots = shapes(drawings.scatter(RequestProfile("m", answer(*rows))), "circle")
    assert 120 <= len(dots) <= 200
    assert sum("778-0: 90.1 ms, most in run" in (each.findtext("title") or "") for each in dots) == 1
    assert all(0 < float(each.get("cx", 0)) < 720 for each in dots)


def test_batches_that_ran_at_once_have_lanes_of_their_own() -> None:
    apart = RequestProfile("m", answer((0, {"run": 500.0}), (1, {"run": 500.0})))
    assert {each.text for each in shapes(drawings.timeline(apart), "text")} == {"lane 1"}
    together = RequestProfile("m", answer((0, {"run": 1500.0}), (1, {"run": 500.0})))
    assert {each.text for each in shapes(drawings.timeline(together), "text")} == {"lane 1", "lane 2"}


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


def test_it_follows_keeps_what_is_chosen_and_saves(
    arms: sw.ServedModel, tab: ProfileTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask(arms)
    tab.view.start()
    wait_until(lambda: len(tab.slowest.options) >= 6, 30, lambda: str(tab.slowest.options))
    assert tab.slowest.label == "the slowest of the last"
    assert "p50" in tab._numbers.value
    assert tab._pictures.value.count("<svg") == 3
    which = tab.slowest.options[2][1]
    tab.slowest.value = which
    assert f"Request {which} " in tab._story.value
    seen = tab.reading
    ask(arms, 20)
    wait_until(lambda: tab.reading is not seen and tab.reading is not None and len(tab.reading) >= 20, 30, "a reading")
    assert tab.slowest.value == which, "it stays"
    assert f"Request {which} " in tab._story.value
    tab.slowest.value = None
    tab.ops.click()
    assert "runs traced" in done(tab)
    assert tab.result is not None
    assert "share of the run" in tab._result.value
    tab.startup.click()
    done(tab)
    assert tab.result.ops_data is None
    tab.save.click()
    assert "requests and the ops" in done(tab)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = {each["pid"] for each in events if each["name"] == "process_name"}
    assert named == {1, 2, 3}
    assert {each["pid"] for each in events} == named
    arrows = [each for each in events if each["ph"] in {"s", "f"}]
    assert arrows
    assert len({each["id"] for each in arrows}) * 2 == len(arrows)
    tab.path.value = " "
    tab.save.click()
    assert "needs a file name" in done(tab)
    text = repr(tab)
    assert "requests in" in text
    assert "thread_wait" in text
    tab.end.click()
    wait_until(lambda: tab.view.is_closed, 20, "the end")
    wait_until(lambda: "serving-workbench live" not in {each.name for each in threading.enumerate()}, 20, "its thread")


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
