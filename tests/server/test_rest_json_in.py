"""JSON to arrays: what is accepted, and TensorFlow Serving's exact words for what is not."""

from __future__ import annotations

import base64
import json
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving_server.errors import InvalidArgumentError, ServingError, StatusCode
from serving_server.rest.json_in import parse_predict
from serving_server.rest.json_text import format_float, loads, parse, quote
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name
from tests.fuzz import fuzz_json


def signature(**inputs: str) -> Signature:
    """Return a signature whose inputs have these dtypes."""
    specs = {alias: TensorSpec(alias, f"{alias}:0", by_name(name), None) for alias, name in sorted(inputs.items())}
    return Signature("serving_default", "tensorflow/serving/predict", specs, {}, {})


def arrays(body: bytes | str | dict[str, Any], sig: Signature) -> dict[str, np.ndarray]:
    if isinstance(body, dict):
        body = json.dumps(body)
    return parse_predict(body.encode() if isinstance(body, str) else body).arrays(sig)


def refusal(body: bytes | str | dict[str, Any], sig: Signature) -> ServingError:
    with pytest.raises(ServingError) as caught:
        arrays(body, sig)
    return caught.value


INF = math.inf
NOT_FLOAT = 'JSON Value: "x" Type: String is not of expected type: float'
NAMES = {
    "float": np.float32,
    "double": np.float64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int64": np.int64,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}


@pytest.mark.parametrize("row_format", [True, False])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_round_trip_of_every_dtype_and_shape(name: str, row_format: bool, data: st.DataObject) -> None:
    shapes = hnp.array_shapes(min_dims=1 if row_format else 0, max_dims=4, min_side=1, max_side=4)
    array = data.draw(hnp.arrays(NAMES[name], shapes))
    body = json.dumps({"instances" if row_format else "inputs": array.tolist()})
    got = arrays(body, signature(x=name))["x"]
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@given(hnp.arrays(object, hnp.array_shapes(max_dims=3, max_side=3), elements=st.binary(max_size=8)))
def test_round_trip_of_strings(array: np.ndarray) -> None:
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [{"b64": base64.b64encode(value).decode()} for value in array.reshape(-1)]
    got = arrays({"instances": encoded.reshape(array.shape).tolist()}, signature(x="string"))["x"]
    assert got.dtype == object
    assert got.tolist() == array.tolist()


def test_rows_of_objects_and_named_columns() -> None:
    sig = signature(a="float", b="string", c="int64")
    rows = [{"a": [i, i + 0.5], "b": f"s{i}", "c": 2**40 + i} for i in range(3)]
    columns = {"a": [r["a"] for r in rows], "b": [r["b"] for r in rows], "c": [r["c"] for r in rows], "other": None}
    for body in ({"instances": rows}, {"inputs": columns}):
        got = arrays(body, sig)
        assert got["a"].tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]
        assert got["b"].tolist() == [b"s0", b"s1", b"s2"]
        assert got["c"].tolist() == [2**40, 2**40 + 1, 2**40 + 2]


