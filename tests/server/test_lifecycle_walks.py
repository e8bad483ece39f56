"""Random sequences of everything that can happen: the service is never lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random

import pytest
from test_lifecycle_fakes import DEADLINE, BadModelError, FakeClock, FakeLoader, paths, states, turns

from serving_server.errors import FailedPreconditionError
from serving_server.lifecycle import All, Latest, Manager, Specific, State
from serving_server.lifecycle.slots import LoadSlots


class Walk:
    """A manager with one model, and the steps of a random walk."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loader = FakeLoader(auto=False)
        self.clock = FakeClock()
        self.manager = Manager(self.loader, clock=self.clock, num_load_threads=2, max_load_retries=1)
        self.manager.add_model("m")

    def step(self) -> bool:
        """Do something; return True when it was a crash, which may take the service away."""
        choose = self.random
        loads = [load for load in self.loader.loads if not load.ended and not load.result.done()]
        match choose.randrange(9):
            case 0 | 1 if loads:
                choose.choice(loads).finish()
            case 2 if loads:
                choose.choice(loads).fail(BadModelError("bad"))
            case 3:
                self.manager.aspire("m", paths(*choose.sample(range(1, 7), choose.randint(1, 4))))
            case 4:
                specific = Specific([choose.randint(1, 8)])
                self.manager.set_policy("m", choose.choice([Latest(), Latest(2), All(), specific]))
            case 5:
                try:
                    self.manager.hold("m", choose.randint(1, 6))
                except FailedPreconditionError:
                    assert len(self.manager.held("m")) < 6
            case 6:
                self.manager.promote("m", choose.randint(1, 6))
            case 7:
                up = [servable for servable in self.loader.servables if servable.callback and not servable.closed]
                if up and choose.random() < 0.3:
                    choose.choice(up).crash()
                    return True
            case 8:
                self.clock.advance(choose.choice([1.0, 30.0, 61.0]))
                self.manager.retry("m", choose.randint(1, 6))
        return False

    async def settle(self) -> None:
        """Let one new version be all that is wanted, and wait until it is all that there is."""
        self.loader.auto = True
        for load in self.loader.loads:
            if not load.ended and not load.result.done():
                load.finish()
        self.manager.set_policy("m", Latest())
        self.manager.aspire("m", paths(9))

        def settled() -> bool:
            live = {version: state for version, state in states(self.manager).items() if state != State.END}
            return live == {9: State.AVAILABLE}

        async with asyncio.timeout(DEADLINE):
            while not settled():
                self.clock.advance(61.0)
                await turns(1)


@pytest.mark.parametrize("seed", range(60))
async def test_no_sequence_of_events_loses_the_service(seed: int) -> None:
    walk = Walk(seed)
    for number in range(200):
        before = walk.manager.serving_version("m")
        crashed = walk.step()
        await turns(walk.random.randint(0, 12))
        lost = before is not None and walk.manager.serving_version("m") is None
        assert crashed or not lost, f"step {number}: version {before} went without a successor; {states(walk.manager)}"
    await walk.settle()
    await walk.manager.close()
    assert all(servable.closed for servable in walk.loader.servables)
    assert walk.loader.running == 0
    assert walk.clock.sleepers == []


async def test_a_slot_is_not_lost_to_a_waiter_that_is_cancelled_in_the_same_turn() -> None:
    slots = LoadSlots(1)
    held = asyncio.Event()

    async def load(version: int) -> None:
        async with slots.hold("m", version):
            await held.wait()

    first, second, third = (asyncio.create_task(load(version)) for version in (3, 2, 1))
    await turns()
    first.cancel()  # gives its slot back before the waiter notices that it was cancelled
    second.cancel()
    await asyncio.wait([first, second])
    await turns()
    third.cancel()  # granted now
    await asyncio.wait([third])
    held.set()
    async with asyncio.timeout(DEADLINE):
        await load(4)


async def test_a_slot_that_is_granted_and_cancelled_in_the_same_turn_goes_on() -> None:
    slots = LoadSlots(1)

    async def wait() -> None:
        async with slots.hold("m", 1):
            pytest.fail("was cancelled")

    async with slots.hold("m", 2):
        waiting = asyncio.create_task(wait())
        await turns()
    waiting.cancel()
    await asyncio.wait([waiting])
    async with asyncio.timeout(DEADLINE), slots.hold("m", 3):
        pass
