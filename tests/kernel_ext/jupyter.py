"""A real Jupyter server, and kernels that it starts: for tests of what survives what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from jupyter_client.blocking.client import BlockingKernelClient

from tests.servers import wait_until

__all__ = ["TOKEN", "JupyterServer", "Kernel"]

TOKEN = "for-tests-only"
_READY_SECONDS = 60.0


class Kernel:
    """A kernel of a Jupyter server, asked over its own sockets as the server does it for a browser."""

    def __init__(self, server: JupyterServer, kernel_id: str) -> None:
        self.id = kernel_id
        self._server = server
        connection = server.runtime / f"kernel-{kernel_id}.json"
        wait_until(connection.exists, what=f"the connection file of kernel {kernel_id}")
        self.client = BlockingKernelClient(connection_file=str(connection))
        self.client.load_connection_file()
        self.client.start_channels()
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        """Wait for a kernel that answers: on a busy machine a heartbeat comes late, and a kernel passes for dead."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.client.wait_for_ready(timeout=_READY_SECONDS)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def run(self, code: str, timeout: float = 90.0) -> str:
        """Run a cell that must succeed; return what it printed and showed as text."""
        shown: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            shown.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
            shown.extend(content.get("traceback", ()))

        reply = self.client.execute_interactive(code, timeout=timeout, output_hook=keep, allow_stdin=False)
        text = "".join(shown)
        assert reply["content"]["status"] == "ok", f"{code}\n{text}"
        return text

    def start(self, code: str) -> str:
        """Send a cell and return the id of the request once its code runs; before that an interrupt may be lost."""
        request: str = self.client.execute(f"print('runs', flush=True)\n{code}")
        wait_until(lambda: self._is_running(request), 30, what="a cell that runs")
        return request

    def _is_running(self, request: str) -> bool:
        message = self.client.get_iopub_msg(timeout=60)
        return message["parent_header"].get("msg_id") == request and message["msg_type"] == "stream"

    def reply(self, request: str, timeout: float = 30.0) -> dict[str, Any]:
        """The kernel's reply to the request of `start`."""
        while True:
            message = self.client.get_shell_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") == request:
                content: dict[str, Any] = message["content"]
                return content

    def interrupt(self) -> None:
        self._server.request("POST", f"/api/kernels/{self.id}/interrupt")

    def restart(self) -> None:
        self._server.request("POST", f"/api/kernels/{self.id}/restart")
        self._wait_ready()

    def shutdown(self) -> None:
        self._server.request("DELETE", f"/api/kernels/{self.id}")
        self.close()

    def close(self) -> None:
        """Close our sockets; the kernel runs on."""
        self.client.stop_channels()
        self.client.context.destroy()


class JupyterServer:
    """`jupyter server` on a free port, with a runtime folder and a home of its own; a context manager.

    Parameters
    ----------
    folder : Path
        One after the other may have the same: they share the runtime folder then.
    *flags : str
        Further flags, as on the command line.
    config : str
        Python for its configuration file.
    environment : mapping of str to str
        Variables on top of this process', for the server and its kernels.
    """

    #: What runs modules; the module, and how it is told whom to let in.
    program: tuple[str, ...] = (sys.executable, "-m")
    command: tuple[str, ...] = ("jupyter_server", f"--IdentityProvider.token={TOKEN}")

    def __init__(
        self, folder: Path, *flags: str, config: str = "", environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.folder = folder
        self.runtime = folder / "r"
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._url = ""
        # Over whatever proxy the environment names, this machine would not find itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.env = os.environ | {"JUPYTER_RUNTIME_DIR": str(self.runtime), "JUPYTER_DATA_DIR": str(folder / "data")}
        self.env |= environment
        if config:
            (folder / "config").mkdir(exist_ok=True)
            (folder / "config" / "jupyter_server_config.py").write_text(config)
            self.env["JUPYTER_CONFIG_DIR"] = str(folder / "config")
        with (folder / "jupyter.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(*self.program, *self.command, "--no-browser", "--allow-root"),
                    f"--ServerApp.root_dir={folder}",
                    *self._where(flags),
                    *flags,
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
            )

    def _where(self, flags: tuple[str, ...]) -> list[str]:
        """Return flags that say where to listen, on a free port. A unix socket goes with none, and none comes twice."""
        given = {flag.partition("=")[0] for flag in flags}
        if "--ServerApp.sock" in given:
            return []
        where = {"--ServerApp.ip": "127.0.0.1", "--ServerApp.port": "0"}
        return [f"{name}={value}" for name, value in where.items() if name not in given]

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        info = self.runtime / f"jpserver-{self.pid}.json"

        def answers() -> bool:
            assert self.process.poll() is None, f"The Jupyter server ended.\n{self.log()}"
            with contextlib.suppress(OSError, ValueError):
                self._url = json.loads(info.read_text())["url"].rstrip("/")
                self.request("GET", "/api/status")
                return True
            return False

        wait_until(answers, 60, lambda: f"the Jupyter server\n{self.log()}")

    @property
    def url(self) -> str:
        """With its base URL, without a slash at the end."""
        return self._url

    def request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
        )
        with self._opener.open(request, timeout=60) as response:
            text = response.read()
        return json.loads(text) if text else None

    def start_kernel(self, notebook: str = "") -> Kernel:
        """Start a kernel; that of a notebook runs in its folder."""
        body = {"name": "python3"} | ({"path": notebook} if notebook else {})
        return Kernel(self, self.request("POST", "/api/kernels", body)["id"])

    def kill(self) -> None:
        """SIGKILL: nothing in it gets a chance to clean up."""
        self.process.kill()
        self.process.wait(60)

    def log(self, size: int = 4000) -> str:
        return (self.folder / "jupyter.log").read_text(errors="replace")[-size:]

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
