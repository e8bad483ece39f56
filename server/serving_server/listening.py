"""Listening sockets, the connections that come through them, their clock, and a graceful stop: for HTTP/1.1 and HTTP/2.

A protocol's server derives from `ConnectionServer` and makes its connections; all else about sockets is here.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = ["Connection", "ConnectionServer", "everywhere"]

#: Seconds between two looks at what takes time: one timer for all connections.
_TICK: Final = 0.25
#: Pending connections that the kernel may hold for us.
_BACKLOG: Final = 1024
#: Seconds that transports get to report their end after an abort.
_ABORT_TIMEOUT: Final = 5.0


def everywhere(port: int) -> socket.socket:
    """Return a socket that listens on a port of all interfaces: of IPv6 and IPv4, or IPv4 alone where IPv6 is off.

    Raises
    ------
    OSError
        The port is in use.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - that is what is asked for


class Connection(Protocol):
    """What a server needs of its connections, beside what the event loop needs."""

    def check_time(self, now: float) -> None:
        """Act on a deadline that has passed."""

    def drain(self) -> None:
        """Let what runs end, take nothing more, and close."""

    def abort(self) -> None:
        """Drop the connection and whatever runs on it."""


C = TypeVar("C", bound=Connection)


class ConnectionServer(abc.ABC, Generic[C]):
    """Listens on any number of addresses, from one event loop.

    Parameters
    ----------
    tls : ssl.SSLContext, optional
        Of a server, for all addresses.
    handshake_timeout : float
        Seconds for a TLS handshake.
    socket_mode : int, optional
        Permissions of unix sockets; without it they are the process's umask's.

    Attributes
    ----------
    connections : set of Connection
    stopping : bool
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, handshake_timeout: float = 10.0, socket_mode: int | None = None
    ) -> None:
        self.connections: set[C] = set()
        self.stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket_mode = socket_mode
        self._options: dict[str, Any] = {"backlog": _BACKLOG}
        if tls is not None:
            self._options.update(ssl=tls, ssl_handshake_timeout=handshake_timeout)
        self._servers: list[asyncio.Server] = []
        self._unix: list[tuple[Path, int]] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: asyncio.TimerHandle | None = None

    @abc.abstractmethod
    def _connection(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection, which calls `arrived` and `left`."""

    # -- listening -----------------------------------------------------------------------------------------------------

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
            server = await loop.create_server(self._connection, sock=sock, **self._options)
        else:
            server = await loop.create_server(self._connection, host, port, **self._options)
        self._servers.append(server)
        return [bound.getsockname()[:2] for bound in server.sockets]

    async def start_unix(self, path: str | os.PathLike[str]) -> None:
        """Listen on a unix socket. One that nobody listens on any more is replaced.

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
            inode = os.stat(place).st_ino  # noqa: PTH116 - a system call on a local file, as `bind` is
            if self._socket_mode is not None:
                # Before `listen`, so that nobody gets in between.
                os.chmod(place, self._socket_mode)  # noqa: PTH101
            sock.setblocking(False)
            server = await loop.create_unix_server(self._connection, sock=sock, **self._options)
        except BaseException:
            sock.close()
            raise
        self._unix.append((place, inode))
        self._servers.append(server)

    # -- what connections ask for --------------------------------------------------------------------------------------

    def arrived(self, connection: C) -> None:
        """Take note of a new connection."""
        self.connections.add(connection)
        self._empty.clear()
        if self.stopping:
            # Accepted just before, or its TLS handshake ended only now. It is not ready for this inside the call.
            asyncio.get_running_loop().call_soon(connection.drain)

    def left(self, connection: C) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def now(self) -> float:
        """Return the loop's time in seconds."""
        return (self._loop or asyncio.get_running_loop()).time()

    # -- time ----------------------------------------------------------------------------------------------------------

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

    # -- the end -------------------------------------------------------------------------------------------------------

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let what runs end for up to `grace` seconds.

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
            connection.drain()
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
    raise OSError(errno.EADDRINUSE, "address in use: a server listens on this socket")
