"""gRPC's own fields: status and message in trailers, timeouts, binary metadata (gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Final

__all__ = [
    "GRPC_CONTENT_TYPE",
    "decode_binary",
    "decode_message",
    "encode_message",
    "encode_status",
    "encode_timeout",
    "http_error",
    "literal",
    "parse_timeout",
    "response_headers",
    "status_block",
]

GRPC_CONTENT_TYPE: Final = b"application/grpc"

#: Seconds of one unit of `grpc-timeout`.
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
#: The specification says 8 digits; gRPC core takes more, so clients may send more.
_TIMEOUT: Final = re.compile(rb"([0-9]{1,18})([HMSmun])")

#: What eight digits can say, the most that the specification allows.
_MAX_TIMEOUT: Final = 99_999_999

_TRIPLET: Final = re.compile(rb"%([0-9A-Fa-f]{2})")

#: Everything but printable ASCII, and the percent sign.
_UNSAFE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")

#: A whole percent triplet, or one plain byte, cut in the middle at the end of a text.
_CUT_TRIPLET: Final = re.compile(rb"%[0-9A-F]?\Z")

#: Fields of HPACK's static table (RFC 7541 appendix A).
_STATUS_INDEX: Final = 8
_CONTENT_TYPE_INDEX: Final = 31
_INDEXED_STATUS: Final = {200: b"\x88", 204: b"\x89", 206: b"\x8a", 304: b"\x8b", 400: b"\x8c", 404: b"\x8d"}


def parse_timeout(text: bytes) -> float | None:
    """Return the seconds of a ``grpc-timeout``, or None when it is none."""
    match = _TIMEOUT.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def encode_timeout(seconds: float) -> bytes:
    """Return a ``grpc-timeout`` of at most 8 digits, in the finest unit that has room, rounded up.

    Raises
    ------
    ValueError
        Not a positive number of seconds, or over 99,999,999 hours.
    """
    if seconds > 0:
        for unit, size in sorted(_UNITS.items(), key=lambda item: item[1]):
            if seconds / size <= _MAX_TIMEOUT:
                return b"%d%b" % (max(1, math.ceil(round(seconds / size, 3))), unit)
    raise ValueError(f"a timeout of {seconds} seconds")


def decode_message(value: bytes) -> str:
    """Return a status message without its percent-encoding; what is no escape stays as it is."""
    return _TRIPLET.sub(lambda match: bytes((int(match[1], 16),)), value).decode("utf-8", "replace")


def encode_message(text: str, limit: int) -> bytes:
    """Return a status message percent-encoded, cut to at most `limit` bytes but not inside an escape."""
    escaped = _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode("utf-8", "replace"))
    if len(escaped) <= limit:
        return escaped
    return _CUT_TRIPLET.sub(b"", escaped[:limit])


def decode_binary(value: bytes) -> bytes:
    """Return the value of a ``-bin`` field: base64, its padding optional.

    Raises
    ------
    ValueError
        When it is not base64.
    """
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"binary metadata is not base64: {error}") from None


def _integer(value: int, bits: int, first: int) -> bytes:
    """HPACK's integer with a prefix of `bits` bits, the others from `first` (RFC 7541 section 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes | int, value: bytes) -> bytes:
    """Return a field that changes no table: literal without indexing, its name given or by index, no Huffman code."""
    if isinstance(name, int):
        return _integer(name, 4, 0x00) + _integer(len(value), 7, 0x00) + value
    return b"\x00" + _integer(len(name), 7, 0x00) + name + _integer(len(value), 7, 0x00) + value


def _http_status(status: int) -> bytes:
    return _INDEXED_STATUS.get(status) or literal(_STATUS_INDEX, b"%d" % status)


def response_headers(content_type: bytes = GRPC_CONTENT_TYPE) -> bytes:
    """Return the header block in front of an answer."""
    return _http_status(200) + literal(_CONTENT_TYPE_INDEX, content_type)


def encode_status(code: int, message: bytes = b"") -> bytes:
    """Return the trailers' block; `message` as from `encode_message`."""
    block = literal(b"grpc-status", b"%d" % code)
    return block + literal(b"grpc-message", message) if message else block


def status_block(code: int, message: bytes, content_type: bytes = GRPC_CONTENT_TYPE) -> bytes:
    """Return the one header block of an answer without messages ("trailers-only")."""
    return response_headers(content_type) + encode_status(code, message)


def http_error(status: int, code: int, message: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    """Return the block that refuses what is not gRPC at all; a status is added for clients that look for one."""
    extra = b"".join(literal(name, value) for name, value in fields)
    return _http_status(status) + extra + encode_status(code, message)
