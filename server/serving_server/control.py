"""The control channel: how the workbench steers this server. Private: loopback or a unix socket, and a bearer token.

HTTP/1.1 with JSON bodies, on the same HTTP server as REST but never on the same port. Errors are
``{"error": message, "code": name}`` with the status that REST maps the code to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

from serving_server.batching.parameters import BatchingParameters
from serving_server.catalog import NEW_MODEL_PATIENCE, Catalog
from serving_server.errors import (
    InvalidArgumentError,
    NotFoundError,
    ServingError,
    UnauthenticatedError,
)
from serving_server.labels import parse_labels
from serving_server.lifecycle.states import Latest, Policy, State, VersionView
from serving_server.mirroring.wish import Wish as MirrorWish
from serving_server.options import ModelOptions
from serving_server.place import to_place
from serving_server.request_log.recording import Recorder
from serving_server.request_log.recording import Wish as RecordingWish
from serving_server.resident_memory import resident_memory
from serving_server.rest.http1 import Request, Response
from serving_server.rest.server import HTTP_STATUS
from serving_server.service_times import Wish, measure
from serving_server.stamps.rows import Wish as RequestsWish
from serving_server.stamps.rows import requests_json
from serving_server.traffic import exposure_pages
from serving_server.traffic.ramp_plan import RampPlan
from serving_server.traffic.wish import Wish as TrafficWish
from serving_server.version_profiles import MemoryWish, OpWish, profile_memory, profile_ops, startup

__all__ = ["API_VERSION", "Control"]

log = logging.getLogger(__name__)

#: Changes when a route or field is taken away or changes its meaning; additions do not count.
API_VERSION: Final = 1

_PREFIX: Final = "/control/v1/"

#: Ended versions of a model in its state, the highest of them; `GetModelStatus` tells all.
_SHOWN_ENDED: Final = 20

#: What a route returns: a JSON value; where that is large, its text, as `bytes`, made faster than by `json`.
_Result = Any

#: Or this, for an answer without a body (204).
_NOTHING: Final = object()


class Control:
    """Routes of the control channel; `handle` is a handler for `serving_server.rest.http1.HttpServer`.

    Parameters
    ----------
    catalog : Catalog
    token : str
        Every request must carry it as ``Authorization: Bearer <token>``.
    identity, status : callable
        Return the JSON objects of those routes (the server's own part of it).
    shutdown : callable
        Begins an orderly end.
    """

    def __init__(
        self,
        catalog: Catalog,
        token: str,
        identity: Callable[[], dict[str, Any]],
        status: Callable[[], dict[str, Any]],
        shutdown: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._recorder = Recorder(catalog.request_logs)
        self._authorization = f"Bearer {token}".encode()
        self._identity = identity
        self._status = status
        self._shutdown = shutdown
        self._tasks: set[asyncio.Task[None]] = set()
        model = r"models/(?P<name>[^/]+)"
        routes: list[tuple[str, str, Callable[..., Awaitable[_Result]]]] = [
            ("GET", "identity", self._get_identity),
            ("GET", "status", self._get_status),
            ("GET", "statistics", self._get_statistics),
            ("POST", "shutdown", self._post_shutdown),
            ("GET", model, self._get_model),
            ("PUT", model, self._put_model),
            ("DELETE", model, self._delete_model),
            ("PUT", model + "/policy", self._put_policy),
            ("GET", model + "/labels", self._get_labels),
            ("PUT", model + "/labels", self._put_labels),
            ("POST", model + "/poll", self._post_poll),
            ("GET", model + "/batching", self._get_batching),
            ("PATCH", model + "/batching", self._patch_batching),
            ("PUT", model + r"/versions/(?P<version>\d{1,19})/hold", self._put_hold),
            ("DELETE", model + r"/versions/(?P<version>\d{1,19})/hold", self._delete_hold),
            ("GET", model + "/traffic", self._get_traffic),
            ("PUT", model + "/traffic", self._put_traffic),
            ("DELETE", model + "/traffic", self._delete_traffic),
            ("GET", model + "/traffic/exposures", self._get_exposures),
            ("GET", model + "/ramp", self._get_ramp),
            ("PUT", model + "/ramp", self._put_ramp),
            ("DELETE", model + "/ramp", self._delete_ramp),
            ("POST", model + "/ramp/pause", self._post_pause),
            ("POST", model + "/ramp/resume", self._post_resume),
            ("GET", model + "/ramp/journal", self._get_journal),
            ("GET", model + "/mirror", self._get_mirror),
            ("PUT", model + "/mirror", self._put_mirror),
            ("DELETE", model + "/mirror", self._delete_mirror),
            ("GET", model + r"/mirror/pairs/(?P<after>\d{1,19})", self._get_pairs),
            ("POST", model + "/warmup", self._post_warmup),
            ("POST", model + "/service_times", self._post_service_times),
            ("POST", model + r"/versions/(?P<version>\d{1,19})/profile/ops", self._post_profile_ops),
            ("POST", model + r"/versions/(?P<version>\d{1,19})/profile/memory", self._post_profile_memory),
            ("GET", model + r"/versions/(?P<version>\d{1,19})/profile/startup", self._get_profile_startup),
            ("GET", model + "/live", self._get_live),
            ("GET", model + "/profile/requests", self._get_requests),
            ("PUT", model + "/profile/requests", self._put_requests),
        ]
        self._routes = [(method, re.compile(_PREFIX + pattern), call) for method, pattern, call in routes]

    def handle(self, request: Request, answer: Callable[[Response], None]) -> Callable[[], None] | None:
        """Answer a request, soon."""
        # Few and small requests: a task each is fine here, unlike on the data plane.
        task = asyncio.get_running_loop().create_task(self._respond(request, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not request.target.partition("?")[0].endswith(
            ("/warmup", "/service_times", "/profile/ops", "/profile/memory")
        ):
            return None  # what changes models goes on when its client goes away

        def cancel() -> None:
            task.cancel()

        return cancel

    async def _respond(self, request: Request, answer: Callable[[Response], None]) -> None:
        try:
            result = await self._route(request)
        except ServingError as error:
            body = {"error": error.message, "code": error.code.name}
            answer(Response(HTTP_STATUS[error.code], json.dumps(body).encode()))
        except Exception as error:
            log.exception("control request %s %s failed", request.method, request.target)
            body = {"error": f"{type(error).__name__}: {error}", "code": "INTERNAL"}
            answer(Response(500, json.dumps(body).encode()))
        else:
            if result is _NOTHING:
                answer(Response(204))
            else:
                answer(Response(200, result if isinstance(result, bytes) else json.dumps(result).encode()))

    async def _route(self, request: Request) -> _Result:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._authorization):
            raise UnauthenticatedError("the control channel needs the token of this server's record")
        path, _, query = request.target.partition("?")
        allowed = []
        for method, pattern, call in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method != request.method:
                allowed.append(method)
                continue
            arguments = {key: unquote(value) for key, value in match.groupdict().items()}
            asked = _query(query) if method == "GET" else _json(request.body)
            return await call(asked, **arguments)
        hint = f"; this path takes {', '.join(allowed)}" if allowed else ""
        raise NotFoundError(f"no route {request.method} {path} on the control channel{hint}")

    # -- the server ----------------------------------------------------------------------------------------------------

    async def _get_identity(self, body: Any) -> _Result:
        return {**self._identity(), "api_version": API_VERSION}

    async def _get_status(self, body: Any) -> _Result:
        return {**self._status(), "models": {name: self._model(name) for name in self._catalog.names()}}

    async def _get_statistics(self, body: Any) -> _Result:
        return {"uptime_s": self._status()["uptime_s"], "models": self._catalog.statistics()}

    async def _post_shutdown(self, body: Any) -> _Result:
        self._shutdown("asked to by the control channel")
        return {"stopping": True}

    # -- models --------------------------------------------------------------------------------------------------------

    async def _get_model(self, body: Any, name: str) -> _Result:
        return self._model(name)

    async def _put_model(self, body: Any, name: str) -> _Result:
        fields = _fields(body, {"base_path", "policy", "batching"})
        base_path = fields.get("base_path")
        if not isinstance(base_path, str):
            raise InvalidArgumentError("base_path must be a string, the absolute path or the URI of the model's folder")
        known = name in self._catalog.names()
        if "policy" in fields:
            policy = Policy.from_json(fields["policy"])
        else:
            policy = self._catalog.policy(name) if known else Latest()
        if "batching" in fields:
            batching = None if fields["batching"] is None else BatchingParameters.from_json(fields["batching"])
        else:
            batching = self._catalog.batching(name) if known else self._catalog.default_batching
        self._catalog.put(ModelOptions(name, to_place(base_path), policy), batching, patience=NEW_MODEL_PATIENCE)
        return self._model(name)

    async def _delete_model(self, body: Any, name: str) -> _Result:
        self._catalog.remove(name)
        return _NOTHING

    async def _put_policy(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)  # unknown models first
        self._catalog.manager.set_policy(name, Policy.from_json(body))
        return self._model(name)

    async def _get_labels(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)
        return self._catalog.labels.of(name)

    async def _put_labels(self, body: Any, name: str) -> _Result:
        self._catalog.set_labels(name, parse_labels(body))
        return self._model(name)

    async def _post_poll(self, body: Any, name: str) -> _Result:
        await self._catalog.poll(name)
        return self._model(name)

    async def _put_hold(self, body: Any, name: str, version: str) -> _Result:
        self._catalog.policy(name)
        self._catalog.manager.hold(name, int(version))
        return self._model(name)

    async def _delete_hold(self, body: Any, name: str, version: str) -> _Result:
        self._catalog.policy(name)
        self._catalog.manager.promote(name, int(version))
        return self._model(name)

    async def _get_batching(self, body: Any, name: str) -> _Result:
        return self._batching_json(name)

    async def _patch_batching(self, body: Any, name: str) -> _Result:
        known = self._catalog.batching(name)
        changed = None if body is None else (known or BatchingParameters()).changed(body)
        self._catalog.set_batching(name, changed)  # null turns batching off
        return self._batching_json(name)

    async def _get_traffic(self, body: Any, name: str) -> _Result:
        return orjson.dumps(self._catalog.splits.to_json(name))  # up to 500 periods: a tenth of json's time

    async def _put_traffic(self, body: Any, name: str) -> _Result:
        wish = TrafficWish.from_json(_fields(body, {"weights", "key", "seconds", "exposures", "slo_ms"}))
        await self._catalog.splits.put(name, wish)
        return self._catalog.splits.to_json(name)

    async def _delete_traffic(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)
        self._catalog.splits.end(name)
        return self._catalog.splits.to_json(name)

    async def _get_ramp(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)
        return {"ramp": self._catalog.ramps.summary(name)}

    async def _put_ramp(self, body: Any, name: str) -> _Result:
        allowed = {"from", "to", "steps", "hold_seconds", "min_requests", "guardrails", "slo_ms", "key", "finish"}
        await self._catalog.ramps.start(name, RampPlan.from_json(_fields(body, allowed | {"seconds"})))
        return {"ramp": self._catalog.ramps.summary(name)}

    async def _delete_ramp(self, body: Any, name: str) -> _Result:
        self._catalog.ramps.abort(name)
        return {"ramp": self._catalog.ramps.summary(name)}

    async def _post_pause(self, body: Any, name: str) -> _Result:
        self._catalog.ramps.pause(name)
        return {"ramp": self._catalog.ramps.summary(name)}

    async def _post_resume(self, body: Any, name: str) -> _Result:
        self._catalog.ramps.resume(name)
        return {"ramp": self._catalog.ramps.summary(name)}

    async def _get_journal(self, body: Any, name: str) -> _Result:
        return {"events": self._catalog.ramps.journal(name)}

    async def _get_exposures(self, query: dict[str, str], name: str) -> _Result:
        log = self._catalog.splits.exposures(name)
        page = log.after(*exposure_pages.asked(query))
        return await exposure_pages.written(page, log.last)

    async def _get_mirror(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)
        return self._catalog.mirrors.to_json(name)

    async def _put_mirror(self, body: Any, name: str) -> _Result:
        known = {field.name for field in dataclasses.fields(MirrorWish)}
        await self._catalog.mirrors.put(name, MirrorWish.from_json(_fields(body, known)))
        return self._catalog.mirrors.to_json(name)

    async def _delete_mirror(self, body: Any, name: str) -> _Result:
        self._catalog.policy(name)
        self._catalog.mirrors.end(name)
        return self._catalog.mirrors.to_json(name)

    async def _get_pairs(self, body: Any, name: str, after: str) -> _Result:
        return orjson.dumps(self._catalog.mirrors.page(name, int(after)))

    async def _post_warmup(self, body: Any, name: str) -> _Result:
        wish = RecordingWish.from_json(_fields(body, {"requests", "seconds", "version", "replace"}))
        served = self._catalog.served(name, wish.version)
        return await self._recorder.record(name, served.version, served.path, wish)

    async def _get_live(self, body: Any, name: str) -> _Result:
        # What a dashboard asks for twice a second: of the version that answers only.
        served = self._catalog.served(name, None)
        counted = {**served.statistics.snapshot(), "queued": served.queued, "running": served.running}
        return {"version": served.version, "batching": self._batching_json(name), "statistics": counted}

    async def _get_requests(self, body: Any, name: str) -> _Result:
        stamps = self._catalog.stamps(name)
        wish = RequestsWish.from_query(_fields(body, {"limit", "slowest", "version", "batch", "request_id"}))
        return await requests_json(stamps, wish)

    async def _put_requests(self, body: Any, name: str) -> _Result:
        stamps = self._catalog.stamps(name)
        stamps.change(stamps.settings.changed(_fields(body, {"enabled", "every", "per_second", "capacity"})))
        return dataclasses.asdict(stamps.settings)

    async def _post_service_times(self, body: Any, name: str) -> _Result:
        wish = Wish.from_json(_fields(body, {"request", "sizes", "at_once", "runs", "seconds", "seed"}))
        spec = wish.request.model_spec
        served = self._catalog.served(name, spec.version.value if spec.HasField("version") else None)
        return await measure(served, wish)

    async def _post_profile_ops(self, body: Any, name: str, version: str) -> _Result:
        known = {field.name for field in dataclasses.fields(OpWish)}
        wish = OpWish.from_json(_fields(body, known))
        return await profile_ops(self._catalog.served(name, int(version)), wish)

    async def _post_profile_memory(self, body: Any, name: str, version: str) -> _Result:
        known = {field.name for field in dataclasses.fields(MemoryWish)}
        wish = MemoryWish.from_json(_fields(body, known))
        return await profile_memory(self._catalog.served(name, int(version)), wish)

    async def _get_profile_startup(self, body: Any, name: str, version: str) -> _Result:
        return startup(self._catalog.served(name, int(version)))

    def _batching_json(self, name: str) -> dict[str, Any] | None:
        self._catalog.policy(name)
        batching = self._catalog.batching(name)
        return None if batching is None else batching.to_json()

    def _model(self, name: str) -> dict[str, Any]:
        base_path = self._catalog.base_path(name)  # first: it says what there is when this model is not
        manager = self._catalog.manager
        frozen, sessions = self._catalog.frozen(name), self._catalog.sessions(name)
        versions = _worth_showing(manager.versions(name))
        return {
            "name": name,
            "base_path": str(base_path),
            "policy": self._catalog.policy(name).to_json(),
            "labels": self._catalog.labels.of(name),
            "problem": self._catalog.problem(name),
            "serving_version": manager.serving_version(name),
            "traffic": self._catalog.splits.summary(name),
            "ramp": self._catalog.ramps.summary(name),
            "mirror": self._catalog.mirrors.to_json(name),
            "batching": self._batching_json(name),
            "recording_warmup": self._recorder.is_recording(name),
            "versions": [
                {
                    **_version(view),
                    "frozen": frozen.get(view.version, []),
                    "session": sessions.get(view.version),
                }
                for view in versions
            ],
        }


def _worth_showing(views: list[VersionView]) -> list[VersionView]:
    """Leave out the ended versions but for the highest: a model that gets one every hour would drown the rest."""
    ended = [view.version for view in views if view.state is State.END]
    old = set(ended[_SHOWN_ENDED:])
    return [view for view in views if view.version not in old]


def _version(view: VersionView) -> dict[str, Any]:
    return {
        "version": view.version,
        "state": view.state.name,
        "held": view.held,
        "error_code": view.error_code.name,
        "error_message": view.error_message,
        "step": view.step,
        "load_seconds": view.load_seconds,
        "worker_pid": view.worker_pid,
        **resident_memory(view.worker_pid),
        "restarts": view.restarts,
        "requests_in_flight": view.pending,
        "path": str(view.path),
    }


def _query(text: str) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidArgumentError("a parameter of the query string is given twice")
    return fields


def _json(body: bytes) -> Any:
    if not body:
        return {}
    try:
        return json.loads(body)
    except ValueError as error:
        raise InvalidArgumentError(f"the body is not JSON: {error}") from None


def _fields(body: Any, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidArgumentError(f"the body must be an object with {', '.join(sorted(allowed))}")
    unknown = sorted(body.keys() - allowed)
    if unknown:
        raise InvalidArgumentError(f"unknown field {unknown[0]!r}; known: {', '.join(sorted(allowed))}")
    return body
