"""Who gets in by `--ssl_config_file`, on both transports: certificates, versions of TLS, ALPN; and REST beside it."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest

from serving_server.wire.messages import GetModelStatusRequest, GetModelStatusResponse
from tests.foreign.conftest import Target
from tests.foreign.raw import PREDICT
from tests.servers import TRANSPORTS

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
TIMEOUT = 60.0

secured = pytest.mark.parametrize(
    "target", [f"{transport}-{tls}" for transport in TRANSPORTS for tls in ("tls", "mtls")], indirect=True
)


def _ask(channel: grpc.Channel) -> str:
    """ "OK" or the code."""
    request = GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    call = channel.unary_unary(STATUS, GetModelStatusRequest.SerializeToString, GetModelStatusResponse.FromString)
    with channel:
        try:
            answer = call(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            return str(error.code().name)
    assert {status.version for status in answer.model_version_status} == {1, 2}
    return "OK"


def _channel(endpoint: str, authority: Path, pair: tuple[Path, Path] | None) -> grpc.Channel:
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    known = grpc.ssl_channel_credentials(authority.read_bytes(), key, certificate)
    return grpc.secure_channel(endpoint, known, [("grpc.ssl_target_name_override", "localhost")])


@secured
def test_by_tcp_and_by_the_unix_socket(target: Target) -> None:
    assert target.authority is not None
    for endpoint in (target.endpoint, f"unix:{target.socket}"):
        assert _ask(_channel(endpoint, target.authority, target.pair)) == "OK"
        assert _ask(grpc.insecure_channel(endpoint)) == "UNAVAILABLE"


@secured
def test_a_client_that_does_not_trust_the_server(target: Target, certificates: Path) -> None:
    assert _ask(_channel(target.endpoint, certificates / "stranger_ca.pem", target.pair)) == "UNAVAILABLE"


@pytest.mark.parametrize("name", [None, "stranger", "rsa"])
def test_clients_without_a_certificate_of_the_authority(mutual: Target, certificates: Path, name: str | None) -> None:
    pair = (certificates / f"{name}.pem", certificates / f"{name}.key") if name else None
    assert mutual.authority is not None
    for endpoint in (mutual.endpoint, f"unix:{mutual.socket}"):
        assert _ask(_channel(endpoint, mutual.authority, pair)) == "UNAVAILABLE"
    shown = ["--cert", pair[0], "--key", pair[1]] if pair else []
    for more in ([], ["--unix-socket", mutual.socket]):
        # With TLS 1.3 a client has sent its request before it learns of the refusal.
        command = ["curl", "-i", "-sS", "--noproxy", "*", "--tls-max", "1.2", "--cacert", mutual.authority, *shown]
        done = subprocess.run(
            [*command, *more, mutual.url + PREDICT], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 35, done.stderr  # SSL connect error
        assert not done.stdout


def _handshake(target: Target, context: ssl.SSLContext) -> bytes:
    """Return the first bytes that the server sends, none when it closes the connection."""
    assert target.authority is not None
    context.load_verify_locations(target.authority)
    if target.pair is not None:
        context.load_cert_chain(*target.pair)
    host, _, port = target.endpoint.rpartition(":")
    plain = socket.create_connection((host, int(port)), TIMEOUT)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        try:
            return secure.recv(9)
        except ConnectionResetError:
            return b""


@secured
def test_tls_1_2_and_1_3_with_h2_by_alpn_only(target: Target) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        assert _handshake(target, context)[3] == 4  # SETTINGS
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        assert _handshake(target, context) == b""
    except ssl.SSLError as error:
        assert "ALERT" in str(error.reason)  # noqa: PT017 - both ways of refusing are right


@secured
def test_tls_1_1_is_refused(target: Target) -> None:
    shown = ["-cert", target.pair[0], "-key", target.pair[1]] if target.pair else []
    command = ["openssl", "s_client", "-connect", target.endpoint, "-cipher", "ALL:@SECLEVEL=0", "-alpn", "h2", *shown]
    for version, connects in (("-tls1_1", False), ("-tls1_2", True)):
        done = subprocess.run([*command, version], input=b"", capture_output=True, timeout=60, check=False)
        assert (b"Cipher is (NONE)" not in done.stdout) == (done.returncode == 0) == connects, done.stderr


@secured
def test_rest_stays_without_tls_and_the_log_says_so(target: Target, certificates: Path) -> None:
    status, answer = target.server.rest("POST", "/v1/models/half_plus_two:predict", {"instances": [1.0]})
    assert (status, answer) == (200, {"predictions": [2.5 + 1.0]})
    log = target.server.log_text()
    assert f"serving grpc at {target.endpoint} with TLS" in log
    assert ("clients need a certificate" in log) == (target.pair is not None)
    assert "without TLS: --ssl_config_file is for gRPC" in log
    secret = (certificates / "server.key").read_text().splitlines()[1]
    assert secret not in log
