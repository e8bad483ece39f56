"""From streams to whole requests, within the limits and the windows that we give (RFC 9113 sections 5 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from serving_server.errors import ServingError
from serving_server.http2.call import Call
from serving_server.http2.connection import Connection
from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    MAX_STREAM_ID,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    rst_stream,
    window_update,
)
from serving_server.http2.headers import HeaderReader, MalformedError, check_trailers
from serving_server.http2.limits import Http2Limits
from serving_server.http2.messages import PREFIX_SIZE, MessageReader, unpack_prefix
from serving_server.http2.routing import Route, resolve

__all__ = ["RequestStreams"]

#: Streams that we ended while the peer was still sending, remembered so that what is on its way is no error.
_FORGOTTEN: Final = 1024


class RequestStreams(Connection):
    """The streams of one client. A subclass runs what they ask for.

    Parameters
    ----------
    limits, now, schedule
        See `Connection`.
    routes : mapping of bytes to Route
        By path.

    Attributes
    ----------
    calls : dict of int to Call
        The open streams.
    """

    def __init__(
        self,
        limits: Http2Limits,
        now: Callable[[], float],
        schedule: Callable[[Output], None],
        routes: Mapping[bytes, Route],
    ) -> None:
        super().__init__(limits, now, schedule)
        self.calls: dict[int, Call] = {}
        self._routes = routes
        self._headers = HeaderReader(limits.max_header_list)
        self._known = self._headers.known
        self._bodies: dict[Call, None] = {}  # whose requests came in pieces and are not complete, oldest first
        self._partial_bytes = 0  # held by `_bodies`
        self._starved: set[Call] = set()  # of `_bodies`, those that get no window now
        self._forgotten: dict[int, None] = {}
        self._max_single = min(limits.stream_window, limits.max_message_bytes + PREFIX_SIZE)
        self._final = False  # streams beyond `last_stream_id` are not looked at

    # -- what a subclass knows -----------------------------------------------------------------------------------------

    def _opened(self, call: Call) -> None:
        """Take note of a call with a deadline."""
        raise NotImplementedError

    def _begin_special(self, call: Call) -> None:
        """Take the headers of a call whose `head.special` is set."""
        raise NotImplementedError

    def _take_messages(self, call: Call, body: MessageReader) -> None:
        """Take what has come of a streaming call's messages."""
        raise NotImplementedError

    def _start(self, call: Call, message: bytes | bytearray) -> None:
        """Run a call whose request is complete."""
        raise NotImplementedError

    def _complete(self, call: Call, body: MessageReader | None) -> None:
        """Take the end of a request that did not come in one frame."""
        raise NotImplementedError

    def _release(self, call: Call) -> None:
        """Forget what is held for a call that has ended."""
        raise NotImplementedError

    def queued(self, call: Call) -> None:
        """Take note that something of a call waits for the client's windows."""
        raise NotImplementedError

    def unqueued(self) -> None:
        """Take note that an answer which had to wait has left."""
        raise NotImplementedError

    # -- headers -------------------------------------------------------------------------------------------------------

    def _on_headers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        if stream_id <= self.last_stream_id or not stream_id & 1:
            self._on_trailers(stream_id, block, ended=ended)
            return
        if self._final:
            self._headers.fields(block)  # its effect on the table counts
            return
        self.last_stream_id = stream_id
        head = self._known.get(block)
        if head is None:
            try:
                head = self._headers.request(block)
            except MalformedError as error:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
            if head.route is None:
                resolve(head, self._routes, self.limits.max_header_list)
        if len(self.calls) >= self.limits.max_concurrent_streams or self._partial_bytes > self.limits.max_partial_bytes:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "too much at a time")
        call = self.calls[stream_id] = Call(self, self.output, stream_id, head)
        call.ended = ended
        if head.timeout is not None:
            self._opened(call)
        if (ended or head.special) and call.open:
            self._special(call)

    def _special(self, call: Call) -> None:
        ended = call.ended
        if ended and call.head.content_length:
            raise StreamFault(call.stream_id, ErrorCode.PROTOCOL_ERROR, "no body where content-length promised one")
        self._begin_special(call)
        if ended and call.open:
            self._complete(call, None)

    def _on_trailers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Take HEADERS of a stream that is not new."""
        fields = self._headers.fields(block)
        call = self.calls.get(stream_id)
        if call is None:
            if stream_id in self._forgotten:
                self._idles.hit(self._now())
                return
            if stream_id & 1:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a client cannot open stream {stream_id}")
        if call.ended:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS behind its end")
        if not ended:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "HEADERS in the middle of a request")
        try:
            check_trailers(fields)
        except MalformedError as error:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
        body = call.body
        self._check_length(call, 0 if body is None else body.received, ended=True)
        self._end_request(call, body)

    # -- bodies --------------------------------------------------------------------------------------------------------

    def _on_last_data(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        call = self.calls.get(stream_id)
        size = stop - start
        if call is not None and call.body is None and size >= PREFIX_SIZE and not call.ended and not call.head.special:
            flag, length = unpack_prefix(data, start)
            promised = call.head.content_length
            if (
                not flag
                and length == size - PREFIX_SIZE
                and size <= self._max_single
                and (promised is None or promised == size)
            ):
                # The whole request in one frame: what nearly every one is.
                self._credit -= size
                if self._credit < self._low_credit:
                    self._receive(0)
                call.ended = True
                self._start(call, data[start + PREFIX_SIZE : stop])
                return
        stream_id &= MAX_STREAM_ID
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        self._on_data(stream_id, memoryview(data)[start:stop], size, ended=True)

    def _on_data(self, stream_id: int, piece: bytes | memoryview, size: int, *, ended: bool) -> None:
        self._receive(size)
        call = self.calls.get(stream_id)
        if call is None:
            self._stray_data(stream_id)
            return
        if call.ended:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA behind its end")
        if call.answered:
            call.ended = ended  # its answer waits for windows; the rest of the request is not wanted
            return
        body = call.body
        if body is None:
            body = call.body = MessageReader(self.limits.max_message_bytes)
            call.window = self.limits.stream_window
            self._bodies[call] = None
        call.window -= size
        if call.window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond its window")
        try:
            body.add(piece)
        except ServingError as error:
            call.ended = ended
            call.fail(error.code, error.message)
        else:
            self._check_length(call, body.received, ended=ended)
            call.ended = ended
            if call.receiver is not None:
                self._take_messages(call, body)
        if not call.open or call.answered:
            self._drop_body(call)
        elif ended:
            self._end_request(call, body)
        else:
            self._count(call, body)

    def _count(self, call: Call, body: MessageReader) -> None:
        """Note how much an incomplete request holds, and let it go on if that may be."""
        self._partial_bytes += body.held - body.counted
        body.counted = body.held
        self._grant(call, body)

    @staticmethod
    def _check_length(call: Call, received: int, *, ended: bool) -> None:
        length = call.head.content_length
        if length is not None and (received > length or (ended and received != length)):
            text = f"{received} bytes of body where content-length is {length}"
            raise StreamFault(call.stream_id, ErrorCode.PROTOCOL_ERROR, text)

    def _end_request(self, call: Call, body: MessageReader | None) -> None:
        call.ended = True
        self._drop_body(call)
        self._complete(call, body)

    def _stray_data(self, stream_id: int) -> None:
        """Take DATA of a stream that has no call."""
        if self._unseen(stream_id, "DATA"):
            return
        self._idles.hit(self._now())
        if stream_id not in self._forgotten:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA behind its end")

    def _grant(self, call: Call, body: MessageReader) -> None:
        """Open the window of a stream that needs it, unless others hold too much memory already."""
        limits = self.limits
        missing = max(0, body.expected - body.held) if body.expected else limits.stream_window
        target = limits.large_window if missing > limits.stream_window else limits.stream_window
        if call.window >= min(missing, target // 2):
            return
        if self._partial_bytes > limits.max_partial_bytes and call is not next(iter(self._bodies)):
            # Only the oldest may go on: so one at least always gets to its end, and memory stays bounded.
            self._starved.add(call)
            return
        self.output.send(window_update(call.stream_id, target - call.window))
        call.window = target

    def _drop_body(self, call: Call) -> None:
        """Forget an incomplete request; others may get its share of the memory."""
        body = call.body
        if body is None or call not in self._bodies:
            return
        self._partial_bytes -= body.counted
        del self._bodies[call]
        call.body = None
        if self._starved:
            self._starved.discard(call)
            starved, self._starved = self._starved, set()
            for other in starved:
                if other.body is not None:
                    self._grant(other, other.body)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def finished(self, call: Call) -> None:
        """Forget a call that is answered (see `call.Connection`)."""
        call.open = False
        call.cancel = None  # else the call, the handler's work and this function would hold each other
        del self.calls[call.stream_id]
        if not call.ended:
            # Answered before the request was complete: the rest is not wanted.
            self._drop_body(call)
            self.output.send(rst_stream(call.stream_id, ErrorCode.NO_ERROR))
            self._forget(call.stream_id)
        if call.held or self._final:
            self._release(call)

    def _fail_stream(self, fault: StreamFault) -> None:
        call = self.calls.pop(fault.stream_id, None)
        self.output.send(rst_stream(fault.stream_id, fault.code))
        self._forget(fault.stream_id)
        if call is not None:
            self._drop(call)
        # What makes us reset streams is as cheap for an attacker as resetting them itself.
        self._resets.hit(self._now())

    def _on_reset(self, stream_id: int, code: int) -> None:
        call = self.calls.pop(stream_id, None)
        if call is not None:
            self._drop(call)
            self._resets.hit(self._now())
            return
        self._unseen(stream_id, "RST_STREAM")
        self._idles.hit(self._now())

    def _on_window(self, stream_id: int, increment: int) -> None:
        if stream_id == 0:
            self.output.open_connection(increment)
            return
        call = self.calls.get(stream_id)
        if call is not None:
            self.output.open_stream(call, increment)
        else:
            self._unseen(stream_id, "WINDOW_UPDATE")

    def _unseen(self, stream_id: int, what: str) -> bool:
        """Return whether a stream that has no call came behind our last GOAWAY; False: it was there and has ended.

        Raises
        ------
        ConnectionFault
            Nobody has opened it; those with even numbers would be ours.
        """
        if stream_id & 1:
            if stream_id <= self.last_stream_id:
                return False
            if self._final:
                return True
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    def _drop(self, call: Call) -> None:
        """End a call without an answer; it is out of `calls` already."""
        self._drop_body(call)
        call.abandon()
        self._release(call)

    def _forget(self, stream_id: int) -> None:
        self._forgotten[stream_id] = None
        if len(self._forgotten) > _FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def _abandon_streams(self) -> None:
        calls, self.calls = self.calls, {}
        self._bodies.clear()
        self._starved.clear()
        self._partial_bytes = 0
        for call in calls.values():
            call.abandon()

    def _largest_credit(self) -> int:
        return max((call.credit for call in self.calls.values()), default=0)
