"""PredictRequests straight from bytes, for clients that send the same request again with other numbers.

Nearly every client does: name, signature, aliases, dtypes and shapes stay, and so do all lengths in the message.
Numbers of fixed width lie in it as they lie in memory (`tensor_content`, and packed `float_val` and the like). So the
second request of a length teaches a template, what is constant and where the numbers are, and those that fit it need
no parsing and no copy. A message that fits has the same fields of the same lengths as the one learned from, so it means
the same but for the numbers (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from serving_server.tensors import Array, TensorParsingError, by_enum
from serving_server.transports.predict_codec import ServableSpec, target

__all__ = ["PredictTemplates", "Template"]

#: Fields of PredictRequest, of an entry of its map `inputs`, and of TensorProto.
_SPEC, _INPUTS, _FILTER = 1, 2, 3
_KEY, _VALUE = 1, 2
_DTYPE, _SHAPE, _VERSION, _CONTENT = 1, 2, 3, 4

#: Typed fields that are packed numbers of fixed width, and the dtypes (numbers in `tensorflow.DataType`) they carry.
_RAW_FIELDS: Final = {5: 1, 6: 2, 9: 8, 12: 18}

_VARINT, _LENGTH = 0, 2

#: Bounds: message lengths looked at, templates of one length, constant bytes of one template.
_LENGTHS: Final = 4096
_PER_LENGTH: Final = 8
_CONSTANT: Final = 4096


class _Hole(NamedTuple):
    alias: str
    start: int
    dtype: np.dtype[Any]
    size: int
    shape: tuple[int, ...]


class Template:
    """What is constant in a kind of request.

    Attributes
    ----------
    spec : (name, version, label)
    signature : str
        As written; empty for the default.
    output_filter : tuple of str
    """

    __slots__ = ("_constants", "_holes", "output_filter", "signature", "spec")

    def __init__(self, data: bytes | bytearray, request: Any, holes: list[_Hole]) -> None:
        self.spec: ServableSpec = target(request)
        self.signature: str = request.model_spec.signature_name
        self.output_filter: tuple[str, ...] = tuple(request.output_filter)
        self._holes = holes
        self._constants: list[tuple[int, bytes]] = []
        position = 0
        for hole in holes:
            self._constants.append((position, bytes(data[position : hole.start])))
            position = hole.start + hole.size * hole.dtype.itemsize
        if position < len(data):
            self._constants.append((position, bytes(data[position:])))

    @property
    def size(self) -> int:
        """Constant bytes."""
        return sum(len(constant) for _, constant in self._constants)

    def arrays(self, data: bytes | bytearray) -> dict[str, Array] | None:
        """Return the inputs of a message of the same length, as views of it, or None when it differs elsewhere."""
        for start, constant in self._constants:
            if not data.startswith(constant, start):
                return None
        found = {}
        for alias, start, dtype, size, shape in self._holes:
            array = np.frombuffer(data, dtype, size, start)
            found[alias] = array if len(shape) == 1 else array.reshape(shape)
        return found


class PredictTemplates:
    """The templates that one server has learned."""

    def __init__(self) -> None:
        self._by_length: dict[int, list[Template]] = {}

    def match(self, data: bytes | bytearray) -> tuple[Template, dict[str, Array]] | None:
        """Return a template that a message fits, and its inputs by alias."""
        for template in self._by_length.get(len(data), ()):
            arrays = template.arrays(data)
            if arrays is not None:
                return template, arrays
        return None

    def learn(self, data: bytes | bytearray, request: Any, arrays: Mapping[str, Array]) -> None:
        """Take note of a message that fitted no template, and of what it means.

        Parameters
        ----------
        data : bytes
        request : PredictRequest
            Parsed from it.
        arrays : mapping of str to numpy.ndarray
            Its inputs.
        """
        known = self._by_length.get(len(data))
        if known is None:
            # Learning costs more than parsing once: the first of a length only makes itself known.
            if len(self._by_length) >= _LENGTHS:
                self._by_length.clear()
            self._by_length[len(data)] = []
            return
        if len(known) >= _PER_LENGTH or sys.byteorder != "little":
            return
        if any(array.dtype.hasobject for array in arrays.values()):
            return
        holes = _find_holes(data, arrays)
        if holes is None:
            return
        template = Template(data, request, holes)
        if template.size <= _CONSTANT:
            known.append(template)


class _UnusualError(Exception):
    """A message that is right, perhaps, but not of the plain kind that templates are for."""


class _Walker:
    """Reads the fields of a message from `start` to `stop`."""

    def __init__(self, data: bytes | bytearray, start: int, stop: int) -> None:
        self._data = data
        self._position = start
        self._stop = stop

    def _varint(self) -> int:
        value = shift = 0
        while self._position < self._stop and shift < 64:
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise _UnusualError

    def fields(self) -> list[tuple[int, int, int, int]]:
        """Return ``(number, wire type, start, stop)`` of each field; start is the value of a varint."""
        found = []
        while self._position < self._stop:
            tag = self._varint()
            value = self._varint()
            if tag & 7 == _VARINT:
                found.append((tag >> 3, _VARINT, value, value))
                continue
            start, self._position = self._position, self._position + value
            if tag & 7 != _LENGTH or self._position > self._stop:
                raise _UnusualError
            found.append((tag >> 3, _LENGTH, start, self._position))
        return found


def _once(data: bytes | bytearray, start: int, stop: int, allowed: frozenset[int]) -> dict[int, tuple[int, int, int]]:
    """Return the fields by number, each of which must be allowed and be there once at most."""
    found: dict[int, tuple[int, int, int]] = {}
    for number, kind, begin, end in _Walker(data, start, stop).fields():
        if number in found or number not in allowed:
            raise _UnusualError
        found[number] = (kind, begin, end)
    return found


_ENTRY_FIELDS: Final = frozenset({_KEY, _VALUE})
_TENSOR_FIELDS: Final = frozenset({_DTYPE, _SHAPE, _VERSION, _CONTENT, *_RAW_FIELDS})


def _find_holes(data: bytes | bytearray, arrays: Mapping[str, Array]) -> list[_Hole] | None:
    """Return where the numbers of all inputs are, in order; None when one has none of fixed width."""
    holes = []
    specs = 0
    try:
        for number, kind, start, stop in _Walker(data, 0, len(data)).fields():
            if kind != _LENGTH or number not in {_SPEC, _INPUTS, _FILTER}:
                return None
            if number == _SPEC:
                specs += 1
            elif number == _INPUTS:
                holes.append(_hole(data, start, stop, arrays))
    except (_UnusualError, KeyError, UnicodeDecodeError, TensorParsingError):
        return None
    aliases = {hole.alias for hole in holes}
    return holes if specs == 1 and len(aliases) == len(holes) == len(arrays) else None


def _hole(data: bytes | bytearray, start: int, stop: int, arrays: Mapping[str, Array]) -> _Hole:
    entry = _once(data, start, stop, _ENTRY_FIELDS)
    alias = data[slice(*entry[_KEY][1:])].decode()
    array = arrays[alias]
    tensor = _once(data, *entry[_VALUE][1:], _TENSOR_FIELDS)
    dtype = by_enum(tensor[_DTYPE][1])
    fields = tensor.keys() & {_CONTENT, *_RAW_FIELDS}
    if len(fields) != 1:
        raise _UnusualError  # none, or several of which one wins
    (field,) = fields
    kind, begin, end = tensor[field]
    fits = field == _CONTENT or _RAW_FIELDS[field] == dtype.enum
    # A typed field shorter than the shape repeats its last value: not a matter of where bytes are.
    if kind != _LENGTH or not fits or end - begin != array.nbytes or array.nbytes == 0 or dtype.numpy != array.dtype:
        raise _UnusualError
    return _Hole(alias, begin, dtype.numpy, array.size, array.shape)
