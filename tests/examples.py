"""tf.Examples and the requests that carry them, built by protobuf: what the server's own writers are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from serving_server.wire import messages
from tests.servers import ServerProcess

__all__ = ["CLASSIFY", "MULTI", "REGRESS", "example", "fill_input", "multi_request", "refused", "request"]

_SERVICE = "/tensorflow.serving.PredictionService/"
CLASSIFY, REGRESS, MULTI = (_SERVICE + name for name in ("Classify", "Regress", "MultiInference"))

_METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}

ClassificationRequest: Any = messages.message_class("tensorflow.serving.ClassificationRequest")
RegressionRequest: Any = messages.message_class("tensorflow.serving.RegressionRequest")
MultiInferenceRequest: Any = messages.message_class("tensorflow.serving.MultiInferenceRequest")


def example(**features: Any) -> Any:
    """A `tf.Example`: int, float, str and bytes, or lists of them, become the features that these names say."""
    made = messages.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = made.features.feature[name]
        for item in values:
            if isinstance(item, int):
                feature.int64_list.value.append(item)
            elif isinstance(item, float):
                feature.float_list.value.append(item)
            else:
                feature.bytes_list.value.append(item.encode() if isinstance(item, str) else item)
    return made


def fill_input(into: Any, examples: Sequence[Any], context: Any = None) -> None:
    """Put examples into an `Input`, with a context when there is one."""
    if context is None:
        into.example_list.examples.extend(examples)
    else:
        into.example_list_with_context.examples.extend(examples)
        into.example_list_with_context.context.CopyFrom(context)


def request(
    method: str, model: str, examples: Sequence[Any], signature: str = "", context: Any = None, version: int = 0
) -> Any:
    """A request for `CLASSIFY` or `REGRESS`."""
    made = ClassificationRequest() if method == CLASSIFY else RegressionRequest()
    made.model_spec.name = model
    made.model_spec.signature_name = signature
    if version:
        made.model_spec.version.value = version
    fill_input(made.input, examples, context)
    return made


def multi_request(model: str, tasks: Mapping[str, str] | Sequence[tuple[str, str]], examples: Sequence[Any]) -> Any:
    """A MultiInferenceRequest; `tasks` are signatures and what to do with them: classify, regress or a method_name."""
    made = MultiInferenceRequest()
    for signature, method in tasks.items() if isinstance(tasks, Mapping) else tasks:
        task = made.tasks.add(method_name=_METHODS.get(method, method))
        task.model_spec.name = model
        task.model_spec.signature_name = signature
    fill_input(made.input, examples)
    return made


def refused(server: ServerProcess, method: str, asked: Any) -> tuple[str, str]:
    """The code's name and the text of the error that a request gets."""
    try:
        server.call(method, asked, messages.TensorProto)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""  # type: ignore[attr-defined]
    raise AssertionError("it was answered")
