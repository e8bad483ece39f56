"""A sample input for a signature: what a proof sends, and what the ready-to-paste clients show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature, TensorSpec

__all__ = ["batch_axis", "draw"]

Array = NDArray[Any]
_SEED = 20190


def batch_axis(signature: Signature) -> bool:
    """Whether the first dimension of every input is an unknown one, as requests in TensorFlow's row format need."""
    return bool(signature.inputs) and all(
        spec.shape is None or (len(spec.shape) > 0 and spec.shape[0] == -1) for spec in signature.inputs.values()
    )


def draw(signature: Signature, rows: int = 2, *, with_defaults: bool = False) -> dict[str, Array]:
    """Draw values for every input without a default, the same ones each time.

    Parameters
    ----------
    rows : int
        Size of the first dimension where it is unknown; every other unknown dimension is 1. An unknown rank is taken
        as one dimension.
    with_defaults : bool
        Add the default of every other input: REST requests must name all.

    Returns
    -------
    dict of str to numpy.ndarray
        Floats in [0, 1) with 4 digits, integers 0 or 1 (valid as an index of nearly any vocabulary), strings
        ``b"sample"``.
    """
    rng = np.random.default_rng(_SEED)
    drawn = {
        name: _values(spec, rows, rng) for name, spec in signature.inputs.items() if name not in signature.defaults
    }
    return {**drawn, **signature.defaults} if with_defaults else drawn


def _values(spec: TensorSpec, rows: int, rng: np.random.Generator) -> Array:
    assert spec.dtype is not None  # only usable signatures come here
    sizes = (-1,) if spec.shape is None else spec.shape
    shape = tuple((rows if axis == 0 else 1) if size < 0 else size for axis, size in enumerate(sizes))
    if spec.dtype.is_string:
        return np.full(shape, b"sample", dtype=object)
    kind = spec.dtype.numpy.kind
    if kind in "iub":
        return rng.integers(0, 2, shape).astype(spec.dtype.numpy)
    values: Array = rng.random(shape).round(4).astype(spec.dtype.numpy)
    return values
