"""The extension's proxy: what travels, in which direction, how much of it, and over which kinds of Jupyter servers."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving_workbench.jupyter_server import ask_to_start
from tests import leaks
from tests.kernel_ext.extension import WITH_TOKEN, Answer, ask, believed, connect, predict
from tests.kernel_ext.jupyter import TOKEN, JupyterServer
from tests.servers import _UnixConnection, wait_until

INSTANCES = "/serving/api/instances"
PEER = "/serving/peer/v1"
_REQUEST_LIMIT = 3_000_000
_ANSWER_LIMIT = 500_000


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    flags = (
        "--ServerApp.base_url=/a%40b/",
        f"--ServingExtension.proxy_max_request_bytes={_REQUEST_LIMIT}",
        f"--ServingExtension.proxy_max_answer_bytes={_ANSWER_LIMIT}",
        "--ServingExtension.proxy_timeout=3",
        "--ServingExtension.poll_interval=0.2",
    )
    with JupyterServer(tmp_path_factory.mktemp("j"), *flags) as server:
        leaks.allow(server.pid)
        yield server


@pytest.fixture(scope="module")
def peer(jupyter: JupyterServer) -> Iterator[str]:
    """URL of the REST port of a stand-in for a serving process, instance `peer`."""
    record = jupyter.runtime / "serving-workbench-peer.json"
    process = subprocess.Popen([sys.executable, "-m", "tests.kernel_ext.peer", str(record)])
    try:
        leaks.allow(process.pid)
        wait_until(record.exists, 30, "the stand-in's record")
        yield believed(jupyter, "peer").endpoints["rest"]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def real(jupyter: JupyterServer, models_dir: Path) -> str:
    """REST URL of a real serving process, instance `real`, with half_plus_two."""
    body = {"path": str(models_dir / "half_plus_two" / "1"), "name": "half"}
    deployed = ask(jupyter, "POST", f"{INSTANCES}/real/models", body)
    assert deployed.status == 200, deployed.body
    leaks.allow(believed(jupyter, "real").pid)
    return believed(jupyter, "real").endpoints["rest"]


def direct(url: str, body: bytes | None = None) -> Any:
    """Ask a serving process itself."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, data=body, timeout=30) as response:
        return json.loads(response.read())


# --- the real thing ---


def test_it_answers_as_the_serving_process_does(jupyter: JupyterServer, real: str) -> None:
    assert predict(jupyter, "real", "half") == [2.5, 3.0]
    status = ask(jupyter, "GET", "/serving/real/v1/models/half")
    assert status.json == direct(f"{real}/v1/models/half")
    assert status.headers["content-type"] == "application/json"
    unknown = ask(jupyter, "POST", "/serving/real/v1/models/none:predict", {"instances": [1]})
    assert unknown.status == 404
    assert "none" in unknown.json["error"], "the text of the serving process, not ours"


def test_nothing_but_the_api_of_known_instances_is_reached(jupyter: JupyterServer, real: str) -> None:
    assert direct(f"{real}/v1/models")
    for path in (
        "/serving/real/readyz",
        "/serving/real/v2/models",
        "/serving/127.0.0.1:22/v1/models",
        "/serving/-/v1/models",
    ):
        assert ask(jupyter, "GET", path).status == 404, path
    for path in ("/serving/real/v1/../readyz", "/serving/real/v1/%2e%2e/readyz", "/serving/real/v1/./models"):
        assert ask(jupyter, "GET", path).status == 400, path
    assert ask(jupyter, "GET", "/serving/absent/v1/models").status == 404
    assert ask(jupyter, "PUT", "/serving/real/v1/models", b"{}").status == 405


def test_a_server_with_traffic_counts_as_activity(jupyter: JupyterServer, real: str) -> None:
    quiet = "?no_track_activity=1"
    before = ask(jupyter, "GET", f"/api/status{quiet}").json["last_activity"]
    direct(f"{real}/v1/models/half:predict", b'{"instances": [1.0]}')

    def later() -> bool:
        now: str = ask(jupyter, "GET", f"/api/status{quiet}").json["last_activity"]
        return now > before

    wait_until(later, what="activity that Jupyter tells of")
    assert ask(jupyter, "GET", INSTANCES + quiet).json["active"] == ["real"]


