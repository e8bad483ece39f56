"""The front's way to files that only TensorFlow's file systems can read, as ``gs://bucket/model``.

A helper process with TensorFlow in it, forked like a worker when the first question comes, lists and reads
(`serving_server.worker.remote_files`). An object store may hang or fail for minutes: every question has its time, and a
helper that lets one pass is ended, with whatever it waits for.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving_server.channel.lines import LineChannel, Message
from serving_server.errors import DeadlineExceededError, NotFoundError, ServingError, StatusCode, UnavailableError
from serving_server.forkserver.client import ForkServer
from serving_server.lifecycle.scan import Fingerprint, Scan, choose_names
from serving_server.place import Place, RemotePath

__all__ = ["ANSWER_SECONDS", "RemoteFiles"]

log = logging.getLogger(__name__)

#: How long the helper may take for one question; TensorFlow's own client tries some errors again within that.
ANSWER_SECONDS: Final = 60.0


class _Helper:
    """One helper process, and the questions that it has not answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.asked: dict[int, asyncio.Future[Message]] = {}
        self.gone: str | None = None  # why it answers nothing any more
        self._lines = LineChannel(sock, self._on_message, self._on_closed)
        self._ids = itertools.count(1)
        self._exit = "was lost"

    async def ask(self, question: Message, seconds: float) -> Message:
        number = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.asked[number] = future
        try:
            self._lines.send({**question, "id": number})
            async with asyncio.timeout(seconds):
                return await future
        finally:
            self.asked.pop(number, None)

    def _on_message(self, message: Message) -> None:
        future = self.asked.pop(message["id"], None)
        if future is None or future.done():
            return
        if "code" in message:
            code = StatusCode(message["code"])
            kind = NotFoundError if code is StatusCode.NOT_FOUND else ServingError
            future.set_exception(kind(message["message"], code))
        else:
            future.set_result(message)

    def exited(self, reason: str) -> None:
        """Take note of how the process ended."""
        self._exit = reason

    def _on_closed(self) -> None:
        self.end(f"the process that reads remote files {self._exit}")

    def end(self, reason: str) -> None:
        """End the process by closing its socket, and tell whoever waits. Idempotent."""
        if self.gone is not None:
            return
        self.gone = reason
        self._lines.close()
        asked, self.asked = self.asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(UnavailableError(reason))


class RemoteFiles:
    """Owner of the helper process. All calls on the loop.

    Parameters
    ----------
    forkserver : ForkServer
    op_libraries : sequence of str
        Of ``--custom_op_libraries``: they may bring file systems along.
    answer_seconds : float
        How long a question may take.
    """

    def __init__(
        self, forkserver: ForkServer, op_libraries: Sequence[str] = (), answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._forkserver = forkserver
        self._op_libraries = list(op_libraries)
        self._seconds = answer_seconds
        self._helper: _Helper | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def look(self, base_path: RemotePath, failed: Mapping[int, Place]) -> Scan:
        """Return the versions under a base path, as `serving_server.lifecycle.scan.scan` does for a folder."""
        question = {
            "op": "look",
            "uri": str(base_path),
            "failed": {str(number): str(place) for number, place in failed.items()},
        }
        try:
            answer = await self._ask(question)
        except NotFoundError:
            return Scan({}, f"base path {base_path} does not exist; it is picked up when it appears", None)
        except ServingError as error:
            return Scan({}, f"cannot list {base_path}: {error.message}", None)
        found, duplicates = choose_names(answer["names"])
        prints = {int(number): Fingerprint(*seen) for number, seen in answer["prints"].items()}
        return Scan({number: base_path / name for number, name in found.items()}, None, None, duplicates, prints)

    async def read(self, uri: str, limit: int) -> bytes:
        """Return what a file holds, at most `limit` bytes and one more.

        Raises
        ------
        NotFoundError
            There is no such file.
        ServingError
            It cannot be read, or not in time.
        """
        answer = await self._ask({"op": "read", "uri": uri, "limit": limit})
        return base64.b64decode(answer["data"])

    async def _ask(self, question: dict[str, Any]) -> Message:
        helper = await self._get()
        try:
            return await helper.ask(question, self._seconds)
        except TimeoutError:
            reason = f"{question['uri']} has not answered for {self._seconds:g} s"
            helper.end(f"the process that reads remote files was ended: {reason}")
            raise DeadlineExceededError(reason) from None

    async def _get(self) -> _Helper:
        async with self._starting:
            if self._closed:
                raise UnavailableError("the server is shutting down")
            if self._helper is None or self._helper.gone is not None:
                self._helper = await self._start()
            return self._helper

    async def _start(self) -> _Helper:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        helper = _Helper(ours)
        try:
            spec = {"role": "remote_files", "op_libraries": self._op_libraries}
            pid = await self._forkserver.fork(spec, [theirs.fileno()])
        except BaseException:
            helper.end("it could not be started")
            raise
        finally:
            theirs.close()
        log.info("process %d reads remote files", pid)
        self._forkserver.on_exit(pid, helper.exited)
        return helper

    def close(self) -> None:
        """End the process. Idempotent; the process ends at once, whatever it is doing."""
        self._closed = True
        if self._helper is not None:
            self._helper.end("the server is shutting down")
