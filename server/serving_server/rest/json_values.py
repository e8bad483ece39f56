"""Nested JSON lists to arrays: whole lists at once, exact about types, no work per number in Python."""

from __future__ import annotations

import array
import binascii
import re
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serving_server.rest.json_text import ENCODING_ERRORS
from serving_server.signatures import TensorSpec

__all__ = [
    "MAX_RANK",
    "Base64Error",
    "Misfit",
    "build",
    "decode_base64",
    "encode_string",
    "is_base64",
    "to_numbers",
    "to_values",
]

#: NumPy's limit; TensorFlow itself stops at 254, and no kernel goes beyond 8.
MAX_RANK: Final = 64

#: TensorFlow Serving's names of the dtypes that JSON numbers can carry, with the type code of `array.array` that takes
#: exactly the values TensorFlow Serving accepts (8 and 16 bit integers: whatever fits 32 bits; it wraps later).
_CODES: Final = {
    "float": "f",
    "double": "d",
    "int32": "i",
    "int16": "i",
    "int8": "i",
    "uint8": "i",
    "int64": "q",
    "uint32": "I",
    "uint64": "Q",
}
_BUFFER_DTYPES: Final = {code: np.dtype(code) for code in _CODES.values()}
_REAL: Final = frozenset({"float", "double"})
_INT_ONLY: Final = frozenset({int})
_INT_OR_FLOAT: Final = frozenset({int, float})
_STRING_OR_OBJECT: Final = frozenset({str, dict})
_B64: Final = "b64"
_BASE64_SPACE = re.compile(rb"[ \t\n\r\f\v]+")


class Misfit(Exception):  # noqa: N818 - not an error: the caller takes the exact path instead
    """The values are not plainly what the dtype wants."""


class Base64Error(ValueError):
    """The text of a base64 object cannot be decoded."""


def is_base64(value: Any) -> bool:
    """Whether `value` is ``{"b64": "<string>"}``: exactly this key, with a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_B64), str)


def decode_base64(value: dict[str, str]) -> bytes:
    """Return the bytes of a base64 object; white space and missing padding are accepted, as by Abseil.

    Raises
    ------
    Base64Error
        Another character, or a length that no encoder makes.
    """
    text = value[_B64].encode("utf-8", ENCODING_ERRORS)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        digits = _BASE64_SPACE.sub(b"", text)
    bare = digits.rstrip(b"=.")
    padding = len(digits) - len(bare)
    if len(bare) % 4 == 1 or (padding and (len(bare) + padding) % 4) or padding > 2:
        raise Base64Error
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except binascii.Error:
        raise Base64Error from None


def encode_string(value: str) -> bytes:
    """Return a string's UTF-8 bytes, or its original bytes where these were not UTF-8."""
    return value.encode("utf-8", ENCODING_ERRORS)


def to_values(value: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return a JSON value as an array of the dtype of `spec`.

    Parameters
    ----------
    value : object
        A scalar (rank 0) or nested lists, all of one length at each level.
    spec : TensorSpec
        The input; only its dtype matters.

    Raises
    ------
    Misfit
        Ragged lists, values of a wrong type or out of range, a dtype that JSON cannot carry.
    """
    flat: list[Any] = [value]
    shape: list[int] = []
    kinds = {type(value)}
    while kinds == {list}:
        lengths = set(map(len, flat))
        if len(lengths) > 1 or len(shape) == MAX_RANK:
            raise Misfit
        shape.append(lengths.pop())
        flat = flat[0] if len(flat) == 1 else list(chain.from_iterable(flat))
        kinds = set(map(type, flat))
    name = spec.dtype.name if spec.dtype is not None else ""
    if name in _REAL:
        fits = kinds <= _INT_OR_FLOAT
    elif name in _CODES:
        fits = kinds <= _INT_ONLY
    elif name == "string":
        fits = kinds <= _STRING_OR_OBJECT
        if dict in kinds:
            flat = _decode_objects(flat)
    else:
        fits = kinds <= {bool} and name == "bool"
    if not fits:
        raise Misfit
    return build(flat, tuple(shape), spec)


def to_numbers(value: list[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Return nested lists as `to_values` does; for lists whose leaves are known to be int or float.

    So no value's type need be looked at: `array.array` refuses lists among numbers, and floats where it wants integers.

    Raises
    ------
    Misfit
        As `to_values`; not for NaN, infinities and the like, which a float takes.
    """
    dtype = spec.dtype
    code = _CODES.get(dtype.name) if dtype is not None else None
    if dtype is None or code is None:
        raise Misfit
    flat = value
    shape = [len(flat)]
    while flat and type(flat[0]) is list:
        if len(flat) == 1:
            flat = flat[0]
            shape.append(len(flat))
        else:
            try:
                lengths = set(map(len, flat))
            except TypeError:
                raise Misfit from None
            if len(lengths) > 1:
                raise Misfit
            shape.extend(lengths)
            flat = list(chain.from_iterable(flat))
        if len(shape) > MAX_RANK:
            raise Misfit
    if not flat:
        return np.empty(shape, dtype=dtype.numpy)
    try:
        numbers: npt.NDArray[Any] = np.frombuffer(array.array(code, flat), _BUFFER_DTYPES[code])
    except (OverflowError, TypeError):
        raise Misfit from None
    if numbers.dtype is not dtype.numpy:
        numbers = numbers.astype(dtype.numpy, copy=False)
    return numbers if len(shape) == 1 else numbers.reshape(shape)


def _decode_objects(flat: list[Any]) -> list[Any]:
    try:
        return [decode_base64(item) if is_base64(item) else item for item in flat]
    except Base64Error:
        raise Misfit from None


def build(flat: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> npt.NDArray[Any]:
    """Return an array of `shape` from its values in row-major order.

    Parameters
    ----------
    flat : list
        int or float, bool, or for strings str and bytes; types are the caller's to check.
    shape : tuple of int
        Its product is ``len(flat)``.
    spec : TensorSpec
        The input; only its dtype matters.

    Raises
    ------
    Misfit
        An integer beyond the dtype's range, or a value that is no string.
    """
    dtype = spec.dtype
    if dtype is None:
        raise Misfit
    if dtype.is_string:
        strings = np.empty(len(flat), dtype=object)
        try:
            strings[:] = [item if type(item) is bytes else encode_string(item) for item in flat]
        except (AttributeError, UnicodeEncodeError):
            raise Misfit from None
        return strings.reshape(shape)
    if not flat:
        return np.empty(shape, dtype=dtype.numpy)
    if dtype.name == "bool":
        return np.array(flat, dtype=np.bool_).reshape(shape)
    try:
        numbers = np.frombuffer(buffer := array.array(_CODES[dtype.name], flat), dtype=buffer.typecode)
    except (OverflowError, KeyError):
        raise Misfit from None
    return numbers.astype(dtype.numpy, copy=False).reshape(shape)
