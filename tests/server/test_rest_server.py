"""The REST API against a core that computes in place, through real sockets and a standard HTTP client."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import uvloop

from serving_server.errors import (
    InvalidArgumentError,
    NotFoundError,
    ServingError,
    StatusCode,
    UnavailableError,
)
from serving_server.inputs import signature_of
from serving_server.metrics.requests import SignatureRequests
from serving_server.rest.http1 import HttpServer
from serving_server.rest.server import HTTP_STATUS, Core, RestApi
from serving_server.signatures import Signature, TensorSpec
from serving_server.stamps.asked import Asked
from serving_server.tensors import by_name
from serving_server.wire.messages import SignatureDefMap

DEADLINE = 60.0

#: Classify and regress have tests of their own, against a real server.
NO_EXAMPLES: Any = None
OnDone = Callable[[dict[str, np.ndarray] | None, ServingError | None], None]


def _signature(name: str, **inputs: str) -> Signature:
    specs = {alias: TensorSpec(alias, f"{alias}:0", by_name(dtype), (-1,)) for alias, dtype in inputs.items()}
    return Signature(name, "tensorflow/serving/predict", specs, {}, {})


class Resolved:
    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.requests = SignatureRequests()

    def refused(self, error: ServingError, received: float = 0.0, asked: Asked | None = None) -> None:
        """Nobody splits these requests."""


class HalfPlusTwo:
    """A core with one model, ``half_plus_two``, at version 123; ``hold`` answers when the test says so."""

    signatures: ClassVar = {
        "serving_default": _signature("serving_default", x="float"),
        "both": _signature("both", x="float", z="string"),
        "hold": _signature("hold", x="float"),
        "fail": _signature("fail", x="float"),
        "half": _signature("half", x="float"),
        "broken": _signature("broken", x="float"),
    }

    def __init__(self) -> None:
        self.held: list[OnDone] = []
        self.deadlines: list[float | None] = []
        self.cancelled = asyncio.Event()
        self.is_ready = True

    def _check(self, model: str, version: int | None, label: str | None) -> None:
        if label is not None:
            raise InvalidArgumentError(f"Unrecognized servable version label: {label}")
        if model != "half_plus_two" or version not in {None, 123}:
            wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
            raise NotFoundError(f"Servable not found for request: {wanted}")

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Any = None
    ) -> Resolved:
        self._check(model, version, label)
        return Resolved(signature_of(self.signatures, signature_name))

    def predict(
        self,
        resolved: Resolved,
        arrays: Mapping[str, np.ndarray],
        output_filter: Sequence[str],
        deadline: float | None,
        on_done: OnDone,
        *_stamps: Any,
    ) -> Callable[[], None]:
        assert not output_filter
        self.deadlines.append(deadline)
        name = resolved.signature.name
        half = arrays["x"] / np.float32(2) + np.float32(2)
        # As the real core does: the arrays are overwritten as soon as `on_done` returns.
        outputs = {"half": {"y": half.astype(np.float16)}, "broken": {"y": object()}}.get(name, {"y": half})
        if name == "both":
            outputs["z"] = arrays["z"]
        if name == "hold":
            self.held.append(on_done)
        elif name == "fail":
            asyncio.get_running_loop().call_soon(on_done, None, UnavailableError("The queue is full."))
        else:
            asyncio.get_running_loop().call_soon(self._finish, on_done, outputs)
        return self.cancelled.set

    @staticmethod
    def _finish(on_done: OnDone, outputs: dict[str, Any]) -> None:
        on_done(outputs, None)
        for array in outputs.values():
            if isinstance(array, np.ndarray):
                array.fill(0)

    def model_status(self, model: str, version: int | None) -> list[tuple[int, str, str, str]]:
        if model != "half_plus_two":
            raise NotFoundError(f"Could not find any versions of model {model}")
        return [(123, "AVAILABLE", "OK", "")]

    def metadata(self, model: str, version: int | None, label: str | None) -> tuple[int, Any]:
        self._check(model, version, label)
        signatures = SignatureDefMap()
        signatures.signature_def["serving_default"].method_name = "tensorflow/serving/predict"
        return 123, signatures

    def models(self) -> list[tuple[str, list[tuple[int, str, str, str]], dict[str, int]]]:
        return [("half_plus_two", self.model_status("half_plus_two", None), {"stable": 123})]

    def unready(self) -> dict[str, str]:
        return {} if self.is_ready else {"half_plus_two": "version 123 is loading"}


_: Core[Resolved] = HalfPlusTwo.__new__(HalfPlusTwo)

Talk = Callable[[HalfPlusTwo, int], Awaitable[None]]


def serve(talk: Talk, **options: Any) -> None:
    """Run `talk(core, port)` against a server of its own."""

    async def main() -> None:
        core = HalfPlusTwo()
        server = HttpServer(RestApi(core, NO_EXAMPLES, **options))
        ((_, port),) = await server.start_tcp("127.0.0.1", 0)
        try:
            async with asyncio.timeout(DEADLINE):
                await talk(core, port)
        finally:
            await server.stop(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


Answer = tuple[int, dict[str, str], bytes]


def _request(port: int, method: str, target: str, body: Any, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, target, json.dumps(body) if isinstance(body, dict) else body, headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def ask(method: str, target: str, body: Any = None, *, headers: dict[str, str] | None = None, **options: Any) -> Answer:
    """Return the answer of a server of its own to one request."""
    answers: list[Answer] = []

    async def talk(core: HalfPlusTwo, port: int) -> None:
        answers.append(await asyncio.to_thread(_request, port, method, target, body, headers or {}))

    serve(talk, **options)
    return answers[0]


PREDICT = "/v1/models/half_plus_two:predict"


@pytest.mark.parametrize(
    ("target", "body", "expected"),
    [
        (PREDICT, {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        (PREDICT, {"inputs": [[1], [2]]}, {"outputs": [[2.5], [3.0]]}),
        (PREDICT, {"inputs": 1}, {"outputs": 2.5}),
        ("/v1/models/half_plus_two/versions/123:predict", {"instances": [1]}, {"predictions": [2.5]}),
        (
            PREDICT,
            {"signature_name": "both", "instances": [{"x": 1, "z": "a"}, {"x": 2, "z": {"b64": "Yg=="}}]},
            {"predictions": [{"y": 2.5, "z": "a"}, {"y": 3.0, "z": "b"}]},
        ),
    ],
)
def test_predict(target: str, body: Any, expected: Any) -> None:
    status, headers, answer = ask("POST", target, body)
    assert (status, json.loads(answer)) == (200, expected)
    assert headers["content-type"] == "application/json"
    assert "access-control-allow-origin" not in headers


def test_predict_passes_values_that_are_not_finite() -> None:
    status, _, answer = ask("POST", PREDICT, '{"instances": [NaN, -Infinity, 1]}')
    assert (status, answer) == (200, b'{"predictions":[NaN,-Infinity,2.5]}')


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "message"),
    [
        ("POST", PREDICT, b"", 400, "JSON Parse error: The document is empty"),
        ("POST", PREDICT, b"hello", 400, "JSON Parse error: Invalid value. at offset: 0"),
        (
            "POST",
            PREDICT,
            {"x": 1},
            400,
            "Missing 'inputs' or 'instances' key (signature \"serving_default\" takes x: float [-1])",
        ),
        (
            "POST",
            PREDICT,
            {"signature_name": "none", "instances": [1]},
            400,
            (
                'Serving signature name: "none" not found in signature def '
                '(this version has: "serving_default", "both", "hold", "fail", "half", "broken")'
            ),
        ),
        ("POST", PREDICT, {"signature_name": "fail", "instances": [1]}, 503, "The queue is full."),
        (
            "POST",
            PREDICT,
            {"signature_name": "half", "instances": [1]},
            400,
            "Failed to write JSON value for tensor type: half",
        ),
        (
            "POST",
            "/v1/models/none:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Latest(none)",
        ),
        (
            "POST",
            "/v1/models/half_plus_two/versions/9:predict",
            {"instances": [1]},
            404,
            "Servable not found for request: Specific(half_plus_two, 9)",
        ),
        (
            "POST",
            "/v1/models/half_plus_two/labels/l:predict",
            {"instances": [1]},
            400,
            "Unrecognized servable version label: l",
        ),
        ("GET", "/v1/models/none", None, 404, "Could not find any versions of model none"),
        ("PUT", PREDICT, {}, 400, f"Malformed request: PUT {PREDICT}"),
        ("OPTIONS", PREDICT, None, 400, "Origin header is missing in CORS preflight"),
    ],
)
def test_errors(method: str, target: str, body: Any, status: int, message: str) -> None:
    got, headers, answer = ask(method, target, body)
    assert (got, json.loads(answer)) == (status, {"error": message})
    assert headers["content-type"] == "application/json"


def test_an_answer_that_cannot_be_written_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    status, _, answer = ask("POST", PREDICT, {"signature_name": "broken", "instances": [1]})
    assert (status, json.loads(answer)) == (500, {"error": "The server failed to write the answer."})
    assert "Writing an answer failed" in caplog.text


def test_status_and_metadata() -> None:
    status, _, answer = ask("GET", "/v1/models/half_plus_two/versions/123")
    assert status == 200
    assert json.loads(answer)["model_version_status"][0]["version"] == "123"
    status, _, answer = ask("GET", "/v1/models/half_plus_two/metadata")
    assert status == 200
    assert json.loads(answer)["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}


def test_paths_outside_the_api_and_probes() -> None:
    status, headers, answer = ask("GET", "/index.html")
    assert (status, headers["content-type"]) == (404, "text/html")
    assert b"<h1>Not Found</h1>" in answer
    assert ask("GET", "/healthz")[0] == 200
    assert ask("HEAD", "/readyz")[2] == b""

    async def talk(core: HalfPlusTwo, port: int) -> None:
        for core.is_ready, expected in ((True, 200), (False, 503)):
            assert (await asyncio.to_thread(_request, port, "GET", "/readyz", None, {}))[0] == expected

    serve(talk)


def test_cors() -> None:
    origin = {"Origin": "https://example.org"}
    status, headers, answer = ask("OPTIONS", PREDICT, headers=origin)
    assert (status, answer) == (200, b"")
    assert "access-control-allow-origin" not in headers
    for method, body, expected in (("OPTIONS", None, 200), ("POST", {"instances": [1]}, 200), ("POST", {}, 400)):
        status, headers, _ = ask(method, PREDICT, body, headers=origin, cors=True)
        assert status == expected
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-allow-methods"] == "POST, GET"
        assert headers["access-control-allow-headers"] == "Content-Type"


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_timeout_becomes_the_deadline(timeout: float | None) -> None:
    async def talk(core: HalfPlusTwo, port: int) -> None:
        before = asyncio.get_running_loop().time()
        await asyncio.to_thread(_request, port, "POST", PREDICT, {"instances": [1]}, {})
        after = asyncio.get_running_loop().time()
        if timeout is None:
            assert core.deadlines == [None]
        else:
            (deadline,) = core.deadlines
            assert deadline is not None
            assert before + timeout <= deadline <= after + timeout

    serve(talk, timeout=timeout)


def test_a_client_that_goes_away_cancels_its_prediction() -> None:
    async def talk(core: HalfPlusTwo, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"signature_name": "hold", "instances": [1]}'
        writer.write(b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (PREDICT.encode(), len(body), body))
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            while not core.held:  # noqa: ASYNC110 - the core has no event for it, as the real one
                await asyncio.sleep(0.001)
        writer.close()
        await core.cancelled.wait()
        core.held[0]({"y": np.float32([1])}, None)  # too late, and harmless

    serve(talk)


def test_every_status_code_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == set(StatusCode)
