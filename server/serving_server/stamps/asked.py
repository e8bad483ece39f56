"""What a client asks to be told with its answer: its own request id back, and where the time went.

``x-request-id`` (header or metadata) comes back with the answer and stays with the request's stamps.
``x-server-timing: 1`` adds a ``server-timing`` field (https://www.w3.org/TR/server-timing, durations in milliseconds).
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final, Protocol

from serving_server.stamps.fields import REQUEST_ID, SERVER_TIMING, WANTS_TIMING
from serving_server.stamps.ring import BatchStamps
from serving_server.stamps.rows import points

__all__ = ["Asked", "ask"]

#: Others are not kept: what comes back must fit into a header, whatever stands in front of this server.
_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class _Headers(Protocol):
    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header by its name in lower case."""


class _Call(_Headers, Protocol):
    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Add a field to the metadata behind the answer."""


class Asked:
    """What one client asks, and its request's stamps when they are there.

    Attributes
    ----------
    request_id : str or None
        1 to 128 printable ASCII characters without spaces.
    """

    __slots__ = ("_batch", "_encoding", "_queued", "_timing", "request_id")

    def __init__(self, request: _Headers) -> None:
        given = request.header(REQUEST_ID)
        self.request_id = given.decode("ascii") if given is not None and _ID.fullmatch(given) else None
        self._timing = request.header(WANTS_TIMING) not in {None, b"", b"0"}
        self._batch: BatchStamps | None = None
        self._queued = self._encoding = 0.0

    def take(self, batch: BatchStamps, queued: float) -> None:
        """Take the stamps of a request that is answered now."""
        self._batch = batch
        self._queued = queued
        self._encoding = perf_counter()

    def timing(self, received: float) -> str | None:
        """Return the value of ``server-timing``, None if it was not asked for or nothing is known.

        Parameters
        ----------
        received : float
            When the request came, by `time.perf_counter`.
        """
        if not self._timing or self._batch is None:
            return None
        passed = points(self._batch, received, self._queued, self._encoding, perf_counter())
        entries = [f"{name};dur={nanoseconds / 1e6:.4f}" for name, nanoseconds in passed.stages()]
        return ", ".join([*entries, f"total;dur={passed.total / 1e6:.4f}"])

    def tell(self, call: _Call, received: float) -> None:
        """Add ``server-timing`` to an answer that is ready to be sent; see `timing`."""
        timing = self.timing(received)
        if timing is not None:
            call.add_trailer(SERVER_TIMING, timing.encode("ascii"))


def ask(call: _Call) -> Asked:
    """Return what a gRPC client asks; its request id comes back from now on, however the call ends."""
    asked = Asked(call)
    if asked.request_id is not None:
        call.add_trailer(REQUEST_ID, asked.request_id.encode("ascii"))
    return asked
