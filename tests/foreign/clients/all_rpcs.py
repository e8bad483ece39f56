"""Every RPC of TensorFlow Serving, by the generated stubs of its own protos.

`tensorflow-serving-api` has them, and min-tfs-client (those of 2020): whichever `tensorflow_serving` is found. The
only argument is the job in JSON, `endpoint`, `models` (name -> base path) and `tensors` (dtype -> name of the DataType,
typed field, values, bytes in hexadecimal or null); the result is the last line of the standard output, in JSON too.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import grpc
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

JOB = json.loads(sys.argv[1])

#: Seconds that one call may take.
TIMEOUT = 60

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE

CHANNEL = grpc.insecure_channel(JOB["endpoint"])
PREDICTION = prediction_service_pb2_grpc.PredictionServiceStub(CHANNEL)
MODELS = model_service_pb2_grpc.ModelServiceStub(CHANNEL)


def named(request: Any, model: str, signature: str = "", version: int = 0, label: str = "") -> Any:
    """Fill the request's model_spec."""
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    return request


def refused(call: Any, request: Any) -> Any:
    """Return the code and the text of the error."""
    try:
        return ["OK", str(call(request, TIMEOUT))]
    except grpc.RpcError as error:
        return [error.code().value[0], error.details()]


# --- ModelService -----------------------------------------------------------------------------------------------------


def reloading(*names: str, labels: bool = False) -> Any:
    """Return the request to serve all versions of these models."""
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name in names:
        entry = request.config.model_config_list.config.add(name=name, base_path=JOB["models"][name])
        entry.model_platform = "tensorflow"
        entry.model_version_policy.all.SetInParent()
        if labels and name == "half_plus_two":
            entry.version_labels["stable"] = 1
            entry.version_labels["canary"] = 2
    return request


def statuses(model: str = "half_plus_two", version: int = 0) -> Any:
    """Return version, state and error of each."""
    request = named(get_model_status_pb2.GetModelStatusRequest(), model, version=version)
    entries = MODELS.GetModelStatus(request, TIMEOUT).model_version_status
    return [[entry.version, entry.state, entry.status.error_code] for entry in entries]


def reload(*, labels: bool) -> Any:
    """Return the error of the answer."""
    return MODELS.HandleReloadConfigRequest(reloading(*JOB["models"], labels=labels), TIMEOUT).status.error_code


def wait_until_available() -> None:
    """The reload waits for one version of each model only."""
    until = time.monotonic() + TIMEOUT
    while any(state != AVAILABLE for model in JOB["models"] for _, state, _ in statuses(model)):
        assert time.monotonic() < until
        time.sleep(0.01)


FOUND: dict[str, Any] = {"reloads": [reload(labels=False)]}
wait_until_available()
# As TensorFlow Serving wants it: labels point at what is loaded, so they come in a second reload.
FOUND["reloads"].append(reload(labels=True))
FOUND["statuses"] = [statuses(), statuses(version=1)]

# --- Predict ----------------------------------------------------------------------------------------------------------


def half_plus_two(size: int, content: bytes = b"", values: Any = (), **spec: Any) -> Any:
    """Return the request for x of this size, in typed fields or as bytes."""
    request = named(predict_pb2.PredictRequest(), "half_plus_two", **spec)
    tensor = request.inputs["x"]
    tensor.dtype = types_pb2.DT_FLOAT
    tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = content
    tensor.float_val.extend(values)
    return request


def answered(request: Any) -> Any:
    """Return y and the model_spec."""
    answer = PREDICTION.Predict(request, TIMEOUT)
    spec = answer.model_spec
    return [list(answer.outputs["y"].float_val), spec.name, spec.version.value, spec.signature_name, spec.version_label]


FOUND["predict"] = {
    "latest": answered(half_plus_two(2, values=[1, 2])),
    "signature": answered(half_plus_two(2, values=[1, 2], signature="serving_default")),
    "version": answered(half_plus_two(2, values=[1, 2], version=1)),
    "stable": answered(half_plus_two(2, values=[1, 2], label="stable")),
    "canary": answered(half_plus_two(2, values=[1, 2], label="canary")),
    "content": answered(half_plus_two(2, content=bytes.fromhex("0000803f00000040"))),
    "content_wins": answered(half_plus_two(1, content=bytes.fromhex("0000803f"), values=[9])),
    "last_repeated": answered(half_plus_two(3, values=[1, 2])),
    "nothing": answered(half_plus_two(2)),
}


