"""Frames of HTTP/2: their numbers, how they are packed, and the two kinds of errors (RFC 9113 sections 4, 6, 7)."""

from __future__ import annotations

import enum
import struct
from typing import Final

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "DEFAULT_FRAME_SIZE",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "MAX_STREAM_ID",
    "MAX_WINDOW",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WEIGHTED",
    "WINDOW_UPDATE",
    "ConnectionFault",
    "ErrorCode",
    "StreamFault",
    "frame",
    "goaway",
    "header_frames",
    "ping",
    "rst_stream",
    "unpack_header",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
#: The PRIORITY flag of HEADERS; the frame type has that name here.
WEIGHTED: Final = 0x20

#: Windows and frame sizes before any SETTINGS.
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_SIZE: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

#: ``(length << 8 | type, flags, stream id with its reserved bit)`` of the 9 bytes in front of every frame.
unpack_header: Final = struct.Struct(">IBI").unpack_from

_HEADER: Final = struct.Struct(">IBI")
_WORD: Final = struct.Struct(">I")
_TWO_WORDS: Final = struct.Struct(">II")


class ErrorCode(enum.IntEnum):
    """Reasons in RST_STREAM and GOAWAY."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):  # noqa: N818 - RFC 9113 calls it a connection error, a name that Python has taken
    """The peer broke a rule that both ends' state depends on: GOAWAY, and the connection ends.

    Parameters
    ----------
    code : ErrorCode
    text : str
        Goes into GOAWAY's debug data.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text


class StreamFault(Exception):  # noqa: N818 - see above
    """The peer broke a rule within one stream: RST_STREAM, and the others go on."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(f"{code.name} on stream {stream_id}: {text}")
        self.stream_id = stream_id
        self.code = code
        self.text = text


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return _HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection's window."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(increment))


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """Return a PING frame of 8 bytes."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: ErrorCode, text: str = "") -> bytes:
    """Return a GOAWAY frame."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last_stream_id, code) + text.encode()[:1024])


def header_frames(stream_id: int, block: bytes, flags: int, max_frame: int) -> bytes:
    """Return HEADERS, and CONTINUATION as far as `max_frame` needs it. `flags` without END_HEADERS."""
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [frame(HEADERS, flags, stream_id, block[:max_frame])]
    for start in range(max_frame, len(block), max_frame):
        last = start + max_frame >= len(block)
        pieces.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, block[start : start + max_frame]))
    return b"".join(pieces)
