"""A stand-in for a serving process, with the manners that a real one lacks: `python -m tests.kernel_ext.peer RECORD`.

It writes a record as a server does, answers on its control channel, and on its REST port echoes, stalls, redirects and
breaks off.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

_ID = "f" * 32
#: What was last received of a body that comes in pieces, and whether the answer in pieces may go on.
_seen = 0
#: Requests that never get an answer.
_stalled = 0
_go_on = threading.Event()


class Peer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        global _stalled
        path = self.path.partition("?")[0]
        match path:
            case "/control/v1/identity":
                self._json({"instance_id": _ID})
            case "/control/v1/status" | "/control/v1/statistics":
                self._json({"models": {}})
            case "/v1/seen":
                self._json(_seen)
            case "/v1/go":
                _go_on.set()
                self._json(None)
            case "/v1/pieces":
                self._pieces()
            case "/v1/redirect":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/")
                self.send_header("Set-Cookie", "stolen=1")
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "/v1/silent":
                _stalled += 1
                time.sleep(60)
            case "/v1/stalled":
                self._json(_stalled)
            case "/v1/close":
                self.close_connection = True
            case "/v1/broken":
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
                self.close_connection = True
            case "/v1/nonsense":
                self.wfile.write(b"nonsense\r\n\r\n")
                self.close_connection = True
            case "/v1/large":
                self._answer(b"x" * 1_000_000, "application/octet-stream")
            case _:
                self._echo(b"")

    def do_POST(self) -> None:
        self._echo(self._body())

    def _body(self) -> bytes:
        global _seen
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body, _seen = b"", 0
        while size := int(self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            _seen = len(body)
        self.rfile.readline()
        return body

    def _pieces(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.wfile.flush()
        _go_on.wait(30)
        self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    def _echo(self, body: bytes) -> None:
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        digest = hashlib.sha256(body).hexdigest()
        self._json({"path": self.path, "headers": headers, "size": len(body), "sha256": digest})

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    path = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    server.daemon_threads = True
    port = server.server_address[1]
    record = {
        "schema": 1,
        "name": path.stem.removeprefix("serving-workbench-"),
        "instance_id": _ID,
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "server_version": "0",
        "started_at": time.time(),
        "control": {"tcp": ["127.0.0.1", port]},
        "token": "t",
        "endpoints": {"rest": f"http://127.0.0.1:{port}"},
        "owner_pid": os.getppid(),
        "log": None,
        "root": None,
    }
    draft = path.with_name(".peer")
    draft.write_text(json.dumps(record))
    draft.chmod(0o600)
    draft.rename(path)
    server.serve_forever()


if __name__ == "__main__":
    main()
