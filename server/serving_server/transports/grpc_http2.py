"""gRPC by our own HTTP/2 stack, without a task or future per request."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

from serving_server.errors import UnavailableError
from serving_server.http2.call import Call
from serving_server.http2.routing import Route, Streaming
from serving_server.http2.server import Http2Server
from serving_server.stamps.asked import Asked, ask
from serving_server.tls import TlsConfig
from serving_server.transports import predict_codec as codec
from serving_server.transports.channel_arguments import limits_from_arguments
from serving_server.transports.predict_templates import PredictTemplates
from serving_server.transports.services import PREDICTION_SERVICE, Cancel, Services, fail
from serving_server.wire import messages

__all__ = ["GrpcHttp2Transport"]

_PREDICT: Final = f"/{PREDICTION_SERVICE}/Predict".encode()


class GrpcHttp2Transport:
    """Serves `Services`. All calls on the loop.

    Parameters
    ----------
    services : Services
        The methods.
    arguments : sequence of (name, value)
        Channel arguments in gRPC core's names, from ``--grpc_channel_arguments`` (see `limits_from_arguments`).
    tls : TlsConfig, optional
        For all addresses.
    """

    def __init__(
        self,
        services: Services,
        *,
        arguments: Sequence[tuple[str, int | str]] = (),
        tls: TlsConfig | None = None,
    ) -> None:
        self._inference = services.inference
        self._services = services
        self._templates = PredictTemplates()
        routes: dict[bytes, Route] = {path.encode(): method for path, method in services.unary.items()}
        routes |= {path.encode(): Streaming(open_call) for path, open_call in services.streaming.items()}
        routes[_PREDICT] = self._predict
        self._server = Http2Server(routes, limits_from_arguments(arguments), None if tls is None else tls.context())

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
        # The services' Predict, but messages that differ from an earlier one in their numbers only are not parsed.
        started = perf_counter()
        asked = ask(call) if call.head.asks else None
        found = self._templates.match(data)
        if found is None:
            return self._predict_parsed(data, call, started, asked)
        template, arrays = found
        name = template.spec[0]
        try:
            resolved = self._inference.signature(*template.spec, template.signature, call)
            return self._services.run(call, name, resolved, arrays, template.output_filter, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._services.refuse(call, name, "Predict", error)
            return None

    def _predict_parsed(self, data: Any, call: Call, started: float, asked: Asked | None) -> Cancel | None:
        try:
            request = codec.decode(messages.PredictRequest, data)
        except Exception as error:  # noqa: BLE001 - told to the client
            fail(call, error)
            return None
        name = request.model_spec.name
        try:
            resolved, arrays = codec.predict_inputs(self._inference, request, call, started, asked)
            self._templates.learn(data, request, arrays)
            return self._services.run(call, name, resolved, arrays, request.output_filter, started, asked)
        except Exception as error:  # noqa: BLE001 - told to the client
            self._services.refuse(call, name, "Predict", error)
            return None