@pytest.mark.parametrize(
    ("body", "name", "expected"),
    [
        ({"inputs": 3}, "float", 3.0),
        ({"inputs": {"x": 3}}, "float", 3.0),
        ({"inputs": []}, "float", []),
        ({"inputs": [[], []]}, "half", [[], []]),
        ({"instances": [[], []]}, "int32", [[], []]),
        ({"instances": [1, 2.5, 3]}, "double", [1.0, 2.5, 3.0]),
        ({"instances": [300, -1, 2**31 - 1]}, "uint8", [44, 255, 255]),
        ({"instances": [70000]}, "int16", [4464]),
        ({"inputs": "text"}, "string", b"text"),
        ({"inputs": {"b64": "AP8="}}, "string", b"\x00\xff"),
        ({"inputs": {"x": {"b64": "AP8="}}}, "string", b"\x00\xff"),
        ({"instances": [{"b64": "AP8"}, "ü", {"b64": " A P\n8 = "}]}, "string", [b"\0\xff", "ü".encode(), b"\0\xff"]),
        ({"instances": [{"x": {"b64": "AP8="}}]}, "string", [b"\x00\xff"]),
        ('{"instances": [NaN, Infinity, -Infinity, 1e39, 1e-60]}', "float", [math.nan, INF, -INF, INF, 0]),
        ('{"instances": [Inf, -Inf, -NaN, -Infinity]}', "double", [INF, -INF, math.nan, -INF]),
        ('{"instances": [[NaN], [1]]}', "double", [[math.nan], [1.0]]),
        ('{"instances": [18446744073709551616, 100000000000000000000000000000]}', "double", [2.0**64, 1e29]),
        ('{"instances": [18446744073709551615]}', "uint64", [2**64 - 1]),
        ('{"instances": [1], "instances": [2]}', "float", [1.0]),
        ('{"signature_name": "a", "inputs": [1], "inputs": [NaN]}', "float", [1.0]),
        ('{"instances": [1]} trailing [', "float", [1.0]),
        ('\ufeff {"instances": [1]}', "float", [1.0]),
        (b'{"instances": ["\xff\xfe", "\xc3\xa9\\n\\u00e9"]}', "string", [b"\xff\xfe", "é\né".encode()]),
        ('{"instances": ["\\ud83d\\ude00", "\\u0000"]}', "string", ["😀".encode(), b"\x00"]),
        ({"instances": [True, False]}, "bool", [True, False]),
        ({"instances": [1], "unknown": {"deep": []}}, "float", [1.0]),
    ],
)  # fmt: skip
def test_accepted(body: Any, name: str, expected: Any) -> None:
    got = arrays(body, signature(x=name))["x"]
    assert got.dtype == by_name(name).numpy
    np.testing.assert_equal(got.tolist(), expected)


