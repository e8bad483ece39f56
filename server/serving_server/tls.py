r"""``--ssl_config_file``: TLS for gRPC, by TCP and by the unix socket, on either transport. REST has none.

The file is a text-format ``tensorflow.serving.SSLConfig`` (tensorflow_serving/config/ssl_config.proto) whose fields are
PEM *text*, not paths::

    server_key: "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"
    server_cert: "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n"
    custom_ca: "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n"
    client_verify: true

What is in it is checked once, here, with OpenSSL, so that both transports refuse the same files with the same words;
left to itself, gRPC core would start and then fail each handshake. No text of the file, which may be a key, gets into a
message or a log.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from google.protobuf import text_format

from serving_server.errors import InvalidArgumentError
from serving_server.text_files import TextFormatError, parse_text
from serving_server.wire import messages

__all__ = ["TlsConfig"]

#: RFC 9113 section 9.2.2 forbids the other kinds for HTTP/2 on TLS 1.2; TLS 1.3 has no weak ones.
_TLS_1_2_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclasses.dataclass(frozen=True, slots=True)
class TlsConfig:
    """A checked SSLConfig.

    Attributes
    ----------
    server_key, server_cert : bytes
        PEM; the certificate may be followed by its chain.
    client_ca : bytes or None
        PEM of the authorities that clients' certificates must come from; None: clients need none.
    """

    server_key: bytes = dataclasses.field(repr=False)
    server_cert: bytes = dataclasses.field(repr=False)
    client_ca: bytes | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_file(cls, path: str) -> TlsConfig:
        """Read and check a file.

        Raises
        ------
        NotFoundError, PermissionDeniedError, InvalidArgumentError
            Naming the file, and the field that is wrong.
        """
        config = _parse(path)

        def pem(field: str) -> bytes:
            text: str = getattr(config, field)
            if not text.strip():
                raise InvalidArgumentError(f"{path}: {field} is empty")
            if not text.isascii() or "-----BEGIN " not in text:
                raise InvalidArgumentError(f"{path}: {field} is not PEM text (it holds the text itself, not a path)")
            return text.encode("ascii")

        key, certificate = pem("server_key"), pem("server_cert")
        _check_certificates(certificate, f"{path}: server_cert")
        if config.custom_ca:
            _check_certificates(pem("custom_ca"), f"{path}: custom_ca")
        elif config.client_verify:
            raise InvalidArgumentError(f"{path}: client_verify needs custom_ca, the authority of the clients")
        found = cls(key, certificate, pem("custom_ca") if config.client_verify else None)
        try:
            found.context()
        except ssl.SSLError as error:
            raise InvalidArgumentError(f"{path}: {_key_problem(error)}") from None
        except _PassphraseError:
            raise InvalidArgumentError(f"{path}: server_key is encrypted; it must be without a passphrase") from None
        return found

    def context(self) -> ssl.SSLContext:
        """Return a server's context for HTTP/2: TLS 1.2 at least, client certificates required if there is `client_ca`.

        Raises
        ------
        ssl.SSLError
            When the key is none, or not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_TLS_1_2_CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        with _nameless_file(self.server_key) as key, _nameless_file(self.server_cert) as certificate:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        if self.client_ca is not None:
            context.load_verify_locations(cadata=self.client_ca.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _PassphraseError(Exception):
    """A key that asks for a passphrase, which OpenSSL would otherwise ask the terminal for."""


def _no_passphrase() -> str:
    raise _PassphraseError


def _parse(path: str) -> Any:
    name = messages.SSLConfig.DESCRIPTOR.full_name

    def parse(text: str) -> Any:
        try:
            return text_format.Parse(text, messages.SSLConfig())
        except text_format.ParseError as error:
            # Its message quotes the line, which may be a key.
            where = f"{path}:{error.GetLine() or 1}:{error.GetColumn() or 1}"
            fields = ", ".join(messages.SSLConfig.DESCRIPTOR.fields_by_name)
            text = f"Error parsing text-format {name}: {where}: not shown, it may be a key; the fields are {fields}"
            raise TextFormatError(text) from None

    return parse_text(path, name, parse)


def _check_certificates(pem: bytes, what: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii"))
    except ssl.SSLError:
        raise InvalidArgumentError(f"{what} is not a certificate in PEM") from None


def _key_problem(error: ssl.SSLError) -> str:
    # OpenSSL keeps a pair for each kind of key (RSA, EC); a key of another kind than the certificate's is half a pair.
    if error.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
        return "server_key is not the key of server_cert"
    if error.reason in {"EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"}:
        return f"server_cert is too weak for OpenSSL ({error.reason})"
    return "server_key is not a private key in PEM"


@contextmanager
def _nameless_file(data: bytes) -> Iterator[str]:
    """Path to a file of this content for this process only, because `ssl` takes a certificate and its key by path.

    In memory where the system can (`memfd_create`); elsewhere a temporary file that has no name any more.
    """
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "w+b")
    else:
        file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed below
    with file:
        file.write(data)
        file.flush()
        file.seek(0)  # /dev/fd shares the position on some systems
        yield f"/dev/fd/{file.fileno()}"
