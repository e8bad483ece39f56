"""Requests and answers for clients that bring no messages of their own."""

from __future__ import annotations

import numpy as np

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse

__all__ = ["PREDICT", "PredictRequest", "PredictResponse", "request", "y"]

PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request(model: str, x: np.ndarray) -> PredictRequest:
    """Return the request for x."""
    made = PredictRequest()
    made.model_spec.name = model
    made.inputs["x"].CopyFrom(to_proto(x))
    return made


def y(response: PredictResponse) -> np.ndarray:
    """Return the answer's y."""
    return to_array(response.outputs["y"])