UNEXPECTED_SIZE = "Encountered list at unexpected size: {} at level: {} expected size: {}"
WRONG_LEVEL = "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: {}"
WRAP_KEY = "Failed to process element: {} key: {} of 'instances' list. Error: INVALID_ARGUMENT: "
WRAP = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.mark.parametrize(
    ("body", "name", "text"),
    [
        # Which keys there are.
        ({"x": 1}, "float", "Missing 'inputs' or 'instances' key"),
        ({"instances": []}, "float", "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (
            {"instances": 1},
            "float",
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        (
            {"instances": [1], "inputs": 1},
            "float",
            ('JSON Value: {\n    "instances": [\n        1\n    ],\n    "inputs": 1\n} Not formatted '
            "correctly expecting only one of 'inputs' or 'instances' keys to exist "),
        ),
        # Ragged and uneven lists, columnar.
        ({"inputs": [[1, 2], [3, 4, 5]]}, "float", UNEXPECTED_SIZE.format(3, 1, 2)),
        ({"inputs": [1, [2]]}, "float", "Encountered list at unexpected level: 1 expected < 1"),
        ({"inputs": [[1], 1]}, "float", WRONG_LEVEL.format(1, 2, 2)),
        ({"inputs": [[], [1]]}, "float", UNEXPECTED_SIZE.format(1, 1, 0)),
        # Types.
        ({"inputs": ["x"]}, "float", NOT_FLOAT),
        ({"inputs": "1"}, "double", 'JSON Value: "1" Type: String is not of expected type: double'),
        ({"inputs": [1, None]}, "float", "JSON Value: null Type: Null is not of expected type: float"),
        ({"inputs": [1.5, True]}, "float", "JSON Value: true Type: True is not of expected type: float"),
        ({"inputs": [False]}, "int32", "JSON Value: false Type: False is not of expected type: int32"),
        ({"inputs": [1.0]}, "int32", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ({"inputs": [2**31]}, "int8", "JSON Value: 2147483648 Type: Number is not of expected type: int8"),
        ({"inputs": [2**63]}, "int64", "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ({"inputs": [-1]}, "uint32", "JSON Value: -1 Type: Number is not of expected type: uint32"),
        ({"inputs": [-1]}, "uint64", "JSON Value: -1 Type: Number is not of expected type: uint64"),
        ({"inputs": [2**64]}, "uint64", "JSON Value: 1.84467441e+19 Type: Number is not of expected type: uint64"),
        ({"inputs": [1]}, "bool", "JSON Value: 1 Type: Number is not of expected type: bool"),
        ({"inputs": [1]}, "string", "JSON Value: 1 Type: Number is not of expected type: string"),
        ({"inputs": [{"a": 1}]}, "float", 'JSON Value: {\n    "a": 1\n} Type: Object is not of expected type: float'),
        ({"inputs": [{"b64": 1}]}, "string", 'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data'),
        ({"inputs": [{"b64": "A"}]}, "string", "Unable to base64 decode"),
        ({"inputs": [{"b64": "*A=="}]}, "string", "Unable to base64 decode"),
        ({"inputs": [{"b64": "AA==="}]}, "string", "Unable to base64 decode"),
        ('{"inputs": [NaN]}', "int32", "JSON Value: NaN Type: Number is not of expected type: int32"),
        # The same in rows, where every inner error is wrapped.
        ({"instances": [1, "x"]}, "float", WRAP.format(1) + NOT_FLOAT),
        ({"instances": [[1, 2], [3, 4, 5]]}, "float", WRAP.format(1) + "Expecting tensor size: 2 but got: 3"),
        (
            {"instances": [[1, 2], [[3, 4]]]},
            "float",
            WRAP.format(1) + "Expecting shape [2] but got: [1,2]",
        ),
        (
            {"instances": [[[1], [2]], [[1], [2, 3]]]},
            "float",
            WRAP.format(1) + UNEXPECTED_SIZE.format(2, 1, 1),
        ),
        (
            {"instances": [1.5]},
            "half",
            WRAP.format(0).replace("INVALID_ARGUMENT", "UNIMPLEMENTED")
            + "Conversion of JSON Value: 1.5 to type: half",
        ),
        (
            {"instances": [{"x": [1], "y": 2}]},
            "float",
            (WRAP_KEY.format(0, "y") + "JSON object: does not have named input: y"),
        ),
        (
            {"instances": [{"x": 1}, {"x": "x"}]},
            "float",
            (WRAP_KEY.format(1, "x") + NOT_FLOAT),
        ),
        ({"instances": [{"x": 1}, 2]}, "float", "Expecting object but got list at item 1 of input list"),
        ({"instances": [2, {"x": 1}]}, "float", "Expecting value/list but got object at item 1 of input list"),
    ],
)  # fmt: skip
def test_refused(body: Any, name: str, text: str) -> None:
    error = refusal(body, signature(x=name))
    assert (error.code, error.message) == (StatusCode.INVALID_ARGUMENT, text)


@pytest.mark.parametrize("name", ["half", "bfloat16", "uint16", "complex64", "complex128"])
def test_dtypes_that_json_does_not_carry(name: str) -> None:
    error = refusal({"inputs": [1]}, signature(x=name))
    assert error.code == StatusCode.UNIMPLEMENTED
    assert error.message == f"Conversion of JSON Value: 1 to type: {name}"


def test_a_dtype_outside_the_table() -> None:
    sig = Signature("s", "", {"x": TensorSpec("x", "x:0", None, None)}, {}, {})
    for body in ({"inputs": [1]}, {"inputs": []}):
        assert refusal(body, sig).code == StatusCode.UNIMPLEMENTED
    assert "input: x" in refusal({"instances": [1]}, sig).message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"instances": [[1], [2]]},
            (
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            ),
        ),
        (
            {"inputs": [1]},
            (
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            ),
        ),
        ({"inputs": {"a": 1}}, "Missing named input: b in 'inputs' object."),
        (
            {"instances": [{"a": 1, "b": 2}, {"a": 1}]},
            (
                "Failed to process element: 1 of 'instances' list. JSON object: "
                '{\n    "a": 1\n} keys must be equal to: a,b'
            ),
        ),
        (
            {"instances": [{"a": 1, "b": 2}, {"a": 1, "c": 2}]},
            (WRAP_KEY.format(1, "c") + "JSON object: does not have named input: c"),
        ),
    ],
)
def test_refused_with_two_inputs(body: Any, text: str) -> None:
    assert refusal(body, signature(a="float", b="float")).message == text


