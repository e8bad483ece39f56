"""REST Predict bodies: the quick path from JSON to arrays and the exact one must agree, in arrays and in errors."""

from __future__ import annotations

import json
from typing import Any

from serving_server.errors import ServingError
from serving_server.rest import json_in
from serving_server.rest.json_text import parse
from serving_server.rest.json_values import MAX_RANK, build, is_base64
from serving_server.rest.json_walk import walk_tensor
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import Array, by_name

__all__ = ["SEEDS", "TOKENS", "check"]


def _signature(**dtypes: str) -> Signature:
    inputs = {alias: TensorSpec(alias, f"{alias}:0", by_name(name), None) for alias, name in sorted(dtypes.items())}
    return Signature("serving_default", "", inputs, {}, {})


SIGNATURES = [
    *[
        _signature(x=name)
        for name in ("float", "double", "int32", "int64", "uint8", "int8", "uint32", "uint64", "bool", "string", "half")
    ],
    _signature(x="float", y="int64"),
    _signature(x="string", y="float"),
    Signature("none", "", {}, {}, {}),
]

#: What a request means: name of the signature, row format, arrays; or code and text of its error.
_Meaning = tuple[str, bool, dict[str, Array]] | tuple[str, str]


def _quick(body: bytes, signature: Signature) -> _Meaning:
    try:
        whole = json_in.parse_predict(body).to_input(signature)
    except ServingError as error:
        return error.code.name, error.message
    return whole.signature_name, whole.row_format, whole.arrays


def _exact(body: bytes, signature: Signature) -> _Meaning:
    """The same by the reader and the walk that have TensorFlow Serving's rules one by one, and nothing else."""
    try:
        document = parse(body)
        if not isinstance(document, dict):
            json_in._fail(document, "Is not object")
        name = document.get("signature_name", "")
        if not isinstance(name, str):
            json_in._fail(document, "not formatted correctly. 'signature_name' key must be a string value.")
        whole = json_in.ParsedBody(name, document)
        return name, whole.row_format, _exact_arrays(whole, signature)
    except ServingError as error:
        return error.code.name, error.message


def _exact_arrays(whole: json_in.ParsedBody, signature: Signature) -> dict[str, Array]:
    document, inputs = whole.document, signature.inputs
    instances = document.get("instances")
    if inputs and isinstance(instances, list) and instances and "inputs" not in document:
        return json_in._walk_rows(instances, inputs)
    value = document.get("inputs")
    if not inputs or "instances" in document or "inputs" not in document:
        return whole.arrays(signature)  # errors that come before any tensor: there is but one path
    if isinstance(value, dict) and not is_base64(value):
        if all(alias in value for alias in inputs):
            return {alias: _exact_column(value[alias], spec) for alias, spec in inputs.items()}
        return whole.arrays(signature)
    if len(inputs) > 1:
        return whole.arrays(signature)
    ((alias, spec),) = inputs.items()
    return {alias: _exact_column(value, spec)}


def _exact_column(value: Any, spec: TensorSpec) -> Array:
    flat, shape = walk_tensor(value, spec)
    if len(shape) > MAX_RANK:
        raise json_in.InvalidArgumentError(f"tensor parsing error: {spec.alias}")
    return build(flat, shape, spec)


def _has_twins(body: bytes) -> bool:
    """Whether an object has a key twice; which one wins below the top is not decided by this server."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").lstrip(" \n\r\t")
    try:
        json.JSONDecoder(object_pairs_hook=look).raw_decode(text)
    except (ValueError, RecursionError):
        return False  # the exact reader has it, on both paths
    return found


def check(data: bytes) -> None:
    """One input: a byte that chooses a signature, then the body."""
    if not data:
        return
    signature, body = SIGNATURES[data[0] % len(SIGNATURES)], data[1:]
    quick = _quick(body, signature)
    if _has_twins(body):
        return
    exact = _exact(body, signature)
    assert len(quick) == len(exact), (quick, exact)
    if len(quick) == 2 or len(exact) == 2:
        assert quick == exact
        return
    assert quick[:2] == exact[:2]
    assert quick[2].keys() == exact[2].keys()
    for alias, array in quick[2].items():
        other = exact[2][alias]
        assert array.shape == other.shape, (array, other)
        assert array.dtype == other.dtype
        same = array.tolist() == other.tolist() if array.dtype.hasobject else _bits(array) == _bits(other)
        assert same, (array, other)


def _bits(array: Array) -> bytes:
    """Its bytes; one NaN is as good as another."""
    if array.dtype.kind == "f":
        array = array.copy()
        array[array != array] = 0
    return array.tobytes()


_BODIES = [
    b'{"instances": [1.0, 2.5, -3e2]}',
    b'{"instances": [[1, 2], [3, 4]]}',
    b'{"signature_name": "serving_default", "instances": [{"x": [1.5], "y": 2}, {"y": 3, "x": [0]}]}',
    b'{"inputs": {"x": [[1]], "y": [4]}}',
    b'{"inputs": [1, 2, 3]}',
    b'{"inputs": 7}',
    b'{"instances": ["a", "\\u00fc\\ud83d\\ude00", {"b64": "aGVsbG8="}]}',
    b'{"instances": [{"b64": "aGVsbG8"}]}',
    b'{"inputs": {"b64": "AA=="}}',
    b'{"instances": [true, false]}',
    b'{"instances": [NaN, Infinity, -Inf, 1e400, -0, 0.1]}',
    b'{"instances": [18446744073709551615, -9223372036854775808, 256, 4294967296]}',
    b'{"instances": [[1, 2], [3]]}',
    b'{"instances": [[], []]}',
    b'{"instances": [null]}',
    b'{"instances": ["x", 1]}',
    b'{"instances": [1], "inputs": [1]}',
    b'{"instances": []}',
    b'{"instancs": [1]}',
    b'{"instancees": [1]}',
    b'{"1instances": [1]}',
    b'{"instances"e: [1]}',
    b'{"instances": [1e]}',
    b'{"instances": 5}',
    b'{"instances": [1]} 2',
    b'{"instances": [' + b"0.25, " * 60 + b"1]}",
    b'{"instances": [1]} trailing',
    b'\xef\xbb\xbf{"inputs": 1}',
    b'{"signature_name": 5}',
    b'{"instances": ["\xff\xfe"]}',
    b'{"instances": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}",
    b"[1]",
    b"",
]

SEEDS = [bytes((index,)) + body for body in _BODIES for index in (0, 3, 9, 11)]

TOKENS = [
    *[
        b'"instances"',
        b'"inputs"',
        b'"signature_name"',
        b'"b64"',
        b'"x"',
        b'"y"',
        b"NaN",
        b"Infinity",
        b"-Inf",
        b"null",
    ],
    *[
        b"true",
        b"false",
        b"[[",
        b"]]",
        b"],[",
        b"{",
        b"}",
        b":",
        b",",
        b"\\u00e9",
        b"\\ud800",
        b"\\\\",
        b"1e308",
        b"1e309",
    ],
    *[
        b"1e-400",
        b"-0.0",
        b"3.4028236e38",
        b"18446744073709551616",
        b"9223372036854775808",
        b"2147483648",
        b"4294967296",
    ],
    *[b"\xff", b"\xc3\xbc", b"\xed\xa0\x80", b"\0", b"AA==", b'{"b64":"AA=="}', b'"a"', b"0.1", b"-1", b"16777217"],
]
