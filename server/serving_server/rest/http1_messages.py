"""HTTP/1.1 messages: what handlers take and give, and the bytes of an answer."""

from __future__ import annotations

import dataclasses
import functools
import http
import time
import zlib
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from typing import Final

__all__ = ["CONTINUE", "Limits", "Request", "Response", "encode_response", "gunzip"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Answers have no body, whatever the handler gave (RFC 9110 section 15).
_BODILESS: Final = frozenset({204, 304})
#: Up to here a body is copied behind its head.
_JOIN_BYTES: Final = 64 * 1024
#: Kinds of answer whose heads are kept; handlers of ours have a handful.
_MAX_HEADS: Final = 64
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
        Names in lower case, values as Latin-1; repeated headers are joined by a comma. Not to be changed: requests with
        the same head share it.
    body : bytes
        Unchunked and, when it was gzip, unpacked.
    repeated : mapping of str to str or None
        The first values of the headers that came more than once: a joined one may have a comma of its own.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    repeated: Mapping[str, str] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header by its name in lower case, None when there is none."""
        text = name.decode("ascii")
        first = self.repeated
        value = first[text] if first is not None and text in first else self.headers.get(text)
        return None if value is None else value.encode("latin-1")


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
    max_pipelined_bytes : int
        Bodies of those of them that are not answered; beyond it no more is read.
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
    max_pipelined_bytes: int = 64 * 1024 * 1024
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


class _Heads:
    """Heads of answers up to Content-Length, as long as their Date is right."""

    def __init__(self) -> None:
        self._until = 0.0
        self._date = b""
        self._last: tuple[int, str, Sequence[tuple[str, str]], bytes] = (0, "", (), b"")
        self._last_head = b""
        self._heads: dict[tuple[int, str, Sequence[tuple[str, str]], bytes], bytes] = {}

    def get(self, response: Response, connection: bytes) -> bytes:
        now = time.time()
        fields = response.headers
        if not self._until - 1 <= now < self._until or len(self._heads) > _MAX_HEADS:
            second = int(now)
            self._until = second + 1.0
            self._date = f"Date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")
            self._heads.clear()
        else:
            # Nearly every answer has the head of the one before; its parts are then the very same objects.
            last = self._last
            if (
                last[1] is response.content_type
                and last[2] is fields
                and last[3] is connection
                and last[0] == response.status
            ):
                return self._last_head
        key = (response.status, response.content_type, fields if type(fields) is tuple else tuple(fields), connection)
        head = self._heads.get(key)
        if head is None:
            parts = [_status_head(response.status, response.content_type), self._date]
            parts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in fields]
            if connection:
                parts.append(b"Connection: %b\r\n" % connection)
            head = self._heads[key] = b"".join(parts)
        self._last, self._last_head = key, head
        return head


_heads = _Heads()


def encode_response(response: Response, *, head_only: bool, connection: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of an answer as they go over the wire; a small body comes joined to the head.

    Parameters
    ----------
    response : Response
        From a handler.
    head_only : bool
        The request was HEAD: its answer has a length but no body.
    connection : bytes
        ``close``, ``keep-alive``, or empty for what HTTP/1.1 means anyway.
    """
    head = _heads.get(response, connection)
    body = response.body
    if response.status in _BODILESS:
        return head + b"\r\n", b""
    size = len(body)
    if head_only:
        return b"%bContent-Length: %d\r\n\r\n" % (head, size), b""
    if size <= _JOIN_BYTES:
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, size, body), b""
    return b"%bContent-Length: %d\r\n\r\n" % (head, size), body
