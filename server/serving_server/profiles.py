"""Profiles of one worker as the front sees them: asked for by a message, told by another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping

from serving_server.channel.lines import Message
from serving_server.errors import ServingError, StatusCode

__all__ = ["WorkerProfiles"]


class WorkerProfiles:
    """Profiles that run in one worker. All calls on the loop.

    Parameters
    ----------
    send : callable
        Sends a message to the worker.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}

    async def run(self, path: str, seconds: float, options: Mapping[str, int]) -> int:
        """Profile for a while into a file, and return its size in bytes. Cancelling ends the profile early.

        Raises
        ------
        ServingError
            The worker cannot profile or cannot write the file, or has ended meanwhile.
        """
        number = next(self._numbers)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send({"op": "profile", "id": number, "path": path, "seconds": seconds, "options": dict(options)})
        try:
            return await future
        except asyncio.CancelledError:
            self.stop()
            raise
        finally:
            del self._waiting[number]

    def stop(self) -> None:
        """End a running profile before its time."""
        self._send({"op": "end_profile"})

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
        """Answer all: the worker is gone."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
