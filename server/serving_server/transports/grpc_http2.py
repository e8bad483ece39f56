"""gRPC by our own HTTP/2 stack: TensorFlow Serving's two services, without a task or future per request."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from serving_server.errors import InternalError, ServingError, StatusCode, UnavailableError, UnimplementedError
from serving_server.http2.call import Call
from serving_server.http2.routing import Handler, Route
from serving_server.http2.server import Http2Server
from serving_server.inference import Inference, Resolved
from serving_server.tensors import Array
from serving_server.transports import predict_codec as codec
from serving_server.transports.channel_arguments import limits_from_arguments
from serving_server.transports.predict_templates import PredictTemplates
from serving_server.wire import messages

__all__ = ["GrpcHttp2Transport"]

log = logging.getLogger(__name__)

_PREDICTION: Final = "/tensorflow.serving.PredictionService/"
_MODEL: Final = "/tensorflow.serving.ModelService/"

Cancel = Callable[[], None]


class GrpcHttp2Transport:
    """Serves the two services. All calls on the loop.

    Parameters
    ----------
    inference : Inference
    tensor_content : bool
        Answer Predict with `tensor_content` instead of typed fields.
    arguments : sequence of (name, value)
        Channel arguments in gRPC core's names, from ``--grpc_channel_arguments`` (see `limits_from_arguments`).
    tls : ssl.SSLContext, optional
        Of a server.
    """

    def __init__(
        self,
        inference: Inference,
        *,
        tensor_content: bool,
        arguments: Sequence[tuple[str, int | str]] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._inference = inference
        self._tensor_content = tensor_content
        self._templates = PredictTemplates()
        methods: dict[str, Callable[[Any, Call], Cancel | None]] = {
            f"{_PREDICTION}GetModelMetadata": self._metadata,
            f"{_PREDICTION}Classify": _not_yet("Classify"),
            f"{_PREDICTION}Regress": _not_yet("Regress"),
            f"{_PREDICTION}MultiInference": _not_yet("MultiInference"),
            f"{_MODEL}GetModelStatus": self._status,
            f"{_MODEL}HandleReloadConfigRequest": _not_yet("HandleReloadConfigRequest"),
        }
        routes: dict[bytes, Route] = {path.encode(): _guarded(method) for path, method in methods.items()}
        routes[f"{_PREDICTION}Predict".encode()] = self._predict
        self._server = Http2Server(routes, limits_from_arguments(arguments), tls)

    async def bind(self, address: str) -> int:
        """Bind ``host:port`` or ``unix:path``, begin to answer there, and return the port (0 for a unix socket).

        Raises
        ------
        UnavailableError
            When the address is taken or not ours.
        """
        try:
            if address.startswith("unix:"):
                await self._server.start_unix(address.removeprefix("unix:"))
                return 0
            host, _, port = address.rpartition(":")
            bound = await self._server.start_tcp(host.strip("[]"), int(port))
            return bound[0][1]
        except OSError as error:
            msg = f"cannot serve gRPC on {address}: the address is in use or not on this machine"
            raise UnavailableError(msg) from error

    async def start(self) -> None:
        """Do nothing: `bind` has begun to answer (the other transport needs the two steps)."""

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let calls end for up to `grace` seconds. Idempotent."""
        await self._server.stop(grace)

    def _predict(self, data: bytes | bytearray, call: Call) -> Cancel | None:
        try:
            found = self._templates.match(data)
            if found is None:
                return self._predict_parsed(data, call)
            template, arrays = found
            resolved = self._inference.signature(*template.spec, template.signature)
            return self._run(call, template.spec[0], resolved, arrays, template.output_filter)
        except Exception as error:  # noqa: BLE001 - told to the client
            _fail(call, error)
            return None

    def _predict_parsed(self, data: Any, call: Call) -> Cancel:
        request = codec.decode(messages.PredictRequest, data)
        resolved, arrays = codec.predict_inputs(self._inference, request)
        self._templates.learn(data, request, arrays)
        return self._run(call, request.model_spec.name, resolved, arrays, request.output_filter)

    def _run(
        self, call: Call, name: str, resolved: Resolved, arrays: dict[str, Array], output_filter: Sequence[str]
    ) -> Cancel:
        tensor_content = self._tensor_content

        def on_done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            # The arrays are only good inside this call, so the response is made here.
            if outputs is None:
                _fail(call, error or InternalError("no outputs and no error"))
                return
            try:
                answer = codec.encode_predict(name, resolved, outputs, tensor_content=tensor_content)
            except Exception as problem:  # noqa: BLE001 - it is this call's error and must not reach the scheduler
                _fail(call, problem)
            else:
                call.answer(answer)

        return self._inference.predict(resolved, arrays, output_filter, call.deadline, on_done)

    def _metadata(self, data: Any, call: Call) -> None:
        call.answer(codec.encode_metadata(self._inference, codec.decode(messages.GetModelMetadataRequest, data)))

    def _status(self, data: Any, call: Call) -> None:
        request = codec.decode(messages.GetModelStatusRequest, data)
        model, version, _ = codec.target(request)  # the label is ignored, as TensorFlow Serving does
        call.answer(codec.encode_status(self._inference.model_status(model, version)))


def _not_yet(method: str) -> Handler:
    def refuse(_data: bytes | bytearray, _call: Call) -> None:
        raise UnimplementedError(f"{method} is not supported yet; Predict is")

    return refuse


def _fail(call: Call, error: Exception) -> None:
    """Answer with one of our errors; whatever else flies is a bug, told as INTERNAL and logged."""
    if isinstance(error, ServingError):
        call.fail(error.code, codec.cut_details(error.message))
    else:
        log.error("a gRPC call failed inside the server", exc_info=error)
        call.fail(StatusCode.INTERNAL, codec.cut_details(f"{type(error).__name__}: {error}"))


def _guarded(handler: Callable[[Any, Call], Cancel | None]) -> Handler:
    def guarded(data: bytes | bytearray, call: Call) -> Cancel | None:
        try:
            return handler(data, call)
        except Exception as error:  # noqa: BLE001 - told to the client
            _fail(call, error)
            return None

    return guarded
