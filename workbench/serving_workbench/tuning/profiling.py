"""The service-time curve of a served model, measured in its worker, and what a batch costs beside the graph."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from serving_workbench.errors import ControlError, WorkbenchError
from serving_workbench.handle import ServedModel
from serving_workbench.tuning.service_curve import ServiceCurve

__all__ = ["Profile", "profile"]

Array = NDArray[Any]

_RUNS: Final = 40


@dataclasses.dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes
    ----------
    version : int
    curve : ServiceCurve
        Seconds in the graph.
    per_batch, per_row : float
        Seconds that a batch thread is taken for beyond the graph: fixed, and for each row.
    others : int
        Requests of clients that were answered meanwhile.
    seconds : float
        How long it took.
    limit : str
        Why larger sizes are missing; empty when none is.
    """

    version: int
    curve: ServiceCurve
    per_batch: float
    per_row: float
    others: int
    seconds: float
    limit: str = ""


def profile(
    model: ServedModel,
    signature: Signature,
    inputs: dict[str, Array],
    sizes: Sequence[int],
    at_once: Sequence[int],
    *,
    seconds: float = 5.0,
    seed: int = 0,
) -> Profile:
    """Measure a model's run times.

    Parameters
    ----------
    model : ServedModel
    signature : Signature
    inputs : dict of str to numpy.ndarray
        At least one row, which is repeated.
    sizes, at_once : sequence of int
        Rows of a run; runs at the same time.
    seconds : float
        About.

    Raises
    ------
    WorkbenchError
        The signature cannot be batched, in words for a user.
    ControlError
        The server or its worker has ended, the inputs do not fit.
    """
    request = PredictRequest()
    request.model_spec.name = model.name
    request.model_spec.signature_name = signature.name
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(array, as_content=True))
    body = base64.b64encode(request.SerializeToString()).decode("ascii")
    try:
        answer = model.server.control.service_times(
            model.name, request=body, sizes=list(sizes), at_once=list(at_once), runs=_RUNS, seconds=seconds, seed=seed
        )
    except ControlError as error:
        if error.code in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}:
            raise WorkbenchError(
                f"Signature '{signature.name}' of '{model.name}' cannot be batched: {error.message}",
                hint="There is nothing to tune: serve it without batching.",
            ) from error
        raise
    failed = answer["failed"]
    limit = "" if failed is None else f"a run of {failed['rows']} rows failed: {failed['message'].splitlines()[0]}"
    times = answer["times"]
    curve = ServiceCurve({(kind["at_once"], kind["rows"]): np.array(kind["run"]) / 1e9 for kind in times})
    per_batch, per_row = _beside(times)
    return Profile(answer["version"], curve, per_batch, per_row, answer["requests"], answer["seconds"], limit)


def _beside(times: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Fit a line through what batches take beside the graph; neither part is below nothing. Seconds."""
    lone = [kind for kind in times if kind["at_once"] == times[0]["at_once"]]
    rows = np.array([kind["rows"] for kind in lone], np.float64)
    beside = np.array(
        [np.median(np.array(kind["assembly"]) + np.array(kind["lane"]) - np.array(kind["run"])) for kind in lone]
    )
    if len(rows) < 2:
        return float(beside[0]) / 1e9, 0.0
    slope, fixed = np.polyfit(rows, beside, 1)
    slope = max(0.0, float(slope))
    return max(0.0, float(np.mean(beside - slope * rows)) if fixed < 0 else float(fixed)) / 1e9, slope / 1e9
