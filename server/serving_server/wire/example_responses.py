"""ClassificationResponse, RegressionResponse and MultiInferenceResponse straight to bytes.

Their results have a message for every class of every example. Writing these as bytes is several times faster than
filling messages, and lets labels through that are not UTF-8, as TensorFlow Serving does. Fields come in the order of
their numbers and zeros are left out, so the bytes are those that protobuf writes
(https://protobuf.dev/programming-guides/encoding); `tests/server/test_example_responses.py` compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Final

import numpy as np

from serving_server.tensors import Array
from serving_server.wire.messages import ModelSpec
from serving_server.wire.predict_response import delimited, spec_field

__all__ = ["classification_result", "inference_result", "regression_result", "response"]

#: Of ClassificationResult, Classifications and RegressionResult: their only field, repeated.
_ENTRIES: Final = 1
_LABEL: Final = 1

#: Tags of the two fields that are float: the score of a Class (2) and the value of a Regression (1).
_SCORE_TAG: Final = b"\x15"
_VALUE_TAG: Final = b"\x0d"

_ZERO: Final = bytes(4)

#: Of InferenceResult.
_SPEC, _CLASSIFICATION, _REGRESSION = 1, 2, 3


def _floats(array: Array, tag: bytes) -> list[bytes]:
    """Return a float field for each number, in row-major order; empty where it is zero, which proto3 leaves out."""
    data = np.asarray(array, "<f4").tobytes()
    return [tag + data[at : at + 4] if data[at : at + 4] != _ZERO else b"" for at in range(0, len(data), 4)]


def classification_result(labels: Array | None, scores: Array | None) -> bytes:
    """Return the serialized ClassificationResult.

    Parameters
    ----------
    labels : ndarray of object or None
        bytes, [examples, classes].
    scores : ndarray of float32 or None
        [examples, classes]. At least one of both is given.
    """
    shape = scores.shape if scores is not None else labels.shape if labels is not None else (0, 0)
    names: Iterable[bytes] = labels.ravel().tolist() if labels is not None else repeat(b"")
    numbers: Iterable[bytes] = _floats(scores, _SCORE_TAG) if scores is not None else repeat(b"")
    size = shape[0] * shape[1]
    classes: list[bytes] = []
    for _, name, number in zip(range(size), names, numbers, strict=False):
        body = delimited(_LABEL, len(name)) + name + number if name else number
        classes.append(delimited(_ENTRIES, len(body)) + body)
    parts: list[bytes] = []
    for row in range(shape[0]):
        body = b"".join(classes[row * shape[1] : (row + 1) * shape[1]])
        parts += (delimited(_ENTRIES, len(body)), body)
    return b"".join(parts)


def regression_result(values: Array) -> bytes:
    """Return the serialized RegressionResult of float32 [examples]."""
    parts: list[bytes] = []
    for number in _floats(values, _VALUE_TAG):
        parts += (delimited(_ENTRIES, len(number)), number)
    return b"".join(parts)


def response(name: str, version: int, signature: str, result: bytes) -> bytes:
    """Return the serialized ClassificationResponse or RegressionResponse with that result and ModelSpec."""
    return delimited(1, len(result)) + result + spec_field(name, version, signature)


def inference_result(name: str, version: int, signature: str, result: bytes, *, classifies: bool) -> bytes:
    """Return one entry of a MultiInferenceResponse, whose serialized form is its entries in a row."""
    spec = ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    data: bytes = spec.SerializeToString()
    field = _CLASSIFICATION if classifies else _REGRESSION
    body = delimited(_SPEC, len(data)) + data + delimited(field, len(result)) + result
    return delimited(_ENTRIES, len(body)) + body
