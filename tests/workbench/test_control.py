"""The control client against a stub: routes, errors, time limits."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError
from tests.workbench.stub import ControlStub

ROUTES: list[tuple[str, tuple[Any, ...], str, str, Any]] = [
    ("identity", (), "GET", "/identity", None),
    ("status", (), "GET", "/status", None),
    ("model", ("digits",), "GET", "/models/digits", None),
    ("put_model", ("digits", "/m"), "PUT", "/models/digits", {"base_path": "/m"}),
    ("delete_model", ("digits",), "DELETE", "/models/digits", None),
    ("put_policy", ("digits", {"all": {}}), "PUT", "/models/digits/policy", {"all": {}}),
    ("hold", ("digits", 3), "PUT", "/models/digits/versions/3/hold", None),
    ("release", ("digits", 3), "DELETE", "/models/digits/versions/3/hold", None),
    ("poll", ("digits",), "POST", "/models/digits/poll", None),
    ("batching", ("digits",), "GET", "/models/digits/batching", None),
    ("patch_batching", ("digits", {"max_batch_size": 4}), "PATCH", "/models/digits/batching", {"max_batch_size": 4}),
    ("record_warmup", ("digits", 9), "POST", "/models/digits/warmup", {"seconds": 9, "requests": 5}),
    ("traffic", ("digits",), "GET", "/models/digits/traffic", None),
    ("delete_traffic", ("digits",), "DELETE", "/models/digits/traffic", None),
    ("exposures", ("digits",), "GET", "/models/digits/traffic/exposures?after=0", None),
    ("exposures", ("digits", 7, 20), "GET", "/models/digits/traffic/exposures?after=7&limit=20", None),
    ("statistics", (), "GET", "/statistics", None),
    ("shutdown", (), "POST", "/shutdown", None),
]


@pytest.mark.parametrize(("method", "arguments", "verb", "path", "body"), ROUTES, ids=[r[0] for r in ROUTES])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_routes(method: str, arguments: tuple[Any, ...], verb: str, path: str, body: Any, kind: str) -> None:
    full = f"/control/v1{path}"
    with tempfile.TemporaryDirectory() as folder:
        unix = Path(folder) / "s" if kind == "unix" else None
        with ControlStub("secret", {full: (200, {"ok": 1})}, unix) as stub:
            address: Any = ("tcp", "127.0.0.1", stub.port) if unix is None else ("unix", str(unix))
            options = {} if method != "record_warmup" else {"seconds": arguments[1], "requests": 5}
            names = arguments if not options else arguments[:1]
            answer = getattr(ControlClient(address, "secret"), method)(*names, **options)
            assert answer in ({"ok": 1}, None)
            assert stub.requests == [(verb, full, body)]


def client(stub: ControlStub, token: str = "secret", timeout: float = 5.0) -> ControlClient:
    return ControlClient(("tcp", "127.0.0.1", stub.port), token, timeout)


def test_names_are_quoted() -> None:
    with ControlStub("secret", {"/control/v1/models/a%2Fb": (200, {})}) as stub:
        assert client(stub).model("a/b") == {}


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (404, {"error": "no model 'x'", "code": "NOT_FOUND"}, "NOT_FOUND", "no model 'x'"),
        (400, {"error": "bad"}, "INVALID_ARGUMENT", "bad"),
        (503, None, "UNAVAILABLE", "HTTP 503"),
        (418, {}, "UNKNOWN", "HTTP 418"),
        (200, b"<html>", "INTERNAL", "no JSON"),
    ],
)
def test_errors_carry_the_code(status: int, body: Any, code: str, says: str) -> None:
    with (
        ControlStub("secret", {"/control/v1/models/x": (status, body)}) as stub,
        pytest.raises(ControlError, match=says) as caught,
    ):
        client(stub).model("x")
    assert caught.value.code == code


def test_a_wrong_token() -> None:
    with ControlStub("secret", {}) as stub, pytest.raises(ControlError) as caught:
        client(stub, token="guess").status()
    assert caught.value.code == "UNAUTHENTICATED"


def test_an_empty_answer_is_none() -> None:
    with ControlStub("secret", {"/control/v1/models/x/batching": (200, None)}) as stub:
        assert client(stub).batching("x") is None


@pytest.mark.parametrize("address", [("tcp", "127.0.0.1", 9), ("unix", "/nonexistent/socket")])
def test_nobody_listens(address: Any) -> None:
    with pytest.raises(ControlError, match="does not answer") as caught:
        ControlClient(address, "t").identity()
    assert caught.value.code == "UNAVAILABLE"


def test_somebody_listens_but_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        control = ControlClient(("tcp", "127.0.0.1", silent.getsockname()[1]), "t", timeout=0.2)
        with pytest.raises(ControlError, match=r"within 0\.2 s") as caught:
            control.identity()
    assert caught.value.code == "DEADLINE_EXCEEDED"
