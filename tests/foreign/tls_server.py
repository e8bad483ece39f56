"""`python -m serving_server` whose gRPC port speaks TLS, until a flag does it: `tls_server.py <flags>`.

The certificate and the key are those of the environment, ``SERVING_TEST_CERTIFICATE`` and ``SERVING_TEST_KEY``.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import grpc

from serving_server import front
from serving_server.cli import main
from serving_server.options import ServerOptions
from serving_server.transports.grpc_http2 import GrpcHttp2Transport
from serving_server.transports.grpc_stock import GrpcioTransport
from serving_server.transports.services import Services

CERTIFICATE, KEY = (Path(os.environ[f"SERVING_TEST_{name}"]) for name in ("CERTIFICATE", "KEY"))


class _SecureGrpcio(GrpcioTransport):
    async def bind(self, address: str) -> int:
        credentials = grpc.ssl_server_credentials([(KEY.read_bytes(), CERTIFICATE.read_bytes())])
        return int(self._server.add_secure_port(address, credentials))


def _transport(options: ServerOptions, services: Services) -> GrpcHttp2Transport | GrpcioTransport:
    if options.grpc_transport == "grpcio":
        return _SecureGrpcio(services)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, KEY)
    return GrpcHttp2Transport(services, tls=context)


assert callable(front._grpc_transport)
front._grpc_transport = _transport
sys.exit(main())
