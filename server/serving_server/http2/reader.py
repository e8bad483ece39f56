"""Bytes to frames: what every frame must look like, whatever it means (RFC 9113 sections 4 and 6)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final

from serving_server.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WEIGHTED,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    unpack_header,
)
from serving_server.http2.limits import Http2Limits

__all__ = ["FrameReader", "Rate"]

_HEADER_SIZE: Final = 9
_FIXED_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_ON_STREAM: Final = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})
_ON_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})
_LAST_HEADERS: Final = END_HEADERS | END_STREAM

_word: Final = struct.Struct(">I").unpack_from


class Rate:
    """Counts events of one kind within a second.

    Parameters
    ----------
    limit : int
    what : str
        Plural, for the message.
    """

    __slots__ = ("_count", "_limit", "_started", "_what")

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._count = 0
        self._started = -math.inf

    def hit(self, now: float) -> None:
        """Count one more.

        Raises
        ------
        ConnectionFault
            ENHANCE_YOUR_CALM beyond the limit.
        """
        if now - self._started >= 1.0:
            self._started = now
            self._count = 0
        self._count += 1
        if self._count > self._limit:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"over {self._limit} {self._what} within a second")


class FrameReader:
    """Cuts what comes into frames and hands them to methods that a subclass defines.

    Whole frames are taken in place; an incomplete one is carried over, except for DATA, whose stream gets it piece by
    piece. So a frame costs no more memory than its stream is allowed to hold.

    Parameters
    ----------
    limits : Http2Limits
    now : callable
        The loop's clock.
    """

    def __init__(self, limits: Http2Limits, now: Callable[[], float]) -> None:
        self.limits = limits
        self._now = now
        self._in_preface = True
        self._carry = bytearray()
        self._needed = 1  # bytes of `_carry` that it takes to go on; 0: nothing is carried
        self._partial_since = math.inf
        self._data_left = 0  # bytes missing of a DATA frame whose beginning was handed on
        self._data_stream = 0
        self._data_ends = False
        self._block = bytearray()  # an incomplete header block
        self._block_stream = 0  # its stream; 0 when there is none
        self._block_ends = False
        self._block_since = math.inf
        self._continuations = 0
        self._empties = Rate(limits.empty_frames_per_second, "empty frames")
        self._idles = Rate(limits.idle_frames_per_second, "frames without effect")

    # -- what frames mean: a subclass knows ----------------------------------------------------------------------------

    def _take_preface(self, data: bytearray) -> int:
        """Return the length of the preface once all of it is there, 0 before."""
        raise NotImplementedError

    def _on_headers(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """Take a whole header block."""
        raise NotImplementedError

    def _on_data(self, stream_id: int, piece: bytes | memoryview, size: int, *, ended: bool) -> None:
        """Take payload of DATA; `size` counts padding too."""
        raise NotImplementedError

    def _on_last_data(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Take a whole DATA frame that ends its stream, in place. The stream id may have its reserved bit set."""
        raise NotImplementedError

    def _on_reset(self, stream_id: int, code: int) -> None:
        """Take RST_STREAM."""
        raise NotImplementedError

    def _on_window(self, stream_id: int, increment: int) -> None:
        """Take WINDOW_UPDATE, of stream 0 too."""
        raise NotImplementedError

    def _on_settings(self, payload: bytes, *, ack: bool) -> None:
        """Take SETTINGS."""
        raise NotImplementedError

    def _on_ping(self, payload: bytes, *, ack: bool) -> None:
        """Take PING."""
        raise NotImplementedError

    def _on_some_data(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        """Take a whole DATA frame, with bytes in it, that does not end its stream, in place."""
        self._on_data(stream_id, memoryview(data)[start:stop], stop - start, ended=False)

    def _on_goaway(self, last_stream_id: int, code: int, text: bytes) -> None:
        """Take GOAWAY."""
        raise NotImplementedError

    def _fail_stream(self, fault: StreamFault) -> None:
        """Reset a stream because the peer broke a rule."""
        raise NotImplementedError

    # -- bytes to frames -----------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises
        ------
        ConnectionFault
            Nothing more can be read.
        """
        if not self._needed:
            self._parse(data)
            return
        carry = self._carry
        carry += data
        if len(carry) < self._needed:
            return
        if self._in_preface:
            used = self._take_preface(carry)
            if not used:
                self._needed = len(carry) + 1
                return
            self._in_preface = False
            del carry[:used]
        self._needed = 0
        data = bytes(carry)
        carry.clear()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Take all whole frames of `data` and carry the rest over."""
        position = 0
        end = len(data)
        if self._data_left:
            position = min(self._data_left, end)
            self._more_data(memoryview(data)[:position])
        max_frame = self.limits.max_frame_size
        while end - position >= _HEADER_SIZE:
            word, flags, stream_id = unpack_header(data, position)
            start = position + _HEADER_SIZE
            size = word >> 8
            kind = word & 0xFF
            position = start + size
            if position > end:
                position = self._begin_partial(kind, flags, stream_id & MAX_STREAM_ID, data, start, size)
                break
            try:
                if self._block_stream or size > max_frame:
                    self._continue(kind, flags, stream_id & MAX_STREAM_ID, data[start:position])
                elif kind == DATA and flags == END_STREAM:
                    self._on_last_data(stream_id, data, start, position)
                elif kind == HEADERS and flags == END_HEADERS and 0 < stream_id <= MAX_STREAM_ID:
                    self._on_headers(stream_id, data[start:position], ended=False)
                elif kind == HEADERS and flags == _LAST_HEADERS and 0 < stream_id <= MAX_STREAM_ID:
                    self._on_headers(stream_id, data[start:position], ended=True)
                elif kind == DATA and not flags and size and 0 < stream_id <= MAX_STREAM_ID:
                    self._on_some_data(stream_id, data, start, position)
                else:
                    self._take(kind, flags, stream_id & MAX_STREAM_ID, data[start:position])
            except StreamFault as fault:
                self._fail_stream(fault)
        if position < end:
            self._carry += memoryview(data)[position:]
            self._needed = self._needed or _HEADER_SIZE
            self._partial_since = self._now()
        else:
            self._partial_since = math.inf

    def _begin_partial(self, kind: int, flags: int, stream_id: int, data: bytes, start: int, size: int) -> int:
        """Look at a frame whose end is not there yet; returns where to carry over from."""
        self._check_size(kind, size)
        if self._block_stream and kind != CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} inside a header block")
        if kind == DATA and stream_id and not flags & PADDED:
            self._data_left, self._data_stream, self._data_ends = size, stream_id, bool(flags & END_STREAM)
            self._more_data(memoryview(data)[start:])
            return len(data)
        self._needed = size + _HEADER_SIZE
        return start - _HEADER_SIZE

    def _more_data(self, piece: memoryview) -> None:
        self._data_left -= len(piece)
        if len(piece):
            try:
                ended = self._data_ends and not self._data_left
                self._on_data(self._data_stream, piece, len(piece), ended=ended)
            except StreamFault as fault:
                self._fail_stream(fault)

    def _check_size(self, kind: int, size: int) -> None:
        if size > self.limits.max_frame_size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        fixed = _FIXED_SIZES.get(kind)
        if fixed is not None and size != fixed:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of type {kind} with {size} bytes")
        if kind in {HEADERS, CONTINUATION} and size > self.limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {size} bytes or more")

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take any whole frame outside of a header block."""
        self._check_size(kind, len(payload))
        if (kind in _ON_STREAM and stream_id == 0) or (kind in _ON_CONNECTION and stream_id != 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} on stream {stream_id}")
        if kind == DATA:
            self._take_data(flags, stream_id, payload)
        elif kind == HEADERS:
            self._take_headers(flags, stream_id, payload)
        elif kind == WINDOW_UPDATE:
            self._on_window(stream_id, _word(payload)[0] & MAX_STREAM_ID)
        elif kind == RST_STREAM:
            self._on_reset(stream_id, _word(payload)[0])
        elif kind == SETTINGS:
            self._on_settings(payload, ack=bool(flags & 1))
        elif kind == PING:
            self._on_ping(payload, ack=bool(flags & 1))
        elif kind == GOAWAY:
            if len(payload) < 8:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
            self._on_goaway(_word(payload)[0] & MAX_STREAM_ID, _word(payload, 4)[0], payload[8:])
        elif kind in {PUSH_PROMISE, CONTINUATION}:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame of type {kind} that cannot come here")
        else:  # PRIORITY, deprecated, and types that we do not know: to be ignored
            self._idles.hit(self._now())

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if flags & PADDED:
            payload = _unpad(payload, 0)
        ended = bool(flags & END_STREAM)
        if not payload and not ended:
            self._empties.hit(self._now())
        self._on_data(stream_id, payload, size, ended=ended)

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        weight = 5 if flags & WEIGHTED else 0  # priority: deprecated, so only skipped
        if flags & PADDED:
            payload = _unpad(payload, weight)
        elif len(payload) < weight:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        payload = payload[weight:]
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._on_headers(stream_id, payload, ended=ended)
        else:
            self._block[:] = payload
            self._block_stream, self._block_ends, self._continuations = stream_id, ended, 0
            self._block_since = self._now()

    def _continue(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take a frame inside of a header block."""
        self._check_size(kind, len(payload))
        if kind != CONTINUATION or stream_id != self._block_stream:
            text = f"a frame of type {kind} on stream {stream_id} inside a header block"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, text)
        self._continuations += 1
        if self._continuations > self.limits.max_continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"over {self.limits.max_continuations} CONTINUATIONs")
        if not payload:
            self._empties.hit(self._now())
        block = self._block
        block += payload
        if len(block) > self.limits.max_header_block:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {len(block)} bytes or more")
        if flags & END_HEADERS:
            whole = bytes(block)
            block.clear()
            self._block_stream, self._block_since = 0, math.inf
            self._on_headers(stream_id, whole, ended=self._block_ends)


def _unpad(payload: bytes, least: int) -> bytes:
    """Return a payload without its padding; `least` bytes at least must remain."""
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    stop = len(payload) - payload[0]
    if stop - 1 < least:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{payload[0]} bytes of padding in {len(payload)}")
    return payload[1:stop]