def echoed(dtype: str, name: str, field: str, values: Any, content: Any) -> Any:
    """Return what comes back of a tensor in typed fields and, where it has them, as bytes."""
    found = []
    for as_bytes in (False, True) if content is not None else (False,):
        request = named(predict_pb2.PredictRequest(), "echo_all_dtypes", signature=dtype)
        tensor = request.inputs["x"]
        tensor.dtype = types_pb2.DataType.Value(name)
        tensor.tensor_shape.dim.add(size=2)
        if as_bytes:
            tensor.tensor_content = bytes.fromhex(content)
        else:
            getattr(tensor, field).extend(v.encode() if isinstance(v, str) else v for v in values)
        answer = PREDICTION.Predict(request, TIMEOUT).outputs["y"]
        back = [v.decode() if isinstance(v, bytes) else v for v in getattr(answer, field)]
        found.append([types_pb2.DataType.Name(answer.dtype), [dim.size for dim in answer.tensor_shape.dim], back])
    return found


FOUND["tensors"] = {dtype: echoed(dtype, *how) for dtype, how in JOB["tensors"].items()}

pair = named(predict_pb2.PredictRequest(output_filter=["diff"]), "multi")
for alias in "ab":
    pair.inputs[alias].dtype = types_pb2.DT_FLOAT
    pair.inputs[alias].tensor_shape.dim.add(size=1)
    pair.inputs[alias].float_val.append(5 if alias == "a" else 3)
FOUND["filtered"] = {alias: list(y.float_val) for alias, y in PREDICTION.Predict(pair, TIMEOUT).outputs.items()}

# --- Classify, Regress, MultiInference --------------------------------------------------------------------------------


def example(x: float) -> Any:
    """Return the tf.Example with this x."""
    made = example_pb2.Example()
    made.features.feature["x"].float_list.value.append(x)
    return made


classification = named(classification_pb2.ClassificationRequest(), "examples")
classification.input.example_list.examples.extend([example(1.0), example(3.0)])
answer = PREDICTION.Classify(classification, TIMEOUT)
FOUND["classes"] = [[[c.label, c.score] for c in row.classes] for row in answer.result.classifications]

regression = named(regression_pb2.RegressionRequest(), "examples", "regress", version=1)
regression.input.example_list_with_context.examples.append(example_pb2.Example())
regression.input.example_list_with_context.context.CopyFrom(example(1.0))
answer = PREDICTION.Regress(regression, TIMEOUT)
FOUND["values"] = [[entry.value for entry in answer.result.regressions], answer.model_spec.version.value]

both = inference_pb2.MultiInferenceRequest(input=classification.input)
for signature, method in (("", "classify"), ("regress", "regress")):
    task = both.tasks.add(method_name="tensorflow/serving/" + method)
    named(task, "examples", signature)
FOUND["multi"] = [
    [result.WhichOneof("result"), result.model_spec.signature_name, result.model_spec.version.value]
    for result in PREDICTION.MultiInference(both, TIMEOUT).results
]

# --- GetModelMetadata -------------------------------------------------------------------------------------------------

metadata = named(get_model_metadata_pb2.GetModelMetadataRequest(), "half_plus_two", label="stable")
metadata.metadata_field.append("signature_def")
answer = PREDICTION.GetModelMetadata(metadata, TIMEOUT)
signatures = get_model_metadata_pb2.SignatureDefMap()
assert answer.metadata["signature_def"].Unpack(signatures)
FOUND["metadata"] = [
    answer.model_spec.version.value,
    {
        name: [
            signature.method_name,
            {alias: [dim.size for dim in x.tensor_shape.dim] for alias, x in signature.inputs.items()},
            {alias: types_pb2.DataType.Name(y.dtype) for alias, y in signature.outputs.items()},
        ]
        for name, signature in signatures.signature_def.items()
    },
]

# --- Errors -----------------------------------------------------------------------------------------------------------

wrong = half_plus_two(1, values=[1])
wrong.inputs["x"].dtype = types_pb2.DT_DOUBLE
del wrong.inputs["x"].float_val[:]
FOUND["refused"] = {
    "label": refused(PREDICTION.Predict, half_plus_two(1, label="nobody")),
    "dtype": refused(PREDICTION.Predict, wrong),
    "length": refused(PREDICTION.Predict, half_plus_two(2, content=b"123")),
    "examples": refused(PREDICTION.Classify, named(classification_pb2.ClassificationRequest(), "examples")),
    "field": refused(
        PREDICTION.GetModelMetadata, named(get_model_metadata_pb2.GetModelMetadataRequest(), "half_plus_two")
    ),
    "version": refused(
        MODELS.GetModelStatus, named(get_model_status_pb2.GetModelStatusRequest(), "half_plus_two", version=9)
    ),
    "twice": refused(MODELS.HandleReloadConfigRequest, reloading("examples", "examples")),
    "session_run": refused(CHANNEL.unary_unary("/tensorflow.serving.SessionService/SessionRun"), b""),
}

CHANNEL.close()
print(json.dumps(FOUND))
