"""The stubs of `tensorflow-serving-api`, as TensorFlow's documentation uses them."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from suite import TIMEOUT, Refused, credentials, endpoint, run
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

UNLIMITED = [("grpc.max_receive_message_length", -1)]


def connect() -> grpc.Channel:
    known = credentials()
    if known is None:
        return grpc.insecure_channel(endpoint(), UNLIMITED)
    return grpc.secure_channel(endpoint(), known, UNLIMITED)


with connect() as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def predict(model: str, x: np.ndarray) -> Any:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
        try:
            return tf.make_ndarray(stub.Predict(request, TIMEOUT).outputs["y"])
        except grpc.RpcError as error:
            raise Refused(error.code().value[0], error.details()) from error

    run(predict)
