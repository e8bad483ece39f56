"""The client's side of a connection: how it begins, its time, and its end."""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import Final

from serving_server.errors import StatusCode, UnavailableError
from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    PREFACE,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    goaway,
    unpack_header,
    window_update,
)
from serving_server.http2.limits import Http2Limits
from serving_server.http2.settings import Setting, settings_frame
from serving_server.http2_client.streams import ClientStreams

__all__ = ["CLIENT_LIMITS", "ClientConnection"]

#: Windows are wide, as the client takes what it has asked for. `max_concurrent_streams` is a bound of our own below the
#: server's; the rest is the server's bounds, for a peer that might be as bad as a client.
CLIENT_LIMITS: Final = Http2Limits(
    max_frame_size=1024 * 1024,
    connection_window=64 * 1024 * 1024,
    stream_window=1024 * 1024,
    large_window=16 * 1024 * 1024,
    max_concurrent_streams=100_000,
)

#: Seconds between two looks at what takes time.
_TICK: Final = 0.25
_FRAME_HEADER: Final = 9


class ClientConnection(ClientStreams):
    """Protocol of one connection to a server; `connecting.connect` makes it. All calls on the loop.

    Parameters
    ----------
    address : str
        For messages.
    authority : str
        What requests call the server: `RequestHeaders` takes it.
    limits : Http2Limits, optional
    """

    def __init__(self, address: str, authority: str, limits: Http2Limits = CLIENT_LIMITS) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(limits, self._loop.time, self._flush_soon, address)
        self.authority = authority
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._tick_timer: asyncio.TimerHandle | None = None
        self._expire_timer: asyncio.TimerHandle | None = None
        self._expire_due = math.inf
        self._draining = False

    def _flush_soon(self, output: Output) -> None:
        self._loop.call_soon(output.flush)

    # -- beginning -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tick_timer = self._loop.call_later(_TICK, self._tick)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._refusal = "the server did not agree on HTTP/2 by ALPN"
            self.abort()
            return
        limits = self.limits
        values = {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_size,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        more = limits.connection_window - DEFAULT_WINDOW
        self.output.send(PREFACE + settings_frame(values) + (window_update(0, more) if more else b""))

    @property
    def connected(self) -> bool:
        """Whether there is a socket."""
        return self._tick_timer is not None and not self._lost

    @property
    def usable(self) -> bool:
        """Whether requests may begin; not after the server's GOAWAY, though calls may be in flight still."""
        return not self._refusal and not self.closing and self.connected

    async def ready(self) -> None:
        """Wait for the server's SETTINGS; the caller bounds the wait.

        Raises
        ------
        UnavailableError
            The connection ended before.
        """
        await asyncio.shield(self._ready)

    def _take_preface(self, data: bytearray) -> int:
        # A server's preface is its SETTINGS frame.
        if data.startswith(b"HTTP/1."):
            raise ConnectionFault(ErrorCode.HTTP_1_1_REQUIRED, "the server speaks HTTP/1.1")
        if len(data) < _FRAME_HEADER:
            return 0
        word, flags, stream_id = unpack_header(data)
        if word & 0xFF != SETTINGS or flags & ACK or stream_id or word >> 8 > self.limits.max_header_block:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the server's first frame is no SETTINGS")
        stop: int = _FRAME_HEADER + (word >> 8)
        if len(data) < stop:
            return 0
        self._on_settings(bytes(data[_FRAME_HEADER:stop]), ack=False)
        return stop

    def _on_settings(self, payload: bytes, *, ack: bool) -> None:
        super()._on_settings(payload, ack=ack)
        if ack:
            return
        said = self.peer_settings
        self._max_headers = MAX_STREAM_ID if said.max_header_list is None else said.max_header_list
        if not self._refusal:
            own = self.limits.max_concurrent_streams
            self._max_calls = own if said.max_streams is None else min(own, said.max_streams)
            self._send_waiting()
        if not self._ready.done():
            self._ready.set_result(None)

    def _settle_reading(self) -> None:
        """Never stop reading: a server that is busy writing to us may not read before, and both would wait for ever.

        What it may send is bounded by the windows.
        """

    # -- time ----------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(_TICK, self._tick)
        self.check_time(self._now())

    def _expire_at(self, time: float) -> None:
        if time < self._expire_due:
            if self._expire_timer is not None:
                self._expire_timer.cancel()
            self._expire_due = time
            self._expire_timer = self._loop.call_at(time, self._expire)

    def _expire(self) -> None:
        # One timer for all deadlines: most calls end long before theirs.
        self._expire_due, self._expire_timer = math.inf, None
        now, earliest = self._now(), math.inf
        for call in [*self.calls.values(), *self._waiting]:
            if call.deadline is None or not call.open:
                continue
            if call.deadline > now:
                earliest = min(earliest, call.deadline)
            else:
                what = "" if call.stream_id else " while waiting for a stream"
                self._reset(call, ErrorCode.CANCEL, StatusCode.DEADLINE_EXCEEDED, f"Deadline Exceeded{what}")
        if earliest != math.inf:
            self._expire_at(earliest)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _all_done(self) -> None:
        if self._draining and not self.closing:
            self._close()

    def _on_goaway(self, last_stream_id: int, code: int, text: bytes) -> None:
        self._draining = True
        super()._on_goaway(last_stream_id, code, text)

    def _break(self, fault: ConnectionFault) -> None:
        self._refusal = self._refusal or f"the server broke HTTP/2: {fault}"
        super()._break(fault)

    def _abandon_streams(self) -> None:
        self._draining = False  # closing is the caller's business now
        super()._abandon_streams()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._refusal:
            self._refusal = f"the connection was lost: {exc}" if exc else "the server closed the connection"
        super().connection_lost(exc)
        for timer in (self._tick_timer, self._expire_timer):
            if timer is not None:
                timer.cancel()
        if not self._ready.done():
            self._ready.set_exception(UnavailableError(f"{self.address}: {self._refusal}"))
            self._ready.exception()  # nobody may wait for it
        if not self._gone.done():
            self._gone.set_result(None)

    async def close(self, seconds: float = 2.0) -> None:
        """Cancel what is in flight and close. Safe to call again.

        Parameters
        ----------
        seconds : float
            For the server to close its side; the connection is cut then.
        """
        if not self.closing:
            self._refusal = self._refusal or "this side has closed the connection"
            self._stop_opening(self._refusal)
            for call in list(self.calls.values()):
                call.cancel()
            if not self.closing:
                self.output.send(goaway(0, ErrorCode.NO_ERROR))
                self._close()
        await asyncio.wait([self._gone], timeout=seconds)
        if not self._gone.done():
            self.abort()
            await asyncio.wait([self._gone], timeout=seconds)
