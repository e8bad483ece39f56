"""gRPC clients that others wrote do one suite against both transports, without TLS, with it, and by unix sockets."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_server
from tests.foreign.conftest import Target
from tests.foreign.tensorflow_clients import CLIENTS, TensorFlowClients, environment
from tests.servers import SharedServer

PROTOS = Path(serving_server.__file__).parent / "wire" / "protos"

NODE = ["node", CLIENTS / "node" / "client.js"]
NODE_PROTOS = [PROTOS, CLIENTS / "node"]

#: Seconds for one client to do all.
TIMEOUT = 120


def _suite(command: Sequence[str | Path], target: Target, cwd: Path | None = None, **more: Any) -> dict[str, Any]:
    """Run a client and return what it found."""
    done = _run(command, target, cwd, **more)
    assert done.returncode == 0, done.stderr
    return _found(done.stdout)


def _found(written: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.splitlines()[-1])
    return found


def _job(target: Target, **more: Any) -> str:
    certificate, key = target.pair or (None, None)
    job = {"authority": target.authority, "certificate": certificate, "key": key}
    return json.dumps({"endpoint": target.endpoint, **job, **more}, default=str)


def _run(
    command: Sequence[str | Path],
    target: Target,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    **more: Any,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, _job(target, **more)],
        cwd=cwd,
        env=environment() | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def _check(found: dict[str, Any], missing: str = "Latest(absent)", large: int = 2**20) -> None:
    assert found["answer"] == [3.5, 4.0]
    code, text = found["error"]
    assert code == 5
    assert text.startswith(f"Servable not found for request: {missing} (no model of that name")
    assert found["several"] == [[number * 0.5 + 3] for number in range(50)]
    values = (np.arange(large) % 1024).astype(np.float32) * np.float32(0.5) + np.float32(3)
    assert found["large"] == hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("client", ["grpcio_sync", "grpcio_aio", "pure_grpclib"])
def test_python(target: Target, client: str) -> None:
    _check(_suite([sys.executable, CLIENTS / f"{client}.py"], target))


def test_tensorflow_stubs(target: Target, tensorflow_clients: TensorFlowClients) -> None:
    _check(_found(tensorflow_clients.run("tensorflow_stubs.py", _job(target))))


def test_ovmsclient(target: Target) -> None:
    """It always names a version, 0 when none is given, which only OpenVINO's own server takes for the latest."""
    found = _suite([sys.executable, CLIENTS / "ovms.py"], target)
    _check(found, "Specific(absent, 2)")
    one = {"state": "AVAILABLE", "error_code": 0, "error_message": ""}
    assert found["status"] == {"2": one}
    assert found["metadata"] == {
        "model_version": 2,
        "inputs": {"x": {"shape": [-1], "dtype": "DT_FLOAT"}},
        "outputs": {"y": {"shape": [-1], "dtype": "DT_FLOAT"}},
    }


def test_min_tfs_client(grpc_server: SharedServer, min_tfs_client: Path) -> None:
    """It can do TLS, but its port is the only name that it can check the certificate for."""
    command = [sys.executable, "-S", CLIENTS / "min_tfs.py"]
    _check(_suite(command, Target(grpc_server), env={"PYTHONPATH": str(min_tfs_client)}), large=2**19)


def test_grpc_js(target: Target, node_modules: Path) -> None:
    _check(_suite(NODE, target, cwd=node_modules, protos=NODE_PROTOS))


# --- unix sockets and certificates ------------------------------------------------------------------------------------


def test_by_the_unix_socket(target: Target, node_modules: Path) -> None:
    endpoint = f"unix:{target.socket}"
    _check(_suite([sys.executable, CLIENTS / "grpcio_sync.py"], target, endpoint=endpoint))
    _check(_suite(NODE, target, cwd=node_modules, protos=NODE_PROTOS, endpoint=endpoint))


def test_without_the_certificate_that_is_wanted(mutual: Target, node_modules: Path) -> None:
    for command in ([sys.executable, CLIENTS / "pure_grpclib.py"], NODE):
        done = _run(command, mutual, cwd=node_modules, protos=NODE_PROTOS, certificate=None, key=None)
        assert done.returncode != 0
        assert not done.stdout
    assert "14 UNAVAILABLE" in done.stderr
