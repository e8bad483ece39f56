"""The connections of a gRPC run: requests over our HTTP/2, and a new connection for one that is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from serving_server.errors import ServingError
from serving_server.http2_client.connecting import connect
from serving_server.http2_client.connection import ClientConnection
from serving_server.http2_client.request_headers import RequestHeaders
from serving_workbench.client_stamps import HEADER
from serving_workbench.load.job import Job, request_id
from serving_workbench.load.lanes import Done, Lanes

__all__ = ["GrpcLanes"]

#: Seconds between two attempts to replace a lost connection.
_RETRY = 0.1


class GrpcLanes(Lanes):
    """Lane n sends on connection n modulo their number, so what is answered together is followed together."""

    def __init__(self, job: Job, tls: ssl.SSLContext | None) -> None:
        self._address = job.address
        self._tls = tls
        self._wanted = job.connections
        self._connections: list[ClientConnection] = []
        self._replacing: set[asyncio.Task[None]] = set()
        self._lost: set[int] = set()
        self._metadata: Sequence[tuple[str, str]] = job.metadata
        self._job = job
        self._requests: list[tuple[RequestHeaders, bytes]] = []
        self._stamped, self._stamp = 0, ""

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        ServingError
            With the address.
        """
        self._connections = [await connect(self._address, tls=self._tls) for _ in range(self._wanted)]
        authority = self._connections[0].authority
        known: dict[str, RequestHeaders] = {}
        for path, body in self._job.requests:
            if path not in known:
                known[path] = RequestHeaders(path, authority, self._metadata, secure=self._tls is not None)
            self._requests.append((known[path], body))

    def stamp(self, every: int, stamp: str) -> None:
        """Give requests ids (see `Lanes`)."""
        self._stamped, self._stamp = every, stamp

    def send(self, lane: int, number: int, done: Done) -> None:
        """Send request `number` (see `Lanes`)."""
        connections = self._connections
        place = lane % len(connections)
        headers, body = self._requests[number % len(self._requests)]
        if self._stamped and not number % self._stamped:
            headers = headers.also(HEADER, request_id(self._stamp, number))
        if self._lost:
            place = self._usable_place(place)
        connections[place].unary(headers, body, done)

    def usable(self) -> bool:
        """Whether a request could be sent now (see `Lanes`)."""
        for place, connection in enumerate(self._connections):
            if not connection.usable and place not in self._lost:
                self._lost.add(place)
                task = asyncio.get_running_loop().create_task(self._replace(place))
                self._replacing.add(task)
                task.add_done_callback(self._replacing.discard)
        return len(self._lost) < len(self._connections)

    def _usable_place(self, place: int) -> int:
        count = len(self._connections)
        return next((each % count for each in range(place, place + count) if each % count not in self._lost), place)

    async def _replace(self, place: int) -> None:
        while True:
            try:
                fresh = await connect(self._address, tls=self._tls)
            except ServingError:
                await asyncio.sleep(_RETRY)
                continue
            old, self._connections[place] = self._connections[place], fresh
            self._lost.discard(place)
            await old.close()
            return

    async def close(self) -> None:
        """Close all, whatever is in flight."""
        tasks = list(self._replacing)
        for task in tasks:
            task.cancel()
        closing = [connection.close() for connection in self._connections]
        await asyncio.gather(*closing, *tasks, return_exceptions=True)
