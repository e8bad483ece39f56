"""A loader, servables and a clock that do what the tests of the lifecycle say, when they say it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from serving_server.errors import ServingError
from serving_server.lifecycle import Loader, Manager, Servable, State

DEADLINE = 60.0


class FakeServable:
    """Stays up until `crash` or `close`; `pending` is what the test sets."""

    def __init__(self, model: str, version: int, pid: int) -> None:
        self.model = model
        self.version = version
        self.pid: int | None = pid
        self.pending = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.drains = 0
        self.closed = 0
        self.callback: Callable[[str], None] | None = None

    def begin_request(self) -> None:
        self.pending += 1
        self.idle.clear()

    def end_request(self) -> None:
        self.pending -= 1
        if not self.pending:
            self.idle.set()

    async def drain(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - as in the protocol
        self.drains += 1
        try:
            async with asyncio.timeout(timeout):
                await self.idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self.closed += 1

    def on_exit(self, callback: Callable[[str], None]) -> None:
        self.callback = callback

    def crash(self, reason: str = "killed by signal 9") -> None:
        assert self.callback is not None
        self.callback(reason)


class Load:
    """One call of `FakeLoader.load`, which waits for `finish` or `fail`."""

    def __init__(self, model: str, version: int, path: Path, on_step: Callable[[str], None]) -> None:
        self.model = model
        self.version = version
        self.path = path
        self.on_step = on_step
        self.result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        self.ended = False

    def finish(self) -> None:
        self.result.set_result(None)

    def fail(self, error: Exception) -> None:
        self.result.set_exception(error)


class FakeLoader:
    """Loads at once when `auto` is set; fails first with the errors queued in `errors`, by (model, version)."""

    def __init__(self, *, auto: bool = True) -> None:
        self.auto = auto
        self.errors: dict[tuple[str, int], list[Exception]] = {}
        self.loads: list[Load] = []
        self.servables: list[FakeServable] = []
        self.running = 0
        self.most = 0

    async def load(self, model: str, version: int, path: Path, on_step: Callable[[str], None]) -> Servable:
        load = Load(model, version, path, on_step)
        self.loads.append(load)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            on_step("load")
            errors = self.errors.get((model, version))
            if errors:
                raise errors.pop(0)
            if not self.auto:
                await load.result
        except asyncio.CancelledError:
            load.cancelled = True
            raise
        finally:
            self.running -= 1
            load.ended = True
        servable = FakeServable(model, version, pid=1000 + len(self.servables))
        self.servables.append(servable)
        return servable

    def versions(self) -> list[int]:
        return [load.version for load in self.loads]

    def waiting(self, version: int, model: str = "m") -> Load:
        """Return the load of `version` that has not ended."""
        return next(load for load in self.loads if (load.model, load.version) == (model, version) and not load.ended)


class FakeClock:
    """Time passes only by `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        sleeper = (self.now + seconds, asyncio.get_running_loop().create_future())
        self.sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self.sleepers.remove(sleeper)

    def delays(self) -> list[float]:
        """Return how long each sleeper still has to wait."""
        return [when - self.now for when, _ in self.sleepers]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for when, future in self.sleepers:
            if when <= self.now and not future.done():
                future.set_result(None)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - the condition is any expression, not an event
            await asyncio.sleep(0)


async def turns(number: int = 20) -> None:
    """Let everything that is ready run, before a test says that nothing happened."""
    for _ in range(number):
        await asyncio.sleep(0)


def paths(*versions: int) -> dict[int, Path]:
    return {version: Path(f"/models/m/{version}") for version in versions}


def states(manager: Manager, model: str = "m") -> dict[int, State]:
    return {view.version: view.state for view in manager.versions(model)}


async def reach(manager: Manager, model: str = "m", **expected: State) -> None:
    """Wait for states, given as ``v1=State.AVAILABLE``."""
    wanted = {int(name[1:]): state for name, state in expected.items()}
    await manager.wait_for(lambda: wanted.items() <= states(manager, model).items(), DEADLINE)


class BadModelError(ServingError):
    """What a broken SavedModel ends in."""


async def test_the_fakes_have_the_shape_of_the_protocols() -> None:
    loader: Loader = FakeLoader()
    servable = await loader.load("m", 1, Path("/models/m/1"), lambda step: None)
    assert await servable.drain(1.0)
    await servable.close()
