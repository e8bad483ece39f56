"""The manager: availability-preserving switches, retries, holds, and what requests are told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from test_lifecycle_fakes import BadModelError, FakeClock, FakeLoader, FakeServable, paths, reach, states, turns, until

from serving_server.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    StatusCode,
    UnavailableError,
)
from serving_server.lifecycle import All, Latest, Manager, Specific, State

START, LOADING, AVAILABLE, UNLOADING, END = (
    State.START,
    State.LOADING,
    State.AVAILABLE,
    State.UNLOADING,
    State.END,
)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def manager(loader: FakeLoader, clock: FakeClock) -> AsyncIterator[Manager]:
    manager = Manager(loader, clock=clock, close_timeout=2.0)
    manager.add_model("m")
    yield manager
    await manager.close(drain_timeout=1.0)


def served(manager: Manager, version: int | None = None, model: str = "m") -> FakeServable:
    servable = manager.resolve(model, version)
    assert isinstance(servable, FakeServable)
    return servable


async def test_a_version_goes_through_every_state(manager: Manager, loader: FakeLoader) -> None:
    seen: list[tuple[int, State, State]] = []
    manager.subscribe(lambda model, version, old, new: seen.append((version, old, new)))
    manager.aspire("m", paths(1))
    assert states(manager) == {1: START}
    assert manager.is_loading_anything
    await reach(manager, v1=AVAILABLE)
    assert not manager.is_loading_anything
    manager.aspire("m", {})
    assert states(manager) == {1: UNLOADING}
    await reach(manager, v1=END)
    assert seen == [
        (1, State.UNKNOWN, START),
        (1, START, LOADING),
        (1, LOADING, AVAILABLE),
        (1, AVAILABLE, UNLOADING),
        (1, UNLOADING, END),
    ]
    assert loader.servables[0].drains == 1
    assert loader.servables[0].closed == 1


async def test_a_view_tells_everything(manager: Manager, loader: FakeLoader, clock: FakeClock) -> None:
    loader.auto = False
    manager.aspire("m", paths(3))
    view = manager.versions("m")[0]
    assert (view.state, view.step, view.load_seconds, view.worker_pid) == (START, "queued", None, None)
    await until(lambda: loader.loads)
    assert manager.versions("m")[0].step == "load"
    loader.waiting(3).on_step("warmup")
    assert manager.versions("m")[0].step == "warmup"
    clock.advance(2.5)
    loader.waiting(3).finish()
    await reach(manager, v3=AVAILABLE)
    served(manager).pending = 4
    view = manager.versions("m")[0]
    assert (view.step, view.load_seconds, view.worker_pid, view.pending) == (None, 2.5, 1000, 4)
    assert (view.version, view.path, view.held, view.restarts) == (3, Path("/models/m/3"), False, 0)
    assert (view.error_code, view.error_message) == (StatusCode.OK, "")
    assert manager.version("m", 3) == view
    assert manager.version("m", 4) is None
    served(manager).pending = 0


async def test_the_old_version_serves_until_the_new_one_is_available(manager: Manager, loader: FakeLoader) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    loader.auto = False
    manager.aspire("m", paths(1, 2))
    await until(lambda: len(loader.loads) == 2)
    assert served(manager).version == 1
    unserved = []
    manager.subscribe(lambda *_: unserved.append(1) if manager.serving_version("m") is None else None)
    loader.waiting(2).finish()
    await reach(manager, v2=AVAILABLE)
    assert states(manager) == {2: AVAILABLE, 1: UNLOADING}
    assert served(manager).version == 2
    with pytest.raises(NotFoundError, match="being unloaded"):
        manager.resolve("m", 1)
    await reach(manager, v1=END)
    assert not unserved


async def test_a_bad_new_version_leaves_the_old_one_serving(manager: Manager, loader: FakeLoader) -> None:
    loader.errors["m", 2] = [BadModelError("no saved_model.pb", StatusCode.NOT_FOUND)] * 6
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager._settings.load_retry_interval = -1.0
    clock = manager._settings.clock
    assert isinstance(clock, FakeClock)
    manager.aspire("m", paths(1, 2))
    for number in range(5):
        await until(partial(lambda tries: len(loader.loads) == tries and clock.sleepers, 2 + number))
        clock.advance(0.0)
    await reach(manager, v2=END)
    assert states(manager) == {2: END, 1: AVAILABLE}
    assert served(manager).version == 1
    view = manager.versions("m")[0]
    assert (view.error_code, view.error_message) == (StatusCode.NOT_FOUND, "no saved_model.pb")
    with pytest.raises(NotFoundError, match=re.escape("(version 2 failed to load: no saved_model.pb)")):
        manager.resolve("m", 2)


async def test_the_highest_new_version_is_loaded_first_and_loads_are_limited(loader: FakeLoader) -> None:
    loader.auto = False
    manager = Manager(loader, num_load_threads=2)
    manager.add_model("m", All())
    manager.aspire("m", paths(1, 2, 3, 4))
    await until(lambda: len(loader.loads) == 2)
    await turns()
    assert loader.versions() == [4, 3]
    assert states(manager) == {4: LOADING, 3: LOADING, 2: START, 1: START}
    manager.aspire("m", paths(1, 2, 3, 4, 5))
    loader.waiting(4).finish()
    await until(lambda: len(loader.loads) == 3)
    assert loader.versions() == [4, 3, 5]
    loader.auto = True
    loader.waiting(5).finish()
    loader.waiting(3).finish()
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE, v3=AVAILABLE, v4=AVAILABLE, v5=AVAILABLE)
    assert loader.versions() == [4, 3, 5, 2, 1]
    assert loader.most == 2
    await manager.close()


async def test_a_queued_version_that_is_unwanted_gives_its_place_away(loader: FakeLoader) -> None:
    loader.auto = False
    manager = Manager(loader, num_load_threads=1)
    manager.add_model("m", All())
    manager.add_model("n")
    manager.aspire("m", paths(1, 2))
    manager.aspire("n", paths(9))
    await until(lambda: loader.loads)
    manager.aspire("m", paths(2))
    await reach(manager, v1=END)
    loader.waiting(2).finish()
    await until(lambda: len(loader.loads) == 2)
    assert loader.loads[1].model == "n"
    await manager.close()
    assert loader.loads[1].cancelled


async def test_of_several_unwanted_versions_only_the_highest_waits_for_the_new_one(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.set_policy("m", All())
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE, v3=AVAILABLE)
    loader.auto = False
    manager.aspire("m", paths(4))
    await reach(manager, v1=END, v2=END)
    assert states(manager) == {4: LOADING, 3: AVAILABLE, 2: END, 1: END}
    loader.waiting(4).finish()
    await reach(manager, v3=END, v4=AVAILABLE)


async def test_drain_waits_for_running_requests(manager: Manager) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    old = served(manager)
    old.begin_request()
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=UNLOADING, v2=AVAILABLE)
    await turns()
    assert states(manager)[1] == UNLOADING
    assert old.closed == 0
    old.end_request()
    await reach(manager, v1=END)
    assert old.closed == 1


async def test_drain_is_bounded(loader: FakeLoader, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(loader, drain_timeout=0.01)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    served(manager).begin_request()
    manager.aspire("m", {})
    await reach(manager, v1=END)
    assert loader.servables[0].closed == 1
    assert "Closing m version 1 with 1 requests unanswered" in caplog.text
    await manager.close()


async def test_a_version_wanted_again_while_unloading_is_loaded_after_the_unload(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    old = served(manager)
    old.begin_request()
    manager.aspire("m", {})
    await turns()
    manager.aspire("m", paths(1))
    await turns()
    assert states(manager) == {1: UNLOADING}
    assert len(loader.loads) == 1
    old.end_request()
    await reach(manager, v1=AVAILABLE)
    assert served(manager) is not old
    assert old.closed == 1


async def test_unwanting_a_version_cancels_its_load(manager: Manager, loader: FakeLoader) -> None:
    loader.auto = False
    manager.aspire("m", paths(1))
    await until(lambda: loader.loads)
    manager.aspire("m", paths(2))
    await reach(manager, v1=END, v2=LOADING)
    assert loader.loads[0].cancelled
    assert manager.version("m", 1).error_message == ""  # type: ignore[union-attr]


async def test_unwanting_a_version_cancels_its_retries(manager: Manager, loader: FakeLoader, clock: FakeClock) -> None:
    loader.errors["m", 1] = [BadModelError("bad")] * 6
    manager.aspire("m", paths(1))
    await until(lambda: clock.sleepers)
    view = manager.versions("m")[0]
    assert (view.state, view.step, view.error_message) == (LOADING, "queued", "bad")
    with pytest.raises(NotFoundError, match="version 1 is loading; the last try failed: bad"):
        manager.resolve("m")
    manager.aspire("m", {})
    await reach(manager, v1=END)
    assert not clock.sleepers
    assert loader.versions() == [1]


async def test_failed_loads_are_tried_again_after_the_interval(
    manager: Manager, loader: FakeLoader, clock: FakeClock
) -> None:
    loader.errors["m", 1] = [BadModelError("bad"), BadModelError("bad")]
    manager.aspire("m", paths(1))
    for _ in range(2):
        await until(lambda: clock.delays() == [60.0])
        clock.advance(59.0)
        await turns()
        assert clock.delays() == [1.0]
        clock.advance(1.0)
    await reach(manager, v1=AVAILABLE)
    assert loader.versions() == [1, 1, 1]
    assert manager.versions("m")[0].error_code == StatusCode.OK


async def test_a_failed_version_stays_failed_until_it_was_gone(loader: FakeLoader) -> None:
    manager = Manager(loader, max_load_retries=0)
    manager.add_model("m")
    loader.errors["m", 2] = [BadModelError("bad")]
    manager.aspire("m", paths(1, 2))
    await reach(manager, v2=END)
    manager.aspire("m", paths(1, 2))
    manager.set_policy("m", Latest(1))
    await turns()
    assert states(manager) == {2: END}
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager.aspire("m", paths(1, 2))
    assert states(manager) == {2: START, 1: AVAILABLE}
    await reach(manager, v2=AVAILABLE, v1=END)
    await manager.close()


async def test_a_version_that_failed_is_tried_again_in_another_folder(loader: FakeLoader) -> None:
    manager = Manager(loader, max_load_retries=0)
    manager.add_model("m")
    loader.errors["m", 1] = [BadModelError("bad")]
    manager.aspire("m", paths(1))
    await reach(manager, v1=END)
    manager.aspire("m", {1: Path("/corrected/1")})
    await reach(manager, v1=AVAILABLE)
    assert manager.versions("m")[0].path == Path("/corrected/1")
    await manager.close()


async def test_retry_loads_a_failed_version_again(loader: FakeLoader) -> None:
    manager = Manager(loader, max_load_retries=0)
    manager.add_model("m")
    failures: list[tuple[str, int, Path]] = []
    manager.on_failed = lambda model, version, path, since: failures.append((model, version, path))
    loader.errors["m", 2] = [BadModelError("half a copy")]
    manager.aspire("m", paths(2))
    await reach(manager, v2=END)
    assert failures == [("m", 2, Path("/models/m/2"))]
    assert manager.retry("m", 2)
    await reach(manager, v2=AVAILABLE)
    assert not manager.retry("m", 2)
    assert not manager.retry("m", 3)
    assert not manager.retry("n", 2)
    await manager.close()


async def test_retry_ends_the_wait_between_tries(manager: Manager, loader: FakeLoader, clock: FakeClock) -> None:
    loader.errors["m", 1] = [BadModelError("half a copy")]
    manager.aspire("m", paths(1))
    await until(lambda: clock.sleepers)
    assert manager.retry("m", 1)
    await reach(manager, v1=AVAILABLE)
    assert not clock.sleepers


async def test_a_bug_in_the_loader_is_a_failed_version(loader: FakeLoader, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(loader, max_load_retries=0)
    manager.add_model("m", All())
    loader.errors["m", 1] = [ZeroDivisionError("oops")]
    loader.errors["m", 2] = [asyncio.CancelledError()]  # type: ignore[list-item]
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=END, v2=END)
    cut_off, failed = manager.versions("m")
    assert (failed.error_code, cut_off.error_code) == (StatusCode.INTERNAL, StatusCode.INTERNAL)
    assert "ZeroDivisionError: oops" in failed.error_message
    assert "Traceback" in caplog.text
    await manager.close()


async def test_a_loader_that_finishes_in_spite_of_being_cancelled_is_cleared_away() -> None:
    class Deaf(FakeLoader):
        async def load(self, model, version, path, on_step):  # type: ignore[no-untyped-def]
            work = asyncio.ensure_future(super().load(model, version, path, on_step))
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError:
                    continue
            return work.result()

    loader = Deaf(auto=False)
    manager = Manager(loader, close_timeout=0.01)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await until(lambda: loader.loads)
    manager.aspire("m", {})
    await reach(manager, v1=END)
    loader.loads[0].finish()
    await until(lambda: loader.servables and loader.servables[0].closed)
    assert states(manager) == {1: END}
    await manager.close()


async def test_rollback_by_policy(manager: Manager) -> None:
    manager.aspire("m", paths(1, 2))
    await reach(manager, v2=AVAILABLE)
    manager.set_policy("m", Specific([1]))
    assert served(manager).version == 2
    await reach(manager, v1=AVAILABLE, v2=END)
    assert served(manager).version == 1
    assert manager.policy("m") == Specific([1])
    manager.set_policy("m", Latest())
    await reach(manager, v2=AVAILABLE, v1=END)


async def test_a_policy_that_names_no_version_on_disk_does_not_stop_the_service(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager.set_policy("m", Specific([99]))
    manager.aspire("m", paths(1))
    await turns()
    assert served(manager).version == 1
    assert caplog.text.count("version 99 of its 'specific' policy is not on disk") == 1
    manager.set_policy("m", Specific([]))
    await reach(manager, v1=END)


async def test_a_held_version_is_reached_by_number_only(manager: Manager) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager.hold("m", 2)
    manager.hold("m", 2)
    assert manager.held("m") == {2}
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE)
    await turns()
    assert states(manager) == {2: AVAILABLE, 1: AVAILABLE}
    assert served(manager).version == 1
    assert served(manager, 2).version == 2
    assert [(view.version, view.held) for view in manager.versions("m")] == [(2, True), (1, False)]


async def test_promote_moves_traffic_in_the_same_turn(manager: Manager) -> None:
    manager.hold("m", 2)
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE)
    manager.promote("m", 2)
    assert served(manager).version == 2
    assert manager.serving_version("m") == 2
    assert states(manager) == {2: AVAILABLE, 1: UNLOADING}
    await reach(manager, v1=END)
    manager.promote("m", 2)
    assert states(manager) == {2: AVAILABLE, 1: END}


async def test_a_held_version_never_displaces_what_serves(manager: Manager) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager.hold("m", 2)
    manager.aspire("m", paths(2))  # the folder of version 1 was deleted
    await reach(manager, v2=AVAILABLE)
    await turns()
    assert served(manager).version == 1
    manager.aspire("m", {})
    await reach(manager, v1=END, v2=END)


async def test_a_held_version_that_vanished_is_not_kept_in_place_of_what_serves(
    manager: Manager, loader: FakeLoader
) -> None:
    manager.hold("m", 2)
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE)
    loader.auto = False
    manager.aspire("m", paths(3))
    await reach(manager, v2=END)
    assert served(manager).version == 1


async def test_only_held_versions_say_how_to_reach_them(manager: Manager) -> None:
    manager.hold("m", 1)
    with pytest.raises(NotFoundError, match="version 1 is held: name the version in the request, or promote it"):
        manager.resolve("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    with pytest.raises(NotFoundError, match="version 1 is held"):
        manager.resolve("m")
    assert manager.serving_version("m") is None


async def test_the_only_serving_version_cannot_be_held(manager: Manager) -> None:
    manager.set_policy("m", All())
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    with pytest.raises(FailedPreconditionError, match="version 1 of model m is the only one that serves"):
        manager.hold("m", 1)
    manager.aspire("m", paths(1, 2))
    await reach(manager, v2=AVAILABLE)
    manager.hold("m", 2)
    assert served(manager).version == 1


async def test_requests_are_told_what_is_known(manager: Manager, loader: FakeLoader) -> None:
    def told(model: str = "m", version: int | None = None) -> str:
        with pytest.raises(NotFoundError) as caught:
            manager.resolve(model, version)
        return caught.value.message

    latest, specific = "Servable not found for request: Latest(m)", "Servable not found for request: Specific(m, 1)"
    assert told() == f"{latest} (no version has been found yet)"
    manager.explain = lambda model: f"base path of {model} does not exist"
    assert told() == f"{latest} (base path of m does not exist)"
    assert told("x") == "Servable not found for request: Latest(x) (no model of that name; this server has: m)"
    assert told("x", 7).startswith("Servable not found for request: Specific(x, 7) (")
    loader.auto = False
    manager.aspire("m", paths(1))
    assert told() == f"{latest} (version 1 is loading)"
    assert told("m", 1) == f"{specific} (version 1 is loading)"
    await until(lambda: loader.loads)
    loader.waiting(1).finish()
    await reach(manager, v1=AVAILABLE)
    assert told("m", 5) == "Servable not found for request: Specific(m, 5) (available versions: 1)"
    manager.aspire("m", {})
    await reach(manager, v1=END)
    assert told("m", 1) == f"{specific} (version 1 was unloaded)"
    manager.remove_model("m")
    assert told() == f"{latest} (no model of that name; this server has no models)"


async def test_removed_models_unload_and_stay_listed(manager: Manager) -> None:
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    served(manager).begin_request()
    manager.remove_model("m")
    assert manager.model_names() == []
    with pytest.raises(NotFoundError):
        manager.resolve("m")
    assert states(manager) == {1: UNLOADING}
    manager.aspire("m", paths(1, 2))  # a scan that was under way
    loader = manager._settings.loader
    assert isinstance(loader, FakeLoader)
    loader.servables[0].end_request()
    await reach(manager, v1=END)
    for call in (
        lambda: manager.remove_model("m"),
        lambda: manager.set_policy("m", All()),
        lambda: manager.hold("m", 1),
        lambda: manager.versions("nobody"),
    ):
        with pytest.raises(NotFoundError, match="This server has no model"):
            call()
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)


async def test_models_do_not_disturb_each_other(manager: Manager, loader: FakeLoader) -> None:
    manager.add_model("n", Latest(2))
    manager.aspire("n", paths(1, 2, 3))
    loader.errors["m", 1] = [BadModelError("bad")]
    manager.aspire("m", paths(1))
    await reach(manager, "n", v2=AVAILABLE, v3=AVAILABLE)
    assert served(manager, model="n").version == 3
    assert manager.model_names() == ["m", "n"]


async def test_a_listener_may_change_things_and_may_fail(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    def bad(*change: object) -> None:
        raise RuntimeError("listener")

    def policy(model: str, version: int, old: State, new: State) -> None:
        if (version, new) == (2, AVAILABLE):
            manager.set_policy("m", Specific([1]))

    manager.subscribe(bad)
    unsubscribe = manager.subscribe(policy)
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE, v2=END)
    assert "A lifecycle listener failed on m version 2" in caplog.text
    unsubscribe()
    unsubscribe()
    manager.set_policy("m", Latest())
    await reach(manager, v2=AVAILABLE, v1=END)


async def test_wait_for_reports_what_was_last_seen(manager: Manager, loader: FakeLoader) -> None:
    loader.auto = False
    manager.aspire("m", paths(1))
    await until(lambda: loader.loads)
    with pytest.raises(DeadlineExceededError, match="m: 1 LOADING"):
        await manager.wait_for(lambda: False, 0.01)

    def broken() -> bool:
        if loader.waiting(1).result.done():
            raise AssertionError
        return states(manager)[1] == LOADING and manager.versions("m")[0].step == "warmup" and 1 / 0 > 0

    waiting = asyncio.create_task(manager.wait_for(broken, 5.0))
    await turns()
    loader.waiting(1).on_step("warmup")
    with pytest.raises(ZeroDivisionError):
        await waiting


async def test_close_unloads_everything_and_is_idempotent(loader: FakeLoader, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager(loader, close_timeout=1.0)
    manager.add_model("m", All())
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE)
    loader.auto = False
    manager.aspire("m", paths(1, 2, 3))
    served(manager, 1).begin_request()
    await until(lambda: len(loader.loads) == 3)
    await asyncio.gather(manager.close(drain_timeout=0.01), manager.close())
    await manager.close()
    assert states(manager) == {1: END, 2: END, 3: END}
    assert [servable.closed for servable in loader.servables] == [1, 1]
    assert loader.loads[2].cancelled
    with pytest.raises(UnavailableError, match="shutting down"):
        manager.resolve("m")
    with pytest.raises(FailedPreconditionError, match="shutting down"):
        manager.add_model("n")


async def test_close_cuts_a_long_drain_that_began_before(loader: FakeLoader, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    manager = Manager(loader, drain_timeout=600.0)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    served(manager).begin_request()
    manager.aspire("m", {})
    await until(lambda: loader.servables[0].drains)
    await manager.close(drain_timeout=0.01)
    assert states(manager) == {1: END}
    assert loader.servables[0].closed == 1
    assert "with 1 requests unanswered" in caplog.text
