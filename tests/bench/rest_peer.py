"""The REST peer of the data-plane benchmark: a minimal Tornado handler that does the same JSON work.

    python -m tests.bench.rest_peer          prints its port and serves until it is killed

It answers ``POST /v1/models/half_plus_two:predict`` by the formula itself: no model, no checks, no batching. So it is
what a handler written in a notebook costs at least.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
from tornado import httpserver, netutil, web

__all__ = ["RestPeer"]


class _Predict(web.RequestHandler):
    def post(self) -> None:
        x = np.asarray(json.loads(self.request.body)["instances"], dtype=np.float32)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"predictions": (x * np.float32(0.5) + np.float32(3)).tolist()}))


class RestPeer:
    """The peer in a process of its own.

    Attributes
    ----------
    rest_url : str
        ``http://127.0.0.1:<port>``
    """

    def __init__(self) -> None:
        self.rest_url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.rest_peer"],
            cwd=Path(__file__).parent.parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.rest_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def processes(self) -> list[psutil.Process]:
        """Return the process, as a list."""
        return [psutil.Process(self._process.pid)]


async def _serve() -> None:
    application = web.Application([("/v1/models/half_plus_two:predict", _Predict)])
    # Room for 512 connections that come at once: what does not get in comes again a second later.
    (socket,) = netutil.bind_sockets(0, "127.0.0.1", backlog=1024)
    httpserver.HTTPServer(application).add_socket(socket)
    print(socket.getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
