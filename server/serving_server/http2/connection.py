"""One connection, as both ends have it: its socket, the frames that concern all streams, its time and its end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, cast

from serving_server.http2.flow import Output
from serving_server.http2.frames import (
    ACK,
    MAX_STREAM_ID,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    frame,
    goaway,
    ping,
    window_update,
)
from serving_server.http2.limits import Http2Limits
from serving_server.http2.reader import FrameReader, Rate
from serving_server.http2.settings import DEFAULT_TABLE_SIZE, PeerSettings, Setting, parse_settings

__all__ = ["Connection"]

log = logging.getLogger(__name__)

_SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)

#: Payload of the PING that asks a silent peer whether it is there.
_KEEPALIVE: Final = b"\0alive?\0"


class Connection(FrameReader, asyncio.Protocol):
    """The part that does not depend on the role. All calls on the loop.

    Parameters
    ----------
    limits : Http2Limits
    now : callable
        The loop's clock.
    schedule : callable
        ``schedule(output)`` has `Output.flush` called at the end of this turn of the loop.

    Attributes
    ----------
    output : Output
        Where answers go.
    closing : bool
        Nothing that still comes is looked at.
    last_stream_id : int
        Highest stream that the peer has opened.
    peer_settings : PeerSettings
    """

    _of_client = False  # this end is the client: the peer, a server, may say less in its SETTINGS

    def __init__(self, limits: Http2Limits, now: Callable[[], float], schedule: Callable[[Output], None]) -> None:
        super().__init__(limits, now)
        self.output = Output(schedule)
        self.closing = False
        self.last_stream_id = 0
        self.peer_settings = PeerSettings()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peername: object = None
        self._lost = False
        self._reading_paused = False
        self._credit = limits.connection_window  # what the peer may still send, on all streams
        self._low_credit = limits.connection_window // 2
        self._made_at = 0.0
        self._heard = False
        self._heard_at = 0.0
        self._pong_by = math.inf
        self._stalled_at = math.inf  # since when the socket takes nothing
        self._unsent = 0
        self._gone_by = math.inf  # when a closing connection is cut
        self._pings = Rate(limits.pings_per_second, "PING frames")
        self._settings = Rate(limits.settings_per_second, "SETTINGS frames")
        self._resets = Rate(limits.resets_per_second, "streams reset")

    @property
    def peer(self) -> str:
        """The peer's address as gRPC writes it."""
        name = self._peername
        if not isinstance(name, tuple):
            return "unix:"
        return f"ipv6:[{name[0]}]:{name[1]}" if ":" in name[0] else f"ipv4:{name[0]}:{name[1]}"

    @property
    def max_trailers(self) -> int:
        """Bytes that the peer takes in a header list."""
        limit = self.peer_settings.max_header_list
        return MAX_STREAM_ID if limit is None else limit

    # -- what a subclass knows -----------------------------------------------------------------------------------------

    def _abandon_streams(self) -> None:
        """End all streams: the connection is over."""
        raise NotImplementedError

    def _largest_credit(self) -> int:
        """Return the most that WINDOW_UPDATEs have added to an open stream's window."""
        raise NotImplementedError

    def _withholds(self) -> bool:
        """Whether the peer should send no more DATA now than it may already."""
        return False

    def _on_pong(self, payload: bytes) -> None:
        """Take the answer to a PING of the subclass's."""

    # -- the transport's callbacks -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self.limits.write_buffer)
        self._peername = transport.get_extra_info("peername")
        self.output.attach(self._transport)
        self._made_at = self._heard_at = self._now()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self.closing = True
        self._abandon_streams()
        self.output.detach()

    def eof_received(self) -> bool:
        return False  # a peer that closes its side is gone: nothing it has asked for can matter to it

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self._heard = True
        output = self.output
        output.due = True  # what is answered meanwhile leaves with the one write below
        try:
            self.feed(data)
        except ConnectionFault as fault:
            self._break(fault)
        except Exception:
            log.exception("an HTTP/2 connection failed inside this process")
            self._break(ConnectionFault(ErrorCode.INTERNAL_ERROR, "a fault of this end"))
        output.flush()

    def pause_writing(self) -> None:
        self.output.pause()
        self._stalled_at = self._now()
        self._unsent = self._transport.get_write_buffer_size()
        self._settle_reading()

    def resume_writing(self) -> None:
        self._stalled_at = math.inf
        self.output.resume()
        self._settle_reading()

    def _settle_reading(self) -> None:
        """Stop reading or go on: a peer that does not read is not read."""
        paused = self.output.paused and not self.closing
        if paused != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- frames of the connection --------------------------------------------------------------------------------------

    def _receive(self, size: int) -> None:
        """Count DATA, and give its window back when half of it is used up.

        Raises
        ------
        ConnectionFault
        """
        self._credit -= size
        if self._credit < self._low_credit:
            if self._credit < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
            self._give_credit()

    def _give_credit(self) -> None:
        """Open the connection's window again, if half of it is used up and more may come."""
        if self._credit < self._low_credit and not self._withholds():
            window = self.limits.connection_window
            self.output.send(window_update(0, window - self._credit))
            self._credit = window

    def _on_settings(self, payload: bytes, *, ack: bool) -> None:
        if ack:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
            return
        self._settings.hit(self._now())
        values = parse_settings(payload, from_server=self._of_client)
        if Setting.INITIAL_WINDOW_SIZE in values:
            self.output.set_initial(values[Setting.INITIAL_WINDOW_SIZE], self._largest_credit())
        if values.get(Setting.HEADER_TABLE_SIZE, DEFAULT_TABLE_SIZE) < DEFAULT_TABLE_SIZE:
            self.output.shrink_table()
        self.peer_settings.apply(values)
        self.output.set_max_frame(self.peer_settings.max_frame)
        self.output.send(_SETTINGS_ACK)

    def _on_ping(self, payload: bytes, *, ack: bool) -> None:
        self._pings.hit(self._now())
        if not ack:
            self.output.send(ping(payload, ack=True))
        elif payload != _KEEPALIVE:
            self._on_pong(payload)

    # -- time ----------------------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Act on what has taken too long; called a few times a second."""
        limits = self.limits
        if self.closing:
            self._check_gone(now)
            return
        if self._heard:
            self._heard = False
            self._heard_at = now
            self._pong_by = math.inf
        self._check_partial(now)
        if self._stalled_at != math.inf:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._stalled_at = unsent, now
            elif now - self._stalled_at >= limits.send_timeout:
                self._transport.abort()
        elif now >= self._pong_by:
            self._transport.abort()
        elif self._pong_by == math.inf and now - self._heard_at >= limits.keepalive_time and not self._reading_paused:
            self._pong_by = now + limits.keepalive_timeout
            self.output.send(ping(_KEEPALIVE))

    def _check_gone(self, now: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._gone_by = now + (self.limits.send_timeout if unsent else self.limits.linger_timeout)
        self._unsent = unsent
        if now >= self._gone_by:
            self._transport.abort()

    def _check_partial(self, now: float) -> None:
        limits = self.limits
        if self._in_preface:
            if now - self._made_at >= limits.preface_timeout:
                self.break_off(ErrorCode.SETTINGS_TIMEOUT, "no preface and SETTINGS in time")
        elif self._reading_paused:
            # The rest may be in the kernel already.
            self._partial_since = now if self._partial_since != math.inf else math.inf
            self._block_since = now if self._block_since != math.inf else math.inf
        elif now - min(self._partial_since, self._block_since) >= limits.frame_timeout:
            self.break_off(ErrorCode.ENHANCE_YOUR_CALM, f"a frame or header block took over {limits.frame_timeout:g} s")

    # -- the end -------------------------------------------------------------------------------------------------------

    def break_off(self, code: ErrorCode, text: str) -> None:
        """End the connection with an error, at once."""
        self._break(ConnectionFault(code, text))

    def _break(self, fault: ConnectionFault) -> None:
        if self.closing:
            return
        log.debug("closing an HTTP/2 connection: %s", fault)
        self._abandon_streams()
        self.output.send(goaway(self.last_stream_id, fault.code, fault.text))
        self._close()

    def _close(self) -> None:
        """Close after what is on its way; look at nothing more."""
        self.closing = True
        self.output.flush()
        self.output.detach()
        self._unsent = self._transport.get_write_buffer_size()
        self._gone_by = self._now() + (self.limits.send_timeout if self._unsent else self.limits.linger_timeout)
        self._settle_reading()
        # A closed socket with unread bytes makes the kernel reset the connection, and the peer then loses what it has
        # not read: so only our side is closed now, the rest when the peer closes its own, or a moment later.
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection and whatever runs on it."""
        self._transport.abort()
