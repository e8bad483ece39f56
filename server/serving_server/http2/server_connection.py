"""The server's side of a connection: it runs what clients ask for, keeps the time, and ends in good order."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Mapping
from typing import Final, Protocol

from serving_server.errors import StatusCode
from serving_server.http2.call import Call
from serving_server.http2.call_runner import CallRunner
from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PREFACE,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    goaway,
    ping,
    unpack_header,
    window_update,
)
from serving_server.http2.limits import Http2Limits
from serving_server.http2.routing import Route
from serving_server.http2.settings import Setting, settings_frame

__all__ = ["Owner", "ServerConnection"]

log = logging.getLogger(__name__)

#: Payload of the PING behind a graceful GOAWAY: its answer shows that the peer has seen both.
_DRAINED: Final = b"\0drain?\0"

#: Handlers know the deadline too and can say better what it ended; the connection is only their fallback. Seconds.
_DEADLINE_GRACE: Final = 0.01

#: What somebody sees who speaks HTTP/1.1 to this port.
_HTTP_1_METHODS: Final = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_HTTP_1_ANSWER: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks gRPC over HTTP/2; the REST API has a port of its own.\n"
)


class Owner(Protocol):
    """What a connection needs of its server."""

    routes: Mapping[bytes, Route]
    limits: Http2Limits

    def arrived(self, connection: ServerConnection) -> None:
        """Take note of a new connection."""

    def left(self, connection: ServerConnection) -> None:
        """Forget a connection that is gone."""

    def now(self) -> float:
        """Return the loop's time in seconds."""

    def flush_soon(self, output: Output) -> None:
        """Flush at the end of this turn of the loop."""

    def expire_at(self, time: float) -> None:
        """Have `ServerConnection.expire` called then."""


class ServerConnection(CallRunner):
    """Protocol of one client.

    Parameters
    ----------
    owner : Owner
    """

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner.limits, owner.now, owner.flush_soon, owner.routes)
        self._owner = owner
        self._draining = False
        self._door_at = math.inf  # when the last GOAWAY goes out
        self._age_at = math.inf
        self._cut_at = math.inf
        self._idle_since = 0.0
        self._idle_mark = -1
        self._progress: dict[Call, tuple[int, float]] = {}  # bytes and time of incomplete requests when last looked at

    # -- beginning -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        limits = self.limits
        self._owner.arrived(self)
        if limits.max_age is not None:
            # Spread, so that clients that came together do not all come back together.
            self._age_at = self._made_at + limits.max_age * random.uniform(0.9, 1.1)  # noqa: S311
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            log.debug("closing a TLS connection that did not agree on h2 by ALPN")
            self.abort()
            return

    def _take_preface(self, data: bytearray) -> int:
        if not PREFACE.startswith(data[: len(PREFACE)]):
            if data.startswith(_HTTP_1_METHODS):
                self.output.send(_HTTP_1_ANSWER)
                self._close()
                return 0
            if any(method.startswith(data) for method in _HTTP_1_METHODS):
                return 0  # the rest of the word will tell
            self._greet()
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < len(PREFACE) + 9:
            return 0
        self._greet()
        word, flags, _ = unpack_header(data, len(PREFACE))
        if word & 0xFF != SETTINGS or flags & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no SETTINGS behind the preface")
        return len(PREFACE)

    def _greet(self) -> None:
        """Send our side of the preface. Not before the client's has come, who may speak HTTP/1.1 by mistake."""
        limits = self.limits
        values = {
            Setting.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        more = limits.connection_window - DEFAULT_WINDOW
        self.output.send(settings_frame(values) + (window_update(0, more) if more else b""))

    # -- time ----------------------------------------------------------------------------------------------------------

    def _opened(self, call: Call) -> None:
        assert call.head.timeout is not None
        call.deadline = self._now() + call.head.timeout
        if call.head.timeout == 0.0:
            call.fail(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            return
        self._owner.expire_at(call.deadline + _DEADLINE_GRACE)

    def expire(self, now: float) -> float:
        """Answer the calls whose deadline has passed; returns when to look again."""
        earliest = math.inf
        for call in list(self.calls.values()):
            if call.deadline is None:
                continue
            due = call.deadline + _DEADLINE_GRACE
            if due > now:
                earliest = min(earliest, due)
                continue
            cancel, call.cancel = call.cancel, None
            if cancel is not None:
                self._guarded(call, cancel)
            call.fail(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return earliest

    def check_time(self, now: float) -> None:
        super().check_time(now)
        if self.closing:
            return
        self.unqueued()
        self._check_streams(now)
        if now >= self._door_at:
            self._close_door()
        if now >= self._cut_at:
            self.abort()
        elif now >= self._age_at and not self._draining:
            if self.limits.age_grace is not None:
                self._cut_at = now + self.limits.age_grace
            self.drain()
        if self.calls or self.last_stream_id != self._idle_mark:
            self._idle_mark = self.last_stream_id
            self._idle_since = now
        elif now - self._idle_since >= self.limits.idle_timeout:
            self.drain()

    def _check_streams(self, now: float) -> None:
        limits = self.limits
        progress: dict[Call, tuple[int, float]] = {}
        for call in list(self.calls.values()):
            outbox = call.outbox
            if outbox is not None and outbox.size:
                if outbox.moved or self.output.paused:
                    outbox.moved, outbox.moved_at = False, now
                elif now - outbox.moved_at >= limits.send_timeout:
                    text = "the peer takes no bytes of its answer"
                    self._fail_stream(StreamFault(call.stream_id, ErrorCode.CANCEL, text))
            if call.ended or call.receiver is not None:
                continue
            received = 0 if call.body is None else call.body.received
            before, since = self._progress.get(call, (received, now))
            held_up = self._reading_paused or call in self._starved or self._withholds()
            if held_up or received - before >= limits.slow_sender_bytes:
                before, since = received, now
            elif now - since >= limits.slow_sender_seconds:
                text = f"the request grew by {received - before} bytes in {limits.slow_sender_seconds:g} s"
                call.fail(StatusCode.ABORTED, text)
                continue
            progress[call] = (before, since)
        self._progress = progress

    # -- the end -------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.left(self)

    def _abandon_streams(self) -> None:
        self._progress.clear()
        super()._abandon_streams()

    def drain(self) -> None:
        """Let running calls end and take those that are on their way; then close."""
        if self._draining or self.closing:
            return
        self._draining = True
        if self._in_preface:
            self._close()
            return
        self._door_at = self._now() + self.limits.drain_ping_timeout
        self.output.send(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR) + ping(_DRAINED))

    def _on_pong(self, payload: bytes) -> None:
        if payload == _DRAINED and self._draining:
            self._close_door()

    def _on_goaway(self, last_stream_id: int, code: int, text: bytes) -> None:
        # The client opens nothing more; what it has asked for is still answered.
        self._draining = True
        self._close_door()

    def _close_door(self) -> None:
        """Say which stream was the last; later ones are not looked at."""
        self._door_at = math.inf
        if not self._final and not self.closing:
            self._final = True
            self.output.send(goaway(self.last_stream_id, ErrorCode.NO_ERROR))
            if not self.calls:
                self._close()
