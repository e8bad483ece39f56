"""One call at the server: what the handler knows of it and how it answers."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from serving_server.errors import StatusCode
from serving_server.http2.flow import Outbox, Output
from serving_server.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    frame,
)
from serving_server.http2.grpc_status import (
    decode_binary,
    encode_message,
    encode_status,
    literal,
    response_headers,
    status_block,
)
from serving_server.http2.headers import RequestHead
from serving_server.http2.messages import PREFIX_SIZE, MessageReader

__all__ = ["Call"]

log = logging.getLogger(__name__)

_HEADERS_BLOCK: Final = response_headers()
_OK_BLOCK: Final = encode_status(StatusCode.OK)
_HEADERS_FRAME: Final = frame(HEADERS, END_HEADERS, 0, _HEADERS_BLOCK)[:5]
_OK_FRAME: Final = frame(HEADERS, END_HEADERS | END_STREAM, 0, _OK_BLOCK)[:5]

#: An answer's headers and the beginning of its DATA frame, up to the message; and what comes behind the message.
_pack_head: Final = struct.Struct(f">5sI{len(_HEADERS_BLOCK)}sIBIBI").pack
_pack_tail: Final = struct.Struct(f">5sI{len(_OK_BLOCK)}s").pack
_pack_prefix: Final = struct.Struct(">BI").pack

#: Longest percent-encoded grpc-message. Clients refuse header lists of more than 8 or 16 KiB.
_MAX_MESSAGE: Final = 7 * 1024


class Connection(Protocol):
    """What a call needs of its connection."""

    @property
    def peer(self) -> str:
        """The client's address."""

    @property
    def max_trailers(self) -> int:
        """Bytes that the peer takes in a header list."""

    def finished(self, call: Call) -> None:
        """Forget a call that is answered."""

    def queued(self, call: Call) -> None:
        """Take note that something of a call waits for the client's windows."""

    def unqueued(self) -> None:
        """Take note that an answer which had to wait has left."""


