"""The extension's supervisor where two who ask meet."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import pytest

import serving_workbench as sw
from serving_jupyter.extension import supervisor as supervising
from serving_jupyter.extension.instance import State
from serving_jupyter.extension.supervisor import Settings, Supervisor
from serving_workbench.records import is_alive
from tests.servers import wait_until


def test_a_start_and_a_restart_that_wait_for_a_stop() -> None:
    async def meet() -> None:
        supervisor = Supervisor(Settings(), logging.getLogger(__name__))
        first, _ = await supervisor.start("meeting")
        try:
            stop = asyncio.create_task(supervisor.stop("meeting"))
            restart = asyncio.create_task(supervisor.restart("meeting"))
            start = asyncio.create_task(supervisor.start("meeting"))
            assert await stop
            with pytest.raises(sw.ServerNotRunningError, match="was stopped before"):
                await restart
            second, is_new = await start
            assert (is_new, is_alive(first.pid, first.create_time)) == (True, False)
            # It is known, so it is watched once, and ends with Jupyter.
            assert [(each.state, each.record) for each in supervisor.instances()] == [(State.RUNNING, second)]
        finally:
            await supervisor.stop("meeting")
            await supervisor.close()

    asyncio.run(meet())


def test_a_server_that_tells_other_things_is_watched_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def of_another_version(_: Any) -> Any:
        nonlocal looks
        looks += 1
        raise KeyError("models")

    async def crash() -> None:
        supervisor = Supervisor(Settings(poll_interval=0.05, restart_backoff=0.0), logging.getLogger(__name__))
        first, _ = await supervisor.start("skewed")

        def is_back() -> bool:
            (found,) = supervisor.instances()
            return found.restarts == 1 and found.record is not None

        try:
            await asyncio.to_thread(wait_until, lambda: looks > 1, 30, "looks at the server")
            os.kill(first.pid, signal.SIGKILL)
            await asyncio.to_thread(wait_until, is_back, 30, "the next process")
            (again,) = supervisor.instances()
            assert again.record is not None
            assert (again.record.pid != first.pid, again.record.endpoints) == (True, first.endpoints)
        finally:
            await supervisor.stop("skewed")
            await supervisor.close()

    monkeypatch.setattr(supervising, "models_of", of_another_version)
    asyncio.run(crash())
