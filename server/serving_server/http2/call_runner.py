"""Running calls: whole requests to handlers, streamed messages to receivers, what goes wrong to the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from serving_server.errors import InternalError, ResourceExhaustedError, ServingError, StatusCode
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
        self._held_bytes = 0  # of large messages whose answers are due, and of all that wait below
        self._waiting: dict[Call, bytes | bytearray] = {}  # complete, not started: too much to send
        self._packed: dict[Call, Unpacker] = {}  # complete; unpacked one after the other
        self._packed_bytes = 0  # of `_held_bytes`, what these hold
        self._unpack_due = False

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
            self._hold(call, len(message))
            if self.output.queued > self.limits.max_queued_bytes:
                self._waiting[call] = message
                return
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
                unpacker = self._unpacker(call, taken[0], taken[1], self.limits.max_unpacked_bytes)
            except ServingError as error:
                call.fail(error.code, error.message)
            else:
                self._unpack(call, unpacker, len(taken[1]))

    @staticmethod
    def _unpacker(call: Call, flag: int, message: bytes | bytearray, limit: int) -> Unpacker:
        if flag != 1:
            raise InternalError(f"a message with the flag {flag}; 0 and 1 have a meaning")
        return Unpacker(call.head.encoding, message, limit)

    def _unpack(self, call: Call, unpacker: Unpacker, size: int) -> None:
        """Have a message of `size` bytes unpacked and run: at once if it is small, else in turns of the loop.

        A small message may become a thousand times as large. So one is unpacked at a time, and none while those before
        it hold too much already.
        """
        self._hold(call, size)
        self._packed[call] = unpacker
        self._packed_bytes += call.held
        if len(self._packed) == 1 and not self._unpack_due:
            self._unpack_some()

    def _unpack_some(self) -> None:
        """Unpack some of the first in line and leave the rest to later turns of the loop."""
        self._unpack_due = False
        if not self._packed or self._held_bytes - self._packed_bytes > self.limits.max_held_bytes:
            return  # `_let_go` comes back to it
        call, unpacker = next(iter(self._packed.items()))
        try:
            message = unpacker.step()
        except Exception as error:  # noqa: BLE001 - told to the client, and logged
            self._leave_line(call)
            self._failed(call, error)
        else:
            if message is not None:
                self._leave_line(call)
                self._start(call, message)
            if message is None or len(message) >= _LARGE:
                self._unpack_soon()  # even if nothing waits: what comes in this turn has to
        if self._packed:
            self._unpack_soon()

    def _unpack_soon(self) -> None:
        if not self._unpack_due:
            self._unpack_due = True
            asyncio.get_running_loop().call_soon(self._unpack_some)

    def _leave_line(self, call: Call) -> None:
        self._waiting.pop(call, None)
        if self._packed.pop(call, None) is not None:
            self._packed_bytes -= call.held
            self._let_go(call)

    def _take_messages(self, call: Call, body: MessageReader) -> None:
        try:
            while call.open and (taken := body.take()) is not None:
                flag, message = taken
                if call.outbox is not None and self.output.queued > self.limits.max_queued_bytes:
                    raise ResourceExhaustedError("the client asks on and does not take its answers")
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

    def _withholds(self) -> bool:
        # Frames are still read: cancellations, PINGs, and WINDOW_UPDATEs that let answers leave.
        return self._held_bytes > self.limits.max_held_bytes

    def _hold(self, call: Call, size: int) -> None:
        """Count a message of `size` bytes until `_let_go`."""
        size = size or 1  # what is counted is let go
        self._held_bytes += size - call.held
        call.held = size

    def _release(self, call: Call) -> None:
        self._leave_line(call)
        self._let_go(call)
        if self._final and not self.calls and not self.closing:
            self._close()

    def _let_go(self, call: Call) -> None:
        """Count the message no more: its handler is done with it."""
        if call.held:
            self._held_bytes -= call.held
            call.held = 0
            if not self.closing:
                self._give_credit()
                if self._packed:
                    self._unpack_soon()

    def queued(self, call: Call) -> None:
        """Take note that something of a call waits for the client's windows."""
        if call.answered:
            self._let_go(call)

    def unqueued(self) -> None:
        """Start what waited for an answer to leave."""
        while self._waiting and self.output.queued <= self.limits.max_queued_bytes:
            call = next(iter(self._waiting))
            self._start(call, self._waiting.pop(call))

    def _abandon_streams(self) -> None:
        self._waiting.clear()
        self._packed.clear()
        self._held_bytes = self._packed_bytes = 0
        super()._abandon_streams()
