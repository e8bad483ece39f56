"""The live dashboard by its traits and its data: what is turned reaches the server, what the server counts is shown."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_server.batching.parameters import BatchingParameters
from serving_server.statistics import Statistics
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.chart import make_chart
from serving_workbench.tuning.dashboard import TuneDashboard
from serving_workbench.tuning.history import POINTS, History
from serving_workbench.tuning.knobs import Knobs
from serving_workbench.tuning.latest import Latest
from tests.servers import wait_until


@pytest.fixture
def dashboard(warm: str, name: str, source: Callable[..., Path]) -> Iterator[TuneDashboard]:
    served = sw.serve(source("half_plus_two"), name, instance=warm, progress=False)
    served.server.set_batching(name, max_batch_size=16, num_batch_threads=2, batch_timeout_micros=1000)
    found = sw.tune(served, slo="p99 50ms", rate=200.0)
    assert isinstance(found, TuneDashboard)
    yield found
    found.close()


def in_force(dashboard: TuneDashboard) -> dict[str, Any]:
    found = dashboard.model.server.batching(dashboard.model.name)
    assert found is not None
    return found


def test_a_turned_knob_is_in_force_at_once_and_reverts(dashboard: TuneDashboard) -> None:
    knobs = dashboard.knobs
    assert (knobs.size.value, knobs.timeout.value, knobs.threads.value) == (16, 1000, 2)
    knobs.size.value = 64
    wait_until(lambda: in_force(dashboard)["max_batch_size"] == 64, what="the larger batch")
    knobs.timeout.value = 5000
    knobs.threads.value = 3
    knobs.allowed.value = "8, 64"
    wanted = {"batch_timeout_micros": 5000, "num_batch_threads": 3, "allowed_batch_sizes": [8, 64]}
    wait_until(lambda: wanted.items() <= in_force(dashboard).items(), what=lambda: f"{wanted} in {in_force(dashboard)}")
    knobs.size.value = 32  # the last allowed size goes with it
    wait_until(lambda: in_force(dashboard)["allowed_batch_sizes"] == [8, 32], what="the allowed sizes")
    knobs.batching.value = False
    wait_until(lambda: dashboard.model.server.batching(dashboard.model.name) is None, what="batching off")
    dashboard.revert_button.click()
    wait_until(lambda: dashboard.model.server.batching(dashboard.model.name) is not None, what="batching on again")
    assert in_force(dashboard)["max_batch_size"] == 16
    assert (knobs.size.value, knobs.allowed.value) == (16, "")


def test_nonsense_is_told_and_changes_nothing(dashboard: TuneDashboard) -> None:
    before = in_force(dashboard)
    for text, message in (("8, x", "no list of numbers"), ("8, 4", "increasing order"), ("4, 8", "must match")):
        dashboard.knobs.allowed.value = text
        assert message in dashboard._line.value
    assert in_force(dashboard) == before


def test_load_is_shown_and_ends_with_the_dashboard(dashboard: TuneDashboard) -> None:
    view = dashboard.view
    view.start()
    wait_until(lambda: "No requests come" in dashboard._sentence.value, 60, "the first sentence")
    dashboard.load_button.click()
    assert threading.active_count() > 1
    wait_until(lambda: dashboard.load_button.description == "Stop load", 60, "the load")

    def flows() -> bool:
        data = dashboard.chart.data
        return bool(data["sizes"]) and any(value is not None for value in data["client"])

    wait_until(flows, 30, lambda: f"requests in {dashboard.chart.data}")
    wait_until(lambda: "threads busy" in dashboard._numbers.value, 60, lambda: dashboard._numbers.value)
    assert dashboard.chart.widget.data == dashboard.chart.data
    assert dashboard.chart.data["slo"] == 50.0
    assert dashboard.diagnosis is not None
    assert dashboard.diagnosis.sentence in repr(dashboard)
    # Somebody else turns a knob: it is shown, and marked.
    dashboard.model.server.set_batching(dashboard.model.name, max_batch_size=2)
    wait_until(lambda: dashboard.knobs.size.value == 2 and dashboard.chart.data["marks"], 60, "the knob of another")
    run = dashboard._load._run
    assert run is not None
    pid = run.pid
    dashboard.close_button.click()
    wait_until(lambda: view.is_closed and dashboard._load._run is None, 60, "the end")
    assert not view.poller.is_running
    assert pid is not None
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, "the end of the load")
    assert not [thread for thread in threading.enumerate() if thread.name == "serving-workbench live"]


def test_it_degrades_to_text_and_pictures(dashboard: TuneDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = dashboard._repr_mimebundle_()
    assert "Live batching of" in bundle["text/plain"]
    assert "Live batching of" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    monkeypatch.setitem(sys.modules, "anywidget", None)
    chart = make_chart()
    history = History(0.05)
    history.add(1.0, _snapshot(0), None, None)
    history.add(2.0, _snapshot(10), None, 0.02)
    chart.show(history.data())
    assert chart.widget.value[:8] == b"\x89PNG\r\n\x1a\n"
    chart.widget.close()


def test_a_search_s_arguments_are_refused(dashboard: TuneDashboard) -> None:
    with pytest.raises(WorkbenchError, match="takes no repeats="):
        sw.tune(dashboard.model, repeats=3)
    with pytest.raises(WorkbenchError, match="rate='fast' is no number"):
        sw.tune(dashboard.model, rate="fast")


def _snapshot(requests: int, rows: int = 1) -> dict[str, Any]:
    statistics = Statistics()
    for size in range(1, rows + 1):
        for _ in range(requests):
            statistics.batch(size, 0, 1000)
            statistics.stages.add(0, 1, 1000, 2000, 1000)
    statistics.runtime_of("Predict").aside.fromlist([0.01] * requests * rows)
    return {**statistics.snapshot(), "queued": 0, "running": 0}


def test_what_is_sent_to_the_browser_is_bounded() -> None:
    history = History(0.05)
    parameters = BatchingParameters(max_batch_size=4)
    for second in range(POINTS + 100):
        current = parameters if second % 2 else None
        history.add(second / 2, _snapshot(second + 1, rows=40), current, 0.0123456)
    data = history.data()
    assert len(data["t"]) == POINTS
    assert len(data["sizes"]) <= 24
    assert len(data["marks"]) <= 50
    assert len(json.dumps(data)) < 40_000
    assert data["sizes"][0][0] == "1-2"


def test_another_version_begins_anew() -> None:
    history = History(None)
    history.add(0.0, _snapshot(5), None, None)
    history.add(1.0, _snapshot(9), None, None)
    assert history.recent is not None
    history.add(2.0, _snapshot(1), None, None)
    assert history.recent is None
    history.add(3.0, _snapshot(4), None, None)
    assert history.recent is not None
    assert history.recent.requests == 3


def test_knobs_show_what_no_slider_has() -> None:
    told: list[BatchingParameters | None] = []
    knobs = Knobs(told.append, lambda _: None)
    odd = BatchingParameters(
        max_batch_size=100, batch_timeout_micros=1234, num_batch_threads=40, gather_when_busy_micros=7
    )
    knobs.set(odd)
    assert told == []
    assert knobs.parameters() == odd
    knobs.size.value = 128
    assert told[-1] is not None
    assert (told[-1].max_batch_size, told[-1].gather_when_busy_micros) == (128, 7)
    knobs.set(None)
    assert knobs.parameters() is None


def test_of_many_wishes_the_last_is_done() -> None:
    done: list[int] = []
    gate = threading.Event()
    errors: list[Exception] = []

    def do(number: int) -> None:
        gate.wait(60)
        if number == 99:
            raise ValueError("99")
        done.append(number)

    latest = Latest(do, errors.append)
    for number in range(10):
        latest.want(number)
    gate.set()
    assert latest.wait(60)
    assert len(done) <= 2
    assert done[-1] == 9
    latest.want(99)
    assert latest.wait(60)
    assert [str(error) for error in errors] == ["99"]
    latest.close()
    latest.want(5)
    assert not latest.busy


def test_nothing_is_lost_while_knobs_are_turned(dashboard: TuneDashboard) -> None:
    """Two hundred random changes under load: each request has its own, right answer."""
    draw = np.random.default_rng(0)
    model = dashboard.model
    over = threading.Event()
    answers: list[tuple[float, float]] = []

    def client(seed: int) -> None:
        values = np.random.default_rng(seed)
        while not over.is_set():
            x = float(np.float32(values.uniform(-1e3, 1e3)))
            answers.append((x, float(model.predict(np.float32([x]), timeout=30)[0])))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            size = int(draw.choice([1, 2, 8, 64]))
            changes = {
                "max_batch_size": size,
                "batch_timeout_micros": int(draw.choice([0, 1000, 3000])),
                "num_batch_threads": int(draw.integers(1, 5)),
                "allowed_batch_sizes": [size] if draw.random() < 0.3 else [],
                "max_enqueued_batches": 1000,
            }
            off = draw.random() < 0.1
            model.server.control.patch_batching(model.name, None if off else changes)
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert len(answers) > 100
    assert [pair for pair in answers if pair[1] != pytest.approx(pair[0] * 0.5 + 2, rel=1e-5, abs=1e-3)] == []
