"""gRPC by the `grpcio` package: the stock stack, kept as the reference for our own transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from serving_server.errors import (
    InternalError,
    ServingError,
    StatusCode,
    UnavailableError,
    UnimplementedError,
)
from serving_server.inference import Inference
from serving_server.tensors import Array
from serving_server.transports import predict_codec as codec
from serving_server.wire import messages

__all__ = ["GrpcioTransport"]

log = logging.getLogger(__name__)

_CODES: Final = {StatusCode(code.value[0]): code for code in grpc.StatusCode}

_PREDICTION: Final = "tensorflow.serving.PredictionService"
_MODEL: Final = "tensorflow.serving.ModelService"

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class GrpcioTransport:
    """A grpc.aio server of the two services. All calls on the loop.

    Parameters
    ----------
    inference : Inference
    tensor_content : bool
        Answer Predict with `tensor_content` instead of typed fields.
    arguments : sequence of (name, value)
        Channel arguments of gRPC core, from ``--grpc_channel_arguments``.
    """

    def __init__(
        self, inference: Inference, *, tensor_content: bool, arguments: Sequence[tuple[str, int | str]] = ()
    ) -> None:
        self._inference = inference
        self._tensor_content = tensor_content
        self._loop = asyncio.get_running_loop()
        options: dict[str, int | str] = {
            "grpc.max_receive_message_length": 2**31 - 1,
            "grpc.max_send_message_length": -1,
            # By default a second server could bind the same port and take half of the connections.
            "grpc.so_reuseport": 0,
            **dict(arguments),
        }
        self._server = grpc.aio.server(options=list(options.items()))
        self._server.add_generic_rpc_handlers(
            (
                _service(
                    _PREDICTION,
                    {
                        "Predict": self._predict,
                        "GetModelMetadata": self._metadata,
                        "Classify": _not_yet("Classify"),
                        "Regress": _not_yet("Regress"),
                        "MultiInference": _not_yet("MultiInference"),
                    },
                ),
                _service(
                    _MODEL,
                    {
                        "GetModelStatus": self._status,
                        "HandleReloadConfigRequest": _not_yet("HandleReloadConfigRequest"),
                    },
                ),
            )
        )

    async def bind(self, address: str) -> int:
        """Bind ``host:port`` or ``unix:path`` and return the port.

        Raises
        ------
        UnavailableError
            When the address is taken or not ours.
        """
        try:
            return int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            msg = f"cannot serve gRPC on {address}: the address is in use or not on this machine"
            raise UnavailableError(msg) from error

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let calls end for up to `grace` seconds. Idempotent."""
        await self._server.stop(grace)

    async def _predict(self, data: bytes, context: Any) -> bytes:
        request = codec.decode(messages.PredictRequest, data)
        resolved, arrays = codec.predict_inputs(self._inference, request)
        name = request.model_spec.name
        answer: asyncio.Future[bytes] = self._loop.create_future()

        def on_done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            # The arrays are only good inside this call, so the response is made here, whoever waits for it.
            if answer.done():
                return
            if outputs is None:
                answer.set_exception(error or InternalError("no outputs and no error"))
                return
            try:
                answer.set_result(codec.encode_predict(name, resolved, outputs, tensor_content=self._tensor_content))
            except Exception as problem:  # noqa: BLE001 - it is this call's error and must not reach the scheduler
                answer.set_exception(problem)

        left = context.time_remaining()
        deadline = None if left is None else self._loop.time() + left
        cancel = self._inference.predict(resolved, arrays, request.output_filter, deadline, on_done)
        try:
            return await answer
        except asyncio.CancelledError:
            cancel()
            raise

    async def _metadata(self, data: bytes, context: Any) -> bytes:
        return codec.encode_metadata(self._inference, codec.decode(messages.GetModelMetadataRequest, data))

    async def _status(self, data: bytes, context: Any) -> bytes:
        request = codec.decode(messages.GetModelStatusRequest, data)
        model, version, _ = codec.target(request)  # the label is ignored, as TensorFlow Serving does
        return codec.encode_status(self._inference.model_status(model, version))


def _not_yet(method: str) -> Handler:
    async def refuse(_data: bytes, _context: Any) -> bytes:
        raise UnimplementedError(f"{method} is not supported yet; Predict is")

    return refuse


def _service(name: str, handlers: dict[str, Handler]) -> Any:
    return grpc.method_handlers_generic_handler(
        name, {method: grpc.unary_unary_rpc_method_handler(_guarded(call)) for method, call in handlers.items()}
    )


def _guarded(call: Handler) -> Handler:
    """Turn our errors into gRPC's; whatever else flies is a bug, told as INTERNAL and logged."""

    async def guarded(data: bytes, context: Any) -> bytes:
        try:
            return await call(data, context)
        except ServingError as error:
            await context.abort(_CODES[error.code], codec.cut_details(error.message))
        except Exception as error:
            log.exception("a gRPC call failed inside the server")
            await context.abort(grpc.StatusCode.INTERNAL, codec.cut_details(f"{type(error).__name__}: {error}"))
        raise AssertionError  # `abort` always raises

    return guarded
