"""Tensors between the wire and NumPy: one table of dtypes, two functions.

Rules of `tensorflow.TensorProto` as TensorFlow's own `Tensor::FromProto` has them (tensor.proto, tensor.cc):
`tensor_content` wins over the typed fields and must have exactly the right length; a typed field that is shorter than
the shape repeats its last value, an empty one means zeros (or empty strings), a longer one is cut.

Strings are NumPy object arrays of `bytes`; bfloat16 is `ml_dtypes.bfloat16`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from serving_server.wire.messages import TensorProto

__all__ = ["DTYPES", "DType", "TensorParsingError", "by_enum", "by_name", "by_numpy", "to_array", "to_proto"]

#: A tensor of more bytes than a gRPC message may hold cannot have come from its own data: it would be a shape such as
#: [2**40] beside one value. It is refused before memory is taken.
MAX_TENSOR_BYTES: Final = 2**31 - 1

Array = NDArray[Any]


class TensorParsingError(ValueError):
    """A TensorProto whose dtype, shape and content do not fit together."""


@dataclasses.dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes
    ----------
    name : str
        TensorFlow's lower-case name, as in its messages: ``float``, ``double``, ``int32``, ``half``, ``string``...
    enum : int
        Number in `tensorflow.DataType`.
    numpy : numpy.dtype
        Element type of arrays; ``object`` (holding `bytes`) for strings.
    field : str
        The typed field of TensorProto that carries it.
    """

    name: str
    enum: int
    numpy: np.dtype[Any]
    field: str

    @property
    def is_string(self) -> bool:
        """Whether elements are byte strings of any length."""
        return self.enum == _STRING


_STRING: Final = 7
_FEW: Final = 24
_HALF_FIELDS: Final = "half_val"
_COMPLEX_FIELDS: Final = ("scomplex_val", "dcomplex_val")

#: Every dtype that SavedModels use in serving (types.proto). Quantized, resource and variant types are not served.
DTYPES: Final = tuple(
    DType(name, enum, np.dtype(scalar), field)
    for name, enum, scalar, field in (
        ("float", 1, np.float32, "float_val"),
        ("double", 2, np.float64, "double_val"),
        ("int32", 3, np.int32, "int_val"),
        ("uint8", 4, np.uint8, "int_val"),
        ("int16", 5, np.int16, "int_val"),
        ("int8", 6, np.int8, "int_val"),
        ("string", _STRING, object, "string_val"),
        ("complex64", 8, np.complex64, "scomplex_val"),
        ("int64", 9, np.int64, "int64_val"),
        ("bool", 10, np.bool_, "bool_val"),
        ("bfloat16", 14, ml_dtypes.bfloat16, _HALF_FIELDS),
        ("uint16", 17, np.uint16, "int_val"),
        ("complex128", 18, np.complex128, "dcomplex_val"),
        ("half", 19, np.float16, _HALF_FIELDS),
        ("uint32", 22, np.uint32, "uint32_val"),
        ("uint64", 23, np.uint64, "uint64_val"),
    )
)
_BY_ENUM: Final = {dtype.enum: dtype for dtype in DTYPES}
_BY_NAME: Final = {dtype.name: dtype for dtype in DTYPES}
_BY_NUMPY: Final = {dtype.numpy: dtype for dtype in DTYPES}


def by_enum(enum: int) -> DType:
    """Return the dtype of a `tensorflow.DataType` number.

    Raises
    ------
    TensorParsingError
        For numbers outside `DTYPES`, 0 (unset) included.
    """
    try:
        return _BY_ENUM[enum]
    except KeyError:
        msg = "dtype is not set" if enum == 0 else f"dtype number {enum} cannot be served"
        raise TensorParsingError(msg) from None


def by_name(name: str) -> DType:
    """Return the dtype of TensorFlow's lower-case name (``KeyError`` when there is none)."""
    return _BY_NAME[name]


def by_numpy(dtype: np.dtype[Any]) -> DType:
    """Return the dtype that carries a NumPy dtype; ``S`` and ``U`` kinds count as strings.

    Raises
    ------
    TensorParsingError
        When TensorFlow Serving has no such element type.
    """
    found = _BY_NUMPY.get(dtype)
    if found is not None:
        return found
    if dtype.kind in "SUT":
        return _BY_ENUM[_STRING]
    native = _BY_NUMPY.get(dtype.newbyteorder("="))
    if native is not None:
        return native
    msg = f"NumPy dtype {dtype} has no TensorFlow Serving type"
    raise TensorParsingError(msg)


def _shape_of(proto: Any, itemsize: int) -> tuple[list[int], int]:
    shape_proto = proto.tensor_shape
    shape = [dim.size for dim in shape_proto.dim]
    count = math.prod(shape)
    if shape and min(shape) < 0:
        msg = f"shape {shape} has a negative size"
        raise TensorParsingError(msg)
    if shape_proto.unknown_rank:
        msg = "a tensor needs a known rank"
        raise TensorParsingError(msg)
    if count * itemsize > MAX_TENSOR_BYTES:
        msg = f"shape {shape} is over {MAX_TENSOR_BYTES} bytes"
        raise TensorParsingError(msg)
    return shape, count


