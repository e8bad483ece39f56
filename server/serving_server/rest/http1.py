"""A small HTTP/1.1 server on asyncio.

Keep-alive, pipelining, chunked and gzip request bodies and ``Expect: 100-continue`` are the work of
`serving_server.rest.http1_connection`; `Limits` bounds it all. Handlers are plain callbacks. Listening, the clock and
the stop are those of `serving_server.listening`; unix sockets are for this user only (mode 0600).
"""

from __future__ import annotations

import asyncio
from typing import Final

from serving_server.listening import ConnectionServer
from serving_server.rest.http1_connection import Connection, Handler
from serving_server.rest.http1_messages import Limits, Request, Response

__all__ = ["Handler", "HttpServer", "Limits", "Request", "Response"]

_SOCKET_MODE: Final = 0o600


class HttpServer(ConnectionServer[Connection]):
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
        super().__init__(socket_mode=_SOCKET_MODE)
        self.handler = handler
        self.limits = limits or Limits()
        self._unsent: list[Connection] = []

    def _connection(self) -> Connection:
        return Connection(self)

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
        now = self.now()
        for connection in unsent:
            connection.send_answer(now)
