"""The parts of live dashboards: the poller's thread, what is done while a view is open, actions."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import ipywidgets as w
import psutil
import pytest
from ipywidgets.widgets.widget import _instances

from serving_workbench.errors import DeployError
from serving_workbench.live import Actions, LiveView, Poller
from serving_workbench.live.actions import one_line
from serving_workbench.live.poller import MIN_INTERVAL
from tests.servers import wait_until


class Source:
    """What is polled: counts how often, fails when told to, hangs when told to."""

    def __init__(self) -> None:
        self.reads = 0
        self.shown: list[int] = []
        self.errors: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.failing = False
        self.go = threading.Event()
        self.go.set()

    def read(self) -> int:
        self.threads.add(threading.current_thread())
        assert self.go.wait(30)
        self.reads += 1
        if self.failing:
            raise OSError("nobody answers")
        return self.reads

    def show(self, value: int) -> None:
        self.shown.append(value)

    def on_error(self, error: Exception) -> None:
        self.errors.append(str(error))

    def living(self) -> list[threading.Thread]:
        return [thread for thread in self.threads if thread.is_alive()]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def poller(source: Source) -> Iterator[Poller[int]]:
    poller = Poller(source.read, source.show, on_error=source.on_error, interval=0.0)
    yield poller
    source.go.set()
    poller.stop()


def test_it_shows_what_it_reads_until_it_is_stopped(poller: Poller[int], source: Source) -> None:
    assert not poller.is_running
    poller.start()
    poller.start()
    wait_until(lambda: len(source.shown) >= 3, what="three readings")
    assert source.shown[:3] == [1, 2, 3]
    assert len(source.threads) == 1
    assert all(thread.daemon for thread in source.threads)
    assert poller.stop()
    assert poller.stop()
    assert (poller.is_running, source.living()) == (False, [])


def test_it_never_reads_more_often_than_four_times_a_second(poller: Poller[int]) -> None:
    assert poller.interval == MIN_INTERVAL == 0.25


def test_it_starts_again(poller: Poller[int], source: Source) -> None:
    for count in (1, 2, 3):
        poller.start()
        wait_until(lambda count=count: len(source.shown) >= count, what="a reading")
        assert poller.stop()
    assert (len(source.threads), source.living()) == (3, [])


def test_errors_are_told_and_the_next_tries_come_later(
    poller: Poller[int], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []
    wait = threading.Event.wait

    def waits(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() in source.threads and event is not source.go and timeout:
            pauses.append(timeout)
            return wait(event, min(timeout, 0.01))
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", waits)
    source.failing = True
    poller.start()
    wait_until(lambda: len(source.errors) >= 8, what="eight errors")
    source.failing = False
    wait_until(lambda: source.shown, what="a reading that succeeds")
    wait_until(lambda: pauses[-1] <= MIN_INTERVAL, what="the usual pace")
    longest = [pause for pause in pauses if pause > MIN_INTERVAL]
    assert longest[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert set(source.errors) == {"nobody answers"}


def test_a_poke_reads_before_its_time(source: Source) -> None:
    poller = Poller(source.read, source.show, on_error=source.on_error, interval=3600)
    poller.poke()  # nothing runs: nothing happens
    poller.start()
    wait_until(lambda: source.shown == [1], what="the first reading")
    poller.poke()
    wait_until(lambda: source.shown == [1, 2], what="the reading that was asked for")
    assert poller.stop()


def test_what_shows_may_stop_it(source: Source) -> None:
    poller = Poller(source.read, lambda _value: poller.stop(), on_error=source.on_error)
    poller.start()
    wait_until(lambda: source.reads and not source.living(), what="the thread's end")
    assert source.errors == []


def test_a_reading_that_hangs_holds_up_no_callback_and_shows_nothing_later(poller: Poller[int], source: Source) -> None:
    source.go.clear()
    poller.start()
    wait_until(lambda: source.threads, what="a reading")
    assert not poller.stop(wait=False)
    assert not poller.is_running
    source.go.set()
    wait_until(lambda: not source.living(), what="the thread's end")
    assert source.shown == []


def test_a_process_ends_though_its_pollers_run() -> None:
    code = (
        "import threading\n"
        "from serving_workbench.live import Poller\n"
        "shown = threading.Event()\n"
        "poller = Poller(lambda: 1, lambda value: shown.set(), on_error=print)\n"
        "poller.start()\n"
        "print(shown.wait(30))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


# --- the widget's view ---


@pytest.fixture
def view(source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveView[int]]:
    monkeypatch.setattr("serving_workbench.live.view.in_kernel", lambda: True)
    view = make_view(source)
    yield view
    view.close()


def make_view(source: Source) -> LiveView[int]:
    label = w.HTML()
    root = w.VBox([label, w.HBox([w.Button(description="more")])])

    def show(value: int) -> None:
        source.show(value)
        label.value = str(value)

    return LiveView(root, source.read, show, on_error=source.on_error, interval=0.0)


def views(view: LiveView[int], count: int) -> None:
    """What the browser says when views come and go."""
    view.root.set_state({"_view_count": count})


def test_a_widget_that_is_displayed_is_kept_up_to_date(view: LiveView[int], source: Source) -> None:
    assert not view.poller.is_running
    bundle = view.display({"text/plain": "1 model", "text/html": "<b>1 model</b>"})
    assert bundle["text/plain"] == "1 model"
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == view.root.model_id
    wait_until(lambda: source.reads >= 2, what="readings")
    assert view.root.children[0].children[0].value


def test_a_terminal_gets_text_and_no_thread(source: Source) -> None:
    view = make_view(source)
    view.display({"text/plain": "1 model"})
    assert not view.poller.is_running
    view.close()


def test_closing_the_last_view_stops_the_updates_and_a_new_view_starts_them(
    view: LiveView[int], source: Source
) -> None:
    view.display({})
    views(view, 1)
    views(view, 2)
    views(view, 1)
    wait_until(lambda: source.reads, what="a reading")
    assert view.poller.is_running
    views(view, 0)
    assert not view.poller.is_running
    wait_until(lambda: not source.living(), what="the thread's end")
    seen = source.reads
    views(view, 1)  # the page was loaded again
    wait_until(lambda: source.reads > seen, what="another reading")


def test_a_page_that_is_loaded_anew_counts_anew(view: LiveView[int], source: Source) -> None:
    view.display({})
    views(view, 1)
    wait_until(lambda: source.reads, what="a reading")
    told = view.root.get_state()["_view_count"]  # the page asks for all, and its widget is shown again
    assert (told, view.poller.is_running) == (0, True)
    views(view, told + 1)
    assert view.root.get_state("_view_count") == {"_view_count": 1}
    assert view.poller.is_running
    views(view, 0)
    assert not view.poller.is_running


def test_the_updates_end_with_the_widget_however_it_is_closed(source: Source) -> None:
    closed: list[bool] = []
    for close in (lambda view: view.close(), lambda view: view.root.close()):
        view = make_view(source)
        view._on_close = lambda: closed.append(True)
        view.start()
        wait_until(view.poller._run.thread.is_alive, what="the thread")  # type: ignore[union-attr]
        close(view)
        wait_until(lambda: not source.living(), what="the thread's end")
        assert view.is_closed
        view.start()
        view.close()
        assert not view.poller.is_running
    assert closed == [True, True]


def test_fifty_open_and_closed_leave_nothing(source: Source) -> None:
    def cycle() -> None:
        view = make_view(source)
        view.start()
        views(view, 1)
        view.close()

    cycle()
    gc.collect()
    before = (set(_instances), threading.active_count(), open_files())
    for _ in range(50):
        cycle()
    gc.collect()
    wait_until(lambda: not source.living(), what="the threads' end")
    assert (set(_instances), threading.active_count(), open_files()) == before


def open_files() -> int:
    return psutil.Process().num_fds()


# --- actions ---


class Told(list[tuple[str, str]]):
    def __call__(self, text: str, tone: str) -> None:
        self.append((text, tone))

    def last(self, tone: str) -> Any:
        return wait_until(
            lambda: self[-1][0] if self and self[-1][1] == tone else None, what=lambda: f"{tone}; told was {self}"
        )


@pytest.fixture
def told() -> Told:
    return Told()


def test_an_action_runs_in_a_thread_and_its_result_is_told(told: Told) -> None:
    actions = Actions(told)
    go = threading.Event()

    def roll_back() -> str:
        assert go.wait(30)
        return f"Version 1 answers, from {threading.current_thread() is not threading.main_thread()}."

    assert actions.run("Roll back", roll_back)
    assert told == [("Roll back ...", "running")]
    assert actions.running == "Roll back"
    go.set()
    assert told.last("done") == "Version 1 answers, from True."
    assert actions.wait(60)
    assert actions.run("Look", lambda: None)
    assert told.last("done") == "Look: done."
    assert actions.wait(60)


def test_one_action_at_a_time(told: Told) -> None:
    actions = Actions(told)
    go = threading.Event()
    actions.run("Load", lambda: str(go.wait(30)))
    assert not actions.run("Unload", lambda: None)
    assert told[-1] == ("Load is still under way: Unload has to wait.", "failed")
    go.set()
    assert actions.wait(60)


def test_an_action_that_fails_is_told_in_one_line(told: Told) -> None:
    actions = Actions(told)

    def fail() -> str:
        error = DeployError("no version 3:\nit is 'END'", step="load", hint="Look at the log.")
        error.add_note("Version 2 still answers.")
        raise error

    actions.run("Load", fail)
    assert told.last("failed") == "load: no version 3: it is 'END' Look at the log. Version 2 still answers."
    assert actions.wait(60)
    assert one_line(KeyError("x")) == "KeyError: 'x'"


def test_an_action_that_takes_too_long_is_let_go(told: Told) -> None:
    actions = Actions(told, patience=0.01)
    go = threading.Event()
    actions.run("Restart", lambda: str(go.wait(30)))
    assert told.last("failed") == "Restart has not ended after 0.01 s; it goes on. The log may say why."
    assert actions.wait(60)
    assert actions.run("Look", lambda: "seen")
    assert told.last("done") == "seen"
    go.set()


def test_nothing_is_told_after_the_end(told: Told) -> None:
    actions = Actions(told)
    go = threading.Event()
    actions.run("Load", lambda: str(go.wait(30)))
    actions.close()
    go.set()
    assert actions.wait(60)
    assert told == [("Load ...", "running")]
    assert not actions.run("Load", lambda: None)
