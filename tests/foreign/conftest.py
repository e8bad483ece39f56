"""The servers of the foreign clients: each gRPC transport, without TLS, with it, and with certificates of clients."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.certificates import ssl_config
from tests.foreign.packages import min_tfs_packages, node_packages
from tests.foreign.tensorflow_clients import TensorFlowClients
from tests.servers import TRANSPORTS, SharedServer

#: What every client is tried with. grpcio does TLS by itself, so there the one with certificates of clients stands for
#: both; `test_tls` asks the other, too.
TARGETS = [name + tls for name in TRANSPORTS for tls in ("", "-tls", "-mtls") if name + tls != "grpcio-tls"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A server as clients see it; half_plus_two is there, version 2 is the latest.

    Attributes
    ----------
    server : SharedServer
    authority : Path or None
        Certificate to trust; None: no TLS.
    pair : tuple of Path or None
        Certificate and key of the client; None: it needs none.
    """

    server: SharedServer
    authority: Path | None = None
    pair: tuple[Path, Path] | None = None

    @property
    def endpoint(self) -> str:
        """host:port"""
        return self.server.grpc_endpoint

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self.server.directory / "grpc.sock"

    @property
    def scheme(self) -> str:
        return "https" if self.authority else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.endpoint}"


@pytest.fixture(scope="session")
def targets(
    shared_servers: Callable[..., SharedServer],
    certificates: Path,
    models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Target]]:
    """`targets("own-mtls")` is that target; its server starts when it is first asked for."""
    started: dict[str, SharedServer] = {}
    with contextlib.ExitStack() as stack:

        def secured(name: str, transport: str, *, mutual: bool) -> SharedServer:
            if name not in started:
                directory = tmp_path_factory.mktemp(name)
                config = directory / "ssl.pbtxt"
                config.write_text(ssl_config(certificates, mutual=mutual))
                server = SharedServer(
                    models_dir,
                    f"--grpc_transport={transport}",
                    f"--ssl_config_file={config}",
                    f"--grpc_socket_path={directory / 'grpc.sock'}",
                    directory=directory,
                )
                stack.callback(server.stop)
                server.start()
                leaks.allow(server.pid)
                server.serve("half_plus_two")
                started[name] = server
            return started[name]

        def get(name: str) -> Target:
            transport, _, tls = name.partition("-")
            if not tls:
                return Target(shared_servers(transport))
            mutual = tls == "mtls"
            pair = (certificates / "client.pem", certificates / "client.key") if mutual else None
            return Target(secured(name, transport, mutual=mutual), certificates / "ca.pem", pair)

        yield get


@pytest.fixture(scope="session", params=TARGETS)
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    """`TARGETS`: transports without TLS, with it, and with certificates of clients."""
    return targets(request.param)


@pytest.fixture(scope="session", params=TRANSPORTS)
def mutual(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    """The targets that want certificates of clients."""
    return targets(f"{request.param}-mtls")


@pytest.fixture(scope="session")
def tensorflow_clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorFlowClients]:
    """Runs the clients that import TensorFlow."""
    with TensorFlowClients(tmp_path_factory.mktemp("tensorflow-clients")) as clients:
        leaks.allow(clients.pid)
        yield clients


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    """Folder to run the Node.js clients in."""
    return node_packages(pytestconfig)


@pytest.fixture(scope="session")
def min_tfs_client(pytestconfig: pytest.Config) -> Path:
    """Folder that is all of sys.path for min-tfs-client."""
    return min_tfs_packages(pytestconfig)
