"""The streams of a client: requests out, answers in, within both ends' limits and windows (RFC 9113 sections 5, 8)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serving_server.errors import ServingError, StatusCode
from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    MAX_STREAM_ID,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    rst_stream,
    window_update,
)
from serving_server.http2.headers import MalformedError
from serving_server.http2.limits import Http2Limits
from serving_server.http2.messages import PREFIX_SIZE, MessageReader, Unpacker, unpack_prefix
from serving_server.http2_client.call import Call, Message
from serving_server.http2_client.response_headers import ResponseHead, ResponseReader
from serving_server.http2_client.sending import UNTOUCHED, RequestSender

__all__ = ["ClientStreams"]

log = logging.getLogger(__name__)

#: What a reset means for the call (gRPC's PROTOCOL-HTTP2.md, "Errors").
_RESET_STATUS: Final[dict[int, StatusCode]] = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


class ClientStreams(RequestSender):
    """Takes answers (see `RequestSender` for the parameters). A subclass opens and ends the connection."""

    def __init__(
        self, limits: Http2Limits, now: Callable[[], float], schedule: Callable[[Output], None], address: str
    ) -> None:
        super().__init__(limits, now, schedule, address)
        self._responses = ResponseReader(limits.max_header_list)
        self._known = self._responses.known

    def _all_done(self) -> None:
        """Take note that the last call has ended; a subclass knows what follows."""
        raise NotImplementedError

    # -- answers -------------------------------------------------------------------------------------------------------

    def _on_headers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        head = self._known.get(block)
        if head is None:
            try:
                head = self._responses.head(block)
            except MalformedError as error:
                self._check_opened(stream_id, "HEADERS")
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
        call = self.calls.get(stream_id)
        if call is None:
            self._check_opened(stream_id, "HEADERS")
        elif head.size > self.limits.max_header_list:
            text = f"received metadata size exceeds limit ({head.size} vs. {self.limits.max_header_list})"
            self._reset(call, ErrorCode.CANCEL, StatusCode.RESOURCE_EXHAUSTED, text)
        elif ended:
            self._ended(call, head)
        elif call.head is None:
            if head.begins:
                call.head = head
            elif not 100 <= head.http < 200:  # these only announce the headers
                self._refused_head(call, head)
        else:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "HEADERS in the middle of an answer")

    def _refused_head(self, call: Call, head: ResponseHead) -> None:
        if not head.http:
            raise StreamFault(call.stream_id, ErrorCode.PROTOCOL_ERROR, "an answer without :status")
        call.head = head
        self._reset(call, ErrorCode.CANCEL, *head.refusal())

    def _ended(self, call: Call, head: ResponseHead) -> None:
        """Take the last headers of an answer."""
        call.trailers = head
        status, details = head.status, head.details
        if call.head is None and not head.http:
            raise StreamFault(call.stream_id, ErrorCode.PROTOCOL_ERROR, "an answer without :status")
        if status is None:
            status, details = head.refusal() if head.http and not head.begins else (StatusCode.UNKNOWN, "")
            details = details or "an answer without grpc-status"
        elif status is StatusCode.OK:
            if call.body is not None and call.body.held:
                status, details = StatusCode.INTERNAL, "the answer's last message is cut short"
            elif call.on_message is None and call.message is None:
                status, details = StatusCode.INTERNAL, "an answer of OK without a message"
        self._finish(call, status, details)

    def _on_some_data(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        call = self.calls.get(stream_id)
        size = stop - start
        if (
            call is not None
            and call.head is not None
            and call.body is None
            and call.message is None
            and call.on_message is None
            and PREFIX_SIZE <= size <= call.window
        ):
            flag, length = unpack_prefix(data, start)
            if not flag and length == size - PREFIX_SIZE and length <= self.limits.max_message_bytes:
                # The whole answer in one frame: what nearly every one is.
                self._credit -= size
                if self._credit < self._low_credit:
                    self._receive(0)
                call.window -= size
                call.message = data[start + PREFIX_SIZE : stop]
                return
        self._on_data(stream_id, memoryview(data)[start:stop], size, ended=False)

    def _on_last_data(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        stream_id &= MAX_STREAM_ID
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        self._on_data(stream_id, memoryview(data)[start:stop], stop - start, ended=True)

    def _on_data(self, stream_id: int, piece: bytes | memoryview, size: int, *, ended: bool) -> None:
        self._receive(size)
        call = self.calls.get(stream_id)
        if call is None:
            self._check_opened(stream_id, "DATA")
            return
        if call.head is None:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA in front of its HEADERS")
        call.window -= size
        if call.window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond its window")
        body = call.body
        if body is None:
            body = call.body = MessageReader(self.limits.max_message_bytes, "CLIENT")
        try:
            body.add(piece)
            while call.open and (taken := body.take()) is not None:
                self._take_message(call, *taken)
        except ServingError as error:
            self._reset(call, ErrorCode.CANCEL, error.code, error.message)
        if not call.open:
            return
        if ended:
            text = "the answer ends without trailers, so without a status"
            self._finish(call, StatusCode.INTERNAL, text)
        elif call.reading:
            self.grant(call)

    def _take_message(self, call: Call, flag: int, message: Message) -> None:
        if flag:
            assert call.head is not None
            unpacker = Unpacker(call.head.encoding, message, self.limits.max_unpacked_bytes)
            while (unpacked := unpacker.step()) is None:
                continue
            message = unpacked
        if call.on_message is not None:
            self._guarded(call.on_message, message)
        elif call.message is None:
            call.message = message
        else:
            self._reset(call, ErrorCode.CANCEL, StatusCode.INTERNAL, "a unary answer of more than one message")

    def grant(self, call: Call) -> None:
        """Open the window of a stream that needs it (see `call.Connection`)."""
        if not call.stream_id:
            return
        limits, body = self.limits, call.body
        missing = body.expected - body.held if body is not None and body.expected else limits.stream_window
        target = limits.large_window if missing > limits.stream_window else limits.stream_window
        if call.window < min(missing, target // 2):
            self.output.send(window_update(call.stream_id, target - call.window))
            call.window = target

    def _check_opened(self, stream_id: int, what: str) -> None:
        """Complain of a stream that was never opened; one that has ended here may still get what was on its way."""
        if stream_id >= self._next_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _finish(self, call: Call, status: StatusCode, details: str) -> None:
        """End a call, with or without a stream, and tell the caller."""
        call.open = False
        if call.stream_id and self.calls.pop(call.stream_id, None) is not None:
            if call.unsent:
                # The server has answered before it has seen all; nobody wants the rest.
                self.output.drop(call)
                self.output.send(rst_stream(call.stream_id, ErrorCode.CANCEL))
            if self._waiting:
                self._send_waiting()
        try:
            call.on_done(call.message if status is StatusCode.OK else None, status, details)
        except Exception:
            log.exception("what was to be done after a call failed")
        if not self.calls:
            self._all_done()

    def _reset(self, call: Call, code: ErrorCode, status: StatusCode, details: str) -> None:
        """End a call before its answer has come."""
        if call.stream_id and not call.unsent:
            self.output.send(rst_stream(call.stream_id, code))
        self._finish(call, status, details)

    def cancel(self, call: Call) -> None:
        """End it with CANCELLED, here and at the server (see `call.Connection`)."""
        self._reset(call, ErrorCode.CANCEL, StatusCode.CANCELLED, "the caller cancelled the call")

    def _guarded(self, function: Callable[[Message], None], message: Message) -> None:
        try:
            function(message)
        except Exception:
            log.exception("taking a message failed")

    def _fail_stream(self, fault: StreamFault) -> None:
        call = self.calls.get(fault.stream_id)
        if call is not None:
            self._reset(call, fault.code, StatusCode.INTERNAL, f"{self.address} broke HTTP/2: {fault}")

    def _on_reset(self, stream_id: int, code: int) -> None:
        call = self.calls.get(stream_id)
        if call is None:
            self._check_opened(stream_id, "RST_STREAM")
            return
        name = _error_name(code)
        text = f"{self.address} ended the stream: {name}"
        if code == ErrorCode.REFUSED_STREAM:
            call.refused = True
            text += f"; {UNTOUCHED}"
        call.unsent = False  # no RST_STREAM in answer to one
        self.output.drop(call)
        status = _RESET_STATUS.get(code, StatusCode.INTERNAL)
        self._finish(call, status, text)

    def _on_window(self, stream_id: int, increment: int) -> None:
        if stream_id == 0:
            self.output.open_connection(increment)
            return
        call = self.calls.get(stream_id)
        if call is not None:
            self.output.open_stream(call, increment)
        else:
            self._check_opened(stream_id, "WINDOW_UPDATE")

    def _on_goaway(self, last_stream_id: int, code: int, text: bytes) -> None:
        name = _error_name(code)
        said = f" ({text[:200].decode('utf-8', 'replace')})" if text else ""
        self._stop_opening(f"the server takes no more requests on this connection: GOAWAY {name}{said}")
        for call in [call for stream_id, call in self.calls.items() if stream_id > last_stream_id]:
            call.refused = True
            call.unsent = False
            self.output.drop(call)
            self._finish(call, StatusCode.UNAVAILABLE, f"{self.address}: {self._refusal}; {UNTOUCHED}")
        if not self.calls:
            self._all_done()

    def _abandon_streams(self) -> None:
        text = f"{self.address}: {self._refusal or 'the connection was lost'}"
        self._refusal = self._refusal or "the connection was lost"
        self._stop_opening(self._refusal)
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.unsent = False
            self.output.drop(call)
            self._finish(call, StatusCode.UNAVAILABLE, f"{text}, with this call in flight")

    def _largest_credit(self) -> int:
        return max((call.credit for call in self.calls.values()), default=0)


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
