"""grpcio with threads."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from messages import PREDICT, PredictRequest, PredictResponse, request, y
from suite import TIMEOUT, Refused, credentials, endpoint, run

UNLIMITED = [("grpc.max_receive_message_length", -1)]


def connect() -> grpc.Channel:
    known = credentials()
    if known is None:
        return grpc.insecure_channel(endpoint(), UNLIMITED)
    # Behind a unix socket it would look for the path in the certificate.
    name = [("grpc.ssl_target_name_override", "localhost")] if endpoint().startswith("unix:") else []
    return grpc.secure_channel(endpoint(), known, UNLIMITED + name)


with connect() as channel:
    call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)

    def predict(model: str, x: np.ndarray) -> Any:
        try:
            return y(call(request(model, x), timeout=TIMEOUT))
        except grpc.RpcError as error:
            raise Refused(error.code().value[0], error.details()) from error

    def predict_all(many: list[np.ndarray]) -> list[Any]:
        futures = [call.future(request("half_plus_two", x), timeout=TIMEOUT) for x in many]
        return [y(future.result()) for future in futures]

    run(predict, predict_all)
