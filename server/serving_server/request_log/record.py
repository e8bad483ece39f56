"""An answered request of any kind, as a `PredictionLog` of it is made.

Requests and answers are put together as bytes: the log's message has a field for every class of every example, and
whoever logs looks at none of them (tensorflow_serving/apis/prediction_log.proto has the numbers of the fields).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving_server.classification import Classifications
from serving_server.multi_inference import Plan
from serving_server.signatures import CLASSIFY_METHOD, REGRESS_METHOD, Signature
from serving_server.tensors import Array, to_proto
from serving_server.wire import example_responses, messages, predict_response
from serving_server.wire.predict_response import delimited

__all__ = ["Kind", "Record", "classify", "fill_spec", "multi_inference", "predict", "regress"]

#: Fields of PredictionLog, and of each kind of log in it.
_METADATA: Final = 1
_REQUEST, _RESPONSE = 1, 2


class Kind(enum.IntEnum):
    """What was asked; the value is the number of its field in PredictionLog."""

    CLASSIFY = 2
    REGRESS = 3
    MULTI_INFERENCE = 4
    PREDICT = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A request and its answer.

    Attributes
    ----------
    kind : Kind
    model : str
    version : int
        That answered.
    signature : str
        Its name; of several that of the first.
    shapes : tuple
        Equal for requests that run the same tensors in the same shapes.
    request, response : bytes
        Serialized messages of the API.
    """

    kind: Kind
    model: str
    version: int
    signature: str
    shapes: tuple[Any, ...]
    request: bytes
    response: bytes

    def serialize(self, metadata: bytes = b"", *, response: bool = True) -> bytes:
        """Return the serialized `PredictionLog`.

        Parameters
        ----------
        metadata : bytes
            A serialized `LogMetadata`; empty for none.
        response : bool
            Keep the answer.
        """
        body = _field(_REQUEST, self.request) + (_field(_RESPONSE, self.response) if response else b"")
        return (_field(_METADATA, metadata) if metadata else b"") + _field(self.kind, body)


def _field(number: int, data: bytes) -> bytes:
    return delimited(number, len(data)) + data


def fill_spec(spec: Any, model: str, version: int, signature: str) -> None:
    """Say in a `ModelSpec` what answered."""
    spec.name = model
    spec.version.value = version
    spec.signature_name = signature


def predict(
    model: str,
    version: int,
    signature: Signature,
    inputs: Mapping[str, Array],
    output_filter: Sequence[str],
    outputs: Mapping[str, Array],
) -> Record:
    """Return the record of a Predict request; copies the arrays, which are given by alias."""
    request = messages.PredictRequest()
    fill_spec(request.model_spec, model, version, signature.name)
    for alias, array in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(array, as_content=array.dtype != object))
    request.output_filter.extend(output_filter)
    response = predict_response.encode(
        model, version, signature.name, outputs, signature.output_dtypes, tensor_content=True
    )
    shapes = (*((alias, array.shape) for alias, array in inputs.items()), *sorted(output_filter))
    return Record(Kind.PREDICT, model, version, signature.name, shapes, request.SerializeToString(), response)


def classify(model: str, version: int, signature: Signature, strings: Array, answer: Classifications) -> Record:
    """Return the record of a Classify request of serialized examples."""
    result = example_responses.classification_result(answer.labels, answer.scores)
    return _examples(Kind.CLASSIFY, model, version, signature, strings, result)


def regress(model: str, version: int, signature: Signature, strings: Array, answer: Array) -> Record:
    """Return the record of a Regress request of serialized examples."""
    result = example_responses.regression_result(answer)
    return _examples(Kind.REGRESS, model, version, signature, strings, result)


def _examples(kind: Kind, model: str, version: int, signature: Signature, strings: Array, result: bytes) -> Record:
    request = messages.ExamplesRequest()
    fill_spec(request.model_spec, model, version, signature.name)
    request.input.example_list.examples.extend(strings.tolist())
    response = example_responses.response(model, version, signature.name, result)
    return Record(kind, model, version, signature.name, (len(strings),), request.SerializeToString(), response)


def multi_inference(
    model: str, version: int, wanted: Plan, strings: Array, answers: Sequence[Classifications | Array]
) -> Record:
    """Return the record of a MultiInference request of serialized examples."""
    request = messages.MultiInferenceRequest()
    entries = []
    for task, answer in zip(wanted.tasks, answers, strict=True):
        method = CLASSIFY_METHOD if task.classifies else REGRESS_METHOD
        fill_spec(request.tasks.add(method_name=method).model_spec, model, version, task.signature.name)
        if isinstance(answer, Classifications):
            result = example_responses.classification_result(answer.labels, answer.scores)
        else:
            result = example_responses.regression_result(answer)
        name = task.signature.name
        entries.append(example_responses.inference_result(model, version, name, result, classifies=task.classifies))
    request.input.example_list.examples.extend(strings.tolist())
    shapes = (len(strings), *((task.signature.name, task.classifies) for task in wanted.tasks))
    data = request.SerializeToString()
    first = wanted.tasks[0].signature.name
    return Record(Kind.MULTI_INFERENCE, model, version, first, shapes, data, b"".join(entries))
