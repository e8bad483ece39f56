"""ClassificationResponse, RegressionResponse and MultiInferenceResponse straight to bytes.

Their results have a message for every class of every example. Writing these as bytes is 1.5 to 2 times as fast as
filling messages, and lets labels through that are not UTF-8, as TensorFlow Serving does. Fields come in the order of
their numbers and zeros are left out, so the bytes are those that protobuf writes
(https://protobuf.dev/programming-guides/encoding); `tests/server/test_example_responses.py` compares.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serving_server.tensors import Array
from serving_server.wire.messages import ModelSpec
from serving_server.wire.predict_response import delimited, spec_field

__all__ = ["classification_result", "inference_result", "regression_result", "response"]

#: What stands before a short field 1. The entries of all results are such, and so are labels and specs.
_HEADS: Final = tuple(delimited(1, size) for size in range(128))

#: Tags of the two fields that are float: the score of a Class (2) and the value of a Regression (1).
_SCORE_TAG: Final = b"\x15"
_VALUE_TAG: Final = b"\x0d"

_ZERO: Final = bytes(4)

#: Of InferenceResult.
_CLASSIFICATION, _REGRESSION = 2, 3


def _head(size: int) -> bytes:
    """Return what stands before `size` bytes of field 1, which all entries and labels are."""
    return _HEADS[size] if size < len(_HEADS) else delimited(1, size)


def _floats(array: Array, tag: bytes) -> list[bytes]:
    """Return a float field for each number, in row-major order; empty where it is zero, which proto3 leaves out."""
    fields = np.empty((array.size, 5), np.uint8)
    fields[:, 0] = tag[0]
    fields[:, 1:] = np.ascontiguousarray(array, "<f4").reshape(-1, 1).view(np.uint8)
    data = fields.tobytes()
    zero = tag + _ZERO
    return [b"" if field == zero else field for field in [data[at : at + 5] for at in range(0, len(data), 5)]]


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
    size = shape[0] * shape[1]
    numbers = _floats(scores, _SCORE_TAG) if scores is not None else [b""] * size
    if labels is None:
        classes = [_head(len(number)) + number for number in numbers]
    else:
        texts = labels.ravel().tolist()
        # Classes have the same few names in every row.
        fields = {text: _head(len(text)) + text if text else b"" for text in set(texts)}
        bodies = [fields[text] + number for text, number in zip(texts, numbers, strict=True)]
        classes = [_head(len(body)) + body for body in bodies]
    rows = [b"".join(classes[at : at + shape[1]]) for at in range(0, size, shape[1])] if size else [b""] * shape[0]
    return b"".join([_head(len(row)) + row for row in rows])


def regression_result(values: Array) -> bytes:
    """Return the serialized RegressionResult of float32 [examples]."""
    return b"".join([_head(len(number)) + number for number in _floats(values, _VALUE_TAG)])


def response(name: str, version: int, signature: str, result: bytes) -> bytes:
    """Return the serialized ClassificationResponse or RegressionResponse with that result and ModelSpec."""
    return _head(len(result)) + result + spec_field(name, version, signature)


def inference_result(name: str, version: int, signature: str, result: bytes, *, classifies: bool) -> bytes:
    """Return one entry of a MultiInferenceResponse, whose serialized form is its entries in a row."""
    spec = ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    data: bytes = spec.SerializeToString()
    field = _CLASSIFICATION if classifies else _REGRESSION
    body = _head(len(data)) + data + delimited(field, len(result)) + result
    return _head(len(body)) + body
