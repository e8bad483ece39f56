"""Serving processes for tests: started by the command line, found by their record, watched while they come up.

    with ServerProcess("--model_name=m", f"--model_base_path={path}", directory=tmp_path) as server:
        server.wait_available("m")
        status, answer = server.rest("POST", "/v1/models/m:predict", {"instances": [1.0]})
        outputs = server.predict("m", {"x": np.float32([1.0])})

Errors of the process itself are AssertionErrors that end with the tail of its log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from serving_server.flags import FLAGS

__all__ = [
    "DEFAULT_TRANSPORT",
    "INTERVAL",
    "TRANSPORTS",
    "ServerProcess",
    "SharedServer",
    "port_in_use",
    "wait_until",
]

#: Values of ``--grpc_transport``. They answer alike, so what is about gRPC is tested on both.
TRANSPORTS = ("own", "grpcio")
#: What a server has when nobody says.
DEFAULT_TRANSPORT = next(str(flag.default) for flag in FLAGS if flag.name == "grpc_transport")

#: Seconds between two looks while waiting for a condition.
INTERVAL = 0.01

_SERVER = (sys.executable, "-m", "serving_server")


def wait_until(
    condition: Callable[[], Any], timeout: float = 60.0, what: str | Callable[[], str] = "the condition"
) -> Any:
    """Return the first true value of `condition()`; AssertionError after `timeout` seconds, saying what was awaited.

    `what` may be a function, called at the end only: for the last thing seen.
    """
    until = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"Waited {timeout:g} s in vain for {what() if callable(what) else what}.")
        time.sleep(INTERVAL)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ServerProcess:
    """One `python -m serving_server`, on free ports of the loopback interface.

    Parameters
    ----------
    *flags : str
        Further flags, as on the command line.
    directory : Path
        Folder of the record and the log; made when missing.
    record : Path, optional
        Another place for the record (two servers on one record, say).
    lifeline : bool
        Give the server a pipe that ends it when the test process ends, even by SIGKILL.
    env : mapping, optional
        Added to the environment.
    command : sequence of str, optional
        Another program in place of `python -m serving_server`.
    """

    def __init__(
        self,
        *flags: str,
        directory: Path,
        record: Path | None = None,
        lifeline: bool = True,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = _SERVER,
    ) -> None:
        self.directory = directory
        self.record_path = record or directory / "server.json"
        self.log_path = directory / "server.log"
        self.record: dict[str, Any] = {}
        self._flags = [
            "--bind_address=127.0.0.1",
            "--ephemeral_ports=true",
            f"--record_file={self.record_path}",
            *flags,
        ]
        self._command = list(command)
        self._env = os.environ | dict(env or {})
        self._with_lifeline = lifeline
        self._lifeline: int | None = None
        self._channel: Any = None
        self.process: subprocess.Popen[bytes] | None = None

    # --- life ---

    def launch(self) -> Self:
        """Start the process and return at once; `start` also waits for its ports."""
        assert self.process is None, "A ServerProcess starts once; make another."
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = self._flags
        inherited: tuple[int, ...] = ()
        if self._with_lifeline:
            read_end, self._lifeline = os.pipe()
            inherited = (read_end,)
            flags = [*flags, f"--lifeline_fd={read_end}"]
        try:
            with self.log_path.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._command, *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    pass_fds=inherited,
                    start_new_session=True,  # a Ctrl-C on the tests is ours to handle, in the fixtures' order
                )
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        return self

    def start(self, timeout: float = 60.0) -> Self:
        """Launch and wait for the record, which means that the ports are bound."""
        self.launch()
        self.wait_record(timeout)
        return self

    def wait_record(self, timeout: float = 60.0) -> dict[str, Any]:
        """Read the record once this process has written it; fails at once when the process ends before."""

        def written() -> bool:
            self.check_alive("before it wrote its record")
            with contextlib.suppress(FileNotFoundError):
                self.record = json.loads(self.record_path.read_text())
            return self.record.get("pid") == self.pid

        wait_until(written, timeout, lambda: f"the record {self.record_path} of pid {self.pid}\n{self.log_tail()}")
        return self.record

    def check_alive(self, when: str = "unexpectedly") -> None:
        """AssertionError with the log when the process has ended."""
        assert self.process is not None, "not started"
        code = self.process.poll()
        assert code is None, f"The server ended {when}, with code {code}.\n{self.log_tail()}"

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the end of the process and return its exit code."""
        assert self.process is not None, "not started"
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"pid {self.pid} still runs after {timeout:g} s.\n{self.log_tail()}") from error

    def stop(self, timeout: float = 60.0) -> int | None:
        """End the process by SIGTERM and return its exit code; does nothing more when it is called again.

        AssertionError when it takes longer than `timeout`; its whole tree is killed then. A process that it orphans
        is left for the leak fixture to report.
        """
        self._close_channel()
        process = self.process
        try:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout)
                except subprocess.TimeoutExpired as error:
                    self.kill_tree()
                    message = f"pid {process.pid} did not end {timeout:g} s after SIGTERM.\n{self.log_tail()}"
                    raise AssertionError(message) from error
        finally:
            self.cut_lifeline()
        return process.returncode if process is not None else None

    def cut_lifeline(self) -> None:
        """Close our end of the lifeline, as the end of the owner would."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def kill_tree(self) -> None:
        """SIGKILL to the process and its descendants, and wait for them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            tree = [root, *root.children(recursive=True)]
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(tree[1:], timeout=60)
        if self.process is not None:
            self.process.wait(60)

    def __enter__(self) -> Self:
        return self if self.process else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- facts ---

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def grpc_endpoint(self) -> str:
        """host:port"""
        endpoint: str = self.record["endpoints"]["grpc"]
        return endpoint

    @property
    def rest_url(self) -> str:
        """http://host:port"""
        url: str = self.record["endpoints"]["rest"]
        return url

    @property
    def token(self) -> str:
        token: str = self.record["token"]
        return token

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """End of the log, with a heading: for messages of failures."""
        text = self.log_text().splitlines()[-lines:]
        return "\n".join([f"--- end of {self.log_path} ---", *text, "---"])

    # --- REST ---

    def rest(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One REST request: (status, parsed JSON or else text). `body` is bytes or what JSON can say."""
        address = urllib.parse.urlsplit(self.rest_url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=timeout)
        return _exchange(connection, method, path, body, headers or {})

    # --- gRPC ---

    def channel(self) -> Any:
        """The `grpc.Channel` to this server; one, closed by `stop`."""
        if self._channel is None:
            import grpc

            unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            self._channel = grpc.insecure_channel(self.grpc_endpoint, options=unlimited)
        return self._channel

    def call(self, method: str, request: Any, response_class: Any, timeout: float = 60.0) -> Any:
        """One unary call, for instance of "/tensorflow.serving.PredictionService/Predict"; raises `grpc.RpcError`."""
        stub = self.channel().unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response_class.FromString
        )
        return stub(request, timeout=timeout)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: int | None = None,
        signature: str = "",
        timeout: float = 60.0,
    ) -> dict[str, Any]:
        """Predict over gRPC: NumPy arrays in and out, by alias; raises `grpc.RpcError`."""
        return self.predict_versioned(model, inputs, version, signature, timeout)[0]

    def predict_versioned(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: int | None = None,
        signature: str = "",
        timeout: float = 60.0,
    ) -> tuple[dict[str, Any], int]:
        """The same, with the version that the answer names."""
        import numpy as np

        from serving_server.tensors import to_array, to_proto
        from serving_server.wire.messages import PredictRequest, PredictResponse

        request = PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version is not None:
            request.model_spec.version.value = version
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(to_proto(np.asarray(value)))
        response = self.call("/tensorflow.serving.PredictionService/Predict", request, PredictResponse, timeout)
        outputs = {alias: to_array(tensor) for alias, tensor in response.outputs.items()}
        return outputs, response.model_spec.version.value

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # --- control channel ---

    def control(
        self, method: str, path: str, body: Any = None, token: str | None = None, timeout: float = 60.0
    ) -> tuple[int, Any]:
        """One request on the control channel; `path` without the prefix "/control/v1". Another `token` on request."""
        where = self.record["control"]
        if "unix" in where:
            connection: http.client.HTTPConnection = _UnixConnection(where["unix"], timeout)
        else:
            host, port = where["tcp"]
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return _exchange(connection, method, "/control/v1" + path, body, headers)

    def put_model(self, name: str, base_path: Path, **settings: Any) -> dict[str, Any]:
        """Add or change a model (`policy`, `batching`); returns its state without waiting for a version."""
        status, answer = self.control("PUT", f"/models/{name}", {"base_path": str(base_path), **settings})
        assert status == 200, f"PUT of model {name} answered {status}: {answer}\n{self.log_tail()}"
        model: dict[str, Any] = answer
        return model

    def model(self, name: str) -> dict[str, Any]:
        """The model's state, as the control channel shows it."""
        status, answer = self.control("GET", f"/models/{name}")
        assert status == 200, f"GET of model {name} answered {status}: {answer}"
        model: dict[str, Any] = answer
        return model

    def versions(self, name: str) -> dict[int, dict[str, Any]]:
        """Version number -> its entry of `model`."""
        return {entry["version"]: entry for entry in self.model(name)["versions"]}

    def wait_available(self, name: str, *versions: int, timeout: float = 60.0, retries: bool = False) -> dict[str, Any]:
        """Wait until all these versions (any one, when none is given) are AVAILABLE, and return the model's state.

        Fails at once when the server ends, or when a version that is waited for shows an error; with `retries` only
        when it has ENDed with one.
        """
        seen: dict[str, Any] = {}

        def available() -> bool:
            self.check_alive(f"while {name} was loading")
            status, answer = self.control("GET", f"/models/{name}")
            seen.update(status=status, answer=answer)
            if status != 200:
                return False
            entries = {entry["version"]: entry for entry in answer["versions"]}
            wanted = versions or tuple(entries)
            for version in wanted:
                entry = entries.get(version, {})
                failed = entry.get("error_code", "OK") != "OK" and not (retries and entry["state"] != "END")
                assert not failed, f"Version {version} of {name} failed: {entry}\n{self.log_tail()}"
            states = [entries.get(version, {}).get("state") == "AVAILABLE" for version in wanted]
            return all(states) if versions else any(states)

        wait_until(available, timeout, lambda: f"{name} {versions or ''} AVAILABLE; last: {seen}\n{self.log_tail()}")
        state: dict[str, Any] = seen["answer"]
        return state


class SharedServer(ServerProcess):
    """A server of the whole session: models of `tests.models` are loaded when a test first asks for them."""

    def __init__(self, models_dir: Path, *flags: str, **options: Any) -> None:
        super().__init__(*flags, **options)
        self._models_dir = models_dir
        self.served: set[str] = set()

    def serve(self, name: str) -> str:
        """Load all versions of the model, wait until they are AVAILABLE, and return its name."""
        if name not in self.served:
            base_path = self._models_dir / name
            self.put_model(name, base_path, policy={"all": {}})
            self.wait_available(name, *(int(folder.name) for folder in base_path.iterdir()))
            self.served.add(name)
        return name


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: Mapping[str, str]
) -> tuple[int, Any]:
    payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, path, payload, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        text = response.read()
    try:
        return response.status, json.loads(text) if text else None
    except ValueError:
        return response.status, text.decode(errors="replace")


@contextlib.contextmanager
def port_in_use() -> Iterator[int]:
    """A port of the loopback interface that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]
