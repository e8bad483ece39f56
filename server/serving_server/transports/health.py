"""gRPC's health service, as load balancers and orchestrators ask for it (``--enable_grpc_healthcheck_service``).

TensorFlow Serving opens its ports when all models are loaded, and says SERVING from then on. Here the ports are open at
once; the answer is NOT_SERVING till all models have answered for the first time, and again while the server ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from serving_server.errors import NotFoundError, StatusCode
from serving_server.transports import predict_codec as codec
from serving_server.transports.services import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    Method,
    OpenStream,
    StreamCall,
    UnaryCall,
    fail,
)
from serving_server.wire.messages import message_class

__all__ = ["HEALTH_SERVICE", "Health"]

HEALTH_SERVICE: Final = "grpc.health.v1.Health"

#: TensorFlow Serving's names, without their package, and the services' full ones, which health probes expect.
_SERVICES: Final = frozenset({"", "ModelService", "PredictionService", MODEL_SERVICE, PREDICTION_SERVICE})

#: Pause between looks whether the models answer, while somebody watches. Seconds.
_POLL_SECONDS: Final = 0.25

#: Watching calls at once.
_MAX_WATCHERS: Final = 1024

_Request: Any = message_class("grpc.health.v1.HealthCheckRequest")
_Response: Any = message_class("grpc.health.v1.HealthCheckResponse")

_SERVING: Final[bytes] = _Response(status="SERVING").SerializeToString()
_NOT_SERVING: Final[bytes] = _Response(status="NOT_SERVING").SerializeToString()
_UNKNOWN: Final[bytes] = _Response(status="SERVICE_UNKNOWN").SerializeToString()


class Health:
    """Check and Watch. All calls on the loop.

    Parameters
    ----------
    is_ready : callable
        Whether all models answer.
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._was_ready = False
        self._stopping = False
        self._watchers: dict[_Watcher, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unary(self) -> Mapping[str, Method]:
        """Methods by path."""
        return {f"/{HEALTH_SERVICE}/Check": self._check}

    @property
    def streaming(self) -> Mapping[str, OpenStream]:
        """Methods by path."""
        return {f"/{HEALTH_SERVICE}/Watch": self._open}

    def stop(self) -> None:
        """Say NOT_SERVING from now on, and end the watching calls. Idempotent."""
        self._stopping = True
        self._stop_timer()
        for watcher in list(self._watchers):
            self._tell(watcher)
            watcher.call.finish()
        self._watchers.clear()

    def _status(self, service: str) -> bytes:
        if service not in _SERVICES:
            return _UNKNOWN
        if self._stopping:
            return _NOT_SERVING
        self._was_ready = self._was_ready or self._is_ready()
        return _SERVING if self._was_ready else _NOT_SERVING

    def _check(self, data: Any, call: UnaryCall) -> None:
        status = self._status(codec.decode(_Request, data).service)
        if status is _UNKNOWN:
            raise NotFoundError("unknown service")
        call.answer(status)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _open(self, call: StreamCall) -> _Watcher:
        return _Watcher(self, call)

    def add(self, watcher: _Watcher) -> None:
        """Begin to tell a watcher."""
        if len(self._watchers) >= _MAX_WATCHERS:
            watcher.call.fail(StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_WATCHERS} calls are watching already")
            return
        self._watchers[watcher] = b""
        self._tell(watcher)
        if self._stopping:
            self.stop()
        elif self._timer is None and not self._was_ready:
            self._timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._poll)

    def discard(self, watcher: _Watcher) -> None:
        """Forget a watcher that has gone."""
        self._watchers.pop(watcher, None)
        if not self._watchers:
            self._stop_timer()

    def _tell(self, watcher: _Watcher) -> None:
        if watcher not in self._watchers:
            return  # it left when another one was told: they may share a connection
        status = self._status(watcher.service)
        if status != self._watchers[watcher]:
            self._watchers[watcher] = status
            watcher.call.send(status)

    def _poll(self) -> None:
        self._timer = None
        for watcher in list(self._watchers):
            self._tell(watcher)
        if self._watchers and not self._was_ready:
            self._timer = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._poll)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Watcher:
    """One Watch call: its one request names the service."""

    def __init__(self, health: Health, call: StreamCall) -> None:
        self._health = health
        self.call = call
        self.service = ""
        self._asked = False

    def message(self, message: bytes | bytearray) -> None:
        if self._asked:
            return  # a client of this method has one message; what else it sends says nothing
        self._asked = True
        try:
            self.service = codec.decode(_Request, bytes(message)).service
            self._health.add(self)
        except Exception as error:  # noqa: BLE001 - told to the client
            fail(self.call, error)

    def end(self) -> None:
        if not self._asked:
            self.call.fail(StatusCode.INTERNAL, "the call has no request")

    def cancel(self) -> None:
        self._health.discard(self)
