"""What tests of the Jupyter Server extension share: requests with chosen credentials, answers as they are."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving_workbench.records import Record, read_record
from tests.kernel_ext.described import check_described
from tests.kernel_ext.jupyter import TOKEN, JupyterServer
from tests.servers import wait_until

__all__ = ["WITH_TOKEN", "Answer", "ask", "believed", "connect", "log_in", "predict"]

WITH_TOKEN = {"Authorization": f"token {TOKEN}"}


@dataclass
class Answer:
    """Status, headers in lower case, and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """Of an error."""
        return str(self.json["message"])


@contextmanager
def connect(jupyter: JupyterServer) -> Iterator[http.client.HTTPConnection]:
    address = urllib.parse.urlsplit(jupyter.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    jupyter: JupyterServer,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] = WITH_TOKEN,
) -> Answer:
    """One request to a path below the base URL; `body` is bytes, an iterator of bytes, or what JSON can say.

    What the API answers is held against its document.
    """
    data = body if body is None or isinstance(body, bytes | Iterator) else json.dumps(body).encode()
    prefix = urllib.parse.urlsplit(jupyter.url).path
    with connect(jupyter) as connection:
        connection.request(method, prefix + path, body=data, headers=dict(headers))
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        content = answer.read()
    if "Origin" not in headers:  # Jupyter itself answers another site's requests, as if nothing were there
        check_described(method, path, answer.status, names.get("content-type", ""), content)
    return Answer(answer.status, names, content)


def log_in(jupyter: JupyterServer) -> tuple[str, str]:
    """Do what a browser does with the token: return its cookies and the value of its XSRF header."""
    prefix = urllib.parse.urlsplit(jupyter.url).path
    cookies: dict[str, str] = {}
    with connect(jupyter) as connection:
        # The page of the login form sets the cookie of XSRF, the token that of the session.
        for path in ("/login", f"/api/status?token={TOKEN}"):
            connection.request("GET", prefix + path)
            answer = connection.getresponse()
            answer.read()
            for value in answer.msg.get_all("Set-Cookie", []):
                name, _, rest = value.partition("=")
                cookies[name] = rest.partition(";")[0]
    return "; ".join(f"{name}={value}" for name, value in cookies.items()), cookies["_xsrf"]


def believed(jupyter: JupyterServer, instance: str) -> Record:
    """The record of an instance in that server's runtime folder."""
    record = read_record(jupyter.runtime / f"serving-workbench-{instance}.json")
    assert record is not None
    return record


def predict(jupyter: JupyterServer, instance: str, model: str, timeout: float = 60.0) -> list[float]:
    """Wait until a model answers through the proxy; what half_plus_two says to 1 and 2."""

    def answer() -> Any:
        found = ask(jupyter, "POST", f"/serving/{instance}/v1/models/{model}:predict", {"instances": [1.0, 2.0]})
        return found.json["predictions"] if found.status == 200 else None

    found: list[float] = wait_until(answer, timeout, f"an answer of '{model}' through the proxy")
    return found
