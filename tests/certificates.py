"""Certificates for tests of TLS, made by the `openssl` command, and files for ``--ssl_config_file``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from serving_server.wire.messages import SSLConfig

__all__ = ["make_certificates", "ssl_config"]


def make_certificates(folder: Path) -> Path:
    """Fill a folder with ``<name>.pem`` and ``<name>.key``, and return it.

    ca and stranger_ca are authorities; server (of localhost and 127.0.0.1), client and store (of the hosts of Google
    Cloud Storage) are signed by the first, stranger by the second. Elliptic curves, but for rsa, which is signed by
    nobody.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificates with the openssl command, which is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def self_signed(name: str, *key: str) -> None:
        run("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2")

    self_signed("ca", *curve)
    self_signed("stranger_ca", *curve)
    self_signed("rsa", "-newkey", "rsa:2048", "-nodes")
    (folder / "here").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    (folder / "google").write_text("subjectAltName=DNS:www.googleapis.com,DNS:storage.googleapis.com\n")
    for name, authority, names in (
        ("server", "ca", "here"),
        ("client", "ca", "here"),
        ("stranger", "stranger_ca", "here"),
        ("store", "ca", "google"),
    ):
        run("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing, "-extfile", names)
    return folder


def ssl_config(certificates: Path, *, mutual: bool = False, **fields: str | bool) -> str:
    """Return the text of an SSLConfig of the server's certificate; further fields replace what is there."""
    config = SSLConfig(
        server_key=(certificates / "server.key").read_text(), server_cert=(certificates / "server.pem").read_text()
    )
    if mutual:
        config.custom_ca = (certificates / "ca.pem").read_text()
        config.client_verify = True
    for name, value in fields.items():
        setattr(config, name, value)
    return str(config)
