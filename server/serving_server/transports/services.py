"""The methods of TensorFlow Serving's gRPC services, once for both transports: bytes in, bytes out, no HTTP/2 here.

A method gets the bytes of its request and a call to answer by; a transport supplies both. Answers may come at once or
later on the loop; nothing blocks, and no task or future is made per request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from serving_server.errors import InternalError, ServingError, StatusCode
from serving_server.example_inference import ExampleInference
from serving_server.inference import Inference, Resolved
from serving_server.metrics.requests import Requests
from serving_server.stamps.asked import Asked, ask
from serving_server.tensors import Array
from serving_server.transports import predict_codec as codec
from serving_server.transports.example_methods import ExampleMethods
from serving_server.wire import messages

if TYPE_CHECKING:
    from serving_server.http2.routing import Receiver

__all__ = ["Cancel", "Method", "MethodGroup", "OpenStream", "Services", "StreamCall", "UnaryCall", "code_of", "fail"]

log = logging.getLogger(__name__)

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"

Cancel = Callable[[], None]


class UnaryCall(Protocol):
    """A call that waits for one answer. Once it has ended, answers are ignored."""

    @property
    def deadline(self) -> float | None:
        """When its client gives up, on the loop's clock; None for never."""

    @property
    def asks(self) -> bool:
        """Whether there is something to be told beside the answer (see `serving_server.stamps.asked`)."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the client's metadata of a name in lower case, None when there is none."""

    def add_trailer(self, name: bytes, value: bytes) -> None:
        """Add a field to the metadata behind the answer."""

    def answer(self, message: bytes | bytearray | memoryview) -> None:
        """Send the one message of the answer, and OK."""

    def fail(self, code: StatusCode, text: str) -> None:
        """End the call with an error."""


class StreamCall(UnaryCall, Protocol):
    """A call whose answer is any number of messages."""

    def send(self, message: bytes | bytearray | memoryview) -> None:
        """Send one message of several."""

    def finish(self) -> None:
        """End the answer with OK, behind the messages sent."""


#: A unary method. What it returns is called once if the call ends before it was answered.
Method = Callable[[Any, UnaryCall], Cancel | None]

#: A method whose client and server may both send any number of messages: told of a new call, returns what takes the
#: client's messages (see `serving_server.http2.routing.Receiver`).
OpenStream = Callable[[StreamCall], "Receiver"]


class MethodGroup(Protocol):
    """A service of its own."""

    @property
    def unary(self) -> Mapping[str, Method]:
        """Methods by path; they may raise a `ServingError`."""

    @property
    def streaming(self) -> Mapping[str, OpenStream]:
        """Methods by path."""


