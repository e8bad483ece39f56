"""gRPC clients that others wrote do one suite against both transports, without TLS, with it, and by unix sockets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import serving_server
from tests.foreign.conftest import Target

CLIENTS = Path(__file__).with_name("clients")
PROTOS = Path(serving_server.__file__).parent / "wire" / "protos"

NODE = ["node", CLIENTS / "node" / "client.js"]
NODE_PROTOS = [PROTOS, CLIENTS / "node"]

#: Seconds for one client to do all.
TIMEOUT = 120


def _suite(command: Sequence[str | Path], target: Target, cwd: Path | None = None, **more: Any) -> dict[str, Any]:
    """Run a client and return what it found."""
    done = _run(command, target, cwd, **more)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(
    command: Sequence[str | Path], target: Target, cwd: Path | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    certificate, key = target.pair or (None, None)
    job = {"authority": target.authority, "certificate": certificate, "key": key}
    text = json.dumps({"endpoint": target.endpoint, **job, **more}, default=str)
    # A proxy of the environment is not for this machine's own address.
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [*command, text], cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def _check(found: dict[str, Any], missing: str = "Latest(absent)") -> None:
    assert found["answer"] == [3.5, 4.0]
    code, text = found["error"]
    assert code == 5
    assert text.startswith(f"Servable not found for request: {missing} (no model of that name")
    assert found["several"] == [[number * 0.5 + 3] for number in range(50)]
    large = (np.arange(2**20) % 1024).astype(np.float32) * np.float32(0.5) + np.float32(3)
    assert found["large"] == hashlib.sha256(large.tobytes()).hexdigest()


@pytest.mark.parametrize(
    "client",
    ["grpcio_sync", "grpcio_aio", "pure_grpclib", pytest.param("tensorflow_stubs", marks=pytest.mark.slow)],
)
def test_python(target: Target, client: str) -> None:
    _check(_suite([sys.executable, CLIENTS / f"{client}.py"], target))


def test_ovmsclient(target: Target) -> None:
    """It always names a version, 0 when none is given, which only OpenVINO's own server takes for the latest."""
    _check(_suite([sys.executable, CLIENTS / "ovms.py"], target), "Specific(absent, 2)")


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """Folder with the packages of the Node.js client, installed once and kept in pytest's cache."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        _cannot(f"{' and '.join(missing)} not installed (Debian: nodejs, npm)")
    assert pytestconfig.cache is not None
    wanted = (CLIENTS / "node" / "package.json").read_bytes()
    folder = pytestconfig.cache.mkdir("node-" + hashlib.sha256(wanted).hexdigest()[:16])
    if not (folder / "installed").exists():
        (folder / "package.json").write_bytes(wanted)
        # No scripts of packages are run, and a registry out of reach is not waited for.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=20000"]
        try:
            done = subprocess.run(
                [*command, "--fetch-retries=1"], cwd=folder, capture_output=True, text=True, timeout=150, check=False
            )
        except subprocess.TimeoutExpired:
            _cannot("npm install did not end within 150 s")
        if done.returncode != 0:
            _cannot(f"npm install failed: {done.stderr[-500:]}")
        (folder / "installed").touch()
    return folder


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
