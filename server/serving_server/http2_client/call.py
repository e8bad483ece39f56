"""One call at the client: what the caller knows of it, and the connection's notes about its stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serving_server.errors import StatusCode
from serving_server.http2.flow import Outbox
from serving_server.http2.messages import MessageReader
from serving_server.http2_client.request_headers import RequestHeaders
from serving_server.http2_client.response_headers import ResponseHead

__all__ = ["Call", "Message", "OnDone", "OnMessage"]

Message = bytes | bytearray

#: ``on_done(message, status, details)``, called once at the end. The message is None unless the call is unary and OK.
OnDone = Callable[[Message | None, StatusCode, str], None]

#: ``on_message(message)``, called for each message of a stream.
OnMessage = Callable[[Message], None]


class Connection(Protocol):
    """What a call needs of its connection."""

    def cancel(self, call: Call) -> None:
        """End it with CANCELLED, here and at the server."""

    def grant(self, call: Call) -> None:
        """Let the server send more of it."""

    def sent(self, call: Call) -> None:
        """Take note that the whole message is on its way."""


class Call:
    """A request that was handed to a connection. All calls on the loop.

    Attributes
    ----------
    open : bool
        `on_done` was not called yet.
    refused : bool
        It has failed, and the server has certainly not begun with it: to send it again elsewhere is safe.
    head, trailers : ResponseHead or None
        What came in front of and behind the messages; `trailers` also of an answer that consists of nothing else.
    stream_id : int
        0 while it waits for a stream.
    """

    __slots__ = (
        "_connection",
        "body",
        "credit",
        "deadline",
        "head",
        "headers",
        "message",
        "on_done",
        "on_message",
        "open",
        "outbox",
        "reading",
        "refused",
        "request",
        "stream_id",
        "trailers",
        "unsent",
        "window",
    )

    def __init__(self, connection: Connection, on_done: OnDone, on_message: OnMessage | None, window: int) -> None:
        self._connection = connection
        self.on_done = on_done
        self.on_message = on_message
        self.open = True
        self.refused = False
        self.head: ResponseHead | None = None
        self.trailers: ResponseHead | None = None
        self.stream_id = 0
        # The connection's and the output's notes about the stream:
        self.headers: RequestHeaders | None = None  # with `request`: what to send, while it waits for a stream
        self.request: Message | memoryview = b""
        self.deadline: float | None = None
        self.credit = 0  # see `flow.Sending`
        self.outbox: Outbox | None = None
        self.unsent = False  # the end of the request is not on its way
        self.window = window  # what the server may still send
        self.reading = True  # it may get more window
        self.body: MessageReader | None = None  # of an answer that came in several pieces
        self.message: Message | None = None  # of a unary call

    def cancel(self) -> None:
        """End the call: `on_done` gets CANCELLED before this returns, the server is told. Safe to call again."""
        if self.open:
            self._connection.cancel(self)

    def hold(self) -> None:
        """Ask the server for no more messages than its window lets it send already."""
        self.reading = False

    def resume(self) -> None:
        """Take messages again."""
        self.reading = True
        if self.open:
            self._connection.grant(self)

    def drained(self, *, ended: bool) -> None:
        """All that was queued is on its way (see `flow.Sending`)."""
        self._connection.sent(self)
