"""Connections to serving processes for the proxy: HTTP/1.1 on asyncio, kept open between requests, one at a time each.

Tornado's own client opens a connection per request and takes a request's body whole; a predict of a small model would
spend more on that than on its answer, and a large one would lie in memory twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

import httptools

__all__ = ["Connection", "Pool", "UpstreamError"]

#: Bytes of an answer that wait for a slow reader before no more is read.
_MAX_WAITING: Final = 256 * 1024
#: Seconds that a connection waits for its next request: half of what the serving process allows.
_IDLE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 5.0


class UpstreamError(Exception):
    """The serving process did not answer, or not with HTTP."""


class Connection(asyncio.Protocol):
    """One connection; made by `Pool.take`.

    Attributes
    ----------
    status : int
    headers : list of (str, str)
        Of the answer, after `head`; names in lower case.
    complete : bool
        The whole answer has been received.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: str | None = None
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.complete = False
        self._in_use = False
        self._has_head = False
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._news: asyncio.Future[None] | None = None

    # --- the request ---

    def send_head(self, method: str, target: str, host: str, headers: Sequence[tuple[str, str]]) -> bytes:
        """Return the head of a request, to be sent with the first piece of its body."""
        self._in_use = True
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def send(self, data: bytes) -> None:
        """Send bytes; wait while the serving process takes none."""
        if self._lost is None:
            self._transport.write(data)
            await self._writable.wait()

    # --- the answer ---

    async def head(self, patience: float) -> None:
        """Wait for status and headers."""
        while not self._has_head:
            await self._wait(patience)

    async def body(self, patience: float) -> AsyncIterator[bytes]:
        """Yield the body, piece by piece; `patience` seconds for each."""
        while True:
            if self._pieces:
                piece = b"".join(self._pieces)
                self._pieces.clear()
                self._waiting_bytes = 0
                if not self._transport.is_closing():
                    self._transport.resume_reading()
                yield piece
            elif self.complete:
                return
            else:
                await self._wait(patience)

    async def _wait(self, patience: float) -> None:
        if self._lost is not None:
            raise UpstreamError(self._lost)
        self._news = self._loop.create_future()
        try:
            await asyncio.wait_for(self._news, patience)
        except TimeoutError:
            raise UpstreamError(f"nothing came for {patience:g} s") from None
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # --- asyncio's and the parser's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._in_use:
            self.abort()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lost = f"the answer is not HTTP: {error}"
            self._transport.abort()
        self._tell()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header (httptools)."""
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Take the end of the head (httptools)."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers = []  # interim: the answer follows
        else:
            self._has_head = True

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body (httptools)."""
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes > _MAX_WAITING:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Take the end of an answer (httptools)."""
        if self._has_head:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._lost or f"the connection was lost{f': {exc}' if exc else ''}"
        self._writable.set()
        self._tell()

    # --- its end, or its next use ---

    def abort(self) -> None:
        """Close it, whatever is under way. Idempotent."""
        self._lost = self._lost or "the request was given up"
        self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._lost is None and not self._transport.is_closing()

    def renew(self) -> bool:
        """Make it ready for the next request; return whether it can take one."""
        if not (self.is_open and self.complete and self._keep and not self._pieces):
            return False
        self._begin()
        self._transport.resume_reading()
        return True


class Pool:
    """Connections that wait for their next request, by address.

    Parameters
    ----------
    limit : int
        Connections in use at once, over all addresses.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._in_use: set[Connection] = set()

    async def take(self, address: tuple[str, int]) -> Connection:
        """Return a connection for one request; give it back by `give`.

        Raises
        ------
        UpstreamError
            Nothing listens there, or too many requests run.
        """
        loop = asyncio.get_running_loop()
        waiting = self._idle.get(address, [])
        while waiting:
            connection = waiting.pop()
            if connection.is_open and loop.time() - connection.idle_since < _IDLE_SECONDS:
                self._in_use.add(connection)
                return connection
            connection.abort()
        if len(self._in_use) >= self._limit:
            raise UpstreamError(f"{self._limit} requests run already")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(Connection, *address)
        except OSError as error:  # TimeoutError included
            raise UpstreamError(f"no connection: {error or 'timed out'}") from error
        self._in_use.add(connection)
        return connection

    def give(self, address: tuple[str, int], connection: Connection) -> None:
        """Take a connection back; it is closed unless its answer was received whole. Idempotent."""
        if connection not in self._in_use:
            return
        self._in_use.discard(connection)
        if connection.renew():
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.setdefault(address, []).append(connection)
            self._drop_old()
        else:
            connection.abort()

    def _drop_old(self) -> None:
        """Close what has waited too long, of all addresses: those of ended servers too."""
        now = asyncio.get_running_loop().time()
        for address, waiting in list(self._idle.items()):
            kept = []
            for connection in waiting:
                if connection.is_open and now - connection.idle_since < _IDLE_SECONDS:
                    kept.append(connection)
                else:
                    connection.abort()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]

    def close(self) -> None:
        """Close all. Idempotent."""
        for connection in [*self._in_use, *(each for waiting in self._idle.values() for each in waiting)]:
            connection.abort()
        self._in_use.clear()
        self._idle.clear()
