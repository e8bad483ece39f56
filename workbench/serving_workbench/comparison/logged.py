"""Rows out of request logs: what clients really asked is the best data to compare versions on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import DEFAULT_SIGNATURE, Signature
from serving_server.tensors import TensorParsingError, to_array
from serving_server.wire.messages import PredictRequest
from serving_workbench import sampling
from serving_workbench.errors import WorkbenchError
from serving_workbench.logged_requests import log_files, read_logs

__all__ = ["logged_inputs"]

Array = NDArray[Any]

#: Bytes of requests that are read at most.
_MAX_BYTES = 512 * 1024 * 1024


def logged_inputs(logs: Any, model: str, signature: Signature) -> dict[str, Array]:
    """Return the rows of all Predict requests of a model and a signature, in the order of the log.

    Requests of other models are left out; those of a log that is of one other model only are taken, as the same model
    may have another name where it was logged.

    Parameters
    ----------
    logs : path or list of paths
        PredictionLog records, as ``logging_config`` and warmup files have them.

    Raises
    ------
    WorkbenchError
        There are none, or they do not fit together.
    """
    if not sampling.batch_axis(signature):
        raise WorkbenchError(
            f"Signature '{signature.name}' has no batch dimension: requests of a log cannot be joined to rows."
        )
    files = log_files(logs)
    unreadable: list[str] = []
    found: dict[str, dict[str, list[Array]]] = {}  # by model: by input
    size = others = 0
    for logged in read_logs(files, None, None, unreadable):
        if logged.method != "Predict" or (logged.signature or DEFAULT_SIGNATURE) != signature.name:
            others += 1
            continue
        size += len(logged.request)
        if size > _MAX_BYTES:
            break
        request = PredictRequest.FromString(logged.request)
        try:
            arrays = {name: to_array(request.inputs[name]) for name in request.inputs}
        except TensorParsingError as error:
            unreadable.append(f"{logged}: {error}")
            continue
        full = {**{name: np.asarray(value) for name, value in signature.defaults.items()}, **arrays}
        if any(name not in full for name in signature.inputs):
            unreadable.append(f"{logged}: it lacks an input")
            continue
        kept = found.setdefault(request.model_spec.name, {name: [] for name in signature.inputs})
        for name, arrays_of in kept.items():
            arrays_of.append(full[name])
    parts = found.get(model) or (next(iter(found.values())) if len(found) == 1 else None)
    if parts is None:
        more = f" {others} were of other methods or signatures." if others else ""
        more += f" There are some of {', '.join(sorted(found))}." if found else ""
        raise WorkbenchError(
            f"There are no Predict requests of '{model}' with signature '{signature.name}' in {files[0].name}"
            f"{' and others' if len(files) > 1 else ''}.{more} {' '.join(unreadable[:3])}".strip()
        )
    return {name: _joined(name, rows) for name, rows in parts.items()}


def _joined(name: str, rows: list[Array]) -> Array:
    shapes = {each.shape[1:] for each in rows}
    if len(shapes) > 1:
        text = ", ".join(str(list(shape)) for shape in sorted(shapes)[:4])
        raise WorkbenchError(f"The logged requests have rows of different shapes in input '{name}': {text}.")
    return np.concatenate(rows)
