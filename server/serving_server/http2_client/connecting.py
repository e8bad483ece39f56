"""Opening a connection: TCP, unix sockets, TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from serving_server.errors import InvalidArgumentError, UnavailableError
from serving_server.http2.limits import Http2Limits
from serving_server.http2_client.connection import CLIENT_LIMITS, ClientConnection

__all__ = ["connect"]


async def connect(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    limits: Http2Limits = CLIENT_LIMITS,
    seconds: float = 10.0,
) -> ClientConnection:
    """Connect, and wait for the server's SETTINGS.

    Parameters
    ----------
    address : str
        ``host:port``, ``[::1]:port`` or ``unix:/path``.
    tls : ssl.SSLContext, optional
        Of a client; ALPN is set to h2 here.
    server_name : str, optional
        Whom the certificate must name; the host by default.
    limits : Http2Limits, optional
    seconds : float
        For all of it.

    Raises
    ------
    InvalidArgumentError
        The address is none.
    UnavailableError
        Nobody listens there, or it is no HTTP/2 server; with the address.
    """
    loop = asyncio.get_running_loop()
    place, authority = _parse(address)
    options: dict[str, Any] = {}
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
        options = {"ssl": tls, "server_hostname": server_name or authority.rpartition(":")[0].strip("[]") or authority}
    connection = ClientConnection(address, server_name or authority, limits)
    try:
        async with asyncio.timeout(seconds):
            if isinstance(place, str):
                await loop.create_unix_connection(lambda: connection, place, **options)
            else:
                await loop.create_connection(lambda: connection, *place, **options)
            await connection.ready()
    except TimeoutError:
        _cut(connection)
        raise UnavailableError(f"{address}: no HTTP/2 server answered within {seconds:g} s") from None
    except OSError as error:  # ssl.SSLError is one
        _cut(connection)
        raise UnavailableError(f"{address}: cannot connect: {error}") from None
    except BaseException:
        _cut(connection)
        raise
    return connection


def _cut(connection: ClientConnection) -> None:
    if connection.connected:
        connection.abort()


def _parse(address: str) -> tuple[str | tuple[str, int], str]:
    """Return where to connect to, and the authority."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path:
            raise InvalidArgumentError("The address 'unix:' names no socket.")
        return path, "localhost"
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InvalidArgumentError(f"{address!r} is no address: host:port or unix:/path.")
    return (host.strip("[]"), int(port)), address
