"""Header blocks: what was decoded before is remembered, and the rules for requests (RFC 9113 section 8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from serving_server.http2.field_decoder import Field, FieldDecoder
from serving_server.http2.grpc_status import parse_timeout

__all__ = ["Fields", "HeaderReader", "MalformedError", "RequestHead", "check_trailers"]

Fields = Sequence[Field]

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")
_CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})

#: Header blocks that one connection remembers, and the longest of them, bytes.
_CACHED_BLOCKS: Final = 256
_CACHED_LENGTH: Final = 2048

#: Beyond so many times the limit a block is not even decoded to its end, which costs the connection.
_HARD_LIMIT: Final = 4


class MalformedError(Exception):
    """A header list that breaks RFC 9113 section 8; the stream ends with PROTOCOL_ERROR."""


class RequestHead:
    """A request's headers, checked. Shared by all requests of a connection with the same block: never changed but for
    `route`, `special` and `asks`, which the owner of the connection fills in.

    Attributes
    ----------
    method, scheme, path, authority : bytes
    content_type : bytes or None
    content_length : int or None
    timeout : float or None
        Seconds, from ``grpc-timeout``.
    bad_timeout : bool
        There was a ``grpc-timeout`` that is none.
    encoding : bytes
        Of the messages; ``identity`` when not told.
    fields : sequence of (name, value)
        All of them, in order.
    size : int
        As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    route : object
        What becomes of such requests; None until it is decided.
    special : bool
        Such requests take the long way; also decided by the owner.
    asks : bool
        Something is to be told beside the answer; also decided by the owner.
    """

    __slots__ = (
        "asks",
        "authority",
        "bad_timeout",
        "content_length",
        "content_type",
        "encoding",
        "fields",
        "method",
        "path",
        "route",
        "scheme",
        "size",
        "special",
        "timeout",
    )

    def __init__(self, fields: Fields) -> None:
        pseudo = _check(fields)
        try:
            self.method = pseudo[b":method"]
            self.scheme = pseudo[b":scheme"] if self.method != b"CONNECT" else b""
            self.path = pseudo[b":path"] if self.method != b"CONNECT" else b""
        except KeyError as error:
            raise MalformedError(f"no {error.args[0].decode()}") from None
        if not self.path and self.method != b"CONNECT":
            raise MalformedError("an empty :path")
        self.authority = pseudo.get(b":authority", b"")
        self.fields = fields
        self.size = sum(len(name) + len(value) + 32 for name, value in fields)
        self.route: Any = None
        self.special = False
        self.asks = False
        self.content_type: bytes | None = None
        self.content_length: int | None = None
        self.timeout: float | None = None
        self.bad_timeout = False
        self.encoding = b"identity"
        for name, value in fields:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self._take_length(value)
            elif name == b"grpc-timeout":
                self.timeout = parse_timeout(value)
                self.bad_timeout = self.timeout is None
            elif name == b"grpc-encoding":
                self.encoding = value

    def with_timeout(self, fields: Fields, timeout: float) -> RequestHead:
        """Return the same but for the deadline."""
        head = RequestHead.__new__(RequestHead)
        head.method, head.scheme, head.path, head.authority = self.method, self.scheme, self.path, self.authority
        head.content_type, head.content_length, head.encoding = self.content_type, self.content_length, self.encoding
        head.route, head.special, head.asks = self.route, self.special, self.asks
        head.fields, head.timeout, head.bad_timeout = fields, timeout, False
        # The limit was checked; a timeout is a few bytes longer or shorter.
        head.size = self.size
        return head

    def _take_length(self, value: bytes) -> None:
        if not value.isdigit() or len(value) > 19 or self.content_length not in {None, int(value)}:
            raise MalformedError(f"content-length is {value[:40]!r}")
        self.content_length = int(value)


def _check(fields: Fields) -> dict[bytes, bytes]:
    """Return the pseudo-header fields of a request.

    Raises
    ------
    MalformedError
    """
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if regular:
                raise MalformedError(f"{name[:40]!r} behind a regular field")
            if name not in _PSEUDO or name in pseudo:
                raise MalformedError(f"an unknown or repeated pseudo-header field {name[:40]!r}")
            pseudo[name] = value
        else:
            regular = True
            _check_field(name, value)
        if _BAD_VALUE.search(value):
            raise MalformedError(f"the value of {name[:40]!r} has a character that is not allowed there")
    return pseudo


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError(f"the field name {name[:40]!r}")
    if name in _CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        raise MalformedError(f"{name.decode()} has no place in HTTP/2")


def check_trailers(fields: Fields) -> None:
    """Check what follows a body.

    Raises
    ------
    MalformedError
    """
    for name, value in fields:
        if name[:1] == b":":
            raise MalformedError(f"{name[:40]!r} in trailers")
        _check_field(name, value)
        if _BAD_VALUE.search(value):
            raise MalformedError(f"the value of {name[:40]!r} has a character that is not allowed there")


class HeaderReader:
    """Decodes the blocks of one connection, which share a table and must come in order.

    Clients send the same few bytes again and again once their fields are in the table, and decoding those costs more
    than all the rest of a request. A block during which the table did not change means the same until it does. Where
    each block does change it, by another deadline each time, at least the checks need not be made again.

    Parameters
    ----------
    max_header_list : int
        Soft limit; beyond four times as much decoding stops and the connection is lost.
    """

    def __init__(self, max_header_list: int) -> None:
        self._decoder = FieldDecoder(max_header_list * _HARD_LIMIT)
        #: Requests by their block. Read by the hot path; filled here.
        self.known: dict[bytes, RequestHead] = {}
        self._checked: dict[tuple[Field, ...], RequestHead] = {}  # by their fields but for the deadline

    def fields(self, block: bytes) -> Fields:
        """Decode a block that is no request.

        Raises
        ------
        ConnectionFault
            COMPRESSION_ERROR; ENHANCE_YOUR_CALM when it is far over the limit.
        """
        self._decoder.changed = False
        fields = self._decoder.decode(block)
        if self._decoder.changed:
            self.known.clear()
        return fields

    def request(self, block: bytes) -> RequestHead:
        """Decode and check a request's block.

        Raises
        ------
        ConnectionFault
            As `fields`.
        MalformedError
            The block was decoded, the connection can go on.
        """
        head = self.known.get(block)
        if head is not None:
            return head
        fields = self.fields(block)
        head = self._head(fields)
        if not self._decoder.changed and len(block) <= _CACHED_LENGTH:
            if len(self.known) >= _CACHED_BLOCKS:
                self.known.clear()
            self.known[block] = head
        return head

    def _head(self, fields: Fields) -> RequestHead:
        timeouts = [field for field in fields if field[0] == b"grpc-timeout"]
        if len(timeouts) != 1:
            return RequestHead(fields)
        timeout = parse_timeout(timeouts[0][1])
        key = tuple(field for field in fields if field[0] != b"grpc-timeout")
        like = self._checked.get(key)
        if timeout is not None and like is not None and like.route is not None:
            return like.with_timeout(fields, timeout)
        head = RequestHead(fields)
        if timeout is not None and head.size <= _CACHED_LENGTH:
            if len(self._checked) >= _CACHED_BLOCKS:
                self._checked.clear()
            self._checked[key] = head
        return head
