"""The way out of a client's requests: at once where the limits and windows allow it, else in their turn."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from serving_server.errors import StatusCode
from serving_server.http2.connection import Connection
from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    DATA,
    END_STREAM,
    MAX_STREAM_ID,
    frame,
)
from serving_server.http2.limits import Http2Limits
from serving_server.http2.messages import PREFIX_SIZE
from serving_server.http2_client.call import Call, Message, OnDone, OnMessage
from serving_server.http2_client.request_headers import HeaderBlock, RequestHeaders

__all__ = ["UNTOUCHED", "RequestSender"]


_pack_prefix: Final = struct.Struct(">BI").pack

#: Calls that may wait for a stream on one connection.
_MAX_WAITING: Final = 100_000

#: Said of calls that the server has certainly not begun with.
UNTOUCHED: Final = "the server has not begun with it, so it can be sent again"


class RequestSender(Connection):
    """Sends requests. A subclass takes the answers.

    Parameters
    ----------
    limits, now, schedule
        See `Connection`.
    address : str
        For messages.

    Attributes
    ----------
    calls : dict of int to Call
        The open streams.
    """

    _of_client = True

    def __init__(
        self, limits: Http2Limits, now: Callable[[], float], schedule: Callable[[Output], None], address: str
    ) -> None:
        super().__init__(limits, now, schedule)
        self.address = address
        self.calls: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()  # for the peer's SETTINGS, or for a stream
        self._next_id = 1
        self._max_calls = 0  # streams that may be open now; 0 also before SETTINGS and when nothing more may begin
        self._max_headers = MAX_STREAM_ID
        self._refusal = ""  # why nothing more may begin

    # -- what a subclass knows -----------------------------------------------------------------------------------------

    def _expire_at(self, time: float) -> None:
        """Have calls whose deadline has passed ended, then."""
        raise NotImplementedError

    def _finish(self, call: Call, status: StatusCode, details: str) -> None:
        """End a call, with or without a stream, and tell the caller."""
        raise NotImplementedError

    def cancel(self, call: Call) -> None:
        """End it with CANCELLED, here and at the server (see `call.Connection`)."""
        raise NotImplementedError

    def grant(self, call: Call) -> None:
        """Open the window of a stream that needs it (see `call.Connection`)."""
        raise NotImplementedError

    # -- requests ------------------------------------------------------------------------------------------------------

    def unary(self, headers: RequestHeaders, message: Message, on_done: OnDone, timeout: float | None = None) -> Call:
        """Send a request of one message for an answer of one message.

        It goes out with the next write, together with whatever else this turn of the loop brings. Beyond the peer's
        MAX_CONCURRENT_STREAMS it waits for a stream.

        Parameters
        ----------
        headers : RequestHeaders
        message : bytes or bytearray
            Serialized; not changed before the end.
        on_done : callable
            ``on_done(message, status, details)``, called once, never from within this method. The message is None
            unless the status is OK.
        timeout : float, optional
            Seconds from now, sent as ``grpc-timeout``; at its end the call gets DEADLINE_EXCEEDED here too.

        Returns
        -------
        Call
        """
        return self._begin(headers, message, on_done, None, timeout)

    def stream(
        self,
        headers: RequestHeaders,
        message: Message,
        on_message: OnMessage,
        on_done: OnDone,
        timeout: float | None = None,
    ) -> Call:
        """Send a request of one message for an answer of any number: each goes to `on_message` (see `unary`)."""
        return self._begin(headers, message, on_done, on_message, timeout)

    def _begin(
        self,
        headers: RequestHeaders,
        message: Message,
        on_done: OnDone,
        on_message: OnMessage | None,
        timeout: float | None,
    ) -> Call:
        call = Call(self, on_done, on_message, self.limits.stream_window)
        block = headers.plain
        if timeout is not None:
            if timeout <= 0:
                self._fail_soon(
                    call, StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded: no time was given", refused=True
                )
                return call
            block = headers.timed(timeout)
            call.deadline = self._now() + timeout
            self._expire_at(call.deadline)
        output = self.output
        size = len(message) + PREFIX_SIZE
        if (
            len(self.calls) < self._max_calls
            and size <= output.single
            and size <= output.window
            and size <= output.initial
            and block.size <= self._max_headers
            and block.fits
            and not self._waiting
        ):
            # Nothing in its way: what nearly every request is.
            call.stream_id = stream_id = self._next_id
            self._next_id = stream_id + 2
            self.calls[stream_id] = call
            output.window -= size
            call.credit = -size
            output.pieces += (
                block.pack(
                    block.start, stream_id, block.block, size << 8 | DATA, END_STREAM, stream_id, 0, size - PREFIX_SIZE
                ),
                message,
            )
            if not output.due:
                output.soon()
            if stream_id >= MAX_STREAM_ID - 1:
                self._stop_opening("all of its stream numbers are used up")
            return call
        self._wait(call, headers, block, message)
        return call

    def _wait(self, call: Call, headers: RequestHeaders, block: HeaderBlock, message: Message) -> None:
        """Send it when it has a stream, at once if there is one."""
        if self._refusal or self.closing:
            text = f"{self.address}: {self._refusal or 'the connection is closed'}; {UNTOUCHED}"
            self._fail_soon(call, StatusCode.UNAVAILABLE, text, refused=True)
        elif block.size > self._max_headers:
            text = f"the headers count {block.size} bytes, and {self.address} takes {self._max_headers}"
            self._fail_soon(call, StatusCode.RESOURCE_EXHAUSTED, text, refused=True)
        elif len(self._waiting) >= _MAX_WAITING:
            text = f"{len(self._waiting)} calls wait for a stream of {self.address} already"
            self._fail_soon(call, StatusCode.RESOURCE_EXHAUSTED, text, refused=True)
        else:
            call.headers, call.request = headers, message
            self._waiting.append(call)
            self._send_waiting()

    def _send_waiting(self) -> None:
        """Give streams to the calls that wait for one, in order."""
        while self._waiting and len(self.calls) < self._max_calls:
            call = self._waiting.popleft()
            headers, message = call.headers, call.request
            call.headers, call.request = None, b""
            if not call.open or headers is None:
                continue
            block = headers.plain
            if call.deadline is not None:
                left = call.deadline - self._now()
                if left <= 0:
                    text = "Deadline Exceeded while waiting for a stream"
                    self._fail_soon(call, StatusCode.DEADLINE_EXCEEDED, text, refused=True)
                    continue
                block = headers.left(left)
            if block.size > self._max_headers:
                text = f"the headers count {block.size} bytes, and {self.address} takes {self._max_headers}"
                self._fail_soon(call, StatusCode.RESOURCE_EXHAUSTED, text, refused=True)
                continue
            call.stream_id = self._next_id
            self._next_id += 2
            if call.stream_id >= MAX_STREAM_ID - 1:
                self._max_calls = 0
            self.calls[call.stream_id] = call
            call.unsent = True
            self.output.send_headers(call.stream_id, block.block)
            self.output.queue(call, [_pack_prefix(0, len(message)), message], None)
            if call.stream_id >= MAX_STREAM_ID - 1:
                self._stop_opening("all of its stream numbers are used up")

    def sent(self, call: Call) -> None:
        """End the request: all of its message is on its way (see `call.Connection`)."""
        call.unsent = False
        self.output.send(frame(DATA, END_STREAM, call.stream_id))

    def _stop_opening(self, why: str) -> None:
        """Begin nothing more; what waits for a stream fails, as it can be sent again elsewhere."""
        self._refusal = self._refusal or why
        self._max_calls = 0
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            call.refused = True
            self._finish(call, StatusCode.UNAVAILABLE, f"{self.address}: {self._refusal}; {UNTOUCHED}")

    def _fail_soon(self, call: Call, status: StatusCode, details: str, *, refused: bool) -> None:
        """End a call that never began, but not before its caller has it."""
        call.refused = refused
        asyncio.get_running_loop().call_soon(self._finish_open, call, status, details)

    def _finish_open(self, call: Call, status: StatusCode, details: str) -> None:
        if call.open:
            self._finish(call, status, details)
