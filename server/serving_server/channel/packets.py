"""Packets of a lane: where each tensor of a batch lies, and how a run ended. Little-endian structs.

===========  =================================================================================================
front        ``R`` run: callable id, tensors in the request buffer; ``D`` define: callable id, JSON of tensor
             names to feed and to fetch (always before its first run on that lane)
worker       ``A`` answer: run time, tensors in the response buffer; ``E`` error: status code, run time, UTF-8 message
===========  =================================================================================================

A tensor is described by dtype number, rank, offset (a multiple of `ALIGNMENT`), length in bytes and its dimensions.
Numeric tensors lie there in C order; a string tensor of n elements as n + 1 int64 offsets, then the bytes.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from serving_server.channel.buffers import ALIGNMENT, align
from serving_server.tensors import Array, DType, by_enum

__all__ = [
    "MAX_PACKET",
    "Answer",
    "TensorPlace",
    "pack_answer",
    "pack_define",
    "pack_error",
    "pack_run",
    "place_tensors",
    "read_strings",
    "unpack_answer",
    "unpack_define",
    "unpack_run",
    "view_tensor",
    "write_strings",
    "write_tensor",
]

#: No packet may be larger: it must go through the socket in one piece. 1,000 inputs of rank 6 fit.
MAX_PACKET: Final = 128 * 1024

_RUN: Final = struct.Struct("<cIH")
_ANSWER: Final = struct.Struct("<cQQH")
_ERROR: Final = struct.Struct("<cBQQ")
_TENSOR: Final = struct.Struct("<BBQQ")
_DIMS: Final = tuple(struct.Struct(f"<{rank}q") for rank in range(9))
_MAX_MESSAGE: Final = 16 * 1024


class TensorPlace(NamedTuple):
    """Where a tensor lies in a shared buffer; sizes in bytes."""

    dtype: DType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Answer(NamedTuple):
    """How a run ended: `error` is None and `tensors` are the fetches in order, or the other way round.

    `run_ns` is how long the graph ran, `began_ns` since when, by `time.perf_counter_ns`.
    """

    run_ns: int
    tensors: list[TensorPlace]
    error: tuple[int, str] | None
    began_ns: int = 0


def _dims(rank: int) -> struct.Struct:
    return _DIMS[rank] if rank < len(_DIMS) else struct.Struct(f"<{rank}q")


def _pack_tensors(parts: list[bytes], tensors: Sequence[TensorPlace]) -> bytes:
    for dtype, shape, offset, nbytes in tensors:
        parts.append(_TENSOR.pack(dtype.enum, len(shape), offset, nbytes))
        if shape:
            parts.append(_dims(len(shape)).pack(*shape))
    packet = b"".join(parts)
    if len(packet) > MAX_PACKET:
        msg = f"the description of {len(tensors)} tensors takes {len(packet)} bytes; the limit is {MAX_PACKET}"
        raise ValueError(msg)
    return packet


def _unpack_tensors(packet: bytes, position: int, count: int) -> list[TensorPlace]:
    tensors = []
    for _ in range(count):
        enum, rank, offset, nbytes = _TENSOR.unpack_from(packet, position)
        position += _TENSOR.size
        shape: tuple[int, ...] = ()
        if rank:
            dims = _dims(rank)
            shape = dims.unpack_from(packet, position)
            position += dims.size
        tensors.append(TensorPlace(by_enum(enum), shape, offset, nbytes))
    return tensors


def pack_define(callable_id: int, feeds: Sequence[str], fetches: Sequence[str]) -> bytes:
    """Name the tensors that a callable feeds and fetches, in order."""
    names = json.dumps({"feeds": list(feeds), "fetches": list(fetches)}).encode()
    if len(names) + _RUN.size > MAX_PACKET:
        msg = f"a signature with {len(feeds)} inputs and {len(fetches)} outputs has too many names for one packet"
        raise ValueError(msg)
    return _RUN.pack(b"D", callable_id, 0) + names


def unpack_define(packet: bytes) -> tuple[int, list[str], list[str]]:
    """Undo `pack_define`."""
    _, callable_id, _ = _RUN.unpack_from(packet)
    names = json.loads(packet[_RUN.size :])
    return callable_id, names["feeds"], names["fetches"]


def pack_run(callable_id: int, tensors: Sequence[TensorPlace]) -> bytes:
    """Announce a batch in the request buffer."""
    return _pack_tensors([_RUN.pack(b"R", callable_id, len(tensors))], tensors)


def unpack_run(packet: bytes) -> tuple[int, list[TensorPlace]]:
    """Undo `pack_run`."""
    _, callable_id, count = _RUN.unpack_from(packet)
    return callable_id, _unpack_tensors(packet, _RUN.size, count)


def pack_answer(began_ns: int, run_ns: int, tensors: Sequence[TensorPlace]) -> bytes:
    """Announce results in the response buffer; times as of `Answer`."""
    return _pack_tensors([_ANSWER.pack(b"A", began_ns, run_ns, len(tensors))], tensors)


def pack_error(code: int, message: str, began_ns: int = 0, run_ns: int = 0) -> bytes:
    """Say why a run failed; long messages are cut. Times as of `Answer`, 0 when the graph did not begin to run."""
    return _ERROR.pack(b"E", code, began_ns, run_ns) + message.encode("utf-8", "replace")[:_MAX_MESSAGE]


def unpack_answer(packet: bytes) -> Answer:
    """Undo `pack_answer` or `pack_error`."""
    if packet[:1] == b"E":
        _, code, began_ns, run_ns = _ERROR.unpack_from(packet)
        return Answer(run_ns, [], (code, packet[_ERROR.size :].decode("utf-8", "replace")), began_ns)
    _, began_ns, run_ns, count = _ANSWER.unpack_from(packet)
    return Answer(run_ns, _unpack_tensors(packet, _ANSWER.size, count), None, began_ns)


def place_tensors(
    tensors: Sequence[tuple[DType, tuple[int, ...], int]], start: int = 0
) -> tuple[list[TensorPlace], int]:
    """Lay tensors out one after the other.

    Parameters
    ----------
    tensors : sequence of (dtype, shape, nbytes)

    Returns
    -------
    places, end : list of TensorPlace, int
        `end` is the size that the buffer must have.
    """
    places = []
    position = start
    for dtype, shape, nbytes in tensors:
        places.append(TensorPlace(dtype, shape, position, nbytes))
        position = align(position + nbytes)
    return places, max(position, ALIGNMENT)


def view_tensor(memory: mmap.mmap, place: TensorPlace) -> Array:
    """Return the numeric tensor at a place: a view of the shared memory, of the place's dtype and shape."""
    return np.ndarray(place.shape, place.dtype.numpy, memory, place.offset)


