"""Headers and trailers of answers: what was decoded before is remembered (RFC 9113 section 8, PROTOCOL-HTTP2.md)."""

from __future__ import annotations

from typing import Final

from serving_server.errors import StatusCode
from serving_server.http2.field_decoder import Field, FieldDecoder
from serving_server.http2.grpc_status import GRPC_CONTENT_TYPE, decode_message
from serving_server.http2.headers import Fields, MalformedError, check_trailers
from serving_server.http2.messages import ENCODINGS

__all__ = ["ResponseHead", "ResponseReader"]

#: Blocks that one connection remembers, and the longest of them, bytes.
_CACHED_BLOCKS: Final = 256
_CACHED_LENGTH: Final = 2048

#: Beyond so many times the limit a block is not even decoded to its end, which costs the connection.
_HARD_LIMIT: Final = 4

#: What an answer means that is HTTP but not gRPC (gRPC's http-grpc-status-mapping.md).
_HTTP_STATUS: Final = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


class ResponseHead:
    """One header block of an answer, checked. Shared by all answers with the same block.

    Attributes
    ----------
    fields : sequence of (name, value)
        All of them, in order.
    http : int
        ``:status``; 0 in trailers, which have none.
    status : StatusCode or None
        ``grpc-status``, None without one.
    details : str
        ``grpc-message``, decoded.
    encoding : bytes
        Of the messages; ``identity`` when not told.
    begins : bool
        Messages may follow: an answer of gRPC that we understand.
    size : int
        As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    """

    __slots__ = ("begins", "details", "encoding", "fields", "http", "size", "status")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.http = 0
        self.status: StatusCode | None = None
        self.details = ""
        self.encoding = b"identity"
        self.size = sum(len(name) + len(value) + 32 for name, value in fields)
        rest: Fields = fields
        if fields and fields[0][0] == b":status":
            self.http = _number(fields[0], 3)
            rest = fields[1:]
        check_trailers(rest)
        content_type = b""
        for field in rest:
            name, value = field
            if name == b"grpc-status":
                number = _number(field, 9)
                self.status = StatusCode(number) if number <= max(StatusCode) else StatusCode.UNKNOWN
            elif name == b"grpc-message":
                self.details = decode_message(value)
            elif name == b"grpc-encoding":
                self.encoding = value
            elif name == b"content-type":
                content_type = value
        grpc = content_type.lower().startswith(GRPC_CONTENT_TYPE)
        self.begins = self.http == 200 and grpc and self.encoding in ENCODINGS
        if self.status is None and self.http and not self.begins:
            self.details = self._what(content_type, grpc=grpc)

    def _what(self, content_type: bytes, *, grpc: bool) -> str:
        if self.http != 200:
            return f"an answer of HTTP status {self.http}, which is not gRPC's"
        if not grpc:
            return f"an answer with the content-type {content_type[:80].decode('latin-1')!r}, which is not gRPC's"
        return f"an answer in the encoding {self.encoding[:80].decode('latin-1')!r}, which this client cannot unpack"

    def refusal(self) -> tuple[StatusCode, str]:
        """Return what headers mean that begin no answer which we understand."""
        if self.status is not None:
            return self.status, self.details
        if self.http == 200:
            return StatusCode.UNKNOWN, self.details
        return _HTTP_STATUS.get(self.http, StatusCode.UNKNOWN), self.details


def _number(field: Field, digits: int) -> int:
    name, value = field
    if not value.isdigit() or len(value) > digits:
        raise MalformedError(f"{name.decode()} is {value[:40]!r}")
    return int(value)


class ResponseReader:
    """Decodes the blocks of one connection, which share a table and must come in order.

    Servers answer with the same few blocks again and again; one that neither uses nor changes anything that has changed
    since means the same.

    Parameters
    ----------
    max_header_list : int
        Beyond four times as much decoding stops and the connection is lost.
    """

    def __init__(self, max_header_list: int) -> None:
        self._decoder = FieldDecoder(max_header_list * _HARD_LIMIT)
        #: Read by the hot path; filled here.
        self.known: dict[bytes, ResponseHead] = {}

    def head(self, block: bytes) -> ResponseHead:
        """Decode and check a block.

        Raises
        ------
        ConnectionFault
            COMPRESSION_ERROR; ENHANCE_YOUR_CALM when it is far over the limit.
        MalformedError
            The block was decoded, the connection can go on.
        """
        found = self.known.get(block)
        if found is not None:
            return found
        self._decoder.changed = False
        fields = self._decoder.decode(block)
        if self._decoder.changed:
            self.known.clear()
        head = ResponseHead(fields)
        if not self._decoder.changed and len(block) <= _CACHED_LENGTH:
            if len(self.known) >= _CACHED_BLOCKS:
                self.known.clear()
            self.known[block] = head
        return head
