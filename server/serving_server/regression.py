"""Regress: which signatures can, and what their output means.

Pure functions, used by every transport and by warmup. Rules and texts are TensorFlow Serving's (servables/tensorflow/
regressor.cc); what it leaves out follows in parentheses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving_server.errors import InvalidArgumentError
from serving_server.examples import INPUTS, debug_string, dtype_name
from serving_server.inputs import describe_names
from serving_server.signatures import REGRESS_METHOD, Signature
from serving_server.tensors import Array

__all__ = ["check", "result"]

_OUTPUTS: Final = "outputs"


def check(signature: Signature, definition: Any, *, method_name: bool) -> tuple[str, ...]:
    """Return the aliases of the outputs to compute; parameters as `serving_server.classification.check`.

    Raises
    ------
    InvalidArgumentError
        The signature is no regression's.
    """
    if method_name and signature.method_name != REGRESS_METHOD:
        msg = (
            f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {signature.method_name} "
            f'(signature "{signature.name}")'
        )
        raise InvalidArgumentError(msg)
    if len(signature.inputs) != 1:
        raise InvalidArgumentError(f"Expected one input Tensor. {describe_names(signature)}")
    if len(signature.outputs) != 1:
        raise InvalidArgumentError(f"Expected one output Tensor. {describe_names(signature)}")
    if INPUTS not in signature.inputs:
        raise InvalidArgumentError(f"No regression inputs found in SignatureDef: {definition}")
    if _OUTPUTS not in signature.outputs:
        raise InvalidArgumentError(f"No regression outputs found in SignatureDef: {definition}")
    return (_OUTPUTS,)


def result(outputs: Mapping[str, Array], examples: int) -> Array:
    """Return the value of each example: float32 [examples], not copied.

    Raises
    ------
    InvalidArgumentError
        The output has another type or shape than a regression's.
    """
    values = outputs[_OUTPUTS]
    if values.ndim != 1 and (values.ndim != 2 or values.shape[1] != 1):
        msg = (
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {debug_string(values)}"
        )
        raise InvalidArgumentError(msg)
    if values.shape[0] != examples:
        msg = f"Input batch size did not match output batch size: {examples} vs. {values.shape[0]}"
        raise InvalidArgumentError(msg)
    if dtype_name(values) != "DT_FLOAT":
        raise InvalidArgumentError(f"Expected output Tensor of DT_FLOAT.  Got: {dtype_name(values)}")
    return values.reshape(examples)