def write_strings(memory: mmap.mmap, place: TensorPlace, values: Sequence[bytes]) -> None:
    """Write a string tensor's offsets and bytes at its place."""
    count = len(values)
    offsets = np.ndarray((count + 1,), np.int64, memory, place.offset)
    offsets[0] = 0
    if count:
        np.cumsum(np.fromiter(map(len, values), np.int64, count), out=offsets[1:])
    start = place.offset + 8 * (count + 1)
    memory[start : place.offset + place.nbytes] = b"".join(values)


def read_strings(memory: mmap.mmap, place: TensorPlace) -> Array:
    """Return the string tensor at a place as an object array of bytes (a copy)."""
    count = 1
    for size in place.shape:
        count *= size
    offsets = np.ndarray((count + 1,), np.int64, memory, place.offset).tolist()
    data = memory[place.offset + 8 * (count + 1) : place.offset + place.nbytes]
    array = np.empty(count, dtype=object)
    for index in range(count):
        array[index] = data[offsets[index] : offsets[index + 1]]
    return array.reshape(place.shape)


def write_tensor(memory: mmap.mmap, place: TensorPlace, array: Any) -> None:
    """Copy a whole tensor to its place."""
    if place.dtype.is_string:
        write_strings(memory, place, array.ravel().tolist())
    else:
        view_tensor(memory, place)[...] = array
