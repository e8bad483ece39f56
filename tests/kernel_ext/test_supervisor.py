"""The extension's supervisor where two who ask meet."""

from __future__ import annotations

import asyncio
import logging

import pytest

import serving_workbench as sw
from serving_jupyter.extension.instance import State
from serving_jupyter.extension.supervisor import Settings, Supervisor
from serving_workbench.records import is_alive


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
