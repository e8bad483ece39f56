"""A kernel asks the Jupyter server that started it to start a serving process.

The Jupyter server is a better parent than a kernel: it holds the process' lifeline, sees it crash and starts it again.
It is found without a browser: a kernel's environment names the server's pid (``JPY_PARENT_PID``), and that server's
private file in the runtime folder, ``jpserver-<pid>.json``, its URL and token. Where there is no such file (a remote
kernel, VS Code, nbclient), or the server lacks the extension or runs in another environment, the kernel goes on alone.
"""

from __future__ import annotations

import http.client
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from serving_workbench.control import UnixConnection
from serving_workbench.records import runtime_folder

__all__ = ["ask_to_start"]

#: A file is of this process when it is no older than it; both times are rounded.
_ROUNDING_SECONDS = 2.0


@dataclass(frozen=True)
class _JupyterServer:
    """Where it listens and what opens it."""

    url: str
    token: str
    socket: str


def ask_to_start(instance: str, root: Path | None, *, keep: bool, timeout: float) -> bool:
    """Have the Jupyter server of this kernel start a serving process; return whether one runs now by its word.

    False for every reason not to: the caller starts the process itself then, and tells of what is in the way of that.
    The word is not believed yet: see `serving_workbench.discovery`.
    """
    server = _find()
    if server is None:
        return False
    wish: dict[str, Any] = {"name": instance, "keep": keep, "prefix": sys.prefix}
    if root is not None:
        wish["root"] = str(root)
    connection = _connection(server, timeout)
    try:
        connection.request(
            "POST",
            f"{urlsplit(server.url).path.rstrip('/')}/serving/api/instances",
            body=json.dumps(wish).encode(),
            headers={"Authorization": f"token {server.token}", "Content-Type": "application/json"},
        )
        return connection.getresponse().status in {200, 201}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _find() -> _JupyterServer | None:
    pid = os.environ.get("JPY_PARENT_PID", "")
    if not pid.isdecimal():
        return None
    try:
        path = runtime_folder() / f"jpserver-{pid}.json"
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            text = file.read()
        is_left_over = info.st_mtime < psutil.Process(int(pid)).create_time() - _ROUNDING_SECONDS
        if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077 or is_left_over:
            return None
        data = json.loads(text)
    except (OSError, ValueError, psutil.Error):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("url"), str):
        return None
    # Behind a hub the server has no token of its own; the hub's, which every kernel has, opens it.
    token = data.get("token") or os.environ.get("JUPYTERHUB_API_TOKEN", "")
    return _JupyterServer(data["url"], str(token), str(data.get("sock") or "")) if token else None


def _connection(server: _JupyterServer, timeout: float) -> http.client.HTTPConnection:
    if server.socket:
        return UnixConnection(server.socket, timeout)
    address = urlsplit(server.url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    return kind(str(address.hostname), address.port, timeout=timeout)
