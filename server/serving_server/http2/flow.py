"""What goes out on a connection: one write per turn of the loop, within the peer's windows (RFC 9113 section 5.2)."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from serving_server.http2.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_STREAM,
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    header_frames,
)

__all__ = ["Outbox", "Output", "Sending"]

_HEADER: Final = struct.Struct(">IBI")

#: What one stream may send before the next has its turn, and what is written at once. Bytes.
_TURN: Final = 64 * 1024
_WRITE: Final = 256 * 1024


class Outbox:
    """What a stream could not send at once.

    Attributes
    ----------
    pieces : deque of memoryview
        Payload of DATA frames to come.
    size : int
        Bytes of it.
    trailers : bytes or None
        Header block for when all of it is gone, which ends the stream; None while more may follow.
    moved : bool
        Something went out since the owner looked last.
    """

    __slots__ = ("moved", "moved_at", "pieces", "size", "trailers")

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()
        self.size = 0
        self.trailers: bytes | None = None
        self.moved = True
        self.moved_at = 0.0

    def take(self, size: int) -> list[memoryview]:
        """Return the next `size` bytes, without copying them."""
        taken = []
        self.size -= size
        while size:
            piece = self.pieces.popleft()
            if len(piece) > size:
                self.pieces.appendleft(piece[size:])
                piece = piece[:size]
            taken.append(piece)
            size -= len(piece)
        return taken


class Sending(Protocol):
    """What `Output` needs of a stream.

    Attributes
    ----------
    stream_id : int
    credit : int
        What the peer's WINDOW_UPDATEs have added to the initial window, less what was sent.
    outbox : Outbox or None
    """

    stream_id: int
    credit: int
    outbox: Outbox | None

    def drained(self, *, ended: bool) -> None:
        """All that was queued is on its way; `ended`: trailers too."""


class Output:
    """The sending side of one connection. All calls on the loop.

    Parameters
    ----------
    schedule : callable
        ``schedule(output)`` has `flush` called at the end of this turn of the loop.

    Attributes
    ----------
    pieces : list of bytes
        What the next `flush` writes. The hot path appends to it.
    due : bool
        A flush is certain to come.
    window : int
        The peer's window of the connection.
    initial : int
        The peer's initial window of streams.
    max_frame : int
        The peer's largest frame.
    single : int
        A message up to this size may go out at once as one frame, if the windows allow: `max_frame`, or 0 while
        answers must take the long way.
    queued : int
        Bytes in outboxes.
    pump_due : bool
        A window has opened since the last `pump`.
    """

    def __init__(self, schedule: Callable[[Output], None]) -> None:
        self._schedule = schedule
        self._transport: asyncio.Transport | None = None
        self._blocked: dict[Sending, None] = {}  # in the order of their turns
        self.pieces: list[bytes | bytearray | memoryview] = []
        self.due = False
        self.window = DEFAULT_WINDOW
        self.initial = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_SIZE
        self.single = DEFAULT_FRAME_SIZE
        self.paused = False
        self.queued = 0
        self.pump_due = False
        self._table_update = b""  # due in front of the next header block
        self._table_gone = False

    # -- the socket ----------------------------------------------------------------------------------------------------

    def attach(self, transport: asyncio.Transport) -> None:
        """Take the connection's transport."""
        self._transport = transport

    def detach(self) -> None:
        """Forget all: the connection is gone."""
        self._transport = None
        self.pieces.clear()
        self._blocked.clear()
        self.queued = 0

    def soon(self) -> None:
        """Have the pieces written at the end of this turn, together with whatever else it brings."""
        if not self.due:
            self.due = True
            self._schedule(self)

    def send(self, data: bytes) -> None:
        """Send whole frames with the next write."""
        self.pieces.append(data)
        if not self.due:
            self.soon()

    def flush(self) -> None:
        """Write what there is."""
        self.due = False
        if self.pump_due and not self.paused:
            self.pump()
        if self.pieces:
            self._write()

    def pause(self) -> None:
        """Hold back what is not frames for control: the socket is full."""
        self.paused = True
        self._settle()

    def resume(self) -> None:
        """Go on; the socket takes more."""
        self.paused = False
        self._settle()
        self.pump_due = True
        self.soon()

    # -- header blocks -------------------------------------------------------------------------------------------------

    def send_headers(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        """Send a header block that uses no table, with the next write. `flags` without END_HEADERS."""
        if self._table_update:
            block = self._table_update + block
            self._table_update = b""
            self._settle()
        self.send(header_frames(stream_id, block, flags, self.max_frame))

    def shrink_table(self) -> None:
        """Note that the peer's decoder wants a smaller table than HPACK's default.

        We use none, but must say so once, in front of a block (RFC 7541 section 4.2).
        """
        if not self._table_gone:
            self._table_gone = True
            self._table_update = b"\x20"
            self._settle()

    # -- the peer's windows --------------------------------------------------------------------------------------------

    def set_max_frame(self, size: int) -> None:
        """Take SETTINGS_MAX_FRAME_SIZE."""
        self.max_frame = size
        self._settle()

    def _settle(self) -> None:
        self.single = 0 if self.paused or self._table_update else self.max_frame

    def open_connection(self, increment: int) -> None:
        """Take a WINDOW_UPDATE of the connection.

        Raises
        ------
        ConnectionFault
        """
        if increment == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is over 2**31-1")
        if self._blocked:
            self.pump_due = True

    def open_stream(self, stream: Sending, increment: int) -> None:
        """Take a WINDOW_UPDATE of a stream.

        Raises
        ------
        StreamFault
        """
        if increment == 0:
            raise StreamFault(stream.stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        stream.credit += increment
        if self.initial + stream.credit > MAX_WINDOW:
            raise StreamFault(stream.stream_id, ErrorCode.FLOW_CONTROL_ERROR, "its window is over 2**31-1")
        if stream.outbox is not None:
            self.pump_due = True

    def set_initial(self, size: int, largest_credit: int) -> None:
        """Take SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of open streams too, below zero even.

        Raises
        ------
        ConnectionFault
            When it takes a stream's window over its limit; `largest_credit` is the most that one of them has.
        """
        if size + max(0, largest_credit) > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE takes a stream over 2**31-1")
        self.initial = size
        if self._blocked:
            self.pump_due = True

    # -- what does not fit at once -------------------------------------------------------------------------------------

    def queue(self, stream: Sending, pieces: list[bytes | bytearray | memoryview], trailers: bytes | None) -> None:
        """Send DATA, then perhaps trailers, as the windows allow; `stream.drained` tells the end."""
        outbox = stream.outbox
        if outbox is None:
            outbox = stream.outbox = Outbox()
        for piece in pieces:
            outbox.pieces.append(memoryview(piece))
            outbox.size += len(piece)
            self.queued += len(piece)
        if trailers is not None:
            outbox.trailers = trailers
        self._blocked[stream] = None
        self.pump_due = True
        self.soon()

    def drop(self, stream: Sending) -> None:
        """Forget what a stream has queued: it is reset."""
        if stream.outbox is not None:
            self.queued -= stream.outbox.size
            stream.outbox = None
            self._blocked.pop(stream, None)

    def pump(self) -> None:
        """Send of the queued what windows and socket take; the streams take turns."""
        self.pump_due = False
        blocked = self._blocked
        unwritten = idle = 0
        while blocked and idle < len(blocked) and not self.paused and self._transport is not None:
            stream = next(iter(blocked))
            del blocked[stream]
            sent, left = self._turn(stream)
            if left:
                blocked[stream] = None
            idle = 0 if sent or not left else idle + 1
            unwritten += sent
            if unwritten >= _WRITE:
                unwritten = 0
                self._write()

    def _write(self) -> None:
        """Write all pieces at once; may pause us."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _turn(self, stream: Sending) -> tuple[int, bool]:
        """Send some of one stream; the bytes sent, and whether something is left."""
        outbox = stream.outbox
        if outbox is None:
            return 0, False
        allowed = min(self.window, self.initial + stream.credit, _TURN, outbox.size)
        sent = 0
        while sent < allowed:
            size = min(allowed - sent, self.max_frame)
            self.pieces.append(_HEADER.pack(size << 8 | DATA, 0, stream.stream_id))
            self.pieces += outbox.take(size)
            sent += size
        if sent:
            outbox.moved = True
            self.window -= sent
            stream.credit -= sent
            self.queued -= sent
        if outbox.size:
            return sent, True
        stream.outbox = None
        if outbox.trailers is not None:
            self.send_headers(stream.stream_id, outbox.trailers, END_STREAM)
        stream.drained(ended=outbox.trailers is not None)
        return sent, False
