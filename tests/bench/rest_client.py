"""HTTP/1.1 keep-alive connections that repeat one request: REST's load where h2load is not used."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import httptools

from serving_server.errors import StatusCode
from serving_server.http2_client.call import OnDone

__all__ = ["RestConnection", "RestPool", "post"]


def post(host: str, path: str, body: bytes) -> bytes:
    """Return the bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class RestConnection(asyncio.Protocol):
    """One connection, one request at a time; errors come as `on_done` with UNKNOWN or UNAVAILABLE.

    Parameters
    ----------
    request : bytes
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._on_done: OnDone | None = None
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, on_done: OnDone) -> None:
        """Send the request; the answer before must have come."""
        assert self._on_done is None
        self._on_done = on_done
        if self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._finish, None, StatusCode.UNAVAILABLE, "the connection is closed")
        else:
            self._transport.write(self._request)

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
        if status == 200:
            self._finish(body, StatusCode.OK, "")
        else:
            self._finish(None, StatusCode.UNKNOWN, f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}")

    def _finish(self, body: bytes | None, status: StatusCode, details: str) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(body, status, details)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(None, StatusCode.UNAVAILABLE, "the connection was lost")
        self.gone.set_result(None)

    async def close(self) -> None:
        """Close it, whatever is in flight."""
        self._transport.abort()
        await asyncio.wait([self.gone], timeout=5)


class RestPool:
    """Gives each request to a free connection, or to the next that becomes free."""

    def __init__(self, connections: list[RestConnection]) -> None:
        self._free = deque(connections)
        self._waiting: deque[OnDone] = deque()

    def send(self, on_done: OnDone) -> None:
        """Send a request when a connection is free."""
        if self._free:
            self._send(self._free.popleft(), on_done)
        else:
            self._waiting.append(on_done)

    def _send(self, connection: RestConnection, on_done: OnDone) -> None:
        def done(body: bytes | bytearray | None, status: StatusCode, details: str) -> None:
            if self._waiting:
                self._send(connection, self._waiting.popleft())
            else:
                self._free.append(connection)
            on_done(body, status, details)

        connection.send(done)
