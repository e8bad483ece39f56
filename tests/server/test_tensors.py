"""TensorProto rules: round trips of every dtype, filling, cutting, and what is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving_server.tensors import DTYPES, DType, TensorParsingError, by_numpy, to_array, to_proto
from serving_server.wire.messages import TensorProto

NUMERIC = [dtype for dtype in DTYPES if not dtype.is_string]


def _values(dtype: DType, shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape))
    return (np.arange(count) % 2 if dtype.name == "bool" else np.arange(count) * 3).astype(dtype.numpy).reshape(shape)


@pytest.mark.parametrize("as_content", [False, True], ids=["typed", "content"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=lambda d: d.name)
def test_round_trip(dtype: DType, shape: tuple[int, ...], as_content: bool) -> None:
    array = _values(dtype, shape)
    proto = TensorProto.FromString(to_proto(array, as_content=as_content).SerializeToString())
    assert proto.dtype == dtype.enum
    back = to_array(proto)
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
def test_floats_survive_to_the_bit(array: Any) -> None:
    back = to_array(to_proto(array))
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=300), max_size=8), st.booleans())
def test_strings_survive_with_zero_bytes(values: list[bytes], nested: bool) -> None:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    array = array.reshape(1, -1) if nested else array
    assert to_array(to_proto(array)).tolist() == array.tolist()


def test_text_becomes_utf8() -> None:
    assert to_array(to_proto(np.array(["é", ""]))).tolist() == ["é".encode(), b""]


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [([], [0, 0, 0]), ([7], [7, 7, 7]), ([1, 2], [1, 2, 2]), ([1, 2, 3, 4, 5], [1, 2, 3])],
    ids=["empty means zeros", "one is repeated", "the last is repeated", "more are cut"],
)
@pytest.mark.parametrize("dtype", [d for d in NUMERIC if d.field in {"float_val", "int_val", "int64_val"}], ids=str)
def test_typed_field_of_another_length(dtype: DType, given_values: list[int], expected: list[int]) -> None:
    proto = TensorProto(dtype=dtype.enum)
    proto.tensor_shape.dim.add(size=3)
    getattr(proto, dtype.field).extend(given_values)
    assert to_array(proto).tolist() == expected


@pytest.mark.parametrize(("values", "expected"), [([], [b"", b""]), ([b"a\0"], [b"a\0", b"a\0"])])
def test_string_field_of_another_length(values: list[bytes], expected: list[bytes]) -> None:
    proto = TensorProto(dtype=7, string_val=values)
    proto.tensor_shape.dim.add(size=2)
    assert to_array(proto).tolist() == expected


def test_content_wins_over_the_typed_field() -> None:
    proto = to_proto(np.float32([1, 2]), as_content=True)
    proto.float_val.extend([8, 9])
    assert to_array(proto).tolist() == [1, 2]


def test_half_and_bfloat16_travel_as_bits() -> None:
    assert list(to_proto(np.float16([1.5])).half_val) == [0x3E00]
    assert list(to_proto(np.array([1.5], ml_dtypes.bfloat16)).half_val) == [0x3FC0]


def test_small_ints_wrap_as_in_c() -> None:
    proto = TensorProto(dtype=6, int_val=[300, -1])  # int8
    proto.tensor_shape.dim.add(size=2)
    assert to_array(proto).tolist() == [44, -1]


def test_string_content_as_tensorflow_encodes_it() -> None:
    proto = TensorProto(dtype=7, tensor_content=b"\x01\xac\x02" + b"a" + b"b" * 300)
    proto.tensor_shape.dim.add(size=2)
    assert to_array(proto).tolist() == [b"a", b"b" * 300]


def _proto(size: int, **fields: Any) -> Any:
    proto = TensorProto(**fields)
    proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (_proto(1, float_val=[1]), "dtype is not set"),
        (_proto(1, dtype=20), "dtype number 20 cannot be served"),
        (_proto(2, dtype=1, tensor_content=b"12345678901"), "tensor_content has 11 bytes; shape .2. needs 8"),
        (_proto(-1, dtype=1), "negative size"),
        (_proto(2**40, dtype=1, float_val=[1]), "is over 2147483647 bytes"),
        (_proto(1, dtype=8, scomplex_val=[1]), "odd number"),
        (_proto(2, dtype=7, tensor_content=b"\x05ab"), "ends before|add up"),
        (_proto(1, dtype=7, tensor_content=b"\xff\xff\xff\xff\xff\x01"), "over 32 bits"),
    ],
)
def test_what_does_not_fit_is_refused(proto: Any, message: str) -> None:
    with pytest.raises(TensorParsingError, match=message):
        to_array(proto)


def test_unknown_rank_is_refused() -> None:
    proto = TensorProto(dtype=1)
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(TensorParsingError, match="known rank"):
        to_array(proto)


def test_numpy_types_without_a_counterpart_are_named() -> None:
    with pytest.raises(TensorParsingError, match="datetime64"):
        by_numpy(np.dtype("datetime64[s]"))
    with pytest.raises(TensorParsingError, match="holds int 3"):
        to_proto(np.array([3], dtype=object))


def test_big_endian_arrays_are_taken() -> None:
    assert to_array(to_proto(np.array([1, 2], ">f4"))).tolist() == [1, 2]
    assert to_array(to_proto(np.array([1, 2], ">i8"), as_content=True)).tolist() == [1, 2]
