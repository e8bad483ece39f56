"""The connections of a REST run: HTTP/1.1, kept alive, one request at a time on each."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import deque
from typing import Any, Final, cast

import httptools

from serving_server.errors import StatusCode, UnavailableError
from serving_workbench.client_stamps import HEADER
from serving_workbench.load.job import Job, request_id
from serving_workbench.load.lanes import Done, Lanes

__all__ = ["RestConnection", "RestLanes", "request_bytes"]

#: Seconds for a connection, and between two attempts to replace lost ones.
_CONNECT: Final = 10.0
_RETRY: Final = 0.1
#: Bytes of an answer that a message about it quotes.
_QUOTED: Final = 300


def request_bytes(host: str, path: str, body: bytes, headers: list[tuple[str, str]]) -> bytes:
    """Return a POST of JSON as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class RestConnection(asyncio.Protocol):
    """One connection; a lost one answers UNAVAILABLE, one that speaks no HTTP INTERNAL."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._done: Done | None = None
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @property
    def usable(self) -> bool:
        """Whether it can take a request now or later."""
        return not self._transport.is_closing()

    def send(self, data: bytes, done: Done) -> None:
        """Send a request; the answer before must have come."""
        assert self._done is None
        self._done = done
        if self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._finish, None, StatusCode.UNAVAILABLE, "the connection is closed")
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._transport.abort()
            self._finish(None, StatusCode.INTERNAL, f"not HTTP: {error}")

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body (httptools)."""
        self._body.append(piece)

    def on_message_complete(self) -> None:
        """Take the end of an answer (httptools)."""
        body = b"".join(self._body)
        self._body.clear()
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self._transport.close()
        details = "" if status == 200 else f"HTTP {status}: {body[:_QUOTED].decode('utf-8', 'replace')}"
        self._finish(body, status, details)

    def _finish(self, body: bytes | None, status: int, details: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(body, status, details)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(None, StatusCode.UNAVAILABLE, f"the connection was lost{f': {exc}' if exc else ''}")
        if not self.gone.done():
            self.gone.set_result(None)

    async def close(self) -> None:
        """Close it, whatever is in flight."""
        self._transport.abort()
        await asyncio.wait([self.gone], timeout=5)


class RestLanes(Lanes):
    """Gives each request to a free connection. The loops keep no more requests in flight than there are connections."""

    def __init__(self, job: Job, tls: ssl.SSLContext | None) -> None:
        host, _, port = job.address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._address = job.address
        self._tls = tls
        self._wanted = job.connections
        self._free: deque[RestConnection] = deque()
        self._waiting: deque[tuple[int, Done]] = deque()
        self._all: set[RestConnection] = set()
        self._replacing: asyncio.Task[None] | None = None
        self._stamped, self._stamp = 0, ""
        self._requests = [request_bytes(job.address, path, body, job.metadata) for path, body in job.requests]

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await loop.create_connection(RestConnection, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise UnavailableError(f"{self._address}: no server answered within {_CONNECT:g} s") from None
        except OSError as error:
            raise UnavailableError(f"{self._address}: cannot connect: {error}") from None
        self._all.add(connection)
        self._release(connection)

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        ServingError
            With the address.
        """
        for _ in range(self._wanted):
            await self._connect()

    def stamp(self, every: int, stamp: str) -> None:
        """Give requests ids (see `Lanes`)."""
        self._stamped, self._stamp = every, stamp

    def send(self, lane: int, number: int, done: Done) -> None:
        """Send request `number` (see `Lanes`). While a lost connection is replaced it may have to wait for another."""
        while self._free:
            connection = self._free.popleft()
            if connection.usable:
                self._send(connection, number, done)
                return
            self._all.discard(connection)
        self._waiting.append((number, done))
        self.usable()

    def _send(self, connection: RestConnection, number: int, done: Done) -> None:
        data = self._requests[number % len(self._requests)]
        if self._stamped and not number % self._stamped:
            first, line, rest = data.partition(b"\r\n")
            data = b"".join((first, line, f"{HEADER}: {request_id(self._stamp, number)}".encode(), line, rest))
        connection.send(data, functools.partial(self._answered, connection, done))

    def _answered(self, connection: RestConnection, done: Done, body: bytes | None, status: int, details: str) -> None:
        if connection.usable:
            self._release(connection)
        else:
            self._all.discard(connection)
        done(body, status, details)

    def _release(self, connection: RestConnection) -> None:
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._free.append(connection)

    def usable(self) -> bool:
        """Whether a request could be sent now (see `Lanes`)."""
        for connection in [each for each in self._free if not each.usable]:
            self._free.remove(connection)
            self._all.discard(connection)
        if len(self._all) < self._wanted and (self._replacing is None or self._replacing.done()):
            self._replacing = asyncio.get_running_loop().create_task(self._replace())
        return bool(self._all)

    async def _replace(self) -> None:
        while len(self._all) < self._wanted:
            try:
                await self._connect()
            except UnavailableError:
                await asyncio.sleep(_RETRY)

    async def close(self) -> None:
        """Close all, whatever is in flight."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        await asyncio.gather(*(connection.close() for connection in list(self._all)))
