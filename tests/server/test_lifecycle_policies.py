"""The switches that TensorFlow Serving's library has but its flags have not, and what bounds the lifecycle's memory."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from test_lifecycle_fakes import FakeLoader, FakeServable, paths, reach, states, turns, until

from serving_server.errors import NotFoundError
from serving_server.lifecycle import All, Latest, Manager, Specific, State, VersionSource
from serving_server.lifecycle import manager as manager_module
from serving_server.lifecycle import model as model_module

AVAILABLE, UNLOADING, END = State.AVAILABLE, State.UNLOADING, State.END


class SlowToClose(FakeServable):
    """Closes when told."""

    def __init__(self, model: str, version: int, pid: int) -> None:
        super().__init__(model, version, pid)
        self.may_close = asyncio.Event()
        self.closing = False

    async def close(self) -> None:
        self.closing = True
        await self.may_close.wait()
        await super().close()


class SlowToCloseLoader(FakeLoader):
    async def load(self, *arguments: object) -> SlowToClose:
        servable = await super().load(*arguments)  # type: ignore[arg-type]
        assert isinstance(servable, FakeServable)
        slow = SlowToClose(servable.model, servable.version, servable.pid or 0)
        self.servables[-1] = slow
        return slow


async def test_resource_preserving_unloads_before_it_loads() -> None:
    loader = FakeLoader()
    manager = Manager(loader, resource_preserving=True)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    (first,) = loader.servables
    first.begin_request()
    manager.aspire("m", paths(1, 2))
    await turns()
    assert states(manager) == {1: UNLOADING}
    assert loader.versions() == [1]
    with pytest.raises(NotFoundError):
        manager.resolve("m")
    first.end_request()
    await reach(manager, v1=END, v2=AVAILABLE)
    assert first.closed == 1
    await manager.close()


async def test_resource_preserving_keeps_what_nothing_replaces() -> None:
    manager = Manager(FakeLoader(), resource_preserving=True)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    manager.set_policy("m", Specific([9]))
    await turns()
    assert states(manager) == {1: AVAILABLE}
    manager.aspire("m", {})
    await reach(manager, v1=END)
    await manager.close()


async def test_resource_preserving_reloads_a_version_wanted_again_during_its_unload() -> None:
    loader = FakeLoader()
    manager = Manager(loader, resource_preserving=True)
    manager.add_model("m")
    manager.aspire("m", paths(1))
    await reach(manager, v1=AVAILABLE)
    loader.servables[0].begin_request()
    manager.aspire("m", {})
    await turns()
    manager.aspire("m", paths(1))
    loader.servables[0].end_request()
    await until(lambda: loader.versions() == [1, 1])
    await reach(manager, v1=AVAILABLE)
    await manager.close()


async def test_unloads_can_be_limited() -> None:
    loader = SlowToCloseLoader()
    manager = Manager(loader, num_unload_threads=1)
    manager.add_model("m", All())
    manager.aspire("m", paths(1, 2, 3))
    await reach(manager, v1=AVAILABLE, v2=AVAILABLE, v3=AVAILABLE)
    manager.aspire("m", {})
    slow = [servable for servable in loader.servables if isinstance(servable, SlowToClose)]
    for closed in range(3):
        await until(lambda closed=closed: sum(servable.closing for servable in slow) == closed + 1)
        await turns()
        assert sum(servable.closing for servable in slow) == closed + 1
        next(servable for servable in slow if servable.closing and not servable.may_close.is_set()).may_close.set()
    await reach(manager, v1=END, v2=END, v3=END)
    await manager.close()


async def test_ended_versions_do_not_pile_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "MAX_ENDED", 3)
    manager = Manager(FakeLoader())
    manager.add_model("m", Latest(1))
    for number in range(1, 9):
        manager.aspire("m", paths(number))
        await reach(manager, **{f"v{number}": AVAILABLE})
    # Version 7 was still tidying up when it was last counted.
    await until(lambda: states(manager) == {8: AVAILABLE, 7: END, 6: END, 5: END, 4: END})
    await manager.close()


async def test_removed_models_do_not_pile_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "MAX_ENDED", 2)
    manager = Manager(FakeLoader())
    for number in range(6):
        manager.add_model(f"m{number}")
        manager.remove_model(f"m{number}")
    with pytest.raises(NotFoundError):
        manager.versions("m0")
    assert manager.versions("m5") == []
    await manager.close()


async def test_a_model_that_is_about_to_get_a_version_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problems: list[str] = []
    source = VersionSource(lambda model, versions: None, poll_wait_seconds=60, on_problem=problems.append)
    source.add("patient", tmp_path, patience=60)
    source.add("usual", tmp_path)
    with caplog.at_level(logging.INFO):
        await source.poll_now("patient")
        await source.poll_now("usual")
        (tmp_path / "1").mkdir()
        await source.poll_now("patient")
        await source.poll_now("usual")
    await source.close()
    told = [record.message for record in caplog.records if "patient" in record.message]
    assert told == []
    assert sum("No versions of servable usual" in record.message for record in caplog.records) == 1
    assert sorted(problems) == ["patient", "patient", "usual", "usual"]


async def test_a_missing_base_path_is_told_in_tf_serving_s_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = VersionSource(lambda model, versions: None, poll_wait_seconds=-1)
    source.add("m", tmp_path / "none")
    await source.poll_now("m")
    await source.poll_now("m")
    await source.close()
    text = f"Could not find base path {tmp_path / 'none'} for servable m with error base path"
    assert [record.message.startswith(text) for record in caplog.records] == [True]