def test_signature_without_inputs() -> None:
    message = refusal('{"instances": [1]}', signature()).message
    assert message == "Failed to get input map for signature: DEFAULT"
    message = refusal('{"instances": [1], "signature_name": "s"}', signature()).message
    assert message == "Failed to get input map for signature: s"


def test_signature_name_and_format() -> None:
    parsed = parse_predict(b'{"signature_name": "other", "instances": [1]}')
    assert (parsed.signature_name, parsed.row_format) == ("other", True)
    parsed = parse_predict(b'{"inputs": [1]}')
    assert (parsed.signature_name, parsed.row_format) == ("", False)
    request = parsed.to_input(signature(x="float"))
    assert (request.signature_name, request.row_format, list(request.arrays)) == ("", False, ["x"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b" \n", "JSON Parse error: The document is empty. at offset: 2"),
        (b"hello", "JSON Parse error: Invalid value. at offset: 0"),
        (b"-", "JSON Parse error: Invalid value. at offset: 1"),
        (b'{"a": tru}', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": 1', "JSON Parse error: Missing a comma or } after an object member. at offset: 7"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        (b"{a: 1}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a": [1 2]}', "JSON Parse error: Missing a comma or ] after an array element. at offset: 9"),
        (b'{"a": [1,]}', "JSON Parse error: Invalid value. at offset: 9"),
        (b'{"a": 1.}', "JSON Parse error: Miss fraction part in number. at offset: 8"),
        (b'{"a": 1e}', "JSON Parse error: Miss exponent in number. at offset: 8"),
        (b'{"a": 1e999}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": "x', "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
        (b'{"a": "\x01"}', "JSON Parse error: Invalid encoding in string. at offset: 7"),
        (b'{"a": "\\x"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u12g4"}', "JSON Parse error: Incorrect hex digit after \\u escape in string. at offset: 7"),
        (b'{"a": "\\ud800x"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (b"[1.5]", "JSON Value: [\n    1.5\n] Is not object"),
        (b"1.5", "JSON Value: 1.5 Is not object"),
        (
            b'{"signature_name": 5}',
            (
                'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
                "'signature_name' key must be a string value."
            ),
        ),
    ],
)
def test_broken_documents(body: bytes, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_predict(body)
    assert caught.value.message == text


def test_nesting_has_no_limit() -> None:
    levels = 500_000
    body = b'{"instances": ' + b"[" * levels + b"1" + b"]" * levels + b"}"
    assert refusal(body, signature(x="float")).code == StatusCode.INVALID_ARGUMENT
    levels = 20_000
    body = b'{"instances": ' + b"[" * levels + b"1" + b"]" * levels + b"}"
    assert refusal(body.replace(b"instances", b"inputs"), signature(x="float")).message == "tensor parsing error: x"
    assert refusal(body[:-1], signature(x="float")).message.startswith("JSON Parse error: Missing a comma or }")
    assert refusal(b"[" * levels, signature(x="float")).message.startswith("JSON Parse error: Invalid value.")
    with pytest.raises(InvalidArgumentError, match="Is not object"):
        parse_predict(b"[" * levels + b"]" * levels)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_bytes_give_a_document_or_an_error(body: bytes) -> None:
    try:
        parse_predict(body)
    except InvalidArgumentError as error:
        assert error.message.startswith("JSON ")  # noqa: PT017


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.sampled_from([None, 2]))
def test_the_exact_reader_agrees_with_the_standard_library(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent).encode()
    assert parse(text) == value
    assert loads(text) == value
    assert quote(value)


