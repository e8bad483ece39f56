"""HTTP/1.1 messages: what handlers take and give, and the bytes of an answer."""

from __future__ import annotations

import dataclasses
import functools
import http
import time
import zlib
from collections.abc import Sequence
from email.utils import formatdate
from typing import Final

__all__ = ["CONTINUE", "Limits", "Request", "Response", "encode_response", "gunzip"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Answers have no body, whatever the handler gave (RFC 9110 section 15).
_BODILESS: Final = frozenset({204, 304})
#: Not in Python's table; nginx's name for a request that its client gave up.
_REASONS: Final = {499: "Client Closed Request"}


@dataclasses.dataclass(slots=True)
class Request:
    """One complete request.

    Attributes
    ----------
    method : str
        Upper case.
    target : str
        Raw path with query string, still percent-encoded, bytes as Latin-1.
    headers : dict of str to str
        Names in lower case, values as Latin-1; repeated headers are joined by a comma.
    body : bytes
        Unchunked and, when it was gzip, unpacked.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass(slots=True)
class Response:
    """An answer; Content-Length, Connection and Date are the transport's.

    Attributes
    ----------
    status : int
        HTTP status code.
    body : bytes
        Not sent for HEAD, 204 and 304.
    content_type : str
        Empty: no such header.
    headers : sequence of (name, value)
        Further headers, from trusted code: they are not escaped.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection. Times are seconds, checked about four times a second.

    Attributes
    ----------
    max_header_bytes : int
        Request line and headers together (431); also trailers, and white space between requests.
    max_body_bytes : int
        Body as received (413).
    max_unpacked_bytes : int
        gzip bodies beyond this become empty, as in TensorFlow Serving.
    max_pipelined : int
        Requests of one connection that run or wait for their turn to be answered; more are not read.
    idle_timeout : float
        A connection without any request is closed.
    receive_timeout : float
        From the first byte of a request to its last (408).
    send_timeout : float
        A client that takes no byte of its answers for so long is dropped.
    linger_timeout : float
        After refusing a request: time for the client to read why, before its unread bytes make the kernel reset.
    """

    max_header_bytes: int = 64 * 1024
    max_body_bytes: int = 2**31 - 1
    max_unpacked_bytes: int = 100 * 1024 * 1024
    max_pipelined: int = 64
    idle_timeout: float = 120.0
    receive_timeout: float = 120.0
    send_timeout: float = 60.0
    linger_timeout: float = 2.0


def gunzip(body: bytes, limit: int) -> bytes:
    """Return the unpacked body, or nothing when it is not one whole gzip member or exceeds `limit` bytes."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        return b""
    whole = unpacker.eof and not unpacker.unused_data and len(unpacked) <= limit
    return unpacked if whole else b""


@functools.lru_cache(maxsize=64)
def _status_head(status: int, content_type: str) -> bytes:
    try:
        reason = _REASONS.get(status) or http.HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    head = f"HTTP/1.1 {status} {reason}\r\n"
    if content_type:
        head += f"Content-Type: {content_type}\r\n"
    return head.encode("latin-1")


@functools.lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")


def encode_response(response: Response, *, head_only: bool, connection: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of an answer as they go over the wire.

    Parameters
    ----------
    response : Response
        From a handler.
    head_only : bool
        The request was HEAD: its answer has a length but no body.
    connection : bytes
        ``close``, ``keep-alive``, or empty for what HTTP/1.1 means anyway.
    """
    parts = [_status_head(response.status, response.content_type), _date(int(time.time()))]
    parts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in response.headers]
    if connection:
        parts.append(b"Connection: %b\r\n" % connection)
    bodiless = response.status in _BODILESS
    parts.append(b"\r\n" if bodiless else b"Content-Length: %d\r\n\r\n" % len(response.body))
    return b"".join(parts), b"" if bodiless or head_only else response.body
