"""A small HTTP/1.1 server on asyncio: listening sockets, time limits and a graceful stop.

Keep-alive, pipelining, chunked and gzip request bodies and ``Expect: 100-continue`` are the work of
`serving_server.rest.http1_connection`; `Limits` bounds it all. Handlers are plain callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from serving_server.rest.http1_connection import Connection, Handler
from serving_server.rest.http1_messages import Limits, Request, Response

__all__ = ["Handler", "HttpServer", "Limits", "Request", "Response"]

#: Seconds between two looks at the connections' deadlines: one timer for all of them.
_TICK: Final = 0.25
#: Pending connections that the kernel may hold for us.
_BACKLOG: Final = 1024
#: Seconds that transports get to report their end after an abort.
_ABORT_TIMEOUT: Final = 5.0


class HttpServer:
    """Serves one handler on any number of addresses, from one event loop.

    Parameters
    ----------
    handler : callable
        ``handler(request, answer)``: calls ``answer(response)`` at once or later, on the loop, exactly once, and may
        return a function that is called when the client goes away before that. It must not block.
    limits : Limits, optional
        Sizes and times.
    """

    def __init__(self, handler: Handler, *, limits: Limits | None = None) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.stopping = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._servers: list[asyncio.Server] = []
        self._unsent: list[Connection] = []
        self._unix: list[tuple[Path, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start_tcp(self, host: str | None, port: int, sock: socket.socket | None = None) -> list[tuple[str, int]]:
        """Listen on TCP.

        Parameters
        ----------
        host : str or None
            Interface, such as ``127.0.0.1`` or ``0.0.0.0``; None for all.
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
        if sock is not None:
            server = await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
        else:
            server = await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        self._servers.append(server)
        return [bound.getsockname()[:2] for bound in server.sockets]

    async def start_unix(self, path: str | os.PathLike[str]) -> None:
        """Listen on a unix socket that only this user can connect to (mode 0600).

        Raises
        ------
        OSError
            The path exists, is too long or cannot be written.
        """
        loop = self._attach()
        place = Path(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(os.fspath(place))
            # Before `listen`, so that nobody gets in between.
            os.chmod(place, 0o600)  # noqa: PTH101 - a system call on a local file, as `bind` is
            sock.setblocking(False)
            inode = os.stat(place).st_ino  # noqa: PTH116
            server = await loop.create_unix_server(self._connection, sock=sock, backlog=_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._unix.append((place, inode))
        self._servers.append(server)

    async def stop(self, grace: float) -> None:
        """Stop: accept nothing more, close idle connections, let requests end for up to `grace` seconds.

        Safe to call again, also at the same time.
        """
        self.stopping = True
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
            connection.close_when_idle()
        await self._until_empty(grace)
        for connection in list(self.connections):
            connection.abort()
        await self._until_empty(_ABORT_TIMEOUT)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _until_empty(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)

    def arrived(self, connection: Connection) -> None:
        """Take note of a new connection."""
        self.connections.add(connection)
        self._empty.clear()

    def left(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def send_soon(self, connection: Connection) -> None:
        """Call the connection's `send_answer` when this turn of the loop has made all its answers.

        The answers of a batch then leave in one go. Each sent when it is made wakes the client's process each time,
        and this one loses the processor to it.
        """
        if not self._unsent:
            (self._loop or asyncio.get_running_loop()).call_soon(self._send)
        self._unsent.append(connection)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            connection.send_answer()

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return (self._loop or asyncio.get_running_loop()).time()

    def _connection(self) -> Connection:
        return Connection(self)

    def _attach(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._loop = loop
            self._timer = loop.call_later(_TICK, self._tick)
        return loop

    def _tick(self) -> None:
        now = self.now()
        for connection in list(self.connections):
            connection.check_time(now)
        assert self._loop is not None
        self._timer = self._loop.call_later(_TICK, self._tick)
