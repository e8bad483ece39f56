"""gRPC methods on listening sockets, and the clock of all calls' deadlines."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Mapping
from typing import Final

from serving_server.http2.flow import Output
from serving_server.http2.limits import Http2Limits
from serving_server.http2.routing import Route
from serving_server.http2.server_connection import ServerConnection
from serving_server.listening import ConnectionServer

__all__ = ["Http2Server"]

#: Least time between two looks at all calls' deadlines, in seconds: thousands of calls may each have another.
_RESOLUTION: Final = 0.005


class Http2Server(ConnectionServer[ServerConnection]):
    """Serves gRPC methods on any number of addresses, from one event loop.

    Parameters
    ----------
    routes : mapping of bytes to Route
        Handlers by path, such as ``b"/package.Service/Method"``.
    limits : Http2Limits, optional
    tls : ssl.SSLContext, optional
        Of a server; ALPN is set to h2 here. Client certificates are its business too.
    """

    def __init__(
        self, routes: Mapping[bytes, Route], limits: Http2Limits | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.routes = routes
        self.limits = limits or Http2Limits()
        super().__init__(tls=tls, handshake_timeout=self.limits.handshake_timeout)
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._expire_timer: asyncio.TimerHandle | None = None
        self._expire_at = math.inf
        self._unflushed: list[Output] = []

    def _connection(self) -> ServerConnection:
        return ServerConnection(self)

    # -- what connections ask for (`server_connection.Owner`) ----------------------------------------------------------

    def flush_soon(self, output: Output) -> None:
        """Flush at the end of this turn of the loop, together with all others that ask."""
        if not self._unflushed:
            assert self._loop is not None
            self._loop.call_soon(self._flush)
        self._unflushed.append(output)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for output in unflushed:
            output.flush()

    def expire_at(self, time: float) -> None:
        """Look for calls whose deadline has passed, then."""
        if time < self._expire_at:
            if self._expire_timer is not None:
                self._expire_timer.cancel()
            assert self._loop is not None
            self._expire_at = time
            self._expire_timer = self._loop.call_at(time, self._expire)

    def _expire(self) -> None:
        # One timer for all deadlines: most calls end long before theirs, and a timer for each would cost more than it.
        self._expire_at = math.inf
        self._expire_timer = None
        now = self.now()
        earliest = min((connection.expire(now) for connection in list(self.connections)), default=math.inf)
        if earliest != math.inf:
            self.expire_at(max(earliest, now + _RESOLUTION))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let calls end for up to `grace` seconds.

        Safe to call again, also at the same time.
        """
        await super().stop(grace)
        if self._expire_timer is not None:
            self._expire_timer.cancel()
            self._expire_timer = None
        self._expire_at = math.inf