# --- what travels ---


def test_no_secret_and_no_hop_by_hop_header_reaches_the_serving_process(jupyter: JupyterServer, peer: str) -> None:
    headers = WITH_TOKEN | {
        "Cookie": "username-x=secret; _xsrf=secret",
        "X-XSRFToken": "secret",
        "X-JupyterHub-Token": "secret",
        "Proxy-Authorization": "secret",
        "Connection": "close, X-Hop",
        "X-Hop": "secret",
        "Referer": "http://127.0.0.1/?token=secret",
        "Origin": jupyter.url.rpartition("/")[0],
        "Content-Type": "application/json",
        "User-Agent": "tests",
        "Traceparent": "00-1-2-3",
        "X-Request-Id": "7",
    }
    query = f"?token={TOKEN}&a=%20b&_xsrf=secret&no_track_activity=1&%74oken={TOKEN}&c"
    got = ask(jupyter, "POST", f"{PEER}/echo%20me{query}", b'{"x": 1}', headers).json
    assert got["path"] == "/v1/echo%20me?a=%20b&c"
    assert "secret" not in json.dumps(got["headers"])
    assert TOKEN not in json.dumps(got["headers"])
    assert sorted(name for name, _ in got["headers"]) == [
        "accept-encoding",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "user-agent",
        "x-request-id",
    ]
    assert dict(got["headers"])["host"] == peer.removeprefix("http://")


def test_what_the_serving_process_says_sets_no_cookie_and_leads_nowhere(jupyter: JupyterServer, peer: str) -> None:
    got = ask(jupyter, "GET", f"{PEER}/redirect")
    assert got.status == 302, "handed on, not followed"
    assert "location" not in got.headers
    assert "stolen" not in got.headers.get("set-cookie", "")
    assert got.headers.get("access-control-allow-origin") != "*"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]


