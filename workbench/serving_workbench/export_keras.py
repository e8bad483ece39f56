"""Export a Keras 3 model with stable input names, and call the original the way clients call the copy.

Keras names the input of a signature after the symbolic tensor, and an unnamed tensor gets a number from a counter of
the process: `keras_tensor_7` today, `keras_tensor_12` after the cell is run again. A client that names its inputs would
break with the next version. So unnamed inputs are called ``inputs`` (one) or ``input_0``, ``input_1``... here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving_workbench.errors import ExportError
from serving_workbench.export import Arrays, NotComparableError, Reference
from serving_workbench.export_functions import named_outputs, quiet
from serving_workbench.files import disk_errors, ensure_free_space

__all__ = ["export_keras"]

_AUTOMATIC = re.compile(r"keras_tensor(_[0-9]+)?")


def export_keras(model: Any, destination: Path) -> dict[str, Reference]:
    """Write a built Keras model; see `serving_workbench.export.export_model`.

    Returns
    -------
    dict of str to Reference
        For ``serving_default`` (and ``serve``, the name Keras gives beside it).
    """
    if not model.built:
        raise ExportError(
            f"The Keras model '{model.name}' was never built, so the shape of its inputs is not known.",
            step="export",
            hint="Call it once on a batch, model(x), or add a keras.Input as its first layer.",
        )
    with disk_errors(destination, "export the model to"):
        ensure_free_space(destination, sum(_size(weight) for weight in model.weights))
    names, signature = _inputs(model)
    arguments = {} if signature is None else {"input_signature": signature}
    try:
        with quiet():
            model.export(str(destination), format="tf_saved_model", verbose=False, **arguments)
    except (TypeError, ValueError) as error:
        # A subclassed model whose call takes several arguments ends here: Keras records only the first one's shape.
        raise ExportError(
            f"Keras could not export '{model.name}': {' '.join(str(error).split())[:300]}",
            step="export",
            hint="Let the model take one input (a tensor, list or dict) and call it once on a batch; or wrap it in a "
            "tf.Module with a decorated @tf.function.",
        ) from error

    def reference(inputs: Arrays) -> Arrays:
        return named_outputs(_call(model, names, inputs), _to_numpy)

    return {"serving_default": reference, "serve": reference}


def _size(weight: Any) -> int:
    # Half precision counts double: an estimate from above costs nothing.
    itemsize = 8 if "64" in str(weight.dtype) else 4
    return int(np.prod(weight.shape, dtype=np.int64)) * itemsize


def _inputs(model: Any) -> tuple[Any, list[Any] | None]:
    """Return the input names in the model's own structure, and the signature to pass to Keras (None: its choice)."""
    keras = sys.modules["keras"]
    try:
        # A Sequential model has one input, and keeps its symbolic tensor in the list `inputs` only.
        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    except (AttributeError, ValueError, IndexError):
        return None, None  # a subclassed model: Keras knows its shapes from the first call
    if isinstance(structure, Mapping):
        names: Any = {key: key if _AUTOMATIC.fullmatch(t.name) else t.name for key, t in structure.items()}
    elif isinstance(structure, list | tuple):
        many = len(structure) > 1
        if any(not hasattr(tensor, "shape") for tensor in structure):
            return None, None  # nested deeper: left to Keras
        names = [
            (f"input_{i}" if many else "inputs") if _AUTOMATIC.fullmatch(t.name) else t.name
            for i, t in enumerate(structure)
        ]
    else:
        names = "inputs" if _AUTOMATIC.fullmatch(structure.name) else structure.name

    def spec(tensor: Any, name: str) -> Any:
        return keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name)

    if isinstance(names, dict):
        return names, [{key: spec(structure[key], name) for key, name in names.items()}]
    if isinstance(names, list):
        return names, [[spec(tensor, name) for tensor, name in zip(structure, names, strict=True)]]
    return names, [spec(structure, names)]


def _call(model: Any, names: Any, inputs: Arrays) -> Any:
    if names is None:
        if len(inputs) != 1:
            raise NotComparableError(
                "the exported names of a subclassed model's inputs cannot be matched with its arguments"
            )
        return model(next(iter(inputs.values())))
    if isinstance(names, dict):
        return model({key: inputs[name] for key, name in names.items()})
    if isinstance(names, list):
        return model([inputs[name] for name in names])
    return model(inputs[names])


def _to_numpy(tensor: Any) -> Any:
    return np.asarray(sys.modules["keras"].ops.convert_to_numpy(tensor))
