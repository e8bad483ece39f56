"""Headers of a method's requests, encoded once and written again for each stream (gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import base64
import copy
import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from serving_server.errors import InvalidArgumentError
from serving_server.http2.frames import DEFAULT_FRAME_SIZE, END_HEADERS, HEADERS, frame
from serving_server.http2.grpc_status import GRPC_CONTENT_TYPE, encode_timeout, literal
from serving_server.http2.messages import ENCODINGS

__all__ = ["HeaderBlock", "RequestHeaders"]

#: Fields of HPACK's static table (RFC 7541 appendix A): whole ones, and names.
_POST: Final = b"\x83"
_SCHEMES: Final = {"http": b"\x86", "https": b"\x87"}
_AUTHORITY: Final = 1
_PATH: Final = 4
_CONTENT_TYPE: Final = 31
_USER_AGENT: Final = 58

_NAME: Final = re.compile(r"[0-9a-z_.\-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_RESERVED: Final = re.compile(r"grpc-.*|content-type|te|host|connection|user-agent")

#: What each field counts beside its name and value (RFC 9113 section 6.5.2).
_OVERHEAD: Final = 32

#: Timeouts whose blocks are kept.
_CACHED_TIMEOUTS: Final = 64


class HeaderBlock:
    """One encoded block.

    Attributes
    ----------
    block : bytes
        Uses no dynamic table, so it is right on any connection at any time.
    size : int
        As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    fits : bool
        One HEADERS frame holds it, whatever the peer's settings.
    start : bytes
        Length, type and flags of that frame.
    pack : callable
        ``pack(start, stream_id, block, word, flags, stream_id, 0, length)`` returns that frame and the beginning of the
        DATA frame behind it, up to the message.
    """

    __slots__ = ("block", "fits", "pack", "size", "start")

    def __init__(self, block: bytes, size: int) -> None:
        self.block = block
        self.size = size
        self.fits = len(block) <= DEFAULT_FRAME_SIZE
        self.start = frame(HEADERS, END_HEADERS, 0, block)[:5]
        self.pack: Callable[..., bytes] = struct.Struct(f">5sI{len(block)}sIBIBI").pack


class RequestHeaders:
    """What all requests of one method to one server say.

    Parameters
    ----------
    path : str
        ``/package.Service/Method``
    authority : str
        Whom the client means to talk to, mostly host:port.
    metadata : sequence of (name, value)
        Names in lower case. Values of names that end in ``-bin`` are bytes, all others printable ASCII.
    secure : bool
        The connection has TLS.
    user_agent : str

    Raises
    ------
    InvalidArgumentError
        A name or a value that HTTP/2 or gRPC does not allow, by its name.
    """

    def __init__(
        self,
        path: str,
        authority: str,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        *,
        secure: bool = False,
        user_agent: str = "serving-workbench",
    ) -> None:
        self.path = path
        if not path.startswith("/"):
            raise InvalidArgumentError(f"The path {path!r} of a gRPC method begins with a slash.")
        for name, value in ((":path", path), (":authority", authority), ("user-agent", user_agent)):
            if not _VALUE.fullmatch(value):
                raise InvalidArgumentError(f"{name} is {value[:80]!r}, which is not printable ASCII.")
        fields: list[tuple[bytes | int, bytes, int]] = [
            (_AUTHORITY, authority.encode(), len(b":authority")),
            (_PATH, path.encode(), len(b":path")),
            (_CONTENT_TYPE, GRPC_CONTENT_TYPE, len(b"content-type")),
            (b"te", b"trailers", 2),
            (_USER_AGENT, user_agent.encode(), len(b"user-agent")),
            (b"grpc-accept-encoding", b",".join(ENCODINGS), len(b"grpc-accept-encoding")),
        ]
        fields += [(name, value, len(name)) for name, value in map(_checked, metadata)]
        block = _POST + _SCHEMES["https" if secure else "http"]
        self._block = block + b"".join(literal(name, value) for name, value, _ in fields)
        self._size = sum(length + len(value) + _OVERHEAD for _, value, length in fields)
        self._size += len(b":methodPOST:scheme") + len("https" if secure else "http") + 2 * _OVERHEAD
        #: The block without a deadline.
        self.plain = HeaderBlock(self._block, self._size)
        self._timed: dict[float, HeaderBlock] = {}

    def also(self, name: str, value: str | bytes) -> RequestHeaders:
        """Return the same with one more field of metadata, for a request of its own; what was checked is not again.

        Raises
        ------
        InvalidArgumentError
            As for `metadata`.
        """
        other = copy.copy(self)
        field, content = _checked((name, value))
        other._block = self._block + literal(field, content)
        other._size = self._size + len(field) + len(content) + _OVERHEAD
        other.plain = HeaderBlock(other._block, other._size)
        other._timed = {}
        return other

    def timed(self, timeout: float) -> HeaderBlock:
        """Return the block with a ``grpc-timeout``, in seconds; those used before are kept.

        Raises
        ------
        ValueError
            Not a positive number, or over 99,999,999 hours.
        """
        found = self._timed.get(timeout)
        if found is None:
            found = self.left(timeout)
            if len(self._timed) >= _CACHED_TIMEOUTS:
                self._timed.clear()
            self._timed[timeout] = found
        return found

    def left(self, timeout: float) -> HeaderBlock:
        """Return the block with what is left of a timeout, which will not come again. Raises as `timed`."""
        text = encode_timeout(timeout)
        size = self._size + len(b"grpc-timeout") + len(text) + _OVERHEAD
        return HeaderBlock(self._block + literal(b"grpc-timeout", text), size)


def _checked(field: tuple[str, str | bytes]) -> tuple[bytes, bytes]:
    name, value = field
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise InvalidArgumentError(
            f"Metadata cannot have the name {name[:80]!r}: lower case, and not one of gRPC's own."
        )
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise InvalidArgumentError(f"Metadata {name} is {type(value).__name__}; names that end in -bin have bytes.")
        return name.encode(), base64.b64encode(value).rstrip(b"=")
    if not isinstance(value, str) or (value and not _VALUE.fullmatch(value)):
        raise InvalidArgumentError(f"Metadata {name} is {value[:80]!r}: printable ASCII, or a name that ends in -bin.")
    return name.encode(), value.encode()
