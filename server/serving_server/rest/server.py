"""The REST API: requests translated to the serving core's terms, and its answers and errors back to HTTP.

What a request means is the core's decision; this room only reads and writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import numpy.typing as npt

from serving_server.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ServingError,
    StatusCode,
    UnimplementedError,
)
from serving_server.inputs import SignatureNotFoundError
from serving_server.rest.http1_messages import Request, Response
from serving_server.rest.json_in import parse_predict
from serving_server.rest.json_out import encode_error, encode_metadata, encode_predict, encode_status
from serving_server.rest.routes import Route, RouteKind, match
from serving_server.signatures import DEFAULT_SIGNATURE, Signature

__all__ = ["HTTP_STATUS", "Core", "Resolved", "RestApi"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Answer = Callable[[Response], None]
Cancel = Callable[[], None]
OnDone = Callable[[dict[str, Array] | None, ServingError | None], None]

#: TensorFlow Serving's HTTP status of each status code.
HTTP_STATUS: Final = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}

_CORS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_NOT_FOUND_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
)


class Resolved(Protocol):
    """A signature of a loaded version, ready to be called."""

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""


ResolvedT = TypeVar("ResolvedT", bound=Resolved)


class Core(Protocol[ResolvedT]):
    """What the REST API needs of the serving core; all calls are made on the event loop."""

    def signature(self, model: str, version: int | None, label: str | None, signature_name: str) -> ResolvedT:
        """Return the signature that serves a request.

        Raises
        ------
        SignatureNotFoundError
            The version has no signature of that name.
        ServingError
            No such model, version or label.
        """

    def predict(
        self,
        resolved: ResolvedT,
        arrays: dict[str, Array],
        output_filter: Sequence[str],
        deadline: float | None,
        on_done: OnDone,
    ) -> Cancel:
        """Run a request; `deadline` is loop time.

        `on_done` is called exactly once, with outputs (valid only during the call) or an error. The returned function
        gives the request up.
        """

    def model_status(self, model: str, version: int | None) -> Sequence[tuple[int, str, str, str]]:
        """Return (version, state, error code, error message) of each version, highest first."""

    def metadata(self, model: str, version: int | None, label: str | None) -> tuple[int, Any]:
        """Return the version that answers and its `SignatureDefMap` message."""

    def ready(self) -> bool:
        """Return whether the server serves what it was told to."""


class RestApi:
    """Handler of `HttpServer` that speaks TensorFlow Serving's REST API.

    Parameters
    ----------
    core : Core
        Decides and computes.
    timeout : float, optional
        Seconds that a predict request may take; None for no limit (``--rest_api_timeout_in_ms``).
    cors : bool
        Add the CORS headers to every answer of the API (``--rest_api_enable_cors_support``).
    """

    def __init__(self, core: Core[Any], *, timeout: float | None = None, cors: bool = False) -> None:
        self._core = core
        self._timeout = timeout
        self._headers = _CORS if cors else ()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, request: Request, answer: Answer) -> Cancel | None:
        """Answer one request; see `HttpServer`."""
        try:
            route = match(request.method, request.target)
            if route.kind is RouteKind.PREDICT:
                return self._predict(route, request.body, answer)
            answer(self._get(route, request))
        except ServingError as error:
            answer(self._error(error))
        return None

    def _predict(self, route: Route, body: bytes, answer: Answer) -> Cancel:
        parsed = parse_predict(body)
        try:
            resolved = self._core.signature(route.model, route.version, route.label, parsed.signature_name)
        except SignatureNotFoundError:
            name = parsed.signature_name or DEFAULT_SIGNATURE
            message = f'Serving signature name: "{name}" not found in signature def'
            raise InvalidArgumentError(message) from None
        arrays = parsed.arrays(resolved.signature)
        row_format = parsed.row_format
        deadline = None if self._timeout is None else self._now() + self._timeout

        def done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            answer(self._answer(outputs, error, row_format))

        return self._core.predict(resolved, arrays, (), deadline, done)

    def _answer(self, outputs: dict[str, Array] | None, error: ServingError | None, row_format: bool) -> Response:
        if error is not None:
            return self._error(error)
        assert outputs is not None
        try:
            return Response(200, encode_predict(outputs, row_format), "application/json", self._headers)
        except ServingError as refused:
            return self._error(refused)
        except Exception:
            # The caller is the core's completion, which other requests share: it must not see this one fail.
            logger.exception("Writing a predict answer failed")
            return Response(500, encode_error("The server failed to write the answer."), headers=self._headers)

    def _now(self) -> float:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()

    def _get(self, route: Route, request: Request) -> Response:
        kind = route.kind
        if kind is RouteKind.STATUS:
            # TensorFlow Serving ignores the label here.
            body = encode_status(self._core.model_status(route.model, route.version))
        elif kind is RouteKind.METADATA:
            version, signatures = self._core.metadata(route.model, route.version, route.label)
            body = encode_metadata(route.model, version, signatures)
        elif kind is RouteKind.PREFLIGHT:
            origin = request.headers.get("origin", "")
            if "http://" not in origin and "https://" not in origin:
                raise FailedPreconditionError("Origin header is missing in CORS preflight")
            body = b""
        elif kind is RouteKind.HEALTH:
            body = b'{"status":"alive"}'
        elif kind is RouteKind.READY:
            ready = self._core.ready()
            return Response(200 if ready else 503, b'{"status":"%b"}' % (b"ready" if ready else b"loading"))
        elif kind is RouteKind.UNKNOWN:
            return Response(404, _NOT_FOUND_PAGE, "text/html")
        else:
            raise UnimplementedError(
                f"REST {kind.value} of model {route.model} is not supported yet: use :predict, with the serialized "
                "tf.Example messages as base64 strings."
            )
        return Response(200, body, headers=self._headers)

    def _error(self, error: ServingError) -> Response:
        return Response(HTTP_STATUS[error.code], encode_error(error.message), headers=self._headers)
