"""The clients to paste are run as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from serving_server.signatures import Signature
from serving_workbench.client import PredictClient
from serving_workbench.snippets import curl, python_grpc, python_rest, python_workbench, snippets
from tests.servers import SharedServer

#: Model, signature: one input; several; strings; large enough to be an expression; several large; scalars; defaults.
CASES = [
    ("half_plus_two", "serving_default"),
    ("multi", "serving_default"),
    ("multi", "join"),
    ("digits", "serving_default"),
    ("mlp", "serving_default"),
    ("no_batch_dim", "serving_default"),
    ("no_batch_dim", "transpose"),
    ("with_default", "serving_default"),
]


def the_signature(server: SharedServer, model: str, name: str) -> Signature:
    with PredictClient(server.grpc_endpoint) as client:
        return client.signatures(server.serve(model))[name]


def run(command: list[str] | str, **environment: str) -> str:
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize(("model", "name"), CASES)
def test_curl(shared_server: SharedServer, model: str, name: str) -> None:
    text = curl(model, the_signature(shared_server, model, name), shared_server.rest_url)
    assert len(text) < 700
    answer = json.loads(run(f"{text} --silent"))
    assert set(answer) <= {"predictions", "outputs"}, answer


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl_goes_around_a_proxy(shared_server: SharedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    signature = the_signature(shared_server, "half_plus_two", "serving_default")
    assert "predictions" in run(curl("half_plus_two", signature, shared_server.rest_url))
    run([sys.executable, "-c", python_rest("half_plus_two", signature, shared_server.rest_url)])


@pytest.mark.parametrize(("model", "name"), CASES)
def test_python_over_rest(shared_server: SharedServer, model: str, name: str) -> None:
    text = python_rest(model, the_signature(shared_server, model, name), shared_server.rest_url)
    assert "{'" in run([sys.executable, "-c", text])


def test_python_over_grpc(shared_server: SharedServer) -> None:
    # One process for all: it imports TensorFlow.
    programs = [
        python_grpc(model, the_signature(shared_server, model, name), shared_server.grpc_endpoint)
        for model, name in [*CASES, ("echo_all_dtypes", "serving_default")]
    ]
    printed = run([sys.executable, "-c", "\n".join(programs)], CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="3")
    assert len(printed.splitlines()) >= len(programs)


def test_rest_is_left_out_for_complex_numbers(shared_server: SharedServer) -> None:
    signature = the_signature(shared_server, "echo_all_dtypes", "complex64")
    found = snippets("echo_all_dtypes", signature, shared_server.rest_url, shared_server.grpc_endpoint, "default")
    assert list(found) == ["Python, gRPC", "Python, this library"]


def test_python_by_this_library_names_what_is_not_the_default(shared_server: SharedServer) -> None:
    text = python_workbench("multi", the_signature(shared_server, "multi", "join"), "mine")
    assert "sw.connect('multi', instance='mine')" in text
    assert "signature='join'" in text
    compile(text, "snippet", "exec")
