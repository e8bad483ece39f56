"""An object store for tests: what Google Cloud Storage answers to TensorFlow's ``gs://`` file system, from a folder.

    with ObjectStore(folder, certificates) as store:
        server = ServerProcess("--model_base_path=gs://bucket/models/m", env=store.env, directory=...)

TensorFlow's client knows its two hosts by heart, so the store stands in their place: an HTTPS proxy that ends every
tunnel itself, with a certificate that the client is told to trust. The first folder below `folder` is the bucket; as in
the real store there are objects only, whose names have slashes, and no folders.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["ObjectStore"]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of the client: first CONNECT, then requests within TLS."""

    protocol_version = "HTTP/1.1"
    timeout = 60.0
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep pytest's output clean."""

    def finish(self) -> None:
        """Close what TLS was wrapped around; the server knows the plain socket only."""
        try:
            super().finish()
        finally:
            self.connection.close()
            with self.server.idle:
                self.server.connections.discard(self.connection)
                self.server.idle.notify_all()

    def do_CONNECT(self) -> None:
        """Open a tunnel that ends here."""
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
        self.close_connection = False
        with self.server.idle:
            self.server.connections.add(self.connection)

    def do_GET(self) -> None:
        """Answer a listing, facts about an object or a bucket, or a part of an object."""
        store = self.server.store
        target = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(target.query))
        with store.lock:
            store.requests.append(self.path)
            failing = store.failing
        if store.stalled.is_set():
            store.released.wait()
        if failing is not None:
            self._answer(failing, b'{"error": {"message": "the test says so"}}')
            return
        names = [urllib.parse.unquote(part) for part in target.path.split("/")]
        if names[:4] == ["", "storage", "v1", "b"]:
            bucket, rest = names[4], names[5:]
            if not (store.folder / bucket).is_dir():
                self._answer(404, b"{}")
            elif not rest:
                self._answer_json({"location": "NOWHERE"})
            elif rest == ["o"]:
                self._answer_json(_listing(store.folder / bucket, query, store.age))
            else:
                self._answer_facts(store.folder / bucket / rest[1], store.age)
        else:
            self._answer_content(store.folder.joinpath(*names[1:]))

    def _answer_facts(self, file: Path, age: int) -> None:
        if not file.is_file():
            self._answer(404, b"{}")
        else:
            self._answer_json(_facts(file, age))

    def _answer_content(self, file: Path) -> None:
        if not file.is_file():
            self._answer(404, b"")
            return
        data = file.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        if not part and data:
            self._answer(416, b"")
        else:
            self._answer(206, part)

    def _answer_json(self, answer: Mapping[str, Any]) -> None:
        self._answer(200, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _facts(file: Path, age: int) -> dict[str, str]:
    info = file.stat()
    changed = info.st_ctime_ns - age * 10**9  # an upload's time is the store's, whatever the file said before
    # Of fractions of a second TensorFlow's client takes milliseconds or microseconds, by the number of digits.
    seconds, nanoseconds = divmod(changed, 10**9)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return {
        "size": str(info.st_size),
        "generation": str(changed),
        "updated": f"{stamp}.{nanoseconds // 10**6:03d}Z",
    }


def _listing(bucket: Path, query: Mapping[str, str], age: int) -> dict[str, Any]:
    """Names below a prefix, cut at the delimiter; in pages, as the real store gives them."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    items, prefixes = [], set()
    for file in sorted(path for path in bucket.rglob("*") if path.is_file()):
        name = file.relative_to(bucket).as_posix()
        if not name.startswith(prefix):
            continue
        head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        if found:
            prefixes.add(prefix + head + delimiter)
        else:
            items.append({"name": name, **_facts(file, age)})
    whole = [("items", item) for item in items] + [("prefixes", name) for name in sorted(prefixes)]
    start = int(query.get("pageToken", "0"))
    end = start + min(int(query.get("maxResults", "1000")), 2)  # small pages, so that tests see several
    answer: dict[str, Any] = {}
    for kind, value in whole[start:end]:
        answer.setdefault(kind, []).append(value)
    if end < len(whole):
        answer["nextPageToken"] = str(end)
    return answer


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, store: ObjectStore, tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.tls = tls
        self.connections: set[socket.socket] = set()
        self.idle = threading.Condition()

    def close_connections(self) -> None:
        """End every tunnel and wait for its thread to notice."""
        with self.idle:
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            assert self.idle.wait_for(lambda: not self.connections, 60.0), "a connection of the store did not end"

    def handle_error(self, request: object, client_address: object) -> None:
        """Take a client that leaves in the middle for granted: its process ends when the test ends it."""


class ObjectStore:
    """Serves a folder while the `with` block runs.

    Parameters
    ----------
    folder : Path
        Holds a folder for each bucket; may change at any time.
    certificates : Path
        Of `tests.certificates.make_certificates`.

    Attributes
    ----------
    env : dict of str to str
        What a process needs in its environment to find this store.
    requests : list of str
        Targets of all requests so far.
    failing : int or None
        An HTTP status for every answer from now on.
    age : int
        Seconds by which its clock is behind.
    """

    def __init__(self, folder: Path, certificates: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.failing: int | None = None
        self.age = 0
        self.stalled = threading.Event()
        self.released = threading.Event()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificates / "store.pem", certificates / "store.key")
        self._server = _Server(self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, name="object-store", daemon=True)
        self.env = {
            "https_proxy": f"http://127.0.0.1:{self._server.server_port}",
            "CURL_CA_BUNDLE": str(certificates / "ca.pem"),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stall(self) -> None:
        """Answer nothing from now on, though connections open."""
        self.released.clear()
        self.stalled.set()

    def go_on(self) -> None:
        """Answer again, also what has waited."""
        self.stalled.clear()
        self.released.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join(60.0)
