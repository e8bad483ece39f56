"""The comparison at the heart of a proof, and the warm-up file that a sample becomes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_name
from serving_server.wire.messages import PredictionLog
from serving_workbench.differences import DEFAULT_TOLERANCE, tolerance_pair
from serving_workbench.errors import DeployError, ProofError
from serving_workbench.prove import compare, questions
from serving_workbench.warmup_requests import WARMUP_FILE, write_warmup


def check(served: Any, expected: Any, tolerance: tuple[float, float] = DEFAULT_TOLERANCE) -> None:
    compare({"y": np.asarray(served)}, {"y": np.asarray(expected)}, tolerance, "version 2 of 'm'")


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (np.float32([1.0, 2.0]), np.float32([1.00005, 2.0])),
        (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf])),
        (np.float16([1.0]), np.float16([1.002])),
        (np.array([1.0], ml_dtypes.bfloat16), np.array([1.01], ml_dtypes.bfloat16)),
        (np.complex64([1 + 1j]), np.complex64([1 + 1.00001j])),
        (np.int64([3]), np.int64([3])),
        (np.array([b"a"], dtype=object), np.array([b"a"], dtype=object)),
        (np.array([True]), np.array([True])),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)),
    ],
)
def test_equal_within_tolerance(served: Any, expected: Any) -> None:
    check(served, expected)


def test_a_difference_is_shown_where_it_is_worst() -> None:
    expected = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    served = expected.copy()
    served[0, 1] += 0.5
    served[1, 2] += 2
    with pytest.raises(ProofError) as caught:
        check(served, expected)
    error = caught.value
    assert (error.output, error.index, error.max_abs) == ("y", (1, 2), 2.0)
    assert error.max_rel == pytest.approx(2 / 6)
    assert (error.served, error.expected) == (8.0, 6.0)
    for part in ("output 'y' at [1, 2]", "8.0", "6.0", "2 of 6 values differ", "rtol 0.0001", "tolerance=None"):
        assert part in str(error)
    assert "is 8.0, in the notebook 6.0; " in str(error)
    assert error.step == "prove"


@pytest.mark.parametrize(
    ("served", "expected", "says"),
    [
        (np.int64([3, 4]), np.int64([3, 5]), "exactly equal"),
        (np.array([b"a"], dtype=object), np.array([b"b"], dtype=object), "b'a'"),
        (np.array([True]), np.array([False]), "True"),
        (np.float32([np.nan]), np.float32([1]), "nan"),
        (np.float32([1]), np.float32([0]), "inf relative"),
        (np.zeros(2, np.float32), np.zeros(3, np.float32), r"shape \[2\], in the notebook \[3\]"),
    ],
)
def test_differences_of_every_kind(served: Any, expected: Any, says: str) -> None:
    with pytest.raises(ProofError, match=says):
        check(served, expected)


def test_why_the_model_fails_on_a_sample_is_told_and_not_where() -> None:
    text = (
        "Graph execution error:\n\nDetected at node Assert defined at (most recent call last):\n"
        '  File "<frozen runpy>", line 198, in _run_module_as_main\n\nassertion failed: [x < 0]\n\t [[{{node Assert}}]]'
    )

    def fails(_: object) -> Any:
        raise RuntimeError(text)

    x = TensorSpec("x", "x:0", by_name("float"), (-1,))
    signatures = {"f": Signature("f", "", {"x": x}, {"y": x}, {})}
    (asked,) = questions(signatures, {"f": fails}, None, compare=True)
    assert asked.refused == "RuntimeError: assertion failed: [x < 0] [[{{node Assert}}]]"
    with pytest.raises(DeployError, match=r"fails on the given sample: RuntimeError: assertion failed: \[x < 0\]"):
        questions(signatures, {"f": fails}, [1.0], compare=True)


def test_other_outputs() -> None:
    with pytest.raises(ProofError, match=r"has the outputs \['a'\]; .* gives \['b'\]"):
        compare({"a": np.zeros(1)}, {"b": np.zeros(1)}, DEFAULT_TOLERANCE, "m")


def test_a_wider_tolerance_passes() -> None:
    check(np.float32([1.0]), np.float32([1.1]), (0.2, 0.0))


@pytest.mark.parametrize(
    ("given", "limits"), [(None, None), (0.1, (0.1, 1e-5)), ((1, 0), (1.0, 0.0)), ([1e-3, 1e-3], (1e-3, 1e-3))]
)
def test_tolerances(given: Any, limits: object) -> None:
    assert tolerance_pair(given) == limits


@pytest.mark.parametrize("given", ["x", (1,), (-1, 0), (1, 2, 3), {}])
def test_no_tolerance(given: Any) -> None:
    with pytest.raises(DeployError, match="not a tolerance"):
        tolerance_pair(given)


def test_the_warmup_file_holds_the_request(tmp_path: Path) -> None:
    assert write_warmup(tmp_path, "m", "serving_default", {"x": np.float32([1, 2])})
    data = (tmp_path / WARMUP_FILE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    log = PredictionLog.FromString(data[12 : 12 + length])
    assert len(data) == length + 16
    assert log.predict_log.request.model_spec.name == "m"
    assert not write_warmup(tmp_path, "m", "serving_default", {"x": np.float32([1])})  # the model's own file stays
    assert not write_warmup(tmp_path / "b", "m", "s", {"x": np.zeros(2 << 20, np.float64)})
