"""Workers that end by themselves: restarts, backoff, giving up, and what requests are told meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
from test_lifecycle_fakes import BadModelError, FakeClock, FakeLoader, FakeServable, paths, reach, states, turns, until

from serving_server.errors import NotFoundError, StatusCode, UnavailableError
from serving_server.lifecycle import All, Manager, State

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
    manager = Manager(loader, clock=clock)
    manager.add_model("m")
    yield manager
    await manager.close(drain_timeout=1.0)


async def serve(manager: Manager, *versions: int) -> FakeServable:
    manager.aspire("m", paths(*versions))
    await manager.wait_for(lambda: manager.serving_version("m") == max(versions), 60.0)
    servable = manager.resolve("m")
    assert isinstance(servable, FakeServable)
    return servable


async def test_a_crashed_worker_is_restarted_at_once(manager: Manager, loader: FakeLoader) -> None:
    servable = await serve(manager, 1)
    loader.auto = False
    servable.crash("killed by signal 9")
    view = manager.versions("m")[0]
    assert (view.state, view.error_code, view.worker_pid) == (LOADING, StatusCode.UNAVAILABLE, None)
    assert "m version 1" in view.error_message
    assert "killed by signal 9" in view.error_message
    for version in (None, 1):
        with pytest.raises(UnavailableError, match=r"model m version 1 is restarting.*killed by signal 9.*try again"):
            manager.resolve("m", version)
    await until(lambda: len(loader.loads) == 2)
    assert servable.closed == 1
    loader.waiting(1).finish()
    await reach(manager, v1=AVAILABLE)
    view = manager.versions("m")[0]
    assert (view.restarts, view.error_code, view.error_message) == (1, StatusCode.OK, "")
    assert manager.resolve("m") is not servable
    servable.crash("said twice")
    assert states(manager) == {1: AVAILABLE}


async def test_a_restart_does_not_queue_behind_loads(loader: FakeLoader) -> None:
    manager = Manager(loader, num_load_threads=1)
    manager.add_model("m")
    manager.add_model("n")
    servable = await serve(manager, 1)
    loader.auto = False
    manager.aspire("n", paths(1))
    await until(lambda: len(loader.loads) == 2)
    servable.crash()
    await until(lambda: len(loader.loads) == 3)
    await manager.close()


async def test_other_versions_go_on_serving(manager: Manager, loader: FakeLoader) -> None:
    manager.set_policy("m", All())
    await serve(manager, 1)
    servable = await serve(manager, 1, 2)
    loader.auto = False
    servable.crash()
    assert manager.serving_version("m") == 1
    with pytest.raises(UnavailableError, match="version 2 is restarting"):
        manager.resolve("m", 2)


async def crash_again(manager: Manager, clock: FakeClock, delay: float) -> None:
    servable = manager.resolve("m")
    assert isinstance(servable, FakeServable)
    servable.crash("segmentation fault")
    if delay:
        await until(lambda: clock.sleepers)
        assert clock.delays() == [delay]
        clock.advance(delay)
    await reach(manager, v1=AVAILABLE)


async def test_repeated_crashes_back_off_and_end(
    manager: Manager, loader: FakeLoader, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await serve(manager, 1)
    for delay in (0.0, 1.0, 2.0, 4.0, 8.0):
        await crash_again(manager, clock, delay)
    last = loader.servables[-1]
    last.crash("segmentation fault")
    view = manager.versions("m")[0]
    assert (view.state, view.error_code, view.restarts) == (END, StatusCode.UNAVAILABLE, 5)
    assert view.error_message.startswith(
        "worker of m version 1 crashed 6 times in 60 s; last: segmentation fault. Not restarting it"
    )
    assert view.error_message in caplog.text
    with pytest.raises(NotFoundError, match=r"\(version 1 failed: worker of m version 1 crashed 6 times"):
        manager.resolve("m")
    await until(lambda: last.closed)
    manager.aspire("m", paths(1))
    await turns()
    assert states(manager) == {1: END}
    assert manager.retry("m", 1)
    await reach(manager, v1=AVAILABLE)
    await crash_again(manager, clock, 0.0)


async def test_a_minute_of_service_clears_the_history(manager: Manager, clock: FakeClock) -> None:
    await serve(manager, 1)
    for _ in range(3):
        await crash_again(manager, clock, 0.0)
        await crash_again(manager, clock, 1.0)
        clock.advance(60.0)
    assert manager.versions("m")[0].restarts == 6


async def test_a_restart_that_fails_counts_as_a_crash(manager: Manager, loader: FakeLoader, clock: FakeClock) -> None:
    servable = await serve(manager, 1)
    loader.errors["m", 1] = [BadModelError("the forkserver is gone")] * 9
    servable.crash()
    for delay in (1.0, 2.0, 4.0, 8.0):
        await until(partial(lambda expected: clock.delays() == [expected], delay))
        assert "the restart failed: the forkserver is gone" in manager.versions("m")[0].error_message
        clock.advance(delay)
    await reach(manager, v1=END)
    assert "last: the restart failed: the forkserver is gone" in manager.versions("m")[0].error_message


async def test_a_new_version_ends_the_restarts_of_the_old_one(
    manager: Manager, loader: FakeLoader, clock: FakeClock
) -> None:
    await serve(manager, 1)
    await crash_again(manager, clock, 0.0)
    loader.servables[-1].crash()
    await until(lambda: clock.sleepers)
    manager.aspire("m", paths(1, 2))
    assert states(manager)[1] == LOADING  # still wanted until version 2 can answer
    await reach(manager, v2=AVAILABLE, v1=END)
    assert not clock.sleepers
    assert manager.versions("m")[1].error_message == ""


async def test_the_old_version_is_restarted_while_the_new_one_loads(manager: Manager, loader: FakeLoader) -> None:
    servable = await serve(manager, 1)
    loader.auto = False
    manager.aspire("m", paths(1, 2))
    await until(lambda: len(loader.loads) == 2)
    servable.crash()
    with pytest.raises(UnavailableError, match="version 1 is restarting"):
        manager.resolve("m")
    await until(lambda: len(loader.loads) == 3)
    loader.waiting(1).finish()
    await reach(manager, v1=AVAILABLE, v2=LOADING)
    assert manager.serving_version("m") == 1


async def test_a_worker_that_dies_during_its_drain_is_not_restarted(manager: Manager, loader: FakeLoader) -> None:
    servable = await serve(manager, 1)
    servable.begin_request()
    manager.aspire("m", {})
    await until(lambda: servable.drains)
    servable.crash()
    await reach(manager, v1=END)
    assert servable.closed == 1
    assert len(loader.loads) == 1