class Call:
    """A request and the way to answer it. All calls on the loop.

    A handler answers with `answer` or `fail`, or with any number of `send` and then `finish` or `fail`. Once the call
    has ended, by an answer or because the client is gone, they all do nothing.

    Attributes
    ----------
    head : RequestHead
        The request's headers.
    deadline : float or None
        On the loop's clock. The server itself answers DEADLINE_EXCEEDED a moment after it.
    open : bool
        The call is not answered to its end and the client has not gone.
    on_drain : callable or None
        Called when everything sent so far is on its way; set it to send no faster than the client reads.
    """

    __slots__ = (
        "_connection",
        "_output",
        "begun",
        "body",
        "cancel",
        "credit",
        "deadline",
        "ended",
        "head",
        "held",
        "on_drain",
        "open",
        "outbox",
        "receiver",
        "stream_id",
        "trailers",
        "window",
    )

    def __init__(self, connection: Connection, output: Output, stream_id: int, head: RequestHead) -> None:
        self._connection = connection
        self._output = output
        self.stream_id = stream_id
        self.head = head
        self.deadline: float | None = None
        self.open = True
        # The connection's and the output's notes about the stream:
        self.ended = False  # the request is complete
        self.begun = False  # our headers are sent
        self.credit = 0  # see `flow.Sending`
        self.outbox: Outbox | None = None
        self.body: MessageReader | None = None  # of a request that came in several pieces
        self.window = 0  # what the peer may still send, once `body` is there
        self.trailers = b""  # what the handler adds to the end of the answer
        self.held = 0  # bytes of a large message whose answer is due
        self.cancel: Callable[[], None] | None = None
        self.receiver: Any = None  # `routing.Receiver` of a streaming method
        self.on_drain: Callable[[], None] | None = None

    # -- what the handler may want to know -----------------------------------------------------------------------------

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """The client's metadata in order, names in lower case; values of ``-bin`` names are unpacked to bytes."""
        found: list[tuple[str, str | bytes]] = []
        for raw_name, value in self.head.fields:
            if raw_name[:1] == b":":
                continue
            name = raw_name.decode("ascii")
            if name.endswith("-bin"):
                # A repeated binary field may come as one, joined by commas.
                found += [(name, decode_binary(part.strip())) for part in value.split(b",")]
            else:
                found.append((name, value.decode("latin-1")))
        return found

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the client's metadata of a name in lower case, as sent; None: there is none."""
        for found, value in self.head.fields:
            if found == name:
                return value
        return None

    @property
    def peer(self) -> str:
        """The client's address as gRPC writes it: ``ipv4:1.2.3.4:567``, ``ipv6:[::1]:567``, ``unix:``."""
        return self._connection.peer

    @property
    def asks(self) -> bool:
        """Whether there is something to be told beside the answer (see `serving_server.stamps.asked`)."""
        return self.head.asks

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, message: bytes | bytearray | memoryview) -> None:
        """Send the one message of the answer, and OK."""
        output = self._output
        size = len(message) + PREFIX_SIZE
        if (
            self.open
            and size <= output.single
            and size <= output.window
            and size <= output.initial + self.credit
            and not self.begun
            and not self.trailers
        ):
            # One frame, nothing in its way: what nearly every answer is.
            self.begun = True
            output.window -= size
            stream_id = self.stream_id
            output.pieces += (
                _pack_head(
                    _HEADERS_FRAME, stream_id, _HEADERS_BLOCK, size << 8 | DATA, 0, stream_id, 0, size - PREFIX_SIZE
                ),
                message,
                _pack_tail(_OK_FRAME, stream_id, _OK_BLOCK),
            )
            if not output.due:
                output.soon()
            self._connection.finished(self)
            return
        if self._may_send():
            self.send(message)
            self.finish()

    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Add a field to those that end the answer, whichever way it ends; for names and values that are known good."""
        self.trailers += literal(name, value)

    def send(self, message: bytes | bytearray | memoryview) -> None:
        """Send one message of several."""
        if self._may_send():
            self._begin()
            self._output.queue(self, [_pack_prefix(0, len(message)), message], None)
            self._connection.queued(self)

    def finish(self) -> None:
        """End the answer with OK, behind the messages sent."""
        if self._may_send():
            self._begin()
            self._end(encode_status(StatusCode.OK))

    def fail(self, code: StatusCode, text: str) -> None:
        """End the answer with an error, behind the messages sent."""
        if not self._may_send():
            return
        message = encode_message(text, min(_MAX_MESSAGE, self._connection.max_trailers // 2))
        if self.begun:
            self._end(encode_status(code, message))
        else:
            self.begun = True
            self._end(status_block(code, message))

    def refuse(self, block: bytes) -> None:
        """Answer with one header block and nothing else."""
        if self._may_send():
            self.begun = True
            self._end(block)

    @property
    def answered(self) -> bool:
        """Whether the end of the answer waits for the client's windows."""
        return self.outbox is not None and self.outbox.trailers is not None

    def _may_send(self) -> bool:
        return self.open and not self.answered

    def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._output.send_headers(self.stream_id, _HEADERS_BLOCK)

    def _end(self, block: bytes) -> None:
        block += self.trailers
        self.cancel = None
        if self.outbox is None:
            self._output.send_headers(self.stream_id, block, END_STREAM)
            self._connection.finished(self)
        else:
            self._output.queue(self, [], block)
            self._connection.queued(self)

    def drained(self, *, ended: bool) -> None:
        """All that was queued is on its way (see `flow.Sending`)."""
        if ended:
            self._connection.finished(self)
            self._connection.unqueued()
        elif self.on_drain is not None:
            self.on_drain()

    # -- the connection's side -----------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """End it without an answer: tells the handler, once."""
        self.open = False
        cancel, self.cancel = self.cancel, None
        self._output.drop(self)
        if cancel is not None:
            try:
                cancel()
            except Exception:
                log.exception("cancelling %s failed", self.head.path)
