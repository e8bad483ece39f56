"""Whom a load test asks: a served model, a model of the running instance, or any TensorFlow Serving endpoint."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from serving_server.signatures import Signature, parse_signatures
from serving_server.wire.messages import SignatureDefMap
from serving_workbench.errors import LoadError, PredictError, WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.load.job import GRPC, REST
from serving_workbench.savedmodel import default_signature_name, usable_signatures

__all__ = ["Target", "resolve"]

_METADATA_SECONDS = 10.0


@dataclass(frozen=True)
class Target:
    """One model behind one endpoint.

    Attributes
    ----------
    protocol : str
        ``grpc`` or ``rest``.
    address : str
        ``host:port``, or ``unix:/path`` of gRPC.
    model : str
    version : int or None
    tls : str or None
        PEM text of certificates to trust; "" for the system's; None: no TLS.
    """

    protocol: str
    address: str
    model: str
    version: int | None
    tls: str | None

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return f"'{self.model}'{version} at {self.address} ({'REST' if self.protocol == REST else 'gRPC'})"

    @property
    def rest_path(self) -> str:
        """Path of the model over REST, without a verb."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"/v1/models/{urllib.parse.quote(self.model, safe='')}{version}"

    def signature(self, wanted: str | None) -> Signature:
        """Ask for one signature of the model.

        Raises
        ------
        LoadError
            Nobody answers, or there is no such model or signature.
        """
        signatures = self._signatures()
        if not signatures:
            raise LoadError(f"{self} has no signature that can be called.", code="FAILED_PRECONDITION")
        name = wanted or default_signature_name(signatures)
        if name not in signatures:
            known = ", ".join(f"'{each}'" for each in signatures)
            raise LoadError(
                f"{self} has no signature '{name}'; its signatures are {known}.",
                code="INVALID_ARGUMENT",
                hint="Pass signature=<one of these>.",
            )
        return signatures[name]

    def _signatures(self) -> dict[str, Signature]:
        if self.protocol == REST:
            return self._rest_signatures()
        from serving_workbench.client import PredictClient  # grpc takes 0.1 s: only for those who ask

        credentials = None
        if self.tls is not None:
            import grpc

            credentials = grpc.ssl_channel_credentials(self.tls.encode() or None)
        try:
            with PredictClient(self.address, credentials) as client:
                return client.signatures(self.model, self.version, timeout=_METADATA_SECONDS)
        except PredictError as error:
            raise LoadError(f"{self} does not tell its signatures: {error.message}", code=error.code) from None

    def _rest_signatures(self) -> dict[str, Signature]:
        scheme = "http" if self.tls is None else "https"
        url = f"{scheme}://{self.address}{self.rest_path}/metadata"
        try:
            answer = json.loads(_get(url, self.tls))
            definitions = json_format.ParseDict(
                {"signature_def": answer["metadata"]["signature_def"]["signature_def"]},
                SignatureDefMap(),
                ignore_unknown_fields=True,
            )
        except urllib.error.HTTPError as error:
            text = error.read(300).decode("utf-8", "replace")
            raise LoadError(f"{self} does not tell its signatures: HTTP {error.code}: {text}", code="UNKNOWN") from None
        except OSError as error:
            raise LoadError(f"{self} does not answer: {error}", code="UNAVAILABLE") from None
        except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
            raise LoadError(
                f"{url} does not answer as TensorFlow Serving does: {type(error).__name__}: {error}", code="UNKNOWN"
            ) from None
        return usable_signatures(parse_signatures(definitions.signature_def))


def _get(url: str, tls: str | None) -> bytes:
    import ssl

    handlers: list[Any] = [urllib.request.ProxyHandler({})]  # a proxy of the environment would be the one loaded
    if tls is not None:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=tls or None)))
    with urllib.request.build_opener(*handlers).open(url, timeout=_METADATA_SECONDS) as answer:
        data: bytes = answer.read()
        return data


def resolve(
    target: str | ServedModel,
    *,
    model: str | None,
    protocol: str,
    version: int | None,
    instance: str,
    tls: bool | str | Path | None,
) -> Target:
    """Return whom `loadtest`'s arguments mean.

    Raises
    ------
    WorkbenchError
        An argument is wrong, no such server runs, or it does not serve the model.
    """
    if protocol not in (GRPC, REST):
        raise WorkbenchError(f"protocol={protocol!r} is neither 'grpc' nor 'rest'.")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise WorkbenchError(f"version={version!r} is no version number.")
    trusted = _trusted(tls)
    if isinstance(target, str) and (":" in target or "/" in target):
        address, secure = _address(target, protocol)
        if model is None:
            raise WorkbenchError(
                f"'{target}' is an endpoint, and no model of it is named.", hint="Pass model=<name of the model>."
            )
        return Target(protocol, address, model, version, "" if secure and trusted is None else trusted)
    if isinstance(target, str):
        found = connect(target, instance)
        assert isinstance(found, ServedModel)
        target = found
    if not isinstance(target, ServedModel):
        raise WorkbenchError(
            f"A load test asks a ServedModel, a model's name or 'host:port', not a {type(target).__name__}."
        )
    endpoint = target.grpc_endpoint if protocol == GRPC else target.rest_url
    return Target(protocol, _address(endpoint, protocol)[0], target.name, version, trusted)


def _trusted(tls: bool | str | Path | None) -> str | None:
    if tls is None or tls is False:
        return None
    if tls is True:
        return ""
    try:
        return Path(tls).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"tls={str(tls)!r} is no readable file of certificates (PEM): {error}") from None


def _address(endpoint: str, protocol: str) -> tuple[str, bool]:
    """Return ``host:port`` (or ``unix:/path``), and whether the URL asks for TLS."""
    if protocol == GRPC and endpoint.startswith("unix:"):
        return endpoint, False
    secure = endpoint.startswith("https://")
    rest = endpoint.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, _, port = rest.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise WorkbenchError(f"'{endpoint}' is no endpoint.", hint="Write host:port, as in 127.0.0.1:8500.")
    return rest, secure