@given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name", "x"]), _JSON, min_size=1),
    st.sampled_from(["float", "int8", "string", "bool", "half"]),
)
def test_any_document_gives_arrays_or_a_serving_error(document: dict[str, Any], name: str) -> None:
    try:
        got = arrays(json.dumps(document), signature(x=name))
    except ServingError:
        return
    assert got["x"].dtype == by_name(name).numpy


#: Bodies of numbers: what the quick look at short ones must tell from anything else.
_NUMBERS = st.lists(
    st.sampled_from(
        ["[", "]", ",", " ", "\n", "1", "-0", "2.5", "1e3", "e", "E", "+", "256", "1e999", str(2**64), "NaN"]
    ),
    max_size=12,
).map("".join)


@given(
    st.sampled_from(['"instances"', '"instancs"', '"instance1s"', '"inputs"', '"instances"e', '1"instances"']),
    _NUMBERS | st.lists(st.floats(-1e9, 1e9) | st.integers(-(2**40), 2**40), max_size=40).map(json.dumps),
    _NUMBERS,
    st.sampled_from(range(len(fuzz_json.SIGNATURES))),
)
def test_short_bodies_of_numbers_are_read_as_by_the_exact_reader(key: str, value: str, rest: str, index: int) -> None:
    for body in (f"{{{key}:{value}}}{rest}", f"{{{key}:[{value}]}}"):
        fuzz_json.check(bytes((index,)) + body.encode())


def test_quotes_are_cut() -> None:
    assert quote("x" * 300) == '"' + "x" * 255 + "..."
    assert len(quote([1] * 1_000_000)) <= 259
    assert quote([]) == "[]"
    assert quote({"a": [1, {"b": None}]}) == (
        '{\n    "a": [\n        1,\n        {\n            "b": null\n        }\n    ]\n}'
    )


@pytest.mark.parametrize(
    ("value", "single", "text"),
    [
        (0.1, False, "0.1"),
        (3.0, True, "3.0"),
        (9e6, True, "9e+06"),
        (3e-5, False, "3e-05"),
        (float(np.float32(1 / 3)), True, "0.333333343"),
        (1 / 3, False, "0.33333333333333331"),
        (16777215.0, True, "16777215.0"),
        (float(np.finfo(np.float32).max), True, "3.40282347e+38"),
        (math.nan, True, "NaN"),
        (-math.inf, False, "-Infinity"),
    ],
)
def test_number_format(value: float, single: bool, text: str) -> None:
    assert format_float(value, single=single) == text


@pytest.mark.parametrize(
    "name", ["float", "double", "int32", "int8", "uint8", "int64", "uint32", "uint64", "bool", "string"]
)
def test_lists_of_numbers_alone_mean_the_same_without_a_look_at_each(name: str) -> None:
    """A second key, which nobody reads, sends the same instances through the checks of every value."""
    generator = random.Random(name)
    scalars = ["1", "0", "-1", "2.5", "-0.0", "1e300", "1e-50", "300", "3000000000", "18446744073709551615", "NaN"]
    few = ["1", "2", "3"]

    def nested(depth: int) -> str:
        if not depth or generator.random() < 0.03:
            return generator.choice(scalars if generator.random() < 0.1 else few)
        size = generator.choice([1, 2, 2, 2, 0, 3]) if generator.random() < 0.2 else 2
        return "[" + ",".join(nested(depth - 1) for _ in range(size)) + "]"

    def outcome(body: str) -> object:
        try:
            array = parse_predict(body.encode()).arrays(signature)["x"]
        except ServingError as error:
            return error.code, error.message
        return array.dtype, array.shape, array.tobytes() if array.dtype != object else array.tolist()

    spec = TensorSpec("x", "x:0", by_name(name), None)
    signature = Signature("s", "", {"x": spec}, {}, {})
    for _ in range(400):
        instances = (
            "[" + ",".join(nested(depth) for depth in [generator.randrange(4)] * generator.randrange(1, 4)) + "]"
        )
        assert outcome(f'{{"instances":{instances}}}') == outcome(f'{{"instances":{instances},"other":0}}'), instances
