"""Client of the server's private control channel: HTTP/1.1 and JSON over a unix socket or loopback TCP.

One short connection per request: the channel is used a few times a second at most, and a connection kept open would
have to be guarded against threads, forks and restarts of the server.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, urlencode

from serving_workbench.errors import ControlError
from serving_workbench.records import Record

__all__ = ["ControlClient", "UnixConnection"]

#: What the server maps codes to, for answers whose body names none.
_CODE_BY_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}
_PREFIX = "/control/v1"
_MAX_ANSWER = 64 << 20
_NO_BODY = object()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; "localhost" only fills the Host header."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ControlClient:
    """Requests to one server.

    Parameters
    ----------
    address : tuple
        ``("unix", path)`` or ``("tcp", host, port)``.
    token : str
        Bearer token of the server's record.
    timeout : float
        Seconds for each request, connecting included.

    Notes
    -----
    Every method raises `ControlError` carrying the gRPC status name: the server's own, ``UNAVAILABLE`` when nothing
    answers at the address, ``DEADLINE_EXCEEDED`` when it answers too late. Safe to use from several threads.
    """

    def __init__(self, address: tuple[str, str] | tuple[str, str, int], token: str, timeout: float = 10.0) -> None:
        self._address = address
        self._token = token
        self._timeout = timeout

    @classmethod
    def of(cls, record: Record, timeout: float = 10.0) -> ControlClient:
        """Return the client for the server of a record."""
        return cls(record.control, record.token, timeout)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._address[0] == "unix":
            return UnixConnection(self._address[1], timeout)
        _, host, port = self._address  # type: ignore[misc]  # the records module has checked its length
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def request(self, method: str, path: str, body: object = _NO_BODY, *, patience: float = 0.0) -> Any:
        """Send one request; return the decoded JSON answer (None when it is empty).

        A `body` of None is JSON's null, which is not the same as none.
        `patience` are seconds that the server itself may wait before it answers.
        """
        timeout = self._timeout + patience
        connection = self._connection(timeout)
        data = None if body is _NO_BODY else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Connection": "close"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        where = f"{method} {path} at {':'.join(str(part) for part in self._address)}"
        try:
            connection.request(method, _PREFIX + path, body=data, headers=headers)
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER)
        except TimeoutError as error:
            raise ControlError(
                f"The server did not answer within {timeout:g} s ({where}).",
                code="DEADLINE_EXCEEDED",
                hint="It may be busy or stopped: sw.logs() shows its log, sw.stop() ends it.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(f"The server does not answer: {error} ({where}).", code="UNAVAILABLE") from error
        finally:
            connection.close()
        return self._decoded(answer.status, content, where)

    def _decoded(self, status: int, content: bytes, where: str) -> Any:
        try:
            answer = json.loads(content) if content else None
        except ValueError as error:
            raise ControlError(
                f"The answer is no JSON: {content[:80]!r} ({where}, HTTP {status}).", code="INTERNAL"
            ) from error
        if 200 <= status < 300:
            return answer
        details = answer if isinstance(answer, dict) else {}
        code = str(details.get("code") or _CODE_BY_HTTP.get(status, "UNKNOWN"))
        raise ControlError(str(details.get("error") or f"HTTP {status} ({where})"), code=code)

    # One method per route, in the order of the server's documentation.

    def identity(self) -> dict[str, Any]:
        """Who answers: ``instance_id``, ``pid``, ``create_time``, ``server_version``, ``api_version``."""
        return dict(self.request("GET", "/identity"))

    def status(self) -> dict[str, Any]:
        """Endpoints, forkserver, front process and every model with its versions."""
        return dict(self.request("GET", "/status"))

    def model(self, name: str) -> dict[str, Any]:
        """One model with its policy, serving version, batching and versions (highest first)."""
        return dict(self.request("GET", _model(name)))

    def put_model(self, name: str, base_path: str, **options: Any) -> dict[str, Any]:
        """Add or change a model; `options` are ``policy`` and ``batching``. Idempotent."""
        return dict(self.request("PUT", _model(name), {"base_path": base_path, **options}))

    def delete_model(self, name: str) -> None:
        """Stop serving a model; its versions unload in the background."""
        self.request("DELETE", _model(name))

    def put_policy(self, name: str, policy: dict[str, Any]) -> dict[str, Any]:
        """Set the version policy: ``{"latest": {"num_versions": 1}}``, ``{"specific": {"versions": [1]}}``..."""
        return dict(self.request("PUT", f"{_model(name)}/policy", policy))

    def labels(self, name: str) -> dict[str, int]:
        """Return the labels of a model: which version each points at."""
        return dict(self.request("GET", f"{_model(name)}/labels"))

    def put_labels(self, name: str, labels: dict[str, int]) -> dict[str, Any]:
        """Put other labels in place of all labels of a model."""
        return dict(self.request("PUT", f"{_model(name)}/labels", labels))

    def hold(self, name: str, version: int) -> dict[str, Any]:
        """Let a version load when it appears without becoming the one that answers unversioned requests."""
        return dict(self.request("PUT", f"{_model(name)}/versions/{version}/hold"))

    def release(self, name: str, version: int) -> dict[str, Any]:
        """End a hold: the version becomes an ordinary one."""
        return dict(self.request("DELETE", f"{_model(name)}/versions/{version}/hold"))

    def poll(self, name: str) -> dict[str, Any]:
        """Look into the model's folder now instead of at the next poll."""
        return dict(self.request("POST", f"{_model(name)}/poll"))

    def traffic(self, name: str) -> dict[str, Any]:
        """Return how a model's requests are split, what each version got, and when that changed."""
        return dict(self.request("GET", f"{_model(name)}/traffic"))

    def put_traffic(self, name: str, weights: dict[str, float], *, seconds: float, **options: Any) -> dict[str, Any]:
        """Split a model's requests by weights, once all versions are loaded; waits at most `seconds` for that.

        `options` are ``key``, the name of a header (left out: as before; None: none), ``exposures`` and ``slo_ms``.
        """
        body = {"weights": weights, "seconds": seconds, **options}
        return dict(self.request("PUT", f"{_model(name)}/traffic", body, patience=seconds))

    def delete_traffic(self, name: str) -> dict[str, Any]:
        """End the split of a model's requests. Idempotent."""
        return dict(self.request("DELETE", f"{_model(name)}/traffic"))

    def exposures(self, name: str, after: int = 0, limit: int | None = None) -> dict[str, Any]:
        """Return a page of the latest requests of a split that have ended, by column, and the number of the ``last``.

        They are the oldest remembered ones with numbers above `after`, 10,000 unless `limit` says otherwise (100,000 at
        most); `serving_workbench.exposures` reads on.
        """
        query = f"after={after}" + ("" if limit is None else f"&limit={limit}")
        return dict(self.request("GET", f"{_model(name)}/traffic/exposures?{query}"))

    def ramp(self, name: str) -> dict[str, Any] | None:
        """Return the last ramp of a model, running or over; None when there was none."""
        return _optional(self.request("GET", f"{_model(name)}/ramp")["ramp"])

    def put_ramp(self, name: str, plan: dict[str, Any], *, seconds: float) -> dict[str, Any] | None:
        """Begin a ramp; waits at most `seconds` until its version is loaded."""
        body = {**plan, "seconds": seconds}
        return _optional(self.request("PUT", f"{_model(name)}/ramp", body, patience=seconds)["ramp"])

    def change_ramp(self, name: str, action: str) -> dict[str, Any] | None:
        """Pause, resume or abort the ramp of a model."""
        method, path = ("DELETE", "ramp") if action == "abort" else ("POST", f"ramp/{action}")
        return _optional(self.request(method, f"{_model(name)}/{path}")["ramp"])

    def ramp_journal(self, name: str) -> list[dict[str, Any]]:
        """Return the events of all ramps of a model, oldest first."""
        return list(self.request("GET", f"{_model(name)}/ramp/journal")["events"])

    def mirror(self, name: str) -> dict[str, Any] | None:
        """Return what copies a model's requests, or did last, with its counts; None when nothing ever did."""
        return _optional(self.request("GET", f"{_model(name)}/mirror"))

    def put_mirror(self, name: str, version: int, *, seconds: float, **options: Any) -> dict[str, Any]:
        """Copy a model's requests to a version; waits at most `seconds` until it is loaded.

        `options` are ``fraction``, ``busy``, ``queue``, ``at_once``, ``pairs`` and ``timeout``.
        """
        body = {"version": version, "seconds": seconds, **options}
        return dict(self.request("PUT", f"{_model(name)}/mirror", body, patience=seconds))

    def delete_mirror(self, name: str) -> dict[str, Any] | None:
        """Copy a model's requests no more. Idempotent."""
        return _optional(self.request("DELETE", f"{_model(name)}/mirror"))

    def mirrored(self, name: str, after: int = 0) -> dict[str, Any]:
        """Return a page of pairs of answers with numbers above `after`, oldest first, and the ``last`` number."""
        return dict(self.request("GET", f"{_model(name)}/mirror/pairs/{after}"))

    def batching(self, name: str) -> dict[str, Any] | None:
        """Return the batching parameters in force; None when batching is off."""
        return _optional(self.request("GET", f"{_model(name)}/batching"))

    def patch_batching(self, name: str, changes: dict[str, Any] | None) -> dict[str, Any] | None:
        """Change batching parameters while requests run, or turn batching off (None); return all of them."""
        return _optional(self.request("PATCH", f"{_model(name)}/batching", changes))

    def record_warmup(self, name: str, *, seconds: float, **options: Any) -> dict[str, Any]:
        """Record the next requests as warmup; `options` are ``requests``, ``version`` and ``replace``. Waits."""
        body = {"seconds": seconds, **options}
        return dict(self.request("POST", f"{_model(name)}/warmup", body, patience=seconds))

    def service_times(self, name: str, *, seconds: float, **wish: Any) -> dict[str, Any]:
        """Run times of a version by rows, measured in its worker; `wish` as the server's route takes it. Waits."""
        # Sizes are run thrice at least, however long that takes; a large model needs patience.
        body = {"seconds": seconds, **wish}
        return dict(self.request("POST", f"{_model(name)}/service_times", body, patience=120.0 + seconds))

    def profile_ops(self, name: str, version: int, *, seconds: float, **wish: Any) -> dict[str, Any]:
        """Where the time of a version's runs goes; `wish` as the server's route takes it. Waits."""
        # Three runs of each kind are made however long they take.
        body = {**wish, "seconds": seconds}
        path = f"{_model(name)}/versions/{version}/profile/ops"
        return dict(self.request("POST", path, body, patience=120.0 + seconds))

    def profile_requests(self, name: str, **query: Any) -> dict[str, Any]:
        """Stages and batches of the requests that the server remembers; `query` as the server's route takes it."""
        text = f"?{urlencode(query)}" if query else ""
        return dict(self.request("GET", f"{_model(name)}/profile/requests{text}"))

    def put_profile_requests(self, name: str, **settings: Any) -> dict[str, Any]:
        """Change which requests are remembered (as `ServedModel.stamping`); return the settings."""
        return dict(self.request("PUT", f"{_model(name)}/profile/requests", settings))

    def profile_memory(self, name: str, version: int, **wish: Any) -> dict[str, Any]:
        """What a version's weights and runs take of the memory; `wish` as the server's route takes it. Waits."""
        path = f"{_model(name)}/versions/{version}/profile/memory"
        return dict(self.request("POST", path, wish, patience=120.0))

    def profile_startup(self, name: str, version: int) -> dict[str, Any]:
        """Where the time of a version's load went."""
        return dict(self.request("GET", f"{_model(name)}/versions/{version}/profile/startup"))

    def live(self, name: str) -> dict[str, Any]:
        """What a dashboard shows: ``version`` that answers, ``batching``, ``statistics`` of that version."""
        return dict(self.request("GET", f"{_model(name)}/live"))

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by model and version."""
        return dict(self.request("GET", "/statistics"))

    def shutdown(self) -> None:
        """Ask the server to drain and exit."""
        self.request("POST", "/shutdown")


def _model(name: str) -> str:
    return f"/models/{quote(name, safe='')}"


def _optional(answer: Any) -> dict[str, Any] | None:
    return None if answer is None else dict(answer)
