"""The servers of the foreign clients: each gRPC transport, without TLS and with it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.servers import TRANSPORTS, SharedServer


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Of "localhost" and 127.0.0.1, signed by itself."""

    path: Path
    key: Path


@dataclasses.dataclass(frozen=True)
class Target:
    """A server as clients see it; half_plus_two is there, version 2 is the latest.

    Attributes
    ----------
    endpoint : str
        host:port of gRPC.
    certificate : Path or None
        What to trust; None: no TLS.
    """

    endpoint: str
    certificate: Path | None

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.endpoint}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", made.key]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command: list[Any] = ["openssl", "req", "-x509", *key, *names, "-days", "2", "-out", made.path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


@pytest.fixture(scope="session", params=[name + tls for name in TRANSPORTS for tls in ("", "-tls")])
def target(
    request: pytest.FixtureRequest,
    shared_servers: Callable[..., SharedServer],
    certificate: Certificate,
    models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """Each transport, without TLS and with it."""
    transport, _, tls = request.param.partition("-")
    if not tls:
        yield Target(shared_servers(transport).grpc_endpoint, None)
        return
    server = SharedServer(
        models_dir,
        f"--grpc_transport={transport}",
        directory=tmp_path_factory.mktemp(f"tls-server-{transport}"),
        command=(sys.executable, str(Path(__file__).with_name("tls_server.py"))),
        env={"SERVING_TEST_CERTIFICATE": str(certificate.path), "SERVING_TEST_KEY": str(certificate.key)},
    )
    with server:
        leaks.allow(server.pid)
        server.serve("half_plus_two")
        yield Target(server.grpc_endpoint, certificate.path)
