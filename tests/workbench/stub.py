"""A tiny stand-in for the control channel: fixed answers by path, on loopback TCP or a unix socket."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

__all__ = ["ControlStub"]

Answer = tuple[int, Any]


class ControlStub:
    """Serves `answers` (path -> status and JSON body) while entered; `requests` are what came: (method, path, body)."""

    def __init__(self, token: str, answers: dict[str, Answer], unix: Path | None = None) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                stub.requests.append((self.command, self.path, json.loads(body) if body else None))
                if self.headers.get("Authorization") != f"Bearer {token}":
                    status, answer = 401, {"error": "no or a wrong token", "code": "UNAUTHENTICATED"}
                else:
                    status, answer = answers.get(self.path, (404, {"error": "no such path", "code": "NOT_FOUND"}))
                data = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815 - http.server's names

            def address_string(self) -> str:
                return "client"  # a unix socket has no address to look up

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                return

        if unix is None:
            self._server: socketserver.BaseServer = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        else:
            self._server = socketserver.ThreadingUnixStreamServer(str(unix), Handler)
        self.port = 0 if unix is not None else int(self._server.server_address[1])  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
