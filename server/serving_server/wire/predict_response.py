"""PredictResponse straight to bytes, for outputs whose typed field holds the array's own bytes.

Packed fields of fixed-width numbers are their little-endian memory, and so are packed bools; writing them as such saves
a Python object per element, which is what `extend` of a repeated field costs. What stands before the numbers depends on
alias, dtype and shape only and is remembered. Fields come in the order of their numbers, so the bytes are those that
protobuf writes (https://protobuf.dev/programming-guides/encoding); `tests/server/test_predict_response.py` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

import numpy as np

from serving_server.tensors import Array, DType, fill_proto
from serving_server.wire.messages import ModelSpec, TensorProto

__all__ = ["delimited", "encode", "spec_field"]

#: Typed fields of TensorProto that hold an array's memory as it is, by their numbers. NumPy keeps bools as bytes 0, 1.
_RAW_FIELDS: Final = {"float_val": 5, "double_val": 6, "scomplex_val": 9, "bool_val": 11, "dcomplex_val": 12}

_CONTENT_FIELD: Final = 4

_REMEMBERED: Final = 4096

_specs: dict[tuple[str, int, str], bytes] = {}
_heads: dict[tuple[str, int, int, tuple[int, ...]], bytes] = {}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(field: int, size: int) -> bytes:
    """Return what stands before `size` bytes of a field: its tag and that length."""
    return _varint(field << 3 | 2) + _varint(size)


def spec_field(name: str, version: int, signature: str) -> bytes:
    """Return field 2 of a response, its ModelSpec."""
    key = (name, version, signature)
    found = _specs.get(key)
    if found is None:
        spec = ModelSpec(name=name, signature_name=signature)
        spec.version.value = version
        data = spec.SerializeToString()
        found = delimited(2, len(data)) + data
        if len(_specs) >= _REMEMBERED:
            _specs.clear()
        _specs[key] = found
    return found


def _entry(alias: str, tensor_size: int) -> bytes:
    """Return what stands before a TensorProto of that size in an entry of `outputs` (field 1)."""
    key = alias.encode()
    start = delimited(1, len(key)) + key + delimited(2, tensor_size)
    return delimited(1, len(start) + tensor_size) + start


def _head(alias: str, dtype: DType, shape: tuple[int, ...], field: int, nbytes: int) -> bytes:
    """Return everything of an entry but the numbers themselves."""
    proto = TensorProto(dtype=dtype.enum)
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    # An empty packed field is not written at all.
    start = bytes(proto.SerializeToString()) + (delimited(field, nbytes) if nbytes else b"")
    return _entry(alias, len(start) + nbytes) + start


def encode(
    name: str,
    version: int,
    signature: str,
    outputs: Mapping[str, Array],
    dtypes: Mapping[str, DType],
    *,
    tensor_content: bool,
) -> bytes:
    """Return the serialized PredictResponse.

    Parameters
    ----------
    name, version, signature
        The response's model_spec.
    outputs : mapping of str to numpy.ndarray
        By alias; copied.
    dtypes : mapping of str to DType
        The signature's, by alias.
    tensor_content : bool
        Numbers as `tensor_content` instead of typed fields.
    """
    parts: list[bytes] = []
    for alias, array in outputs.items():
        dtype = dtypes[alias]
        field = _CONTENT_FIELD if tensor_content and not dtype.is_string else _RAW_FIELDS.get(dtype.field)
        if field is None or sys.byteorder != "little":
            proto = TensorProto()
            fill_proto(proto, array, dtype, as_content=tensor_content)
            data = proto.SerializeToString()
            parts += (_entry(alias, len(data)), data)
            continue
        key = (alias, dtype.enum, field, array.shape)
        head = _heads.get(key)
        if head is None:
            head = _head(alias, dtype, array.shape, field, array.size * dtype.numpy.itemsize)
            if len(_heads) >= _REMEMBERED:
                _heads.clear()
            _heads[key] = head
        parts += (head, np.asarray(array, dtype.numpy).tobytes())
    parts.append(spec_field(name, version, signature))
    return b"".join(parts)
