"""The REST API: requests translated to the serving core's terms, and its answers and errors back to HTTP.

What a request means is the core's decision; this room only reads and writes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

import numpy.typing as npt

from serving_server.classification import Classifications
from serving_server.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    ServingError,
    StatusCode,
)
from serving_server.examples import feed
from serving_server.inputs import SignatureNotFoundError, describe_inputs
from serving_server.metrics.requests import ENTRYPOINT_REST as ENTRYPOINT
from serving_server.metrics.requests import RequestCell, Requests, SignatureRequests
from serving_server.rest.http1_messages import Request, Response
from serving_server.rest.json_examples import parse_examples
from serving_server.rest.json_in import parse_predict
from serving_server.rest.json_out import (
    encode_classifications,
    encode_error,
    encode_metadata,
    encode_models,
    encode_predict,
    encode_readiness,
    encode_regressions,
    encode_status,
)
from serving_server.rest.routes import Route, RouteKind, match
from serving_server.signatures import DEFAULT_SIGNATURE, Signature
from serving_server.stamps.asked import Asked
from serving_server.stamps.fields import REQUEST_ID, SERVER_TIMING, WANTS_TIMING

__all__ = ["HTTP_STATUS", "Core", "ExampleCore", "Resolved", "RestApi"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Answer = Callable[[Response], None]
Cancel = Callable[[], None]
Page = Callable[[Request], Response]
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

_REQUEST_ID: Final = REQUEST_ID.decode("ascii")
_WANTS_TIMING: Final = WANTS_TIMING.decode("ascii")
_SERVER_TIMING: Final = SERVER_TIMING.decode("ascii")

_JSON: Final = "application/json"
_ALLOWED_HEADERS: Final = "Access-Control-Allow-Headers"
_CORS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    (_ALLOWED_HEADERS, "Content-Type"),
)
_NOT_FOUND_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
)


class Resolved(Protocol):
    """A signature of a loaded version, ready to be called."""

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""

    @property
    def requests(self) -> SignatureRequests:
        """Where its requests count."""

    def refused(self, error: ServingError, received: float = 0.0, asked: Asked | None = None) -> None:
        """Stamp and count a request that does not get as far as to run."""


#: Stands for the route of a request that has none.
_NO_ROUTE: Final = Route(RouteKind.STATUS)

#: What counts as a call of the API beside inference.
_COUNTED: Final = frozenset({RouteKind.STATUS, RouteKind.METADATA, RouteKind.MODELS, RouteKind.PREFLIGHT})

ResolvedT = TypeVar("ResolvedT", bound=Resolved)
T = TypeVar("T")


class Core(Protocol[ResolvedT]):
    """What the REST API needs of the serving core; all calls are made on the event loop."""

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Request
    ) -> ResolvedT:
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
        api: str,
        received: float,
        asked: Asked | None,
    ) -> Cancel:
        """Run a request; `deadline` is loop time, the last three are as for `serving_server.batching.task.Task`.

        `on_done` is called exactly once, with outputs (valid only during the call) or an error. The returned function
        gives the request up.
        """

    def model_status(self, model: str, version: int | None) -> Sequence[tuple[int, str, str, str]]:
        """Return (version, state, error code, error message) of each version, highest first."""

    def metadata(self, model: str, version: int | None, label: str | None) -> tuple[int, Any]:
        """Return the version that answers and its `SignatureDefMap` message."""

    def models(self) -> Sequence[tuple[str, Sequence[tuple[int, str, str, str]], Mapping[str, int]]]:
        """Return every model: its name, its versions as in `model_status` but those unloaded, and its labels."""

    def unready(self) -> Mapping[str, str]:
        """Return the models that do not answer, each with the reason; empty when the server is ready."""


class ExampleCore(Protocol[ResolvedT]):
    """What the REST API needs for requests of tf.Examples (see `serving_server.example_inference`)."""

    def classification(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Request
    ) -> ResolvedT:
        """Return the signature that serves a classify request; raises ServingError."""

    def regression(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Request
    ) -> ResolvedT:
        """Return the signature that serves a regress request; raises ServingError."""

    def classify(
        self,
        resolved: ResolvedT,
        strings: Array,
        deadline: float | None,
        on_done: Callable[[Classifications | None, ServingError | None], None],
        received: float,
        asked: Asked | None,
    ) -> Cancel:
        """Classify serialized examples; as `Core.predict`."""

    def regress(
        self,
        resolved: ResolvedT,
        strings: Array,
        deadline: float | None,
        on_done: Callable[[Array | None, ServingError | None], None],
        received: float,
        asked: Asked | None,
    ) -> Cancel:
        """Give each serialized example a value; as `Core.predict`."""


class RestApi:
    """Handler of `HttpServer` that speaks TensorFlow Serving's REST API.

    Parameters
    ----------
    core : Core
        Decides and computes.
    examples : ExampleCore
        The same for classify and regress.
    timeout : float, optional
        Seconds that a predict request may take; None for no limit (``--rest_api_timeout_in_ms``).
    cors : bool
        Add the CORS headers to every answer of the API (``--rest_api_enable_cors_support``).
    requests : Requests, optional
        Where requests count that reach no signature.
    pages : mapping of str to callable, optional
        Further pages, by path: from a request to its answer.
    keys : callable, optional
        Returns the names of headers that decide which version a client gets now: with CORS, browsers may send them.
    """

    def __init__(
        self,
        core: Core[Any],
        examples: ExampleCore[Any],
        *,
        timeout: float | None = None,
        cors: bool = False,
        requests: Requests | None = None,
        pages: Mapping[str, Page] | None = None,
        keys: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._core = core
        self._requests = requests or Requests()
        self._pages = pages or {}
        self._example_core = examples
        self._timeout = timeout
        self._headers: tuple[tuple[str, str], ...] = _CORS if cors else ()
        self._keys = keys
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, request: Request, answer: Answer) -> Cancel | None:
        """Answer one request; see `HttpServer`."""
        started = perf_counter()
        route = _NO_ROUTE
        asked = None
        if _REQUEST_ID in request.headers or _WANTS_TIMING in request.headers:
            asked = Asked(request)
            answer = _telling(asked, answer, started)
        try:
            route = match(request.method, request.target)
            if route.kind is RouteKind.PREDICT:
                return self._predict(route, request, answer, started, asked)
            if route.kind is RouteKind.CLASSIFY or route.kind is RouteKind.REGRESS:
                return self._examples(route, request, answer, started, asked)
            response = self._get(route, request)
            if route.kind in _COUNTED:
                self._requests.cell(route.model, "", ENTRYPOINT).succeeded(started)
            answer(response)
        except ServingError as error:
            api = "" if route.kind in _COUNTED else route.kind.value
            self._requests.cell(route.model, api, ENTRYPOINT).failed(error.code)
            answer(self._error(error))
        return None

    def _predict(self, route: Route, request: Request, answer: Answer, started: float, asked: Asked | None) -> Cancel:
        parsed = parse_predict(request.body)
        try:
            resolved = self._core.signature(route.model, route.version, route.label, parsed.signature_name, request)
        except SignatureNotFoundError as error:
            name = parsed.signature_name or DEFAULT_SIGNATURE
            message = f'Serving signature name: "{name}" not found in signature def (this version has: {error.offered})'
            raise InvalidArgumentError(message) from None
        try:
            arrays = parsed.arrays(resolved.signature)
        except ServingError as error:
            resolved.refused(error, started, asked)
            raise ServingError(f"{error.message} {describe_inputs(resolved.signature)}", error.code) from None
        row_format = parsed.row_format
        deadline = None if self._timeout is None else self._now() + self._timeout

        cell = resolved.requests.rest_predict

        def done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            if outputs is not None:
                try:
                    response = Response(200, encode_predict(outputs, row_format), _JSON, self._headers)
                except Exception as problem:  # noqa: BLE001 - told to the client
                    error = _unwritten(problem)
                else:
                    cell.succeeded(started)
                    answer(response)
                    return
            self._fail(answer, cell, error)

        return self._core.predict(resolved, arrays, (), deadline, done, "Predict", started, asked)

    def _fail(self, answer: Answer, cell: RequestCell, error: ServingError | None) -> None:
        error = error or InternalError("no answer and no error")
        cell.failed(error.code)
        answer(self._error(error))

    def _examples(self, route: Route, request: Request, answer: Answer, started: float, asked: Asked | None) -> Cancel:
        core = self._example_core
        parsed = parse_examples(request.body)
        target = (route.model, route.version, route.label, parsed.signature_name, request)
        strings = feed(parsed.examples, parsed.context)
        deadline = None if self._timeout is None else self._now() + self._timeout
        api = route.kind.value
        if route.kind is RouteKind.REGRESS:
            resolved = core.regression(*target)
            cell = resolved.requests.cell(api, ENTRYPOINT)
            regressions = self._answering(answer, encode_regressions, cell, started)
            return core.regress(resolved, strings, deadline, regressions, started, asked)

        def write(given: Classifications) -> bytes:
            return encode_classifications(given.labels, given.scores)

        resolved = core.classification(*target)
        classifications = self._answering(answer, write, resolved.requests.cell(api, ENTRYPOINT), started)
        return core.classify(resolved, strings, deadline, classifications, started, asked)

    def _answering(
        self, answer: Answer, write: Callable[[T], bytes], cell: RequestCell, started: float
    ) -> Callable[[T | None, ServingError | None], None]:
        """Return what answers with what `write` makes of a result."""

        def done(result: T | None, error: ServingError | None) -> None:
            if result is not None:
                try:
                    response = Response(200, write(result), _JSON, self._headers)
                except Exception as problem:  # noqa: BLE001 - told to the client
                    error = _unwritten(problem)
                else:
                    cell.succeeded(started)
                    answer(response)
                    return
            self._fail(answer, cell, error)

        return done

    def _now(self) -> float:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # which costs more than the rest of a look at the clock
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
            return Response(200, b"", headers=self._preflight_headers())
        elif kind is RouteKind.HEALTH:
            body = b'{"status":"alive"}'
        elif kind is RouteKind.READY:
            unready = self._core.unready()
            return Response(503 if unready else 200, encode_readiness(unready))
        elif kind is RouteKind.MODELS:
            body = encode_models(self._core.models())
        else:
            page = self._pages.get(request.target.partition("?")[0])
            if page is not None:
                return page(request)
            return Response(404, _NOT_FOUND_PAGE, "text/html")
        return Response(200, body, headers=self._headers)

    def _preflight_headers(self) -> tuple[tuple[str, str], ...]:
        keys = self._keys() if self._headers else ()
        return tuple(
            (name, ", ".join([value, *keys]) if name == _ALLOWED_HEADERS else value) for name, value in self._headers
        )

    def _error(self, error: ServingError) -> Response:
        return Response(HTTP_STATUS[error.code], encode_error(error.message), headers=self._headers)


def _telling(asked: Asked, answer: Answer, received: float) -> Answer:
    """Return what answers with the headers that a client asked for."""

    def told(response: Response) -> None:
        fields = list(response.headers)
        if asked.request_id is not None:
            fields.append((_REQUEST_ID, asked.request_id))
        timing = asked.timing(received)
        if timing is not None:
            fields.append((_SERVER_TIMING, timing))
        answer(dataclasses.replace(response, headers=fields))

    return told


def _unwritten(problem: Exception) -> ServingError:
    """Return what a client hears whose answer could not be written.

    The caller is the core's completion, which other requests share: it must not see this one fail.
    """
    if isinstance(problem, ServingError):
        return problem
    logger.error("Writing an answer failed", exc_info=problem)
    return InternalError("The server failed to write the answer.")