@pytest.mark.parametrize("size", [0, 1, 65_536, _REQUEST_LIMIT])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_arrive_whole(jupyter: JupyterServer, peer: str, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    pieces = iter([body[:1000], body[1000:]]) if size > 1000 else iter([body])
    got = ask(jupyter, "POST", f"{PEER}/echo", pieces if chunked and size else body)
    assert (got.json["size"], got.json["sha256"]) == (size, hashlib.sha256(body).hexdigest())


def test_a_request_goes_on_while_it_comes_in(jupyter: JupyterServer, peer: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 1000
        wait_until(lambda: direct(f"{peer}/v1/seen") == 1000, what="the first piece at the other end")
        yield b"y" * 500

    assert ask(jupyter, "POST", f"{PEER}/echo", pieces()).json["size"] == 1500


def test_an_answer_comes_back_while_it_is_made(jupyter: JupyterServer, peer: str) -> None:
    with connect(jupyter) as connection:
        connection.request("GET", f"/a%40b{PEER}/pieces", headers=WITH_TOKEN)
        answer = connection.getresponse()
        assert answer.read1() == b"first"
        assert direct(f"{peer}/v1/go") is None
        assert answer.read() == b"last"
        assert answer.headers["Content-Type"] == "text/plain"


# --- limits and failures ---


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_beyond_the_limit_is_refused(jupyter: JupyterServer, peer: str, chunked: bool) -> None:
    body = b"x" * (_REQUEST_LIMIT + 1)
    refused = ask(jupyter, "POST", f"{PEER}/echo", iter([body[:9], body[9:]]) if chunked else body)
    assert (refused.status, str(_REQUEST_LIMIT) in refused.message) == (413, True)


def test_without_end_a_request_is_cut_off(jupyter: JupyterServer, peer: str) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(jupyter, "POST", f"{PEER}/echo", iter([b"x" * 1_000_000] * 40))
    assert ask(jupyter, "GET", f"{PEER}/models").status == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [("close", "connection was lost"), ("nonsense", "not HTTP"), ("silent", "nothing came for 3 s")],
)
def test_no_answer_is_told(jupyter: JupyterServer, peer: str, path: str, says: str) -> None:
    refused = ask(jupyter, "GET", f"{PEER}/{path}")
    assert (refused.status, says in refused.message) == (502, True), refused.body


@pytest.mark.parametrize("path", ["broken", "large"])
def test_an_answer_that_breaks_off_or_is_too_large_does_not_look_whole(
    jupyter: JupyterServer, peer: str, path: str
) -> None:
    try:
        answer: Answer | None = ask(jupyter, "GET", f"{PEER}/{path}")
    except (http.client.IncompleteRead, ConnectionError):
        answer = None
    assert answer is None or answer.status == 502
    assert ask(jupyter, "GET", f"{PEER}/models").status == 200


def test_a_client_that_leaves_takes_its_request_along(jupyter: JupyterServer, peer: str) -> None:
    port = int(peer.rpartition(":")[2])

    def connections() -> int:
        found = psutil.Process(jupyter.pid).net_connections()
        return sum(1 for each in found if each.raddr and each.raddr[1] == port and each.status == "ESTABLISHED")

    ask(jupyter, "GET", f"{PEER}/models")
    before = wait_until(connections, what="a connection that is kept")
    stalled = direct(f"{peer}/v1/stalled")
    with connect(jupyter) as connection:
        connection.request("GET", f"/a%40b{PEER}/silent", headers=WITH_TOKEN)
        wait_until(lambda: direct(f"{peer}/v1/stalled") == stalled + 1, what="the request")
        assert connections() == before, "the one that was kept is used"
    wait_until(lambda: connections() < before, what="the end of the connection")
    assert ask(jupyter, "GET", f"{PEER}/models").status == 200


# --- kinds of Jupyter servers ---


def a_kernel_finds(jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a kernel of that server reaches its extension."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.runtime))
    monkeypatch.setenv("JPY_PARENT_PID", str(jupyter.pid))
    return ask_to_start("default", None, keep=False, timeout=30.0)


def test_over_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "jupyter.sock"
    jupyter = JupyterServer(tmp_path, f"--ServerApp.sock={socket}")
    try:
        wait_until(lambda: jupyter.process.poll() is not None or socket.exists(), 60, "Jupyter's socket")

        def exchange(method: str, path: str, body: bytes | None = None) -> Answer:
            connection = _UnixConnection(str(socket), 60)
            try:
                connection.request(method, path, body=body, headers=WITH_TOKEN)
                answer = connection.getresponse()
                return Answer(answer.status, {}, answer.read())
            finally:
                connection.close()

        started = exchange("POST", INSTANCES, b"{}")
        assert started.status == 201, started.body
        assert exchange("GET", "/serving/default/v1/models").json == {"models": []}
        assert a_kernel_finds(jupyter, monkeypatch)
    finally:
        jupyter.__exit__()


def test_with_tls(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (
        "--ServerApp.base_url=/user/ada/",
        f"--ServerApp.certfile={certificates / 'server.pem'}",
        f"--ServerApp.keyfile={certificates / 'server.key'}",
    )
    jupyter = JupyterServer(tmp_path, *flags)
    try:
        info = jupyter.runtime / f"jpserver-{jupyter.pid}.json"
        wait_until(info.exists, 60, "Jupyter's own record")
        port = json.loads(info.read_text())["port"]
        context = ssl.create_default_context(cafile=certificates / "ca.pem")

        def exchange(method: str, path: str, body: bytes | None = None) -> Answer:
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            try:
                connection.request(method, f"/user/ada{path}", body=body, headers=WITH_TOKEN)
                answer = connection.getresponse()
                return Answer(answer.status, {}, answer.read())
            finally:
                connection.close()

        started = exchange("POST", INSTANCES, b"{}")
        assert started.status == 201, started.body
        assert exchange("GET", "/serving/default/v1/models").json == {"models": []}
        assert a_kernel_finds(jupyter, monkeypatch)
    finally:
        jupyter.__exit__()
