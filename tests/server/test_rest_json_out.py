"""Arrays to JSON: the same values that TensorFlow Serving writes, and its errors."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving_server.errors import InvalidArgumentError
from serving_server.rest.json_in import parse_predict
from serving_server.rest.json_out import encode_error, encode_metadata, encode_predict, encode_status
from serving_server.rest.json_text import format_float
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_numpy
from serving_server.wire.messages import SignatureDefMap


def strings(*values: bytes) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def answer(row_format: bool, **outputs: Any) -> Any:
    return json.loads(encode_predict({k: np.asarray(v) for k, v in outputs.items()}, row_format))


@pytest.mark.parametrize(
    ("outputs", "row", "expected"),
    [
        ({"y": np.float32([2.5, 3.0])}, True, b'{"predictions":[2.5,3.0]}'),
        ({"y": np.float32([[1], [2]])}, False, b'{"outputs":[[1.0],[2.0]]}'),
        ({"y": np.float32(0.1)}, False, b'{"outputs":0.1}'),
        ({"y": np.float32([1 / 3, 0.1, 16777215])}, True, b'{"predictions":[0.333333343,0.1,16777215.0]}'),
        ({"y": np.float64([1 / 3])}, True, b'{"predictions":[0.3333333333333333]}'),
        ({"y": np.float32([[np.nan, np.inf], [-np.inf, 2]])}, False, b'{"outputs":[[NaN,Infinity],[-Infinity,2.0]]}'),
        ({"y": np.float64(np.nan)}, False, b'{"outputs":NaN}'),
        ({"y": np.int64([2**62, -1])}, True, b'{"predictions":[4611686018427387904,-1]}'),
        ({"y": np.uint64([2**64 - 1])}, True, b'{"predictions":[18446744073709551615]}'),
        ({"y": np.uint8([255])}, True, b'{"predictions":[255]}'),
        ({"y": np.array([True, False])}, True, b'{"predictions":[true,false]}'),
        ({"y": np.zeros((0, 3), np.float32)}, True, b'{"predictions":[]}'),
        ({"y": np.zeros((2, 0), np.float32)}, True, b'{"predictions":[[],[]]}'),
        ({"y": strings(b'a"\\\n\x01')}, True, b'{"predictions":["a\\"\\\\\\n\\u0001"]}'),
        ({"y": strings("é".encode(), b"\xff")}, True, b'{"predictions":["\xc3\xa9","\xff"]}'),
        ({"y_bytes": strings(b"\xff\x00")}, True, b'{"predictions":[{"b64":"/wA="}]}'),
        ({"y_bytes": np.float32([1])}, True, b'{"predictions":[1.0]}'),
        ({"y": strings()}, True, b'{"predictions":[]}'),
        ({"y": strings(b"ab").reshape(())}, False, b'{"outputs":"ab"}'),
        (
            {"a": np.float32([1, np.nan]), "b": np.int32([[1, 2], [3, 4]]), "c_bytes": strings(b"x", b"y")},
            True,
            (b'{"predictions":[{"a":1.0,"b":[1,2],"c_bytes":{"b64":"eA=="}},'
            b'{"a":NaN,"b":[3,4],"c_bytes":{"b64":"eQ=="}}]}'),
        ),
        ({"a": np.float32(1), "b": np.int32([1, 2])}, False, b'{"outputs":{"a":1.0,"b":[1,2]}}'),
        ({"a": np.float32([]), "b": np.int32([]).reshape(0, 2)}, True, b'{"predictions":[]}'),
    ],
)  # fmt: skip
def test_predict_answers(outputs: dict[str, np.ndarray], row: bool, expected: bytes) -> None:
    assert encode_predict(outputs, row) == expected


@pytest.mark.parametrize(
    ("outputs", "row", "text"),
    [
        ({}, True, "Cannot convert empty tensor map to JSON"),
        ({"y": np.float32(1)}, True, "Tensor name: y has no shape information "),
        (
            {"x": np.float32([1]), "y": np.float32([1, 2])},
            True,
            "Tensor name: y has inconsistent batch size: 2 expecting: 1",
        ),
        ({"y": np.float16([1])}, True, "Failed to write JSON value for tensor type: half"),
        ({"y": np.zeros(1, ml_dtypes.bfloat16)}, False, "Failed to write JSON value for tensor type: bfloat16"),
        ({"y": np.uint16([1])}, True, "Failed to write JSON value for tensor type: uint16"),
        ({"y": np.complex64([1])}, True, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_predict_answers_that_cannot_be_written(outputs: dict[str, np.ndarray], row: bool, text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        encode_predict(outputs, row)
    assert caught.value.message == text


def test_views_of_any_layout() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert answer(True, y=array[::2, ::-1]) == {"predictions": array[::2, ::-1].tolist()}
    assert answer(True, y=array.T) == {"predictions": array.T.tolist()}
    assert answer(True, y=array.astype(">f4")) == {"predictions": array.tolist()}
    frozen = array.copy()
    frozen.flags.writeable = False
    assert answer(False, y=frozen) == {"outputs": array.tolist()}


def expected_number(value: float) -> Any:
    text = format_float(value, single=True)
    return text if text in {"NaN", "Infinity", "-Infinity"} else float(text)


@settings(max_examples=300)
@given(
    # The smallest subnormal, 1.4013e-45, is written as 1e-45: the same float32, in fewer digits.
    hnp.arrays(np.float32, st.integers(1, 100), elements=st.floats(width=32, allow_subnormal=False))
    | hnp.arrays(
        np.float32, st.integers(1, 100), elements=st.floats(-100, 100).map(lambda v: round(v, 4)).map(np.float32)
    )
)
def test_float32_values_are_those_of_printf(array: np.ndarray) -> None:
    text = encode_predict({"y": array}, True)
    got = json.loads(text, parse_constant=str)["predictions"]
    assert got == [expected_number(value) for value in array.astype(float).tolist()]


def test_many_float32_values_are_those_of_printf() -> None:
    generator = np.random.default_rng(5)
    wild = generator.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    tame = (10.0 ** generator.uniform(-16, 8, 20_000) * generator.choice([-1, 1], 20_000)).astype(np.float32)
    short = np.round(generator.random(20_000), 5).astype(np.float32)
    for array in (wild[np.isfinite(wild)], tame, short):
        got = json.loads(encode_predict({"y": array}, True))["predictions"]
        assert got == [expected_number(value) for value in array.astype(float).tolist()]


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.int32, np.int64, np.uint32, np.uint64, np.bool_]),
        hnp.array_shapes(max_dims=3, max_side=5),
    ),
    st.booleans(),
)
def test_answers_read_back_as_requests(array: np.ndarray, row_format: bool) -> None:
    text = encode_predict({"y": array}, row_format)
    document = re.sub(rb"^.\w*.(\w+).", b'{"instances"' if row_format else b'{"inputs"', text)
    spec = TensorSpec("y", "y:0", by_numpy(array.dtype), None)
    got = parse_predict(document).arrays(Signature("s", "", {"y": spec}, {}, {}))["y"]
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@given(hnp.arrays(object, hnp.array_shapes(max_dims=3, max_side=3, min_side=0), elements=st.binary(max_size=6)))
def test_strings_as_base64(array: np.ndarray) -> None:
    def decode(value: Any) -> Any:
        return [decode(v) for v in value] if isinstance(value, list) else base64.b64decode(value["b64"])

    assert decode(answer(False, y_bytes=array)["outputs"]) == array.tolist()


@given(st.lists(st.text(max_size=8), max_size=6))
def test_strings_as_text(values: list[str]) -> None:
    assert answer(True, y=strings(*[v.encode("utf-8", "replace") for v in values])) == {
        "predictions": [v.encode("utf-8", "replace").decode() for v in values]
    }


def test_status() -> None:
    text = encode_status([(2, "LOADING", "OK", ""), (1, "END", "NOT_FOUND", "no file")])
    assert json.loads(text) == {
        "model_version_status": [
            {"version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}},
            {"version": "1", "state": "END", "status": {"error_code": "NOT_FOUND", "error_message": "no file"}},
        ]
    }


def test_metadata() -> None:
    signatures = SignatureDefMap()
    definition = signatures.signature_def["serving_default"]
    definition.method_name = "tensorflow/serving/predict"
    definition.inputs["x"].name = "x:0"
    definition.inputs["x"].dtype = 1
    definition.inputs["x"].tensor_shape.dim.add(size=-1)
    got = json.loads(encode_metadata("m", 123, signatures))
    assert got["model_spec"] == {"name": "m", "signature_name": "", "version": "123"}
    default = got["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["outputs"] == {}
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert default["inputs"]["x"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_error() -> None:
    assert json.loads(encode_error('a "b" \n')) == {"error": 'a "b" \n'}
    assert "\ufffd" in json.loads(encode_error("undecodable: \udcff"))["error"]
