"""What `--ssl_config_file` takes and refuses; `tests.foreign` tests connections by it, on both transports."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from serving_server.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, ServingError
from serving_server.tls import TlsConfig
from tests.certificates import ssl_config


def _file(folder: Path, text: str) -> str:
    path = folder / "ssl.pbtxt"
    path.write_text(text)
    return str(path)


def _refused(path: str) -> ServingError:
    with pytest.raises(ServingError) as found:
        TlsConfig.from_file(path)
    assert found.value.message.count(path) == 1
    assert "\n" not in found.value.message
    return found.value


def test_a_server_s_certificate(certificates: Path, tmp_path: Path) -> None:
    config = TlsConfig.from_file(_file(tmp_path, ssl_config(certificates)))
    context = config.context()
    assert config.client_ca is None
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert all("ECDHE" in cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3")


def test_certificates_of_clients(certificates: Path, tmp_path: Path) -> None:
    context = TlsConfig.from_file(_file(tmp_path, ssl_config(certificates, mutual=True))).context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


def test_an_authority_alone_asks_clients_for_nothing(certificates: Path, tmp_path: Path) -> None:
    text = ssl_config(certificates, mutual=True, client_verify=False)
    assert TlsConfig.from_file(_file(tmp_path, text)).context().verify_mode is ssl.CERT_NONE


def test_a_chain_of_certificates(certificates: Path, tmp_path: Path) -> None:
    chain = (certificates / "server.pem").read_text() + (certificates / "ca.pem").read_text()
    assert TlsConfig.from_file(_file(tmp_path, ssl_config(certificates, server_cert=chain))).context()


def test_nothing_of_a_key_is_shown_or_left_behind(certificates: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir(mode=0o700)
    config = TlsConfig.from_file(_file(tmp_path, ssl_config(certificates)))
    config.context()
    assert repr(config) == "TlsConfig()"
    assert [path.name for path in tmp_path.iterdir() if stat.S_ISREG(path.stat().st_mode)] == ["ssl.pbtxt"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    error = _refused(str(tmp_path / "absent"))
    assert isinstance(error, NotFoundError)
    assert error.message.endswith("; No such file or directory")
    error = _refused(str(tmp_path))
    assert isinstance(error, InvalidArgumentError | PermissionDeniedError)


_LOOKS_LIKE_A_KEY = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg"


@pytest.mark.parametrize(
    "text",
    [
        f'server_key: "-----BEGIN PRIVATE KEY----- {_LOOKS_LIKE_A_KEY}',
        f"-----BEGIN PRIVATE KEY-----\n{_LOOKS_LIKE_A_KEY}\n",
        f'{_LOOKS_LIKE_A_KEY}: "x"',
        f"client_verify: {_LOOKS_LIKE_A_KEY}",
        f'server_key: "{_LOOKS_LIKE_A_KEY}" server_key: "{_LOOKS_LIKE_A_KEY}"',
    ],
)
def test_text_that_is_no_ssl_config(tmp_path: Path, text: str) -> None:
    error = _refused(_file(tmp_path, text))
    assert error.message.startswith("Error parsing text-format tensorflow.serving.SSLConfig: ")
    assert _LOOKS_LIKE_A_KEY not in error.message
    assert "the fields are server_key, server_cert, custom_ca, client_verify" in error.message


def _encrypted(certificates: Path) -> str:
    command = ["openssl", "pkey", "-in", certificates / "server.key", "-aes128", "-passout", "pass:secret"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


_BROKEN = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"server_key": ""}, "server_key is empty"),
        ({"server_cert": " \n"}, "server_cert is empty"),
        ({"server_key": "/etc/ssl/key.pem"}, "server_key is not PEM text (it holds the text itself, not a path)"),
        ({"server_cert": "/etc/ssl/cert.pem"}, "server_cert is not PEM text (it holds the text itself, not a path)"),
        ({"server_cert": _BROKEN.format("CERTIFICATE")}, "server_cert is not a certificate in PEM"),
        ({"server_cert": "server.key"}, "server_cert is not a certificate in PEM"),
        ({"server_key": _BROKEN.format("PRIVATE KEY")}, "server_key is not a private key in PEM"),
        ({"server_key": "server.pem"}, "server_key is not a private key in PEM"),
        ({"server_key": "client.key"}, "server_key is not the key of server_cert"),
        ({"server_key": "rsa.key"}, "server_key is not the key of server_cert"),
        ({"server_key": "encrypted"}, "server_key is encrypted; it must be without a passphrase"),
        ({"client_verify": True}, "client_verify needs custom_ca, the authority of the clients"),
        ({"client_verify": True, "custom_ca": "ca.key"}, "custom_ca is not a certificate in PEM"),
        ({"custom_ca": "x"}, "custom_ca is not PEM text (it holds the text itself, not a path)"),
    ],
)
def test_fields_that_are_wrong(certificates: Path, tmp_path: Path, fields: dict[str, str | bool], told: str) -> None:
    texts: dict[str, str | bool] = {}
    for name, value in fields.items():
        if value == "encrypted":
            texts[name] = _encrypted(certificates)
        elif isinstance(value, str) and value.endswith((".key", ".pem")) and "/" not in value:
            texts[name] = (certificates / value).read_text()
        else:
            texts[name] = value
    path = _file(tmp_path, ssl_config(certificates, **texts))
    error = _refused(path)
    assert error.message == f"{path}: {told}"
    assert isinstance(error, InvalidArgumentError)


def test_a_server_does_not_start_with_a_bad_file(certificates: Path, tmp_path: Path) -> None:
    path = _file(tmp_path, ssl_config(certificates, server_key=(certificates / "client.key").read_text()))

    def start(*flags: str) -> str:
        command = [sys.executable, "-m", "serving_server", "--model_base_path=/m", f"--ssl_config_file={path}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 255
        return done.stdout

    failed = "Failed to start server. Error: INVALID_ARGUMENT: "
    assert start() == f"{failed}{path}: server_key is not the key of server_cert\n"
    assert start("--use_alts_credentials") == (
        f"{failed}--use_alts_credentials and --ssl_config_file exclude each other\n"
    )
