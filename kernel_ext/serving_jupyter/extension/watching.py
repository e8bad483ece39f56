"""The end of a process that may not be our child, known at once where the system can tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final

from serving_workbench.records import Record, is_alive

__all__ = ["wait_ended"]

_POLL_SECONDS: Final = 0.25


async def wait_ended(record: Record, seconds: float) -> bool:
    """Wait for the end of a record's process; return whether it has ended within `seconds` seconds."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except (AttributeError, OSError):  # not Linux, a kernel without it, or gone
        return await _poll(record, seconds)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        try:
            # After the descriptor is there, so that it is known to be of this process and not of one with its old pid.
            if is_alive(record.pid, record.create_time):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), seconds)
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
    return not is_alive(record.pid, record.create_time)


async def _poll(record: Record, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while is_alive(record.pid, record.create_time):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.sleep(min(_POLL_SECONDS, left))
    return True
