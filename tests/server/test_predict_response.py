"""The quick encoder writes the bytes that protobuf writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving_server.tensors import DTYPES, DType, by_numpy, fill_proto
from serving_server.wire import predict_response
from serving_server.wire.messages import PredictResponse


def _reference(outputs: dict[str, Any], *, tensor_content: bool) -> bytes:
    response = PredictResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = 12
    response.model_spec.signature_name = "serving_default"
    for alias, array in outputs.items():
        response.outputs[alias].SetInParent()
        fill_proto(response.outputs[alias], array, by_numpy(array.dtype), as_content=tensor_content)
    return bytes(response.SerializeToString(deterministic=True))


def _quick(outputs: dict[str, Any], *, tensor_content: bool) -> bytes:
    dtypes = {alias: by_numpy(array.dtype) for alias, array in outputs.items()}
    return predict_response.encode("m", 12, "serving_default", outputs, dtypes, tensor_content=tensor_content)


@pytest.mark.parametrize("tensor_content", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 0), (2, 3, 50)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_every_dtype_and_shape(dtype: DType, shape: tuple[int, ...], tensor_content: bool) -> None:
    count = int(np.prod(shape))
    if dtype.is_string:
        array = np.array([b"\0x" * n for n in range(count)] + [None], dtype=object)[:-1].reshape(shape)
    else:
        array = (np.arange(count) % 2 if dtype.name == "bool" else np.arange(count)).astype(dtype.numpy).reshape(shape)
    outputs = {"y": array}
    assert _quick(outputs, tensor_content=tensor_content) == _reference(outputs, tensor_content=tensor_content)


@given(
    st.dictionaries(st.text(max_size=200), hnp.arrays(np.float32, hnp.array_shapes(min_side=0)), max_size=4),
    st.booleans(),
)
def test_any_names_and_floats(outputs: dict[str, Any], tensor_content: bool) -> None:
    got = _quick(outputs, tensor_content=tensor_content)
    expected = _reference(outputs, tensor_content=tensor_content)
    # Entries of a map come in any order.
    assert len(got) == len(expected)
    assert PredictResponse.FromString(got).SerializeToString(deterministic=True) == expected


def test_rows_cut_from_a_batch_and_other_layouts() -> None:
    whole = np.arange(24, dtype=np.float64).reshape(4, 6)
    for array in (whole[1:2], whole[:, ::2], whole.T, whole[::-1]):
        outputs = {"y": array}
        assert _quick(outputs, tensor_content=False) == _reference(outputs, tensor_content=False)
