"""The methods of PredictionService whose input is a list of tf.Examples, once for both transports.

What they mean is decided in `serving_server.example_inference`; here bytes become that and back.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from serving_server.classification import Classifications
from serving_server.errors import InternalError, ServingError
from serving_server.example_inference import ExampleInference, OnAnswer
from serving_server.examples import feed_input
from serving_server.inference import Resolved
from serving_server.metrics.requests import Requests
from serving_server.multi_inference import InferenceTask, Plan
from serving_server.stamps.asked import Asked, ask
from serving_server.tensors import Array
from serving_server.transports import predict_codec as codec
from serving_server.wire import example_responses as wire
from serving_server.wire import messages

if TYPE_CHECKING:
    from serving_server.transports.services import Cancel, Method, UnaryCall

__all__ = ["ExampleMethods"]

T = TypeVar("T")

#: Answers a call that did not get as far as to run: the call, the model's name, the API's name, the error.
Refuse = Callable[["UnaryCall", str, str, Exception], None]
#: Answers a call with an error.
Fail = Callable[["UnaryCall", BaseException], None]

_ENTRYPOINT: Final = "GRPC"


class ExampleMethods:
    """Classify, Regress and MultiInference.

    Parameters
    ----------
    examples : ExampleInference
    refuse, fail : callable
        How the other methods tell errors.
    requests : Requests
        Where the examples of MultiInference count.
    """

    def __init__(self, examples: ExampleInference, refuse: Refuse, fail: Fail, requests: Requests) -> None:
        self._examples = examples
        self._requests = requests
        self._refuse = refuse
        self._fail = fail

    def methods(self) -> dict[str, Method]:
        """Return them by name."""
        return {"Classify": self._classify, "Regress": self._regress, "MultiInference": self._multi}

    def _classify(self, data: Any, call: UnaryCall) -> Cancel | None:
        started = perf_counter()
        asked = ask(call) if call.asks else None
        request = codec.decode(messages.ExamplesRequest, data, "tensorflow.serving.ClassificationRequest")
        name = request.model_spec.name
        try:
            signature = request.model_spec.signature_name
            resolved = self._examples.classification(*codec.target(request), signature, call)

            def write(answer: Classifications) -> bytes:
                result = wire.classification_result(answer.labels, answer.scores)
                return wire.response(name, resolved.version, resolved.signature.name, result)

            done = self._answering(call, resolved, "Classify", started, asked, write)
            strings = _strings(resolved, request, started, asked)
            return self._examples.classify(resolved, strings, call.deadline, done, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._refuse(call, name, "Classify", error)
            return None

    def _regress(self, data: Any, call: UnaryCall) -> Cancel | None:
        started = perf_counter()
        asked = ask(call) if call.asks else None
        request = codec.decode(messages.ExamplesRequest, data, "tensorflow.serving.RegressionRequest")
        name = request.model_spec.name
        try:
            signature = request.model_spec.signature_name
            resolved = self._examples.regression(*codec.target(request), signature, call)

            def write(answer: Array) -> bytes:
                result = wire.regression_result(answer)
                return wire.response(name, resolved.version, resolved.signature.name, result)

            done = self._answering(call, resolved, "Regress", started, asked, write)
            strings = _strings(resolved, request, started, asked)
            return self._examples.regress(resolved, strings, call.deadline, done, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._refuse(call, name, "Regress", error)
            return None

    def _multi(self, data: Any, call: UnaryCall) -> Cancel | None:
        started = perf_counter()
        asked = ask(call) if call.asks else None
        request = codec.decode(messages.MultiInferenceRequest, data, "tensorflow.serving.MultiInferenceRequest")
        name = request.tasks[0].model_spec.name if request.tasks else ""
        try:
            version = label = None
            if request.tasks and request.tasks[0].HasField("model_spec"):
                _, version, label = codec.target(request.tasks[0])
            tasks = [
                InferenceTask(task.model_spec.name, task.model_spec.signature_name, task.method_name)
                for task in request.tasks
            ]
            resolved, wanted = self._examples.multi(version, label, tasks, call)

            def write(answers: list[Classifications | Array]) -> bytes:
                return _multi_response(name, resolved.version, wanted, answers)

            done = self._answering(call, resolved, "MultiInference", started, asked, write)
            strings = _strings(resolved, request, started, asked)
            self._requests.count_examples(resolved.servable.model, len(strings))
            return self._examples.infer(resolved, wanted, strings, call.deadline, done, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._refuse(call, name, "MultiInference", error)
            return None

    def _answering(
        self,
        call: UnaryCall,
        resolved: Resolved,
        api: str,
        started: float,
        asked: Asked | None,
        write: Callable[[T], bytes],
    ) -> OnAnswer[T]:
        """Return what answers a call with what `write` makes of an answer."""
        cell = resolved.requests.cell(api, _ENTRYPOINT)

        def on_done(answer: T | None, error: ServingError | None) -> None:
            if answer is None:
                error = error or InternalError("no answer and no error")
                cell.failed(error.code)
                self._fail(call, error)
                return
            try:
                message = write(answer)
            except Exception as problem:  # noqa: BLE001 - it is this call's error and must not reach the scheduler
                cell.failed(InternalError.code)
                self._fail(call, problem)
            else:
                cell.succeeded(started)
                if asked is not None:
                    asked.tell(call, started)
                call.answer(message)

        return on_done


def _strings(resolved: Resolved, request: Any, received: float, asked: Asked | None) -> Array:
    """Return the serialized examples of a request whose target is known."""
    try:
        return feed_input(request.input)
    except ServingError as error:
        resolved.refused(error, received, asked)
        raise


def _multi_response(name: str, version: int, wanted: Plan, answers: list[Classifications | Array]) -> bytes:
    entries = []
    for task, answer in zip(wanted.tasks, answers, strict=True):
        if isinstance(answer, Classifications):
            result = wire.classification_result(answer.labels, answer.scores)
        else:
            result = wire.regression_result(answer)
        signature = task.signature.name
        entries.append(wire.inference_result(name, version, signature, result, classifies=task.classifies))
    return b"".join(entries)
