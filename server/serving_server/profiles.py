"""Profiles of one worker as the front sees them: asked for by a message, told by another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.lines import Message
from serving_server.errors import ServingError, StatusCode

__all__ = ["Send", "WorkerProfiles"]


class Send(Protocol):
    """Sends a message, perhaps with descriptors, to a worker."""

    def __call__(self, message: Message, fds: Sequence[int] = (), /) -> None:
        """Send it."""


class WorkerProfiles:
    """Profiles that run in one worker, one at a time. All calls on the loop.

    Parameters
    ----------
    send : Send
        Sends a message to the worker.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._traces: set[int] = set()
        self._gone: ServingError | None = None

    async def run(self, path: str, seconds: float, options: Mapping[str, int]) -> int:
        """Profile for a while into a file, and return its size in bytes. Cancelling ends the profile early.

        Raises
        ------
        ServingError
            The worker cannot profile or cannot write the file, or has ended meanwhile.
        """
        number = next(self._numbers)
        self._traces.add(number)
        try:
            fields = {"path": path, "seconds": seconds, "options": dict(options)}
            return await self._ask(number, {"op": "profile", **fields})
        finally:
            self._traces.discard(number)

    async def ask(self, op: str, fields: Mapping[str, Any]) -> bytes:
        """Have the worker make a profile, and return it as JSON. Cancelling ends the profile early.

        Parameters
        ----------
        op : str
            ``profile_ops``, ``profile_memory``.
        fields : mapping
            What the worker shall do.

        Raises
        ------
        ServingError
            As `run`; another profile of this worker is running.
        """
        # By shared memory: thousands of events as a message would hold up the loop that answers requests.
        buffer = SharedBuffer()
        try:
            size = await self._ask(next(self._numbers), {**fields, "op": op}, (buffer.fd,))
            return buffer.readable(size)[:size]
        finally:
            buffer.close()

    async def _ask(self, number: int, message: Message, fds: Sequence[int] = ()) -> int:
        if self._gone is not None:
            raise self._gone  # nobody is there who would answer
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send({**message, "id": number}, fds)
        try:
            return await future
        except asyncio.CancelledError:
            self._send({"op": "end_profile", "id": number})
            raise
        finally:
            del self._waiting[number]

    def stop(self) -> None:
        """End a running trace (of `run`) before its time."""
        for number in self._traces:
            self._send({"op": "end_profile", "id": number})

    def told(self, message: Message) -> None:
        """Take the worker's word on a profile."""
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        if "size" in message:
            future.set_result(message["size"])
        else:
            future.set_exception(ServingError(message["message"], StatusCode(message["code"])))

    def fail(self, error: ServingError) -> None:
        """Answer all, and those that still come: the worker is gone."""
        self._gone = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
