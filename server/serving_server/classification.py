"""Classify: which signatures can, and what their outputs mean.

Pure functions, used by every transport and by warmup. Rules and texts are TensorFlow Serving's (servables/tensorflow/
classifier.cc); what it leaves out follows in parentheses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from serving_server.errors import InvalidArgumentError
from serving_server.examples import INPUTS, debug_string, dtype_name
from serving_server.inputs import describe_names
from serving_server.signatures import CLASSIFY_METHOD, Signature
from serving_server.tensors import Array

__all__ = ["Classifications", "check", "result"]

_CLASSES: Final = "classes"
_SCORES: Final = "scores"


class Classifications(NamedTuple):
    """What a model thinks of each example.

    Attributes
    ----------
    labels : ndarray of object or None
        bytes, [examples, classes]; None when the model gives none.
    scores : ndarray of float32 or None
        Of the same shape; None when the model gives none.
    """

    labels: Array | None
    scores: Array | None


def check(signature: Signature, definition: Any, *, method_name: bool) -> tuple[str, ...]:
    """Return the aliases of the outputs to compute.

    Parameters
    ----------
    signature : Signature
    definition : message
        Its `SignatureDef`, to be quoted.
    method_name : bool
        Whether its method must be the classification's (``--enable_signature_method_name_check``).

    Raises
    ------
    InvalidArgumentError
        It cannot classify.
    """
    if method_name and signature.method_name != CLASSIFY_METHOD:
        msg = (
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: {signature.method_name} "
            f'(signature "{signature.name}")'
        )
        raise InvalidArgumentError(msg)
    if len(signature.inputs) != 1:
        raise InvalidArgumentError(f"Expected one input Tensor. {describe_names(signature)}")
    if len(signature.outputs) not in {1, 2}:
        msg = f"Expected one or two output Tensors, found {len(signature.outputs)} {describe_names(signature)}"
        raise InvalidArgumentError(msg)
    if INPUTS not in signature.inputs:
        raise InvalidArgumentError(f"No classification inputs found in SignatureDef: {definition}")
    outputs = tuple(alias for alias in (_CLASSES, _SCORES) if alias in signature.outputs)
    if not outputs:
        msg = (
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {definition}"
        )
        raise InvalidArgumentError(msg)
    return outputs


def result(outputs: Mapping[str, Array], examples: int) -> Classifications:
    """Return what the outputs say.

    Parameters
    ----------
    outputs : mapping of str to ndarray
        By alias; not copied.
    examples : int
        How many were fed.

    Raises
    ------
    InvalidArgumentError
        An output has another type or shape than a classification's.
    """
    labels, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for alias, array, wanted in ((_CLASSES, labels, "DT_STRING"), (_SCORES, scores, "DT_FLOAT")):
        if array is None:
            continue
        if array.ndim != 2:
            msg = f'Expected Tensor shape: [batch_size num_classes] but got {debug_string(array)} (output "{alias}")'
            raise InvalidArgumentError(msg)
        if dtype_name(array) != wanted:
            raise InvalidArgumentError(f"Expected {alias} Tensor of {wanted}. Got: {dtype_name(array)}")
        if array.shape[0] != examples:
            raise InvalidArgumentError(f"Expected {alias} output batch size of {examples}. Got: {array.shape[0]}")
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        msg = f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
        raise InvalidArgumentError(msg)
    return Classifications(labels, scores)
