"""gRPC's messages inside DATA: five bytes in front of each, perhaps compressed (PROTOCOL-HTTP2.md).

Error texts are gRPC core's, so that clients and their tests read the same from both transports.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

from serving_server.errors import InternalError, ResourceExhaustedError, ServingError, UnimplementedError

__all__ = ["ENCODINGS", "PREFIX_SIZE", "MessageReader", "Unpacker", "unpack_prefix"]

PREFIX_SIZE: Final = 5

#: ``(compressed, length)`` of the five bytes.
unpack_prefix: Final = struct.Struct(">BI").unpack_from

#: What we can unpack, as ``grpc-accept-encoding`` lists it, and zlib's parameter for each.
ENCODINGS: Final = {b"identity": 0, b"deflate": zlib.MAX_WBITS, b"gzip": zlib.MAX_WBITS | 16}

#: Taken in and given out at a time. Bytes.
_STEP_IN: Final = 64 * 1024
_STEP_OUT: Final = 1024 * 1024


class MessageReader:
    """Assembles the messages of one stream from pieces of any size, without copying what came before.

    Parameters
    ----------
    max_bytes : int
        Largest message as sent.
    who : str
        This end, as gRPC core calls it in the error text.

    Attributes
    ----------
    received : int
        All bytes that came.
    expected : int
        Bytes of the whole message that is on its way, prefix included; 0 until its prefix is there.
    counted : int
        Bytes kept here when the owner last added them up.
    """

    __slots__ = ("_data", "_max_bytes", "_who", "counted", "expected", "received")

    def __init__(self, max_bytes: int, who: str = "SERVER") -> None:
        self._data = bytearray()
        self._max_bytes = max_bytes
        self._who = who
        self.received = 0
        self.expected = 0
        self.counted = 0

    @property
    def held(self) -> int:
        """Bytes kept here."""
        return len(self._data)

    def add(self, piece: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises
        ------
        ResourceExhaustedError
            When the message that they begin is too large; its bytes need not be read.
        """
        self.received += len(piece)
        self._data += piece
        if not self.expected:
            self._look()

    def _look(self) -> None:
        """See how long the message at hand is, as soon as its prefix is there."""
        if len(self._data) >= PREFIX_SIZE:
            length = unpack_prefix(self._data)[1]
            check_size(length, self._max_bytes, self._who)
            self.expected = length + PREFIX_SIZE

    def take(self) -> tuple[int, bytes | bytearray] | None:
        """Return the flag and the bytes of the next whole message, or None.

        Raises
        ------
        ResourceExhaustedError
            As `add`, for a message that came together with the one before it.
        """
        if not self.expected:
            self._look()
        data, expected = self._data, self.expected
        if not expected or len(data) < expected:
            return None
        flag = data[0]
        if len(data) == expected:
            self._data = bytearray()
            del data[:PREFIX_SIZE]  # cheap: a bytearray can begin later
            message: bytes | bytearray = data
        else:
            message = bytes(memoryview(data)[PREFIX_SIZE:expected])
            del data[:expected]
        self.expected = 0
        return flag, message


def check_size(length: int, limit: int, who: str = "SERVER") -> None:
    """Raise `ResourceExhaustedError`, in gRPC's words, when a message is too large."""
    if length > limit:
        raise ResourceExhaustedError(f"{who}: Received message larger than max ({length} vs. {limit})")


class Unpacker:
    """Unpacks one compressed message, a step at a time so that a large one cannot stall the others.

    Parameters
    ----------
    encoding : bytes
        From the request's headers.
    message : bytes
    limit : int
        Bytes of the unpacked message.

    Raises
    ------
    ServingError
        When the encoding is none that we know, or when none was told.
    """

    def __init__(self, encoding: bytes, message: bytes | bytearray, limit: int) -> None:
        if encoding == b"identity":
            raise InternalError("Compression bit set but no encoding configured")
        bits = ENCODINGS.get(encoding)
        if bits is None:
            raise unknown_encoding(encoding)
        self._inflate: Any = zlib.decompressobj(wbits=bits)
        self._message = memoryview(message)
        self._position = 0
        self._rest = b""
        self._out = bytearray()
        self._limit = limit

    def step(self) -> bytearray | None:
        """Go on; the message when it is done.

        Raises
        ------
        ServingError
            INTERNAL for damaged data, RESOURCE_EXHAUSTED for too much of it.
        """
        inflate = self._inflate
        if not self._rest:
            # In pieces: zlib copies what it did not take, and all of a large message would be copied at each step.
            self._rest = bytes(self._message[self._position : self._position + _STEP_IN])
            self._position += len(self._rest)
        try:
            self._out += inflate.decompress(self._rest, _STEP_OUT)
        except zlib.error:
            raise InternalError("Decompression failed due to zlib error") from None
        if len(self._out) > self._limit:
            raise ResourceExhaustedError(f"Decompressed message larger than max ({self._limit})")
        self._rest = inflate.unconsumed_tail
        if inflate.eof:
            if inflate.unused_data or self._position < len(self._message):
                raise InternalError("Decompression failed due to not all input consumed")
            return self._out
        if not self._rest and self._position == len(self._message):
            raise InternalError("Decompression failed due to data error")
        return None


def unknown_encoding(encoding: bytes) -> ServingError:
    """Return the error for a request whose messages we cannot unpack."""
    return UnimplementedError(f"Compression algorithm '{encoding.decode('ascii', 'replace')}' is unknown.")