class Services:
    """All methods of a server. All calls on the loop.

    Parameters
    ----------
    inference : Inference
    tensor_content : bool
        Answer Predict with `tensor_content` instead of typed fields.
    examples : ExampleInference
        What answers Classify, Regress and MultiInference.
    requests : Requests, optional
        Where requests count that reach no signature.
    more : sequence of MethodGroup
        Further services.

    Attributes
    ----------
    unary : mapping of str to callable
        By path, such as ``/tensorflow.serving.PredictionService/Predict``. They raise nothing.
    streaming : mapping of str to callable
        By path.
    """

    def __init__(
        self,
        inference: Inference,
        examples: ExampleInference,
        *,
        tensor_content: bool,
        requests: Requests | None = None,
        more: Sequence[MethodGroup] = (),
    ) -> None:
        self.inference = inference
        self.requests = requests or Requests()
        self._tensor_content = tensor_content
        methods: dict[str, Method] = {
            f"/{PREDICTION_SERVICE}/Predict": self._predict,
            f"/{PREDICTION_SERVICE}/GetModelMetadata": self._metadata,
            f"/{MODEL_SERVICE}/GetModelStatus": self._status,
            f"/{MODEL_SERVICE}/HandleReloadConfigRequest": self._reload,
        }
        for name, method in ExampleMethods(examples, self.refuse, fail, self.requests).methods().items():
            methods[f"/{PREDICTION_SERVICE}/{name}"] = method
        streaming: dict[str, OpenStream] = {}
        for group in more:
            methods |= group.unary
            streaming |= group.streaming
        self.unary: Mapping[str, Method] = {path: _guarded(method) for path, method in methods.items()}
        self.streaming: Mapping[str, OpenStream] = streaming
        #: The values of int64 metrics by name, without the unknown ones; a reload tells by how much they rose.
        self.metrics: Callable[[Collection[str]], dict[str, int]] = _no_metrics
        self._reloads: set[asyncio.Task[None]] = set()

    def run(
        self,
        call: UnaryCall,
        name: str,
        resolved: Resolved,
        arrays: dict[str, Array],
        output_filter: Sequence[str],
        started: float,
        asked: Asked | None,
    ) -> Cancel:
        """Run a signature for a Predict call and answer it.

        Parameters
        ----------
        call : UnaryCall
        name : str
            The model's as asked for.
        resolved, arrays, output_filter
            As for `Inference.predict`.
        started : float
            When the request came, by `time.perf_counter`.
        asked : Asked or None
            What its client wants to be told beside the answer.

        Raises
        ------
        ServingError
            When the request does not fit the signature or cannot be queued.
        """
        tensor_content = self._tensor_content
        cell = resolved.requests.predict
        aside = cell.aside

        def on_done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            # The arrays are only good inside this call, so the response is made here.
            if outputs is None:
                error = error or InternalError("no outputs and no error")
                cell.failed(error.code)
                fail(call, error)
                return
            try:
                answer = codec.encode_predict(name, resolved, outputs, tensor_content=tensor_content)
            except Exception as problem:  # noqa: BLE001 - it is this call's error and must not reach the scheduler
                cell.failed(code_of(problem))
                fail(call, problem)
            else:
                # `cell.succeeded`, without the call; `Statistics.started` settles it.
                aside.append(perf_counter() - started)
                if asked is not None:
                    asked.tell(call, started)
                call.answer(answer)

        return self.inference.predict(
            resolved, arrays, output_filter, call.deadline, on_done, "Predict", started, asked
        )

    def refuse(self, call: UnaryCall, model: str, api: str, error: Exception) -> None:
        """Answer a call of inference that did not get as far as to run, and count it."""
        self.requests.cell(model, api, "GRPC").failed(code_of(error))
        fail(call, error)

    def _predict(self, data: Any, call: UnaryCall) -> Cancel | None:
        started = perf_counter()
        asked = ask(call) if call.asks else None
        request = codec.decode(messages.PredictRequest, data)
        name = request.model_spec.name
        try:
            resolved, arrays = codec.predict_inputs(self.inference, request, call, started, asked)
            return self.run(call, name, resolved, arrays, request.output_filter, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self.refuse(call, name, "Predict", error)
            return None

    def _metadata(self, data: Any, call: UnaryCall) -> None:
        call.answer(codec.encode_metadata(self.inference, codec.decode(messages.GetModelMetadataRequest, data)))

    def _status(self, data: Any, call: UnaryCall) -> None:
        request = codec.decode(messages.GetModelStatusRequest, data)
        model, version, _ = codec.target(request)  # the label is ignored, as TensorFlow Serving does
        call.answer(codec.encode_status(self.inference.model_status(model, version)))

    def _reload(self, data: Any, call: UnaryCall) -> Cancel:
        request = codec.decode(messages.ReloadConfigRequest, data)
        task = asyncio.get_running_loop().create_task(self._reload_and_answer(request, call), name="reload config")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

        def cancel() -> None:
            task.cancel()  # of the waiting: the list is in force by then

        return cancel

    async def _reload_and_answer(self, request: Any, call: UnaryCall) -> None:
        names = frozenset(request.metric_names)
        before = self.metrics(names) if names else {}
        try:
            await self.inference.reload(request.config, call.deadline)
        except Exception as error:  # noqa: BLE001 - told to the client
            fail(call, error)
            return
        response = messages.ReloadConfigResponse()
        response.status.error_code = StatusCode.OK
        for name, value in sorted(self.metrics(names).items() if names else ()):
            response.metric.add(name=name, int64_value_increase=value - before.get(name, 0))
        call.answer(response.SerializeToString())


def code_of(error: BaseException) -> StatusCode:
    """Return the status code that an error is told with."""
    return error.code if isinstance(error, ServingError) else StatusCode.INTERNAL


def fail(call: UnaryCall, error: BaseException) -> None:
    """Answer with one of our errors; whatever else flies is a bug, told as INTERNAL and logged."""
    if isinstance(error, ServingError):
        call.fail(error.code, codec.cut_details(error.message))
    else:
        log.error("a gRPC call failed inside the server", exc_info=error)
        call.fail(StatusCode.INTERNAL, codec.cut_details(f"{type(error).__name__}: {error}"))


def _no_metrics(_names: Collection[str]) -> dict[str, int]:
    """Stand in until there are metrics."""
    return {}


def _guarded(method: Method) -> Method:
    def guarded(data: Any, call: UnaryCall) -> Cancel | None:
        try:
            return method(data, call)
        except Exception as error:  # noqa: BLE001 - told to the client
            fail(call, error)
            return None

    return guarded
