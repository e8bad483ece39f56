"""Running calls: whole requests to handlers, streamed messages to receivers, what goes wrong to the client."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from serving_server.errors import InternalError, ServingError, StatusCode
from serving_server.http2.call import Call
from serving_server.http2.flow import Output
from serving_server.http2.limits import Http2Limits
from serving_server.http2.messages import MessageReader, Unpacker
from serving_server.http2.request_streams import RequestStreams
from serving_server.http2.routing import Refusal, Route, Streaming

__all__ = ["CallRunner"]

log = logging.getLogger(__name__)

#: Messages from this size on are counted while their answers are due. Bytes.
_LARGE: Final = 16 * 1024

#: Compressed messages of streaming calls are unpacked at once, in order; up to this size. Bytes.
_MAX_UNPACKED_AT_ONCE: Final = 4 * 1024 * 1024


class CallRunner(RequestStreams):
    """Runs the calls of one client (see `RequestStreams` for the parameters)."""

    def __init__(
        self,
        limits: Http2Limits,
        now: Callable[[], float],
        schedule: Callable[[Output], None],
        routes: Mapping[bytes, Route],
    ) -> None:
        super().__init__(limits, now, schedule, routes)
        self._held_bytes = 0  # of large messages whose answers are due
        self._waiting: deque[tuple[Call, bytes | bytearray]] = deque()  # complete, not started: too much to send

    # -- requests ------------------------------------------------------------------------------------------------------

    def _begin_special(self, call: Call) -> None:
        route = call.head.route
        if isinstance(route, Refusal):
            call.refuse(route.block)
        elif isinstance(route, Streaming):
            try:
                receiver = route.open_call(call)
            except Exception as error:  # noqa: BLE001 - told to the client, and logged
                self._failed(call, error)
            else:
                call.receiver = receiver
                if call.open:
                    call.cancel = receiver.cancel

    def _start(self, call: Call, message: bytes | bytearray) -> None:
        if len(message) >= _LARGE or self.output.queued > self.limits.max_queued_bytes:
            if self.output.queued > self.limits.max_queued_bytes:
                self._waiting.append((call, message))
                return
            call.held = len(message)
            self._held_bytes += call.held
            self._settle_reading()
        try:
            cancel = call.head.route(message, call)
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            self._failed(call, error)
        else:
            if call.open:
                call.cancel = cancel

    def _failed(self, call: Call, error: Exception) -> None:
        if isinstance(error, ServingError):
            call.fail(error.code, error.message)
            return
        log.error("handling %s failed", call.head.path.decode("latin-1"), exc_info=error)
        call.fail(StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    def _complete(self, call: Call, body: MessageReader | None) -> None:
        if call.receiver is not None:
            if body is not None and body.held:
                call.fail(StatusCode.INTERNAL, "the last message is cut short")
            else:
                self._guarded(call, call.receiver.end)
            return
        taken = body.take() if body is not None else None
        if taken is None or body is None:
            what = "no message" if body is None or not body.received else "a message that is cut short"
            call.fail(StatusCode.INTERNAL, f"The request holds {what}")
        elif taken[0] == 0:
            self._start(call, taken[1])  # what may come behind the first message is ignored, as gRPC core does
        else:
            try:
                self._unpack(call, self._unpacker(call, taken[0], taken[1], self.limits.max_unpacked_bytes))
            except ServingError as error:
                call.fail(error.code, error.message)

    @staticmethod
    def _unpacker(call: Call, flag: int, message: bytes | bytearray, limit: int) -> Unpacker:
        if flag != 1:
            raise InternalError(f"a message with the flag {flag}; 0 and 1 have a meaning")
        return Unpacker(call.head.encoding, message, limit)

    def _unpack(self, call: Call, unpacker: Unpacker) -> None:
        """Unpack some and leave the rest to the next turn of the loop."""
        if not call.open:
            return
        try:
            message = unpacker.step()
        except ServingError as error:
            call.fail(error.code, error.message)
            return
        if message is None:
            asyncio.get_running_loop().call_soon(self._unpack, call, unpacker)
        else:
            self._start(call, message)

    def _take_messages(self, call: Call, body: MessageReader) -> None:
        try:
            while call.open and (taken := body.take()) is not None:
                flag, message = taken
                if flag:
                    unpacker = self._unpacker(call, flag, message, _MAX_UNPACKED_AT_ONCE)
                    while (unpacked := unpacker.step()) is None:
                        continue
                    message = unpacked
                call.receiver.message(message)
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            self._failed(call, error)

    def _guarded(self, call: Call, function: object) -> None:
        assert callable(function)
        try:
            function()
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            self._failed(call, error)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _overloaded(self) -> bool:
        # What is queued waits for WINDOW_UPDATEs, which come by reading.
        return self._held_bytes > self.limits.max_held_bytes and not self.output.queued

    def _release(self, call: Call) -> None:
        self._let_go(call)
        if self._final and not self.calls and not self.closing:
            self._close()

    def _let_go(self, call: Call) -> None:
        """Count the message no more: its handler is done with it."""
        if call.held:
            self._held_bytes -= call.held
            call.held = 0
            self._settle_reading()

    def queued(self, call: Call) -> None:
        """Take note that something of a call waits for the client's windows."""
        if call.answered:
            self._let_go(call)
        if self._reading_paused:
            self._settle_reading()

    def unqueued(self) -> None:
        """Start what waited for an answer to leave."""
        self._settle_reading()
        while self._waiting and self.output.queued <= self.limits.max_queued_bytes:
            call, message = self._waiting.popleft()
            if call.open:
                self._start(call, message)

    def _abandon_streams(self) -> None:
        self._waiting.clear()
        self._held_bytes = 0
        super()._abandon_streams()
