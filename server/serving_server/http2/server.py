"""Listening sockets, the clock of all connections, and a graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving_server.http2.flow import Output
from serving_server.http2.limits import Http2Limits
from serving_server.http2.routing import Route
from serving_server.http2.server_connection import ServerConnection

__all__ = ["Http2Server"]

#: Seconds between two looks at what takes time: one timer for all connections.
_TICK: Final = 0.25
#: Pending connections that the kernel may hold for us.
_BACKLOG: Final = 1024
#: Seconds that transports get to report their end after an abort.
_ABORT_TIMEOUT: Final = 5.0


class Http2Server:
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
        self.connections: set[ServerConnection] = set()
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._servers: list[asyncio.Server] = []
        self._unix: list[tuple[Path, int]] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._expire_timer: asyncio.TimerHandle | None = None
        self._expire_at = math.inf
        self._unflushed: list[Output] = []

    # -- listening -----------------------------------------------------------------------------------------------------

    async def start_tcp(self, host: str | None, port: int, sock: socket.socket | None = None) -> list[tuple[str, int]]:
        """Listen on TCP.

        Parameters
        ----------
        host : str or None
            Interface, such as ``127.0.0.1``; None for all.
        port : int
            0 for a free one.
        sock : socket, optional
            Already bound; host and port are not looked at.

        Returns
        -------
        list of (host, port)
            What is bound.

        Raises
        ------
        OSError
            The address is in use or not ours. `SO_REUSEPORT` is never set: a second server on a port must fail.
        """
        loop = self._attach()
        options: dict[str, Any] = {"backlog": _BACKLOG, **self._tls_options()}
        if sock is not None:
            server = await loop.create_server(self._connection, sock=sock, **options)
        else:
            server = await loop.create_server(self._connection, host, port, **options)
        self._servers.append(server)
        return [bound.getsockname()[:2] for bound in server.sockets]

    async def start_unix(self, path: str | os.PathLike[str]) -> None:
        """Listen on a unix socket, made with the process's umask. One that nobody listens on any more is replaced.

        Raises
        ------
        OSError
            Somebody listens there, or the path is something else, too long or not writable.
        """
        loop = self._attach()
        place = Path(path)
        _remove_dead_socket(place)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(os.fspath(place))
            sock.setblocking(False)
            inode = os.stat(place).st_ino  # noqa: PTH116
            server = await loop.create_unix_server(self._connection, sock=sock, backlog=_BACKLOG, **self._tls_options())
        except BaseException:
            sock.close()
            raise
        self._unix.append((place, inode))
        self._servers.append(server)

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {"ssl": self._tls, "ssl_handshake_timeout": self.limits.handshake_timeout}

    def _connection(self) -> ServerConnection:
        return ServerConnection(self)

    def _attach(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._tick_timer is None:
            self._loop = loop
            self._tick_timer = loop.call_later(_TICK, self._tick)
        return loop

    # -- what connections ask for (`server_connection.Owner`) ----------------------------------------------------------

    def arrived(self, connection: ServerConnection) -> None:
        """Take note of a new connection."""
        self.connections.add(connection)
        self._empty.clear()

    def left(self, connection: ServerConnection) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def now(self) -> float:
        """Return the loop's time in seconds."""
        assert self._loop is not None
        return self._loop.time()

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
            self.expire_at(earliest)

    def _tick(self) -> None:
        now = self.now()
        for connection in list(self.connections):
            connection.check_time(now)
        assert self._loop is not None
        self._tick_timer = self._loop.call_later(_TICK, self._tick)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let calls end for up to `grace` seconds.

        Safe to call again, also at the same time.
        """
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for path, inode in self._unix:
            # Not the socket of a later server that took the path.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:
                    path.unlink()
        self._unix.clear()
        for connection in list(self.connections):
            connection.drain()
        await self._until_empty(grace)
        for connection in list(self.connections):
            connection.abort()
        await self._until_empty(_ABORT_TIMEOUT)
        for timer in (self._tick_timer, self._expire_timer):
            if timer is not None:
                timer.cancel()
        self._tick_timer = self._expire_timer = None
        self._expire_at = math.inf

    async def _until_empty(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)


def _remove_dead_socket(place: Path) -> None:
    """Remove a socket that an earlier server has left.

    Raises
    ------
    OSError
        When somebody answers there.
    """
    try:
        if not stat.S_ISSOCK(place.stat().st_mode):
            return  # `bind` will say what is wrong
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(place))
        except ConnectionRefusedError:
            place.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise OSError(errno.EADDRINUSE, "a server listens on this socket")