def to_array(proto: Any) -> Array:
    """Return the tensor of a `tensorflow.TensorProto`.

    Returns
    -------
    numpy.ndarray
        Of the proto's shape, C-contiguous. From `tensor_content` it is a read-only view of the proto's bytes, perhaps
        unaligned; otherwise it owns its memory.

    Raises
    ------
    TensorParsingError
        Saying what does not fit.
    """
    dtype = _BY_ENUM.get(proto.dtype) or by_enum(proto.dtype)
    numpy_dtype = dtype.numpy
    shape, count = _shape_of(proto, numpy_dtype.itemsize)
    content = proto.tensor_content
    if dtype.enum == _STRING:
        return _strings(_split_strings(content, count) if content else proto.string_val, shape, count)
    if content:
        if len(content) != count * numpy_dtype.itemsize:
            msg = f"tensor_content has {len(content)} bytes; shape {shape} needs {count * numpy_dtype.itemsize}"
            raise TensorParsingError(msg)
        return np.frombuffer(content, numpy_dtype).reshape(shape)
    flat = _typed_values(getattr(proto, dtype.field), dtype, count)
    if flat.size != count:
        flat = _fill(flat, count, numpy_dtype)
    return flat.reshape(shape)


def _typed_values(values: Any, dtype: DType, count: int) -> Array:
    """Return at most `count` elements of a typed field."""
    if dtype.field in _COMPLEX_FIELDS:
        parts = np.array(values[: 2 * count], dtype=dtype.numpy.type(0).real.dtype)
        if parts.size % 2:
            msg = f"{dtype.field} has an odd number of values"
            raise TensorParsingError(msg)
        return parts.view(dtype.numpy)
    if dtype.field == _HALF_FIELDS:
        return (np.array(values[:count], dtype=np.int64) & 0xFFFF).astype(np.uint16).view(dtype.numpy)
    if dtype.field == "int_val" and dtype.numpy.itemsize < 4:
        # int32 on the wire; C++ narrows by truncation, NumPy would raise OverflowError.
        return np.array(values[:count], dtype=np.int32).astype(dtype.numpy)
    # Few values are quicker as a list, many through the buffer that protobuf's containers offer.
    return np.array(values[:count] if len(values) > count or count < _FEW else values, dtype=dtype.numpy)


def _fill(flat: Array, count: int, dtype: np.dtype[Any]) -> Array:
    whole = np.zeros(count, dtype)
    if flat.size:
        whole[: flat.size] = flat
        whole[flat.size :] = flat[-1]
    return whole


def _strings(values: Any, shape: Sequence[int], count: int) -> Array:
    whole = np.empty(count, dtype=object)
    given = len(values)
    if given >= count:
        whole[:] = values[:count]
    else:
        whole[:given] = values[:]
        # numpy.full would go through `asarray` and lose trailing zero bytes of a bytes scalar.
        for index in range(given, count):
            whole[index] = values[-1] if given else b""
    return whole.reshape(shape)


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Undo TensorFlow's string list encoding: `count` varint lengths, then all bytes (tsl/platform/coding)."""
    lengths, position = [], 0
    try:
        for _ in range(count):
            length = shift = 0
            while True:
                byte = content[position]
                position += 1
                length |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 28:
                    msg = "a string length in tensor_content is over 32 bits"
                    raise TensorParsingError(msg)
            lengths.append(length)
    except IndexError:
        msg = f"tensor_content ends before its {count} string lengths"
        raise TensorParsingError(msg) from None
    if position + sum(lengths) != len(content):
        msg = f"tensor_content has {len(content) - position} bytes of strings; its lengths add up to {sum(lengths)}"
        raise TensorParsingError(msg)
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings


def fill_proto(proto: Any, array: Array, dtype: DType, *, as_content: bool = False) -> None:
    """Write an array into an empty TensorProto (see `to_proto`); `dtype` saves the look-up on the hot path."""
    proto.dtype = dtype.enum
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add(size=size)
    if not array.shape:
        proto.tensor_shape.SetInParent()  # rank 0 is said, not left out
    if dtype.is_string:
        proto.string_val.extend([v if isinstance(v, bytes) else _encode(v) for v in array.ravel().tolist()])
    elif as_content:
        proto.tensor_content = np.ascontiguousarray(array, dtype.numpy).tobytes()
    elif dtype.field == _HALF_FIELDS:
        proto.half_val.extend(np.ascontiguousarray(array, dtype.numpy).view(np.uint16).ravel().tolist())
    elif dtype.field in _COMPLEX_FIELDS:
        parts = np.ascontiguousarray(array, dtype.numpy).ravel().view(dtype.numpy.type(0).real.dtype)
        getattr(proto, dtype.field).extend(parts.tolist())
    else:
        getattr(proto, dtype.field).extend(array.ravel().tolist())


def to_proto(array: Array, *, as_content: bool = False) -> Any:
    """Return the `tensorflow.TensorProto` of an array.

    Parameters
    ----------
    array : numpy.ndarray
        Any shape; numeric, bool, bytes or str elements (str becomes UTF-8).
    as_content : bool
        Write `tensor_content` (raw little-endian bytes) instead of the typed field; strings always use `string_val`.

    Raises
    ------
    TensorParsingError
        When the dtype has no TensorFlow Serving type, or an object array holds something else than strings.
    """
    proto = TensorProto()
    fill_proto(proto, array, by_numpy(array.dtype), as_content=as_content)
    return proto


def _encode(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    msg = f"a string tensor holds {type(value).__name__} {value!r:.60}; it takes bytes or str"
    raise TensorParsingError(msg)
