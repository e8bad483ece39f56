"""JSON text as TensorFlow Serving reads and quotes it: the slow, exact sibling of `orjson`.

`parse` accepts what RapidJSON accepts with TensorFlow Serving's flags and `orjson` does not: NaN and Infinity, any
depth of nesting, text that is not UTF-8, a byte order mark, anything after the first value. The first of duplicate keys
wins. Its errors carry RapidJSON's texts and byte offsets. `quote` writes a value the way error messages show it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any, Final, NoReturn, cast

import orjson

from serving_server.errors import InvalidArgumentError

__all__ = ["ENCODING_ERRORS", "INT64_MIN", "UINT64_MAX", "format_float", "loads", "parse", "quote", "to_single"]

INT64_MIN: Final = -(2**63)
UINT64_MAX: Final = 2**64 - 1

#: Bytes that are not UTF-8 travel through `str` as lone surrogates and come out unchanged.
ENCODING_ERRORS: Final = "surrogateescape"

#: Values quoted in error messages are cut here (bytes).
_QUOTE_LIMIT: Final = 256

_SINGLE: Final = struct.Struct("f")
_BOM: Final = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \n\r\t]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]*)?")
_NOT_FINITE = re.compile(rb"(-?)(?:(NaN)|Inf(?!i)|Infinity)")
_ESCAPES: Final = {
    0x22: b'"',
    0x5C: b"\\",
    0x2F: b"/",
    0x62: b"\b",
    0x66: b"\f",
    0x6E: b"\n",
    0x72: b"\r",
    0x74: b"\t",
}
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")

#: What the standard library's scanner would judge differently: escaped surrogates, doubles that may overflow, integers
#: that may not fit 64 bits.
_NEEDS_PARSE = re.compile(rb"\\u[dD]|[eE]\+?[0-9]{3}|[0-9]{19}")


def loads(body: bytes, *, duplicates: bool = False) -> Any:
    """Return the first JSON value of `body`: by `orjson` when it can, else with TensorFlow Serving's leniency.

    Parameters
    ----------
    body : bytes
        JSON text.
    duplicates : bool
        The text may have duplicate keys; the first one must win, while `orjson` would take the last.

    Raises
    ------
    InvalidArgumentError
        ``JSON Parse error: ...``
    """
    if not duplicates:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # Not an error yet: the readers below accept more.
    # The standard library reads NaN and Infinity at C speed, which matters for large arrays; `parse` does not.
    if not _NEEDS_PARSE.search(body):
        try:
            text = body.removeprefix(_BOM).decode("utf-8", ENCODING_ERRORS)
            value = _SCANNER.raw_decode(text, len(text) - len(text.lstrip(" \n\r\t")))[0]
            if isinstance(value, dict | list):
                return value  # of a bare number it reads the part that is right: "1." as 1
        except (ValueError, RecursionError):
            pass  # `parse` has no limit on depth, knows more spellings of infinity, and has the right error.
    return parse(body)


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        members.setdefault(key, value)
    return members


_SCANNER = json.JSONDecoder(object_pairs_hook=_first_wins)


def _fail(reason: str, offset: int) -> NoReturn:
    raise InvalidArgumentError(f"JSON Parse error: {reason} at offset: {offset}")


def parse(body: bytes) -> Any:
    """Return the first JSON value of `body`, without recursion.

    Strings are `str` with `ENCODING_ERRORS`; integers beyond 64 bits are `float`, as in RapidJSON.

    Raises
    ------
    InvalidArgumentError
        ``JSON Parse error: <RapidJSON's text> at offset: <bytes>``
    """
    if not body:
        raise InvalidArgumentError("JSON Parse error: The document is empty")
    at = _skip(body, len(_BOM) if body.startswith(_BOM) else 0)
    if at == len(body):
        _fail("The document is empty.", at)
    stack: list[tuple[Any, str | None]] = []  # enclosing containers, each with the key that its child will get
    container: Any = None
    key: str | None = None
    while True:
        # One value begins at `at`.
        opener = body[at : at + 1]
        if opener in {b"{", b"["}:
            inner: Any = {} if opener == b"{" else []
            at = _skip(body, at + 1)
            if body[at : at + 1] == (b"}" if opener == b"{" else b"]"):
                at += 1
                value = inner
            else:
                stack.append((container, key))
                container, key = inner, None
                if opener == b"{":
                    key, at = _key(body, at)
                continue
        else:
            value, at = _scalar(body, at)
        # The value is complete: hand it to its container, and close every container that ends here.
        while True:
            if container is None:
                return value
            if isinstance(container, list):
                container.append(value)
            else:
                assert key is not None
                container.setdefault(key, value)
            at = _skip(body, at)
            mark = body[at : at + 1]
            if mark == b",":
                at = _skip(body, at + 1)
                if isinstance(container, dict):
                    key, at = _key(body, at)
                break
            if mark != (b"]" if isinstance(container, list) else b"}"):
                if isinstance(container, list):
                    _fail("Missing a comma or ] after an array element.", at)
                _fail("Missing a comma or } after an object member.", at)
            at += 1
            value = container
            container, key = stack.pop()


def _skip(body: bytes, at: int) -> int:
    match = _SPACE.match(body, at)
    assert match is not None
    return match.end()


def _key(body: bytes, at: int) -> tuple[str, int]:
    if body[at : at + 1] != b'"':
        _fail("Missing a name for object member.", at)
    key, at = _string(body, at)
    at = _skip(body, at)
    if body[at : at + 1] != b":":
        _fail("Missing a colon after a name of object member.", at)
    return key, _skip(body, at + 1)


def _scalar(body: bytes, at: int) -> tuple[Any, int]:
    first = body[at : at + 1]
    if first == b'"':
        return _string(body, at)
    for literal, value in ((b"true", True), (b"false", False), (b"null", None)):
        if first == literal[:1]:
            for position, expected in enumerate(literal):
                if body[at + position : at + position + 1] != bytes((expected,)):
                    _fail("Invalid value.", at + position)
            return value, at + len(literal)
    number = _NUMBER.match(body, at)
    if number is None:
        special = _NOT_FINITE.match(body, at)
        if special is None:
            _fail("Invalid value.", at + (first == b"-"))
        magnitude = math.nan if special[2] else math.inf
        return (-magnitude if special[1] else magnitude), special.end()
    fraction, exponent = number.groups()
    if fraction == b".":
        _fail("Miss fraction part in number.", number.start(1) + 1)
    if exponent is not None and not exponent[-1:].isdigit():
        _fail("Miss exponent in number.", number.end())
    if fraction is None and exponent is None and len(number[0]) <= 20:
        integer = int(number[0])
        if INT64_MIN <= integer <= UINT64_MAX:
            return integer, number.end()
    decimal = float(number[0])
    if math.isinf(decimal):
        _fail("Number too big to be stored in double.", at)
    return decimal, number.end()


def _string(body: bytes, at: int) -> tuple[str, int]:
    """Return the string whose opening quote is at `at`, and the offset behind its closing quote."""
    parts: list[bytes] = []
    at += 1
    while True:
        plain = _PLAIN.match(body, at)
        assert plain is not None
        parts.append(plain[0])
        at = plain.end()
        mark = body[at : at + 1]
        if mark == b'"':
            return b"".join(parts).decode("utf-8", ENCODING_ERRORS), at + 1
        if mark != b"\\":
            if mark in {b"", b"\0"}:
                _fail("Missing a closing quotation mark in string.", at)
            _fail("Invalid encoding in string.", at)
        if body[at + 1 : at + 2] == b"u":
            code, end = _unicode_escape(body, at)
            parts.append(chr(code).encode("utf-8"))
            at = end
        else:
            escaped = _ESCAPES.get(body[at + 1] if at + 1 < len(body) else -1)
            if escaped is None:
                _fail("Invalid escape character in string.", at)
            parts.append(escaped)
            at += 2


def _unicode_escape(body: bytes, at: int) -> tuple[int, int]:
    code = _hex4(body, at + 2, at)
    if not 0xD800 <= code < 0xE000:
        return code, at + 6
    if code >= 0xDC00 or body[at + 6 : at + 8] != b"\\u":
        _fail("The surrogate pair in string is invalid.", at)
    low = _hex4(body, at + 8, at)
    if not 0xDC00 <= low < 0xE000:
        _fail("The surrogate pair in string is invalid.", at)
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), at + 12


def _hex4(body: bytes, at: int, escape_at: int) -> int:
    if not _HEX4.match(body, at):
        _fail("Incorrect hex digit after \\u escape in string.", escape_at)
    return int(body[at : at + 4], 16)


def to_single(value: float) -> float:
    """Return the float32 nearest to `value`."""
    try:
        (single,) = _SINGLE.unpack(_SINGLE.pack(value))
    except OverflowError:  # Six digits of the largest float32 lie beyond its range.
        return math.copysign(math.inf, value)
    return cast("float", single)


def format_float(value: float, *, single: bool) -> str:
    """Return a finite or non-finite number as TensorFlow Serving writes it.

    Six significant digits if these read back to the same value, else nine (float) or seventeen (double); ``.0`` is
    appended when there is neither point nor exponent.

    Parameters
    ----------
    value : float
        For `single`, a value that a float32 holds exactly.
    single : bool
        float32 instead of float64.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:g}"
    back = float(text)
    if single and back != value:
        back = to_single(back)
    if back != value:
        text = f"{value:.9g}" if single else f"{value:.17g}"
    return text if "." in text or "e" in text else text + ".0"


