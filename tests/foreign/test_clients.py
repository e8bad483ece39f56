"""gRPC clients that others wrote do one suite against both transports, without TLS and with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_server
from tests.foreign.conftest import Target

CLIENTS = Path(__file__).with_name("clients")
PROTOS = Path(serving_server.__file__).parent / "wire" / "protos"

#: Seconds for one client to do all.
TIMEOUT = 120


def _suite(command: Sequence[str | Path], target: Target, cwd: Path | None = None, **more: Any) -> dict[str, Any]:
    """Run a client and return what it found."""
    certificate = str(target.certificate) if target.certificate else None
    job = json.dumps({"endpoint": target.endpoint, "certificate": certificate, **more})
    # A proxy of the environment is not for this machine's own address.
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [*command, job], cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


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


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """Folder with the packages of the Node.js client, installed once and kept in pytest's cache."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    assert pytestconfig.cache is not None
    wanted = (CLIENTS / "node" / "package.json").read_bytes()
    folder = pytestconfig.cache.mkdir("node-" + hashlib.sha256(wanted).hexdigest()[:16])
    if not (folder / "installed").exists():
        (folder / "package.json").write_bytes(wanted)
        # No scripts of packages are run, and a registry out of reach is not waited for.
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=20000"]
        try:
            done = subprocess.run(
                [*command, "--fetch-retries=1"], cwd=folder, capture_output=True, text=True, timeout=150, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip("npm install did not end within 150 s")
        if done.returncode != 0:
            pytest.skip(f"npm install failed: {done.stderr[-500:]}")
        (folder / "installed").touch()
    return folder


def test_grpc_js(target: Target, node_modules: Path) -> None:
    protos = [str(PROTOS), str(CLIENTS / "node")]
    _check(_suite(["node", CLIENTS / "node" / "client.js"], target, cwd=node_modules, protos=protos))
