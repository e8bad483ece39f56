"""min-tfs-client: TensorFlow Serving's protocol without TensorFlow. Beside it must lie a protobuf of its time."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray
from suite import TIMEOUT, Refused, endpoint, run

host, _, port = endpoint().rpartition(":")
client = TensorServingClient(host, int(port))


def predict(model: str, x: np.ndarray) -> Any:
    try:
        answer = client.predict_request(model, {"x": x}, timeout=TIMEOUT, model_version=None)
    except grpc.RpcError as error:
        raise Refused(error.code().value[0], error.details()) from error
    return tensor_proto_to_ndarray(answer.outputs["y"])


# It has no channel options, so an answer may have grpcio's 4 MiB at most, with all that is around the numbers.
run(predict, large=2**19)
