"""Under JupyterHub: its real single-user server, with a stand-in for the hub that knows two users."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.kernel_ext.extension import ask, believed, predict
from tests.kernel_ext.jupyter import TOKEN, JupyterServer
from tests.kernel_ext.overlays import overlay, python_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # an index may take its time

#: JupyterHub, and of what it needs that which the environment has not.
_HUB = (
    *("jupyterhub==5.*", "alembic", "certipy", "greenlet", "mako", "oauthlib", "pamela", "sqlalchemy"),
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "frozenlist", "multidict", "propcache", "yarl"),
    *("annotated-types", "pydantic", "pydantic-core", "typing-inspection"),
)
_PREFIX = "/user/ada/"
_SCOPE = "access:servers!server=ada/"
#: The token that the hub gave to the server, and so to its kernels.
_OF_THE_SERVER = "of-the-server"
_USER = {"kind": "user", "name": "ada", "groups": [], "scopes": [_SCOPE], "session_id": None}
_USERS = {
    TOKEN: _USER,
    _OF_THE_SERVER: _USER,
    "of-bob": {**_USER, "name": "bob", "scopes": ["access:servers!server=bob/"]},
}


class _Hub(BaseHTTPRequestHandler):
    """Answers what a single-user server asks: who has this token, which version are you; takes reports of activity."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").partition(" ")[2]
        if self.path.endswith("/user"):
            self._answer(200 if token in _USERS else 403, _USERS.get(token, {}))
        else:
            self._answer(200, {"version": "5.0.0"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, {})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class SingleUserServer(JupyterServer):
    command = ("jupyterhub.singleuser",)

    def _where(self, flags: tuple[str, ...]) -> list[str]:
        return []  # the hub says it, by the environment


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="hub")
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hub/api"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def jupyter(hub: str, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[JupyterServer]:
    assert pytestconfig.cache is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **python_path(overlay(pytestconfig.cache.mkdir("serving-overlays"), *_HUB)),
        "JUPYTERHUB_API_TOKEN": _OF_THE_SERVER,
        "JUPYTERHUB_API_URL": hub,
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{_PREFIX}oauth_callback",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([_SCOPE]),
        "JUPYTERHUB_OAUTH_SCOPES": json.dumps([_SCOPE]),
        "JUPYTERHUB_SERVICE_PREFIX": _PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}{_PREFIX}",
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_USER": "ada",
    }
    with SingleUserServer(tmp_path_factory.mktemp("j"), environment=environment) as server:
        leaks.allow(server.pid)
        yield server


def test_a_kernel_reaches_the_extension_and_its_owner_the_model(jupyter: JupyterServer, models_dir: Path) -> None:
    own = json.loads((jupyter.runtime / f"jpserver-{jupyter.pid}.json").read_text())
    assert own["base_url"] == _PREFIX
    kernel = jupyter.start_kernel()
    kernel.run(f"%load_ext serving_workbench\nserved = %serve {models_dir}/half_plus_two/1 --name half --no-progress")
    record = believed(jupyter, "default")
    assert psutil.Process(record.pid).ppid() == jupyter.pid, "started by the extension, not by the kernel"
    assert predict(jupyter, "default", "half") == [2.5, 3.0]
    kernel.shutdown()
    assert ask(jupyter, "DELETE", "/serving/api/instances/default").json["stopped"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "token of-bob"}, {"Authorization": "token wrong"}], ids=str)
def test_nobody_else_does(jupyter: JupyterServer, headers: dict[str, str]) -> None:
    assert ask(jupyter, "GET", "/serving/api/instances").status == 200
    assert ask(jupyter, "GET", "/serving/api/instances", None, headers).status == 403
    assert ask(jupyter, "POST", "/serving/default/v1/models/half:predict", b"{}", headers).status == 403
