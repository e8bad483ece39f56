"""curl, nghttp and h2load (libcurl and nghttp2) against both gRPC transports, and curl against REST."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.foreign.conftest import TARGETS, Target
from tests.foreign.raw import PREDICT, framed
from tests.servers import SharedServer

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
#: float32 values of a message of 4 MiB.
LARGE = 2**20
SEVERAL = 20

#: Debian's package of each program.
_PACKAGES = {"curl": "curl", "nghttp": "nghttp2-client", "h2load": "nghttp2-client"}


def _run(program: str, *arguments: str | Path) -> bytes:
    """Run it, for a minute at most, and return its standard output."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian: {_PACKAGES[program]})")
    done = subprocess.run([path, *arguments], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def _large() -> Any:
    return (np.arange(LARGE) % 1024).astype(np.float32)


@pytest.fixture
def body(tmp_path: Path) -> Any:
    """`body(x, model)` is the path of a file with the request as gRPC sends it."""

    def write(x: Any, model: str = "half_plus_two") -> Path:
        request = PredictRequest()
        request.model_spec.name = model
        request.inputs["x"].CopyFrom(to_proto(np.asarray(x, np.float32)))
        path = tmp_path / f"{model}-{np.size(x)}"
        path.write_bytes(framed(request.SerializeToString()))
        return path

    return write


def _answers(data: bytes) -> list[Any]:
    """y of each of the answers that follow each other."""
    found = []
    while data:
        assert data[0] == 0
        end = 5 + int.from_bytes(data[1:5], "big")
        found.append(to_array(PredictResponse.FromString(data[5:end]).outputs["y"]))
        data = data[end:]
    return found


def _is_right_large(y: Any) -> bool:
    return bool(y.dtype == np.float32 and y.tobytes() == (_large() * np.float32(0.5) + np.float32(3)).tobytes())


_NOT_FOUND = "Servable not found for request: Latest(absent)"


# --- gRPC ----------------------------------------------------------------------------------------------------------


class _Curl:
    """curl as a gRPC client: HTTP/2 at once, or by ALPN."""

    def __init__(self, target: Target, tmp_path: Path, *more: str | Path) -> None:
        self._out, self._head = tmp_path / "out", tmp_path / "head"
        how: list[str | Path] = ["--http2-prior-knowledge"]
        if target.authority is not None:
            how = ["--cacert", target.authority, "--http2"]
        if target.pair is not None:
            how += ["--cert", target.pair[0], "--key", target.pair[1]]
        self._always = [
            "-sS",
            "--noproxy",
            "*",
            *how,
            *more,
            *GRPC,
            "-D",
            self._head,
            "-w",
            "%{http_version} %{num_connects}\n",
        ]
        self._url = target.url + PREDICT

    def __call__(self, body: Path, times: int = 1) -> tuple[str, str, bytes]:
        """What curl tells of each request, the headers with the trailers, and the answers behind each other."""
        outputs = [Path(f"{self._out}-{number}") for number in range(times)]
        each = [part for path in outputs for part in ("-o", path, self._url)]
        told = _run("curl", *self._always, "--data-binary", f"@{body}", *each).decode()
        return told, self._head.read_text(), b"".join(path.read_bytes() for path in outputs if path.exists())


@pytest.fixture
def curl(target: Target, tmp_path: Path) -> _Curl:
    return _Curl(target, tmp_path)


def test_curl_gets_the_answer(curl: _Curl, body: Any) -> None:
    told, head, data = curl(body([1, 2]))
    assert told == "2 1\n"
    assert "grpc-status: 0" in head
    assert [y.tolist() for y in _answers(data)] == [[3.5, 4.0]]


def test_curl_gets_the_error(curl: _Curl, body: Any) -> None:
    _, head, data = curl(body([1], "absent"))
    assert "grpc-status: 5" in head
    assert f"grpc-message: {_NOT_FOUND}" in head
    assert not data


def test_curl_asks_several_times_on_one_connection(target: Target, curl: _Curl, body: Any) -> None:
    version = _run("curl", "--version").split()[1].decode()
    if target.authority is None and version.startswith("7."):
        pytest.skip(f"curl {version} cannot use a connection with prior knowledge again (error 16, on any server)")
    told, _, data = curl(body([1]), SEVERAL)
    assert told.split("\n") == ["2 1", *["2 0"] * (SEVERAL - 1), ""]
    assert [y.tolist() for y in _answers(data)] == [[3.5]] * SEVERAL


def test_curl_by_the_unix_socket(target: Target, tmp_path: Path, body: Any) -> None:
    told, head, data = _Curl(target, tmp_path, "--unix-socket", target.socket)(body([1, 2]))
    assert told == "2 1\n"
    assert "grpc-status: 0" in head
    assert [y.tolist() for y in _answers(data)] == [[3.5, 4.0]]


def test_curl_sends_and_gets_4_mib(curl: _Curl, body: Any) -> None:
    (y,) = _answers(curl(body(_large()))[2])
    assert _is_right_large(y)


def _nghttp(target: Target, body: Path, *options: str) -> bytes:
    pair = (f"--cert={target.pair[0]}", f"--key={target.pair[1]}") if target.pair is not None else ()
    return _run("nghttp", *GRPC, "-d", body, *pair, *options, target.url + PREDICT)


def test_nghttp_gets_the_answer(target: Target, body: Any) -> None:
    sent = body([1, 2])
    assert [y.tolist() for y in _answers(_nghttp(target, sent))] == [[3.5, 4.0]]
    assert b"grpc-status: 0" in _nghttp(target, sent, "-vn")


def test_nghttp_gets_the_error(target: Target, body: Any) -> None:
    told = _nghttp(target, body([1], "absent"), "-vn").decode()
    assert "grpc-status: 5" in told
    assert f"grpc-message: {_NOT_FOUND}" in told


def test_nghttp_asks_several_times_at_once(target: Target, body: Any) -> None:
    answers = _answers(_nghttp(target, body([1]), f"-m{SEVERAL}"))
    assert [y.tolist() for y in answers] == [[3.5]] * SEVERAL


def test_nghttp_sends_and_gets_4_mib(target: Target, body: Any) -> None:
    (y,) = _answers(_nghttp(target, body(_large())))
    assert _is_right_large(y)


#: grpcio takes neither padding nor more than 16 KiB of headers.
ours = pytest.mark.parametrize("target", ["own", "own-tls", "own-mtls"], indirect=True)


@ours
def test_nghttp_pads_its_frames(target: Target, body: Any) -> None:
    (y,) = _answers(_nghttp(target, body(_large()), "-b32"))
    assert _is_right_large(y)


@ours
def test_nghttp_continues_its_headers(target: Target, body: Any) -> None:
    """`--continuation` sends 18 KiB of headers, in CONTINUATION frames."""
    assert [y.tolist() for y in _answers(_nghttp(target, body([1]), "--continuation"))] == [[3.5]]


#: h2load cannot show a certificate.
without_mtls = pytest.mark.parametrize(
    "target", [name for name in TARGETS if not name.endswith("-mtls")], indirect=True
)


def _h2load(target: Target, body: Path, count: int, connections: int, streams: int, *more: str) -> int:
    """Return the bytes of DATA, when every request was answered."""
    amount = [f"-n{count}", f"-c{connections}", f"-m{streams}"]
    told = _run("h2load", *amount, *more, *GRPC, "-d", body, target.url + PREDICT).decode()
    assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    found = re.search(r"\((\d+)\) data", told)
    assert found, told
    return int(found[1])


@without_mtls
def test_h2load_gets_answers_on_many_streams(target: Target, curl: _Curl, body: Any) -> None:
    sent = body([1])
    assert _h2load(target, sent, 1000, 4, 32) == 1000 * len(curl(sent)[2])


@without_mtls
def test_h2load_by_the_unix_socket(target: Target, curl: _Curl, body: Any) -> None:
    sent = body([1])
    assert _h2load(target, sent, 200, 2, 16, f"--base-uri=unix:{target.socket}") == 200 * len(curl(sent)[2])


@without_mtls
def test_h2load_gets_errors_on_many_streams(target: Target, body: Any) -> None:
    assert _h2load(target, body([1], "absent"), 200, 2, 16) == 0


@without_mtls
def test_h2load_sends_and_gets_4_mib(target: Target, curl: _Curl, body: Any) -> None:
    sent = body(_large())
    assert _h2load(target, sent, 6, 2, 2) == 6 * len(curl(sent)[2])


# --- REST ----------------------------------------------------------------------------------------------------------


def _rest(server: SharedServer, tmp_path: Path, body: Any, model: str = "half_plus_two", times: int = 1) -> Any:
    """(what curl tells of each request, parsed answers)."""
    (tmp_path / "body").write_text(json.dumps(body))
    outputs = [tmp_path / f"out-{number}" for number in range(times)]
    url = f"{server.rest_url}/v1/models/{model}:predict"
    each = [part for path in outputs for part in ("-o", path, url)]
    always = ["-sS", "--noproxy", "*", "-w", "%{http_code} %{num_connects}\n", "--data-binary", f"@{tmp_path / 'body'}"]
    told = _run("curl", *always, *each).decode()
    return told, [json.loads(path.read_bytes()) for path in outputs]


def test_curl_gets_the_answer_by_rest(shared_server: SharedServer, tmp_path: Path) -> None:
    told, answers = _rest(shared_server, tmp_path, {"instances": [1, 2]}, times=SEVERAL)
    assert told.split("\n") == ["200 1", *["200 0"] * (SEVERAL - 1), ""]
    assert answers == [{"predictions": [3.5, 4.0]}] * SEVERAL


def test_curl_gets_the_error_by_rest(shared_server: SharedServer, tmp_path: Path) -> None:
    told, (answer,) = _rest(shared_server, tmp_path, {"instances": [1]}, "absent")
    assert told == "404 1\n"
    assert answer["error"].startswith(_NOT_FOUND)


def test_curl_sends_and_gets_4_mib_by_rest(shared_server: SharedServer, tmp_path: Path) -> None:
    """With `Expect: 100-continue`, which curl sends by itself in front of a large body."""
    told, (answer,) = _rest(shared_server, tmp_path, {"inputs": _large().tolist()})
    assert told == "200 1\n"
    got = np.float32(answer["outputs"])
    assert hashlib.sha256(got).digest() == hashlib.sha256(_large() * np.float32(0.5) + np.float32(3)).digest()
