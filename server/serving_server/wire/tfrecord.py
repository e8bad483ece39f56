"""TFRecord files without TensorFlow.

A record is its length (uint64), the masked CRC of that, the data, the masked CRC of the data; all little-endian
(tensorflow/core/lib/io/record_writer.h). The CRC is CRC-32C, rotated right by 15 bits plus a constant, because a CRC
of data that holds its own CRC says little (tensorflow/core/lib/hash/crc32c.h).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import google_crc32c

from serving_server.errors import DataLossError

__all__ = ["frame", "read"]

_MASK_DELTA: Final = 0xA282EAD8
_HEAD: Final = struct.Struct("<Q")
_CRC: Final = struct.Struct("<I")


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def frame(data: bytes) -> bytes:
    """Return a record as it stands in a file."""
    head = _HEAD.pack(len(data))
    return b"".join((head, _masked(head), data, _masked(data)))


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def read(path: Any, open_binary: Callable[[Any], BinaryIO] = _open) -> Iterator[bytes]:
    """Yield the records of a file.

    Parameters
    ----------
    path : Path
        Or whatever else `open_binary` opens.
    open_binary : callable

    Raises
    ------
    DataLossError
        At the first that is cut off or changed, naming the file and the place.
    OSError
        When the file cannot be read.
    """
    with open_binary(path) as file:
        while head := file.read(_HEAD.size + _CRC.size):
            place = file.tell() - len(head)
            if len(head) < _HEAD.size + _CRC.size:
                raise DataLossError(f"truncated record at {place} of {path}")
            if _masked(head[: _HEAD.size]) != head[_HEAD.size :]:
                raise DataLossError(f"corrupted record at {place} of {path}; is it a TFRecord file?")
            (length,) = _HEAD.unpack(head[: _HEAD.size])
            body = file.read(length + _CRC.size)
            if len(body) < length + _CRC.size:
                raise DataLossError(f"truncated record at {place} of {path}")
            if _masked(body[:length]) != body[length:]:
                raise DataLossError(f"corrupted record at {place} of {path}")
            yield body[:length]
