"""What a model takes and gives: signatures as the front knows them, read from `SignatureDef` messages.

A SavedModel's signatures come from its MetaGraphDef (not from `tf.saved_model.load(...).signatures`, which hides
`__saved_model_init_op` and the defaults), so metadata answers and request checks see what TensorFlow Serving sees.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Final

from serving_server.tensors import Array, DType, TensorParsingError, by_enum, to_array

__all__ = [
    "CLASSIFY_METHOD",
    "DEFAULT_SIGNATURE",
    "INIT_SIGNATURES",
    "PREDICT_METHOD",
    "REGRESS_METHOD",
    "Signature",
    "TensorSpec",
    "parse_signature",
    "parse_signatures",
]

#: What an empty `signature_name` means (saved_model/signature_constants).
DEFAULT_SIGNATURE: Final = "serving_default"

#: What `SignatureDef.method_name` says a signature is made for (saved_model/signature_constants). TF2 exports say that
#: all of theirs are for Predict.
PREDICT_METHOD: Final = "tensorflow/serving/predict"
CLASSIFY_METHOD: Final = "tensorflow/serving/classify"
REGRESS_METHOD: Final = "tensorflow/serving/regress"

#: Bookkeeping entries of TF2 exports: listed in metadata, never called by clients.
INIT_SIGNATURES: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})

#: DT_FLOAT_REF is DT_FLOAT plus this, and so on (tensorflow/core/framework/types.h).
_REF_OFFSET: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes
    ----------
    alias : str
        Name on the wire.
    tensor_name : str
        Name in the graph, such as ``x:0``; empty for sparse and composite tensors, which cannot be served.
    dtype : DType or None
        None when the model uses a type outside `serving_server.tensors.DTYPES`.
    shape : tuple of int, or None
        -1 stands for an unknown size; None for an unknown rank.
    """

    alias: str
    tensor_name: str
    dtype: DType | None
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)  # no slots: `cached_property` needs a __dict__
class Signature:
    """One named function of a model; inputs and outputs are sorted by alias."""

    name: str
    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    defaults: dict[str, Array]

    @functools.cached_property
    def output_dtypes(self) -> dict[str, DType]:
        """The dtype of each output that can be served, by alias."""
        return {alias: spec.dtype for alias, spec in self.outputs.items() if spec.dtype is not None}


def _parse_spec(alias: str, info: Any) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    try:
        # What is fetched from a variable of TensorFlow 1's first kind is a tensor of the type that it refers to.
        dtype = by_enum(info.dtype - _REF_OFFSET if info.dtype > _REF_OFFSET else info.dtype)
    except TensorParsingError:
        dtype = None
    return TensorSpec(alias, info.name, dtype, shape)


def parse_signature(name: str, definition: Any) -> Signature:
    """Return the signature of a `tensorflow.SignatureDef`."""
    return Signature(
        name,
        definition.method_name,
        {alias: _parse_spec(alias, info) for alias, info in sorted(definition.inputs.items())},
        {alias: _parse_spec(alias, info) for alias, info in sorted(definition.outputs.items())},
        {alias: to_array(proto) for alias, proto in definition.defaults.items()},
    )


def parse_signatures(definitions: Any) -> dict[str, Signature]:
    """Return every signature of a map from name to `tensorflow.SignatureDef`, sorted by name."""
    return {name: parse_signature(name, definition) for name, definition in sorted(definitions.items())}