def quote(value: Any) -> str:
    """Return `value` as error messages show it: indented JSON, cut at 256 bytes, of any depth."""
    text: list[str] = []
    size = 0
    # Work still to do, last first: text to write as it is, or a value with its indentation.
    pending: list[str | tuple[Any, int]] = [(value, 0)]
    while pending and size <= _QUOTE_LIMIT:
        item = pending.pop()
        if isinstance(item, tuple):
            container, indent = item
            if container and isinstance(container, list | dict):
                pending.extend(_open(container, indent))
                continue
            item = _quote_scalar(container, top=not indent)
        text.append(item)
        size += len(item)
    encoded = "".join(text).encode("utf-8", ENCODING_ERRORS)
    if len(encoded) > _QUOTE_LIMIT:
        return encoded[:_QUOTE_LIMIT].decode("utf-8", "ignore") + "..."
    return encoded.decode("utf-8", "replace")


def _open(container: list[Any] | dict[str, Any], indent: int) -> list[str | tuple[Any, int]]:
    """Return the work of writing a non-empty container, last piece first; never more than can be shown."""
    newline = "\n" + "    " * min(indent + 1, _QUOTE_LIMIT)
    work: list[str | tuple[Any, int]] = ["[" if isinstance(container, list) else "{"]
    for position, child in enumerate(container):
        if position > _QUOTE_LIMIT:
            break
        work.append(("," if position else "") + newline)
        if isinstance(container, dict):
            work.extend((_quote_scalar(child, top=False) + ": ", (container[child], indent + 1)))
        else:
            work.append((child, indent + 1))
    work.append(newline[:-4] + ("]" if isinstance(container, list) else "}"))
    work.reverse()
    return work


def _quote_scalar(value: Any, *, top: bool) -> str:
    if isinstance(value, float):
        # RapidJSON's `IsFloat`: a quoted number in the range of a float32 is shown with a float32's digits.
        if top and abs(value) <= 3.4028234663852886e38:
            return format_float(to_single(value), single=True)
        return format_float(value, single=False) if top or not math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return json.dumps(value[: _QUOTE_LIMIT + 1], ensure_ascii=False)
    return json.dumps(value)  # int, bool, None, [] and {}
