"""A kernel asks the Jupyter server that started it to start a serving process.

The Jupyter server is a better parent than a kernel: it holds the process' lifeline, sees it crash and starts it again.
It is found without a browser: a kernel's environment names the server's pid (``JPY_PARENT_PID``), and that server's
private file in the runtime folder, ``jpserver-<pid>.json``, its URL and token. Where there is no such file (a remote
kernel, VS Code, nbclient), or the server lacks the extension or runs in another environment, the kernel goes on alone.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from serving_workbench.control import UnixConnection
from serving_workbench.records import runtime_folder
from serving_workbench.surroundings import warn_about_extension

__all__ = ["ask_to_start"]

#: Addresses of servers that listen on all.
_EVERYWHERE = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
#: A file is of this process when it is no older than it; both times are rounded.
_ROUNDING_SECONDS = 2.0


@dataclass(frozen=True)
class _JupyterServer:
    """Where it listens and what opens it; `is_here` when it is sure to be this machine that the host name means."""

    url: str
    token: str
    socket: str
    host: str
    is_here: bool


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
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if answer.status not in {200, 201} or not isinstance(found, dict):
            return False
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    if isinstance(found.get("extension_version"), str):
        warn_about_extension(found["extension_version"])
    return True


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
    if not token:
        return None
    host = urlsplit(data["url"]).hostname or ""
    if data.get("hostname") in {*_EVERYWHERE, "localhost"}:
        # It listens on all addresses, and its URL has a name for others, which need not lead back here. Some versions
        # call all addresses localhost.
        host = "localhost"
    is_here = host == "localhost" or _is_loopback(host)
    return _JupyterServer(data["url"], str(token), str(data.get("sock") or ""), host, is_here)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _connection(server: _JupyterServer, timeout: float) -> http.client.HTTPConnection:
    if server.socket:
        return UnixConnection(server.socket, timeout)
    address = urlsplit(server.url)
    if address.scheme != "https":
        return http.client.HTTPConnection(server.host, address.port, timeout=timeout)
    context = ssl.create_default_context()
    if server.is_here:
        # Its certificate names the host that browsers see, or nobody known signed it; what is sent stays on this
        # machine, as it would without TLS.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(server.host, address.port, timeout=timeout, context=context)
