"""Conversions of what users pass: everything without loss, nothing else."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest

from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name
from serving_workbench import sampling
from serving_workbench.errors import PredictError
from serving_workbench.inputs import as_inputs, is_dataframe


def signature(*specs: tuple[str, str, tuple[int, ...] | None], defaults: tuple[str, ...] = ()) -> Signature:
    inputs = {alias: TensorSpec(alias, f"{alias}:0", by_name(dtype), shape) for alias, dtype, shape in specs}
    return Signature("f", "predict", inputs, {}, {alias: np.zeros(()) for alias in defaults})


def one(dtype: str, shape: tuple[int, ...] | None = (-1,)) -> Signature:
    return signature(("x", dtype, shape))


TWO = signature(("a", "float", (-1,)), ("b", "int32", (-1, 1)))


@pytest.mark.parametrize(
    ("dtype", "given", "wanted"),
    [
        ("float", [1, 2], np.float32),
        ("float", np.array([1.5, 0.1]), np.float32),
        ("float", np.array([True, False]), np.float32),
        ("double", [1.5], np.float64),
        ("half", [1.5], np.float16),
        ("bfloat16", [1.5], ml_dtypes.bfloat16),
        ("bfloat16", [1, 2], ml_dtypes.bfloat16),
        ("int32", [1, -2], np.int32),
        ("int32", np.array([1], dtype=">i8"), np.int32),
        ("uint8", [0, 255], np.uint8),
        ("uint64", [2**64 - 1], np.uint64),
        ("int64", [2**62], np.int64),
        ("bool", [True], np.bool_),
        ("complex64", [1 + 2j], np.complex64),
        ("complex64", [1.5], np.complex64),
        ("float", [np.inf, np.nan], np.float32),
        ("float", [], np.float32),
        ("int32", [], np.int32),
        ("float", np.array([1, 2.5], dtype=object), np.float32),
    ],
)
def test_lossless_conversions(dtype: str, given: Any, wanted: Any) -> None:
    (array,) = as_inputs(given, one(dtype)).values()
    assert array.dtype == wanted
    assert array.shape == (len(given),)
    assert array.dtype.isnative


@pytest.mark.parametrize(
    ("dtype", "given", "says"),
    [
        ("int32", [2**31], "cannot be stored in it without loss"),
        ("int32", np.array([1.0]), r"takes int32; given float64\. Convert it yourself.*x\.astype\('int32'\)"),
        ("uint8", [256], "256"),
        ("uint8", [-1], "-1"),
        ("uint64", [-1], "-1"),
        ("int64", np.array([2**63], dtype=np.uint64), "without loss"),
        ("float", [2**24 + 1], "16777217"),
        ("half", [1e6], "1000000"),
        ("float", [1e300], "without loss"),
        ("bool", [1], "takes bool; given int64"),
        ("float", [1 + 2j], "takes float; given complex128"),
        ("float", ["1.5"], "given text, such as '1.5'"),
        ("float", np.array(["2020-01-01"], dtype="datetime64[D]"), "datetime64"),
        ("float", [None], "it holds NoneType"),
        ("string", [1], "takes string; given int64"),
        ("string", np.array(["a", 1.5], dtype=object), "mixes text with float"),
        ("float", [[1, 2], [3]], "no array"),
    ],
)
def test_lossy_conversions_are_refused(dtype: str, given: Any, says: str) -> None:
    with pytest.raises(PredictError, match=says) as caught:
        as_inputs(given, one(dtype))
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize(
    "given", [["a", "ü"], np.array(["a", "ü"]), [b"a", "ü".encode()], np.array(["a", "ü"], dtype=object)]
)
def test_text_becomes_utf8(given: Any) -> None:
    (array,) = as_inputs(given, one("string")).values()
    assert array.tolist() == [b"a", "ü".encode()]


def test_a_scalar_and_an_unknown_rank() -> None:
    assert as_inputs(3, one("float", ()))["x"].shape == ()
    assert as_inputs([[3]], one("float", None))["x"].shape == (1, 1)


@pytest.mark.parametrize(
    ("shape", "given", "says"),
    [
        ((-1, 4), np.zeros(4), r"has shape \[\?, 4\]; given \[4\]\. For one example .* x\[np\.newaxis\]"),
        ((-1, 4), np.zeros((2, 5)), r"given \[2, 5\]"),
        ((2, 3), np.zeros((3, 2)), r"has shape \[2, 3\]"),
        ((), [1.0], r"has shape \[\]"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], given: Any, says: str) -> None:
    with pytest.raises(PredictError, match=says):
        as_inputs(given, one("float", shape))


def test_names_of_inputs() -> None:
    found = as_inputs({"a": [1.0], "b": [[2]]}, TWO)
    assert {key: array.dtype for key, array in found.items()} == {"a": np.float32, "b": np.int32}
    with pytest.raises(PredictError, match=r"no input 'c'; its inputs are 'a', 'b'"):
        as_inputs({"a": [1.0], "b": [[2]], "c": 3}, TWO)
    with pytest.raises(PredictError, match=r"missing for signature 'f': 'b' \(int32 \[\?, 1\]\)"):
        as_inputs({"a": [1.0]}, TWO)
    with pytest.raises(PredictError, match=r"2 inputs \('a', 'b'\); one list cannot stand for all"):
        as_inputs([1.0], TWO)


def test_defaults_may_be_left_out() -> None:
    f = signature(("x", "float", (-1,)), ("bias", "float", ()), defaults=("bias",))
    assert set(as_inputs([1.0], f)) == {"x"}
    assert set(as_inputs({"x": [1.0], "bias": 2.0}, f)) == {"x", "bias"}


def test_dataframes() -> None:
    named = as_inputs(pd.DataFrame({"b": [1, 2], "a": [0.5, 1.5]}), TWO)
    assert {key: array.shape for key, array in named.items()} == {"a": (2,), "b": (2, 1)}
    matrix = as_inputs(pd.DataFrame({"p": [1, 2], "q": [0.5, 1.5]}), one("float", (-1, 2)))["x"]
    assert matrix.tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert as_inputs(pd.DataFrame({"p": [1, 2]}), one("float"))["x"].shape == (2,)
    assert as_inputs(pd.DataFrame({"x": [[1, 2], [3, 4]]}), one("float", (-1, 2)))["x"].shape == (2, 2)
    assert as_inputs(pd.Series([1, 2]), one("float"))["x"].shape == (2,)
    assert as_inputs(pd.DataFrame({"x": ["u", "v"]}), one("string"))["x"].tolist() == [b"u", b"v"]


def test_dataframes_that_do_not_fit() -> None:
    with pytest.raises(
        PredictError, match=r"columns that signature 'f' does not know: label\. Pass frame\[\['a', 'b'\]\]"
    ):
        as_inputs(pd.DataFrame({"a": [1.0], "b": [1], "label": [0]}), TWO)
    with pytest.raises(PredictError, match="missing"):
        as_inputs(pd.DataFrame({"a": [1.0]}), TWO)


def test_samples_are_the_same_each_time_and_fit() -> None:
    f = signature(
        ("a", "float", (-1, 3)), ("b", "int64", (-1, -1)), ("c", "string", None), ("d", "bool", ()), ("e", "half", (2,))
    )
    first, second = sampling.draw(f), sampling.draw(f)
    assert {key: array.shape for key, array in first.items()} == {
        "a": (2, 3),
        "b": (2, 1),
        "c": (2,),
        "d": (),
        "e": (2,),
    }
    for key, array in as_inputs(first, f).items():
        np.testing.assert_array_equal(array, second[key])
    assert not sampling.batch_axis(f)
    assert sampling.batch_axis(one("float", (-1, 2)))
    assert sampling.batch_axis(one("float", None))
    assert not sampling.batch_axis(one("float", ()))


def test_pandas_that_another_thread_still_imports_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", ModuleType("pandas"))
    assert not is_dataframe([1.0])
