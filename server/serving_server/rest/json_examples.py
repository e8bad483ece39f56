"""REST classify and regress requests: from JSON text to serialized tf.Examples.

A feature's kind is that of its literals, as in TensorFlow Serving: integers and booleans make an int64_list, numbers
with a point or an exponent (and NaN, and integers beyond 64 bits) a float_list, strings and base64 objects a
bytes_list. Whole lists are looked at at once; whatever is not plainly right goes once more, value by value, for the
exact error.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, NoReturn

from serving_server.errors import InvalidArgumentError
from serving_server.rest.json_text import loads, quote
from serving_server.rest.json_values import Base64Error, decode_base64, encode_string, is_base64
from serving_server.wire.messages import Example

__all__ = ["ParsedExamples", "parse_examples", "to_example"]

_SIGNATURE: Final = "signature_name"
_CONTEXT: Final = "context"
_EXAMPLES: Final = "examples"
_TOP_KEYS: Final = tuple(f'"{key}"'.encode() for key in (_SIGNATURE, _CONTEXT, _EXAMPLES))

_INT64_MAX: Final = 2**63 - 1
_WHOLE: Final = frozenset({int, bool})
_FLOATS: Final = frozenset({float})
_STRINGS: Final = frozenset({str})

#: Fields of `tensorflow.Feature`, by the name of their type in error messages.
_FIELDS: Final = {"int64": "int64_list", "float": "float_list", "bytes": "bytes_list"}


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedExamples:
    """A classify or regress request in the server's own terms.

    Attributes
    ----------
    signature_name : str
        As sent; empty when the body names none.
    context : bytes
        A serialized tf.Example that all others share; empty when there is none.
    examples : list of bytes
        Serialized tf.Examples, at least one.
    """

    signature_name: str
    context: bytes
    examples: list[bytes]


def parse_examples(body: bytes) -> ParsedExamples:
    """Read the text of a classify or regress request.

    Raises
    ------
    InvalidArgumentError
        It is not JSON, or not formatted as such a request, with TensorFlow Serving's text.
    """
    document = loads(body, duplicates=any(body.count(key) > 1 for key in _TOP_KEYS))
    if not isinstance(document, dict):
        _fail(document, "Is not object")
    name = document.get(_SIGNATURE, "")
    if not isinstance(name, str):
        _fail(document, "not formatted correctly. 'signature_name' key must be a string value.")
    context = to_example(document[_CONTEXT]) if _CONTEXT in document else b""
    if _EXAMPLES not in document:
        _fail(document, "When method is classify, key 'examples' is expected and was not found")
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        _fail(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        _fail(document, "'examples' value is an empty array")
    return ParsedExamples(name, context, [to_example(example) for example in examples])


def _fail(document: Any, message: str) -> NoReturn:
    raise InvalidArgumentError(f"JSON Value: {quote(document)} {message}")


def to_example(value: Any) -> bytes:
    """Return the serialized tf.Example of a JSON object of features.

    Parameters
    ----------
    value : object
        From feature names to a value, or a list of values of one kind; an empty list makes a feature without a kind.

    Raises
    ------
    InvalidArgumentError
        It is no such object; naming the feature.
    """
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"Example must be JSON object but got JSON {_type_name(value)}")
    example = Example()
    features = example.features.feature
    for name, content in value.items():
        values = content if isinstance(content, list) else [content]
        kinds = set(map(type, values))
        try:
            feature = features[name]
        except (UnicodeEncodeError, ValueError):
            raise InvalidArgumentError(f"Feature: {quote(name)} has a name that is not UTF-8") from None
        if not kinds:
            continue
        if kinds <= _WHOLE and max(values) <= _INT64_MAX:
            feature.int64_list.value.extend(map(int, values))
        elif kinds == _FLOATS:
            feature.float_list.value.extend(values)
        elif kinds == _STRINGS:
            feature.bytes_list.value.extend(_encode(name, text) for text in values)
        else:
            field, converted = _walk(name, values)
            getattr(feature, field).value.extend(converted)
    data: bytes = example.SerializeToString(deterministic=True)
    return data


def _walk(name: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Return the field that takes mixed values, and what it takes."""
    expected = ""
    converted: list[Any] = []
    for value in values:
        kind = _kind(name, value)
        if expected not in {"", kind}:
            raise InvalidArgumentError(f"Unexpected element type in feature: {name} expecting type: {expected}")
        expected = kind
        if kind == "int64" and value > _INT64_MAX:
            raise InvalidArgumentError(f"Feature: {name} has uint64 element. Only int64 is supported.")
        if isinstance(value, str):
            converted.append(_encode(name, value))
        elif isinstance(value, dict):
            try:
                converted.append(decode_base64(value))
            except Base64Error:
                raise InvalidArgumentError(f"Unable to base64 decode (feature: {name})") from None
        else:
            converted.append(int(value) if kind == "int64" else value)
    return _FIELDS[expected], converted


def _kind(name: str, value: Any) -> str:
    if isinstance(value, int):  # booleans too; integers beyond 64 bits have been read as float
        return "int64"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str) or is_base64(value):
        return "bytes"
    raise InvalidArgumentError(f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}")


def _encode(name: str, text: str) -> bytes:
    try:
        return encode_string(text)
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"Feature: {name} has a string that cannot be written as UTF-8") from None


def _type_name(value: Any) -> str:
    """Return RapidJSON's name of a value's type, as TensorFlow Serving writes it."""
    if value is None or isinstance(value, bool):
        return "Null" if value is None else str(value)
    if isinstance(value, int | float):
        return "Number"
    return "Object" if isinstance(value, dict) else "Array" if isinstance(value, list) else "String"
