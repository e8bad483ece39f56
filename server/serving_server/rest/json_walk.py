"""TensorFlow Serving's checks of JSON tensors, value by value, with its texts: the path of everything unusual.

It runs only for requests that the whole-list conversion (`json_values`) refused, most of which end in an error here.
"""

from __future__ import annotations

import math
from typing import Any, Final

from serving_server.errors import InvalidArgumentError, ServingError, UnimplementedError
from serving_server.rest.json_text import INT64_MIN, UINT64_MAX, quote
from serving_server.rest.json_values import MAX_RANK, Base64Error, decode_base64, encode_string, is_base64
from serving_server.signatures import TensorSpec

__all__ = ["shape_of", "walk_element", "walk_tensor"]

_INT32: Final = (-(2**31), 2**31 - 1)
_RANGES: Final = {
    "int32": _INT32,
    "int16": _INT32,
    "int8": _INT32,
    "uint8": _INT32,
    "int64": (INT64_MIN, 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, UINT64_MAX),
}


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of nested lists, read from the first element at every level."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def walk_tensor(value: Any, spec: TensorSpec) -> tuple[list[Any], tuple[int, ...]]:
    """Return the values of a tensor in row-major order, and its shape.

    Raises
    ------
    InvalidArgumentError
        Ragged lists or a value of the wrong type.
    UnimplementedError
        The dtype cannot be written in JSON.
    """
    if spec.dtype is None:
        raise UnimplementedError(f"Conversion of JSON Value: {quote(value)} to the type of input: {spec.alias}")
    name = spec.dtype.name
    shape = shape_of(value)
    flat: list[Any] = []
    rank = len(shape)
    # Depth first without recursion: JSON has no limit on nesting. Each entry is an iterator over one list.
    pending = [iter((value,))]
    while pending:
        level = len(pending) - 1
        item = next(pending[-1], pending)  # the stack itself marks the end: it is never a JSON value
        if item is pending:
            pending.pop()
        elif not isinstance(item, list):
            if level != rank:
                raise InvalidArgumentError(
                    f"JSON Value: {quote(item)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {rank}"
                )
            flat.append(_convert(item, name))
        elif level >= rank:
            raise InvalidArgumentError(f"Encountered list at unexpected level: {level} expected < {rank}")
        elif len(item) != shape[level]:
            raise InvalidArgumentError(
                f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {shape[level]}"
            )
        else:
            pending.append(iter(item))
    return flat, shape


def walk_element(
    element: Any,
    alias: str,
    inputs: dict[str, TensorSpec],
    values: dict[str, list[Any]],
    shapes: dict[str, tuple[int, ...]],
    where: str,
) -> None:
    """Add one instance (or one named input of it) to `values`; its shape must be that of the instances before.

    Parameters
    ----------
    element : object
        The JSON value.
    alias : str
        Input that it is for.
    inputs : dict
        All inputs of the signature.
    values, shapes : dict
        Grown here: all values so far in row-major order, and the shape of one instance.
    where : str
        Begins the error message.

    Raises
    ------
    InvalidArgumentError
        Whatever is wrong with the element; TensorFlow Serving gives every inner error this code.
    """
    try:
        spec = inputs.get(alias)
        if spec is None:
            raise InvalidArgumentError(f"JSON object: does not have named input: {alias}")
        flat, shape = walk_tensor(element, spec)
        if len(shape) >= MAX_RANK:
            raise InvalidArgumentError(f"tensor parsing error: {alias}")
        expected = shapes.setdefault(alias, shape)
        if expected != shape:
            if math.prod(expected) != len(flat):
                raise InvalidArgumentError(f"Expecting tensor size: {math.prod(expected)} but got: {len(flat)}")
            raise InvalidArgumentError(f"Expecting shape {_show(expected)} but got: {_show(shape)}")
    except ServingError as error:
        raise InvalidArgumentError(f"{where}{error.code.name}: {error.message}") from None
    values[alias].extend(flat)


def _show(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _convert(value: Any, name: str) -> Any:
    """Return a scalar as `json_values.build` takes it, or raise TensorFlow Serving's error for it."""
    if name == "string" and isinstance(value, dict):
        if not is_base64(value):
            raise InvalidArgumentError(f"JSON Value: {quote(value)} not formatted correctly for base64 data")
        try:
            return decode_base64(value)
        except Base64Error:
            raise InvalidArgumentError("Unable to base64 decode") from None
    if isinstance(value, dict):
        raise _type_error(value, name)
    if name in {"float", "double"}:
        if type(value) in {int, float}:
            return value
    elif name in _RANGES:
        low, high = _RANGES[name]
        if type(value) is int and low <= value <= high:
            return value
    elif name == "bool":
        if isinstance(value, bool):
            return value
    elif name == "string":
        if isinstance(value, str):
            return encode_string(value)
    else:
        raise UnimplementedError(f"Conversion of JSON Value: {quote(value)} to type: {name}")
    raise _type_error(value, name)


def _type_error(value: Any, name: str) -> InvalidArgumentError:
    if isinstance(value, bool):
        kind = str(value)
    elif isinstance(value, int | float):
        kind = "Number"
    else:
        kind = "Null" if value is None else "String" if isinstance(value, str) else "Object"
    return InvalidArgumentError(f"JSON Value: {quote(value)} Type: {kind} is not of expected type: {name}")
