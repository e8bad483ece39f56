"""Splits and the lifecycle: loaded before they are in force, ended by rollbacks and deploys, never half."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from test_lifecycle_fakes import BadModelError, FakeClock, FakeLoader, FakeServable, paths, reach, states, turns, until

from serving_server.errors import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from serving_server.lifecycle import Latest, Manager, Specific, State
from serving_server.traffic.splits import Splits
from serving_server.traffic.wish import Wish

AVAILABLE, LOADING, END = State.AVAILABLE, State.LOADING, State.END


class Nobody:
    """A caller without headers."""

    def header(self, name: bytes) -> bytes | None:
        return None


class Disk:
    """What `poll` finds."""

    def __init__(self) -> None:
        self.manager: Manager
        self.versions: dict[int, Path] = {}

    async def poll(self, model: str) -> None:
        if self.versions:
            self.manager.aspire(model, self.versions)


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def manager(loader: FakeLoader, disk: Disk) -> AsyncIterator[Manager]:
    """Of versions 1 and 2 on disk, under ``latest {1}``: 2 serves, 1 is not loaded."""
    manager = disk.manager = Manager(loader, clock=FakeClock(), close_timeout=2.0, max_load_retries=0)
    manager.add_model("m")
    manager.aspire("m", paths(1, 2))
    await reach(manager, v2=AVAILABLE)
    yield manager
    await manager.close(drain_timeout=1.0)


@pytest.fixture
def splits(manager: Manager, disk: Disk) -> Splits:
    return Splits(manager, disk.poll, random.Random(3))


def wish(weights: Mapping[int, float], seconds: float = 10.0) -> Wish:
    return Wish.from_json({"weights": {str(v): w for v, w in weights.items()}, "seconds": seconds})


def answers(splits: Splits, manager: Manager, number: int = 60) -> set[int]:
    """Versions that unversioned requests get."""
    found = set()
    for _ in range(number):
        router = splits.routers.get("m")
        arm = router.pick(Nobody()) if router is not None else None
        servable = manager.resolve("m") if arm is None else arm.servable
        assert isinstance(servable, FakeServable)
        found.add(servable.version)
    return found


def why_ended(splits: Splits) -> str:
    summary = splits.summary("m")
    assert summary is not None
    assert summary["weights"] is None
    return str(summary["ended"]["reason"])


async def test_a_split_loads_what_the_policy_does_not(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    assert 1 not in states(manager)
    assert splits.summary("m") is None
    loader.auto = False
    setting = asyncio.create_task(splits.put("m", wish({1: 50, 2: 50})))
    await until(lambda: states(manager).get(1) is LOADING)
    assert answers(splits, manager) == {2}, "till then as before"
    assert not splits.routers
    loader.waiting(1).finish()
    await setting
    assert answers(splits, manager) == {1, 2}
    assert manager.policy("m") == Latest(1), "the policy is as it was"
    assert manager.serving_version("m") == 2
    assert splits.end("m")
    assert answers(splits, manager) == {2}
    await reach(manager, v1=END)
    assert (why_ended(splits), splits.end("m")) == ("it was taken back", False)


async def test_a_pinned_version_goes_on_serving_while_the_other_one_loads(splits: Splits, manager: Manager) -> None:
    manager.set_policy("m", Specific([1]))
    await reach(manager, v1=AVAILABLE, v2=END)
    seen: list[int | None] = []
    manager.subscribe(lambda *_: seen.append(manager.serving_version("m")))
    await splits.put("m", wish({1: 50, 2: 50}))
    assert answers(splits, manager) == {1, 2}
    splits.end("m")
    await reach(manager, v2=END)
    assert set(seen) == {1}
    assert answers(splits, manager) == {1}


async def test_weights_change_at_once_and_a_version_may_go(splits: Splits, manager: Manager) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    await splits.put("m", wish({1: 100, 2: 0}))
    assert answers(splits, manager) == {1}
    assert states(manager)[2] is AVAILABLE, "without weight, but loaded"
    await splits.put("m", wish({2: 1}))
    assert answers(splits, manager) == {2}
    await reach(manager, v1=END)
    assert splits.to_json("m")["versions"] == [
        {"version": 1, "weight": None, "share": 0.0, "requests": 60, "keyed": 0},
        {"version": 2, "weight": 1.0, "share": 1.0, "requests": 60, "keyed": 0},
    ]


async def test_versions_that_are_not_there(splits: Splits, manager: Manager, disk: Disk) -> None:
    with pytest.raises(NotFoundError, match=r"^version 7 of model m is not on disk; its versions are: 1, 2$"):
        await splits.put("m", wish({1: 1, 7: 1}))
    with pytest.raises(NotFoundError, match="no model nobody"):
        await splits.put("nobody", wish({1: 1}))
    assert answers(splits, manager) == {2}
    assert 1 not in states(manager)
    disk.versions = paths(1, 2, 3)
    await splits.put("m", wish({1: 1, 3: 1}))
    assert answers(splits, manager) == {1, 3}, "it was looked for anew"


async def test_a_version_that_cannot_be_loaded_changes_nothing(
    splits: Splits, manager: Manager, loader: FakeLoader
) -> None:
    loader.errors["m", 1] = [BadModelError("no graph in it"), BadModelError("still none")]
    for reason in ("no graph in it", "still none"):
        with pytest.raises(FailedPreconditionError, match=f"version 1 of model m cannot be loaded: {reason}"):
            await splits.put("m", wish({1: 1, 2: 1}))
        assert answers(splits, manager) == {2}
        assert manager.kept("m") == frozenset()
    await splits.put("m", wish({1: 1, 2: 1}))
    assert answers(splits, manager) == {1, 2}


async def test_a_version_that_takes_too_long_changes_nothing(
    splits: Splits, manager: Manager, loader: FakeLoader
) -> None:
    await splits.put("m", wish({2: 1}))
    loader.auto = False
    with pytest.raises(DeadlineExceededError, match=r"not all available after 0\.01 s: version 1 is LOADING"):
        await splits.put("m", wish({1: 1, 2: 1}, seconds=0.01))
    assert answers(splits, manager) == {2}
    assert splits.routers["m"].weights == {2: 1.0}
    await until(lambda: loader.loads[-1].cancelled)


async def test_what_is_decided_later_wins_over_what_still_waits(
    splits: Splits, manager: Manager, loader: FakeLoader
) -> None:
    decisions: tuple[Callable[[], object], ...] = (
        lambda: splits.end("m"),
        lambda: manager.set_policy("m", Specific([2])),
        lambda: asyncio.ensure_future(splits.put("m", wish({2: 1}))),
        lambda: (splits.forget("m"), manager.remove_model("m")),
    )
    for decide in decisions:
        loader.auto = False
        setting = asyncio.create_task(splits.put("m", wish({1: 1, 2: 1})))
        await until(lambda: states(manager).get(1) is LOADING)
        decide()
        with pytest.raises(AbortedError, match="meanwhile something else was decided"):
            await setting
        await until(lambda: loader.loads[-1].cancelled)
        await turns()


async def test_a_crash_gives_the_share_to_the_other(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    loader.auto = False
    next(servable for servable in loader.servables if servable.version == 2).crash()
    assert answers(splits, manager) == {1}
    summary = splits.summary("m")
    assert summary is not None
    assert summary["weights"] == {"1": 50.0, "2": 50.0}
    assert summary["shares"] == {"1": 1.0}
    await splits.put("m", wish({1: 1, 2: 0}))  # taking its share away does not wait for it
    await splits.put("m", wish({1: 1, 2: 1}))
    await until(lambda: any(load.version == 2 and not load.ended for load in loader.loads))
    loader.waiting(2).finish()
    await reach(manager, v2=AVAILABLE)
    assert answers(splits, manager) == {1, 2}


async def test_without_any_of_them_the_usual_rule_holds(
    splits: Splits, manager: Manager, loader: FakeLoader, disk: Disk
) -> None:
    manager.set_policy("m", Latest(2))
    await reach(manager, v1=AVAILABLE)
    await splits.put("m", wish({2: 1}))
    loader.auto = False
    next(servable for servable in loader.servables if servable.version == 2).crash()
    assert answers(splits, manager, 5) == {1}
    assert splits.to_json("m")["unrouted"] == 5


async def test_a_held_version_may_have_a_share(splits: Splits, manager: Manager) -> None:
    manager.hold("m", 1)
    await reach(manager, v1=AVAILABLE)
    assert answers(splits, manager) == {2}
    await splits.put("m", wish({1: 50, 2: 50}))
    assert answers(splits, manager) == {1, 2}
    splits.end("m")
    assert answers(splits, manager) == {2}
    assert states(manager)[1] is AVAILABLE, "held as before"


# --- deploys and rollbacks ---


async def test_a_deploy_ends_a_split_when_it_is_promoted(splits: Splits, manager: Manager) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    manager.hold("m", 3)
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v3=AVAILABLE)
    assert answers(splits, manager) == {1, 2}
    manager.promote("m", 3)
    assert answers(splits, manager) == {3}
    assert why_ended(splits) == "version 3 went into service"
    await reach(manager, v1=END, v2=END)


async def test_a_deploy_that_fails_leaves_a_split(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    loader.errors["m", 3] = [BadModelError("bad")]
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v3=END)
    assert answers(splits, manager) == {1, 2}
    manager.aspire("m", paths(1, 2))
    assert answers(splits, manager) == {1, 2}


async def test_a_restart_of_a_newer_version_is_no_deploy(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v3=AVAILABLE)
    await splits.put("m", wish({1: 50, 2: 50}))
    next(servable for servable in loader.servables if servable.version == 3).crash()
    await reach(manager, v3=AVAILABLE)
    assert answers(splits, manager) == {1, 2}
    assert manager.serving_version("m") == 3


@pytest.mark.parametrize("before", [Latest(1), Specific([1])])
async def test_a_rollback_ends_a_split(splits: Splits, manager: Manager, before: Latest | Specific) -> None:
    manager.set_policy("m", before)
    await splits.put("m", wish({1: 50, 2: 50}))
    manager.set_policy("m", Specific([1]))
    assert answers(splits, manager) == {1}
    assert why_ended(splits) == "the version policy was set to specific {1}"
    await reach(manager, v2=END)


async def test_a_rollback_that_loads_keeps_the_split_till_then(
    splits: Splits, manager: Manager, loader: FakeLoader
) -> None:
    manager.aspire("m", paths(0, 1, 2))
    await splits.put("m", wish({1: 50, 2: 50}))
    loader.auto = False
    manager.set_policy("m", Specific([0]))
    await until(lambda: states(manager).get(0) is LOADING)
    assert answers(splits, manager) == {1, 2}, "not all to version 2, which may be why it is rolled back"
    loader.waiting(0).finish()
    await reach(manager, v0=AVAILABLE)
    assert answers(splits, manager) == {0}
    await reach(manager, v1=END, v2=END)


async def test_a_rollback_that_fails_gives_the_split_back(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    manager.aspire("m", paths(0, 1, 2))
    await splits.put("m", wish({1: 50, 2: 50}))
    loader.errors["m", 0] = [BadModelError("bad")]
    manager.set_policy("m", Specific([0]))
    await reach(manager, v0=END)
    manager.set_policy("m", Latest(1))
    assert answers(splits, manager) == {1, 2}
    manager.set_policy("m", Latest(1))
    assert answers(splits, manager) == {2}, "but said again it counts"


async def test_a_reload_with_the_same_policy_leaves_a_split(splits: Splits, manager: Manager) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    manager.add_model("m", Latest(1))
    assert answers(splits, manager) == {1, 2}
    manager.add_model("m", Latest(2))
    assert answers(splits, manager) == {2}


async def test_a_model_that_is_removed_and_added_again_is_not_split(splits: Splits, manager: Manager) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    splits.forget("m")
    manager.remove_model("m")
    assert not splits.routers
    await reach(manager, v1=END, v2=END)
    manager.add_model("m", Latest(1))
    manager.aspire("m", paths(1, 2))
    await reach(manager, v2=AVAILABLE)
    assert answers(splits, manager) == {2}
    assert splits.summary("m") is None


async def test_files_that_go_away_take_a_version_out(splits: Splits, manager: Manager) -> None:
    await splits.put("m", wish({1: 50, 2: 50}))
    manager.aspire("m", paths(2))
    await reach(manager, v1=END)
    assert answers(splits, manager) == {2}
    manager.aspire("m", paths(1, 2))
    await reach(manager, v1=AVAILABLE)
    assert answers(splits, manager) == {1, 2}


async def test_the_end_of_the_server_is_no_deploy(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    """Of a version above those of the split, which is loaded for another purpose."""
    manager.aspire("m", paths(1, 2, 3))
    manager.set_policy("m", Specific([1]))
    manager.keep("m", [3], "mirror")
    await reach(manager, v1=AVAILABLE, v2=END, v3=AVAILABLE)
    await splits.put("m", wish({1: 50, 2: 50}))
    await manager.close(drain_timeout=1.0)
    assert set(states(manager).values()) == {END}
    assert all(servable.closed for servable in loader.servables)
    summary = splits.summary("m")
    assert summary is not None
    assert summary["ended"] is None
    assert splits.routers["m"].pick(Nobody()) is None


async def test_the_end_of_the_server_is_told_to_who_waits(splits: Splits, manager: Manager, loader: FakeLoader) -> None:
    loader.auto = False
    setting = asyncio.create_task(splits.put("m", wish({1: 50, 2: 50})))
    await until(lambda: states(manager).get(1) is LOADING)
    await manager.close(drain_timeout=1.0)
    with pytest.raises(UnavailableError, match="the server is shutting down"):
        await setting


# --- anything in any order ---


@pytest.mark.parametrize("seed", range(12))
async def test_walks_never_send_a_request_to_a_version_that_is_gone(seed: int) -> None:
    rng = random.Random(seed)
    loader, disk = FakeLoader(), Disk()
    manager = disk.manager = Manager(loader, clock=FakeClock(), close_timeout=2.0, max_load_retries=0)
    splits = Splits(manager, disk.poll, rng)
    manager.add_model("m")
    manager.aspire("m", paths(1, 2))
    setting: set[asyncio.Task[None]] = set()

    def some(most: int = 4) -> list[int]:
        return rng.sample(range(5), rng.randint(1, most))

    def put() -> None:
        asked = wish({version: rng.choice([0, 1, 5]) for version in some()[1:]} | {rng.randrange(5): 1})
        setting.add(asyncio.create_task(splits.put("m", asked)))

    def crash() -> None:
        alive = [servable for servable in loader.servables if not servable.closed and servable.callback is not None]
        if alive:
            rng.choice(alive).crash()

    def hold() -> None:
        with contextlib.suppress(FailedPreconditionError):  # the only one that serves
            manager.hold("m", rng.randrange(5))

    def fail() -> None:
        loader.errors["m", rng.randrange(5)] = [BadModelError("bad")]

    steps: list[Callable[[], object]] = [
        put,
        put,
        lambda: splits.end("m"),
        lambda: manager.aspire("m", paths(*some())),
        lambda: manager.set_policy("m", rng.choice([Latest(1), Latest(2), Specific(some(2))])),
        hold,
        lambda: manager.promote("m", rng.randrange(5)),
        crash,
        fail,
    ]
    for _ in range(120):
        rng.choice(steps)()
        await turns(rng.randint(0, 12))
        router = splits.routers.get("m")
        if router is None:
            continue
        assert manager.kept("m") >= router.weights.keys()
        available = {version for version, state in states(manager).items() if state is AVAILABLE}
        assert {arm.version for arm in router.periods[-1].arms} == available & router.weights.keys()
        for _ in range(5):
            arm = router.pick(Nobody())
            servable = None if arm is None else arm.servable
            if servable is None:
                assert not any(router.weights[version] for version in available & router.weights.keys())
            else:
                assert isinstance(servable, FakeServable)
                assert servable is manager.resolve("m", servable.version)
                assert not servable.closed
                assert router.weights[servable.version] > 0
    splits.end("m")
    await asyncio.gather(*setting, return_exceptions=True)
    refusals = (NotFoundError, FailedPreconditionError, AbortedError, DeadlineExceededError)
    assert all(isinstance(task.exception(), refusals) for task in setting if task.exception() is not None)
    assert manager.kept("m") == frozenset()
    assert not splits.routers
    await manager.close(drain_timeout=1.0)
