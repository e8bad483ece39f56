"""What a profile's own runs are fed with: given rows, else recorded warmup, else values that fit the signature."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from serving_server.errors import InvalidArgumentError, ResourceExhaustedError, ServingError
from serving_server.inputs import signature_of
from serving_server.place import Place
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import Array
from serving_server.wire.messages import PredictRequest
from serving_server.worker import warmup
from serving_server.worker.freeze import draw_sample, sample_shapes

__all__ = ["DRAWN", "GIVEN", "MAX_BYTES", "WARMUP", "Loaded", "Rows", "choose"]

#: Where the rows come from.
GIVEN: Final = "given"
WARMUP: Final = "warmup record"
DRAWN: Final = "drawn"

#: Bytes of the inputs that a profile holds at once.
MAX_BYTES: Final = 1 << 30

#: A value takes this while it is drawn, whatever its type. Bytes.
_DRAWN_VALUE: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """The version that a worker has loaded, as far as its inputs go."""

    signatures: Mapping[str, Signature]
    definitions: Any
    path: Place
    check_method_names: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows to run a signature with.

    Attributes
    ----------
    signature : Signature
    inputs : dict of str to ndarray
        In the signature's order.
    source : str
        `GIVEN`, `WARMUP` or `DRAWN`.
    """

    signature: Signature
    inputs: dict[str, Array]
    source: str

    @property
    def batched(self) -> bool:
        """Whether any input's first dimension is open, so that there can be more or fewer rows."""
        return any(_is_open(self.signature.inputs[alias], array) for alias, array in self.inputs.items())

    def size(self, rows: int) -> int:
        """Return the bytes of the arrays of a run of so many rows; of drawn ones, while they are drawn."""
        if self.source == DRAWN:
            return _DRAWN_VALUE * sum(map(math.prod, sample_shapes(self.signature, rows).values()))
        return sum(
            array[:1].nbytes * rows if _is_open(self.signature.inputs[alias], array) else array.nbytes
            for alias, array in self.inputs.items()
        )

    def feeds(self, rows: int) -> list[Array]:
        """Return the arrays of a run of so many rows; the rows there are, repeated.

        Raises
        ------
        ResourceExhaustedError
            They are too large.
        """
        size = self.size(rows)
        if size > MAX_BYTES:
            raise ResourceExhaustedError(
                f"inputs of {rows} rows take {size} bytes; the limit of a profile is {MAX_BYTES}: ask for fewer rows"
            )
        if self.source == DRAWN:
            return list(draw_sample(self.signature, rows).values())
        return [
            np.take(array, np.arange(rows) % array.shape[0], axis=0)
            if _is_open(self.signature.inputs[alias], array)
            else array
            for alias, array in self.inputs.items()
        ]


def _is_open(spec: TensorSpec, array: Array) -> bool:
    return array.ndim > 0 and array.shape[0] > 0 and (spec.shape is None or (spec.shape != () and spec.shape[0] < 0))


def choose(loaded: Loaded, signature_name: str, request: str | None) -> Rows:
    """Return what to run.

    Parameters
    ----------
    loaded : Loaded
    signature_name : str
        Empty for ``serving_default``.
    request : str or None
        A serialized PredictRequest in base64.

    Raises
    ------
    ServingError
        There is no such signature, or what is given does not fit it.
    """
    signature = signature_of(loaded.signatures, signature_name)
    if request is not None:
        message = PredictRequest.FromString(base64.b64decode(request))
        message.model_spec.signature_name = signature.name
        given = warmup.of_request(loaded.signatures, message)
        if any(array.ndim and not array.shape[0] for array in given.inputs.values()):
            raise InvalidArgumentError("the inputs of request have no row to repeat")
        return Rows(signature, given.inputs, GIVEN)
    try:
        recorded = warmup.read(
            loaded.signatures, loaded.definitions, loaded.path, check_method_names=loaded.check_method_names
        )
    except ServingError:
        recorded = []  # the file was changed after the load; it cannot be what the runs are fed with
    for each in recorded:
        if each.signature.name == signature.name:
            inputs = {alias: each.inputs[alias] for alias in signature.inputs}
            return Rows(signature, inputs, WARMUP)
    return Rows(signature, draw_sample(signature, 1), DRAWN)
