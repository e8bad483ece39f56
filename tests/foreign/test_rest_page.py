"""curl for everything that TensorFlow Serving's page of the REST API tells people to do with it."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.tensorflow_clients import environment
from tests.servers import SharedServer

#: A command line behind `curl`: returns the HTTP status and the answer's JSON.
Curl = Callable[..., tuple[int, Any]]

MODEL = "half_plus_two"


@pytest.fixture
def curl(shared_server: SharedServer) -> Curl:
    path = shutil.which("curl")
    if path is None:
        pytest.skip("curl is not installed (Debian: curl)")

    def ask(where: str, *options: str) -> tuple[int, Any]:
        command = [path, "-sS", "-w", "\n%{http_code}", *options, f"{shared_server.rest_url}/v1/models/{where}"]
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), json.loads(body)

    return ask


@pytest.fixture
def labelled(shared_server: SharedServer) -> Iterator[str]:
    path = f"/models/{MODEL}/labels"
    assert shared_server.control("PUT", path, {"stable": 1, "canary": 2})[0] == 200
    yield MODEL
    assert shared_server.control("PUT", path, {})[0] == 200


def _data(body: Any) -> tuple[str, ...]:
    return "-d", json.dumps(body), "-X", "POST"


def _state(version: str) -> dict[str, Any]:
    return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def test_status(curl: Curl, labelled: str) -> None:
    both = {"model_version_status": [_state("2"), _state("1")]}
    assert curl(labelled) == (200, both)
    assert curl(f"{labelled}/versions/1") == (200, {"model_version_status": [_state("1")]})
    assert curl(f"{labelled}/labels/stable") == (200, both)  # TensorFlow Serving leaves the label out of the question


@pytest.mark.parametrize(("where", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")])
def test_metadata(curl: Curl, labelled: str, where: str, version: str) -> None:
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}}
    signature = {
        "inputs": {"x": {**tensor, "name": "x:0"}},
        "outputs": {"y": {**tensor, "name": "y:0"}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert curl(f"{labelled}{where}/metadata") == (
        200,
        {
            "model_spec": {"name": labelled, "signature_name": "", "version": version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        },
    )


@pytest.mark.parametrize(
    ("where", "answer"),
    [("", [3.5, 4.0, 5.5]), ("/versions/1", [2.5, 3.0, 4.5]), ("/labels/stable", [2.5, 3.0, 4.5])],
)
def test_predict(curl: Curl, labelled: str, where: str, answer: list[float]) -> None:
    path = f"{labelled}{where}:predict"
    assert curl(path, *_data({"instances": [1.0, 2.0, 5.0]})) == (200, {"predictions": answer})
    assert curl(path, *_data({"inputs": [1.0, 2.0, 5.0]})) == (200, {"outputs": answer})
    assert curl(path, *_data({"inputs": {"x": [1.0, 2.0, 5.0]}})) == (200, {"outputs": answer})


def test_predict_of_several_tensors(curl: Curl, shared_server: SharedServer) -> None:
    path = f"{shared_server.serve('multi')}:predict"
    rows = [{"m": [1, 2, 3], "scale": [2]}, {"m": [0, 0, 1], "scale": [0.5]}]
    scaled, sums = [[2.0, 4.0, 6.0], [0.0, 0.0, 0.5]], [6.0, 1.0]
    by_row = {"predictions": [{"scaled": a, "row_sum": b} for a, b in zip(scaled, sums, strict=True)]}
    assert curl(path, *_data({"signature_name": "matrix", "instances": rows})) == (200, by_row)
    columns = {name: [row[name] for row in rows] for name in ("m", "scale")}
    by_column = {"outputs": {"scaled": scaled, "row_sum": sums}}
    assert curl(path, *_data({"signature_name": "matrix", "inputs": columns})) == (200, by_column)


def test_bytes(curl: Curl, shared_server: SharedServer) -> None:
    path = f"{shared_server.serve('multi')}:predict"
    rows = [{"left": {"b64": base64.b64encode(b"a\xc3\xa4").decode()}, "right": "c"}]
    answer = {"predictions": [{"joined": "aäc", "length": 4}]}
    assert curl(path, *_data({"signature_name": "join", "instances": rows})) == (200, answer)


def test_classify_and_regress(curl: Curl, shared_server: SharedServer) -> None:
    name = shared_server.serve("half_plus_three")
    page = {"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}
    assert curl(f"{name}:regress", *_data(page)) == (200, {"results": [3.5, 4.0]})
    # A context holds what the examples share.
    with_context = {
        "signature_name": "regress_x2_to_y3",
        "context": {"x": 1.0},
        "examples": [{"x2": 2.0}, {"x2": [4.0]}],
    }
    assert curl(f"{name}:regress", *_data(with_context)) == (200, {"results": [4.0, 5.0]})
    examples = shared_server.serve("examples")
    body = {"examples": [{"x": 1.0}, {"x": 3.0}]}
    for where, scores in (("", (3.5, 4.5)), ("/versions/1", (2.5, 3.5))):
        results = [[["a", x], ["b", score]] for x, score in zip((1.0, 3.0), scores, strict=True)]
        assert curl(f"{examples}{where}:classify", *_data(body)) == (200, {"results": results})


def test_errors(curl: Curl, labelled: str) -> None:
    status, answer = curl(f"{labelled}/versions/99:predict", *_data({"instances": [1]}))
    assert status == 404
    assert answer["error"].startswith("Servable not found for request: Specific(half_plus_two, 99)")
    status, answer = curl(f"{labelled}:predict", *_data({"instances": ["text"]}))
    assert status == 400
    assert "is not of expected type: float" in answer["error"]
    assert curl(f"{labelled}:nothing", *_data({})) == (
        400,
        {"error": f"Malformed request: POST /v1/models/{labelled}:nothing"},
    )


_ROW = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (_ROW, ("-H", "Content-Type: application/json")),
        (gzip.compress(_ROW), ("-H", "Content-Encoding: gzip")),
        (_ROW, ("-H", "Transfer-Encoding: chunked")),
        (_ROW, ("-H", "Expect: 100-continue")),
        (_ROW, ("--http1.0",)),
        (_ROW, ("--http2",)),  # which asks for an upgrade that a server need not make
        (_ROW, ("--compressed",)),
    ],
    ids=["json", "gzip", "chunked", "expect", "http1.0", "upgrade", "compressed"],
)
def test_a_body_from_a_file(curl: Curl, tmp_path: Path, body: bytes, options: tuple[str, ...]) -> None:
    file = tmp_path / "body"
    file.write_bytes(body)
    answer = curl(f"{MODEL}:predict", "--data-binary", f"@{file}", *options)
    assert answer == (200, {"predictions": [3.5, 4.0, 5.5]})
