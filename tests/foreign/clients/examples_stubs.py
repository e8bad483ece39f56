"""Classify, Regress and MultiInference by the stubs of `tensorflow-serving-api`, with TensorFlow's own tf.Example."""

from __future__ import annotations

import json
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, prediction_service_pb2_grpc, regression_pb2

ENDPOINT, MODEL = sys.argv[1:]


def example(x: float) -> tf.train.Example:
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    return tf.train.Example(features=tf.train.Features(feature={"x": feature}))


with grpc.insecure_channel(ENDPOINT) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    classification = classification_pb2.ClassificationRequest()
    classification.model_spec.name = MODEL
    classification.input.example_list.examples.extend([example(1.0), example(3.0)])
    classes = stub.Classify(classification, 60).result.classifications
    regression = regression_pb2.RegressionRequest()
    regression.model_spec.name = MODEL
    regression.model_spec.signature_name = "regress"
    regression.input.example_list_with_context.examples.append(tf.train.Example())
    regression.input.example_list_with_context.context.CopyFrom(example(1.0))
    values = stub.Regress(regression, 60).result.regressions
    both = inference_pb2.MultiInferenceRequest(input=classification.input)
    for signature, method in (("", "classify"), ("regress", "regress")):
        task = both.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = MODEL
        task.model_spec.signature_name = signature
    results = stub.MultiInference(both, 60).results

print(
    json.dumps(
        {
            "classes": [[[c.label, c.score] for c in row.classes] for row in classes],
            "values": [regression.value for regression in values],
            "multi": [
                [result.WhichOneof("result"), result.model_spec.signature_name, result.model_spec.version.value]
                for result in results
            ],
        }
    )
)
