"""The REST API, ``<base_url>serving/api/...``; `openapi.json` beside this file describes it.

Every method is authenticated and authorized (resource ``serving``), each with decorators of its own: Jupyter's
`authorized` remembers the action of the first call, so a method may not serve two verbs.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jupyter_server.auth.decorator import authorized
from tornado import web
from tornado.iostream import StreamClosedError

from serving_jupyter.extension.answers import RefusedError, ServingHandler, refusals
from serving_jupyter.extension.deploying import Deploy, deploy
from serving_jupyter.extension.instance import VERSION, State
from serving_jupyter.extension.log_stream import follow
from serving_workbench import logfile
from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError, ServerNotRunningError
from serving_workbench.records import Record, record_path
from serving_workbench.version_changes import roll_back

__all__ = ["API_ROUTES"]

_MAX_LINES: Final = 10_000
_MAX_DEPLOY_SECONDS: Final = 3600.0
#: Seconds that a stop may be asked to wait for running requests.
_MAX_STOP_SECONDS: Final = 300.0
#: Seconds for the older version to be loaded.
_ROLLBACK_SECONDS: Final = 60.0
_NUMBER: Final = (int, float)


class ChangingHandler(ServingHandler):
    """Base of what changes servers or models: displays show it at once."""

    def on_finish(self) -> None:
        """Have the next summary read anew."""
        if self.request.method != "GET":
            self.extensionapp.summaries.outdate()
        super().on_finish()


class ConfigHandler(ServingHandler):
    """What this extension is set to."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Return versions and settings."""
        self.finish(
            json.dumps(
                {
                    "version": VERSION,
                    "python": sys.executable,
                    "prefix": sys.prefix,
                    "settings": self.extensionapp.public_settings(),
                }
            )
        )


class OpenApiHandler(ServingHandler):
    """The description of this API."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Return the OpenAPI document."""
        self.finish(files(__package__).joinpath("openapi.json").read_bytes())


class InstancesHandler(ChangingHandler):
    """All serving processes of this user."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        with refusals():
            await self.supervisor.scan()
        shown = [instance.describe() for instance in self.supervisor.instances() if instance.state is not State.STOPPED]
        active = sorted(self.extensionapp.current_activity() or ())
        self.finish(json.dumps({"instances": shown, "untrusted": self.supervisor.untrusted(), "active": active}))

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start one, unless it runs."""
        body = self.fields({"name": str, "root": str, "keep": bool, "prefix": str})
        prefix = body.get("prefix", sys.prefix)
        if prefix != sys.prefix:
            raise RefusedError(
                409,
                f"The Jupyter server runs in the environment '{sys.prefix}', not in '{prefix}'; a server started here "
                "would have another TensorFlow.",
            )
        name, root = body.get("name", "default"), body.get("root")
        with refusals():
            _, started = await self.supervisor.start(
                name, None if root is None else self._path(root), keep=body.get("keep", False)
            )
            instance = await self.supervisor.find(name)
        self.set_status(201 if started else 200)
        self.finish(json.dumps(instance.describe()))

    def _path(self, text: str) -> Path:
        return self.extensionapp.absolute_path(text)  # type: ignore[no-any-return]


class SummaryHandler(ServingHandler):
    """All that a small display of the servers needs, in one answer."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Return the servers, their models and versions, rates and memory."""
        self.finish(json.dumps({"instances": await self.extensionapp.summaries.read()}))


class InstanceHandler(ChangingHandler):
    """One serving process."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Return its state and what it says of itself: its models and their versions."""
        with refusals():
            instance = await self.supervisor.find(name)
            status = None if instance.record is None else await self._status(instance.record)
        self.finish(json.dumps({**instance.describe(), "status": status}))

    async def _status(self, record: Record) -> dict[str, Any] | None:
        try:
            return await self.supervisor.threads.run(ControlClient.of(record).status)
        except ControlError as error:
            if error.code != "UNAVAILABLE":
                raise
            return None  # it ends at this moment, or has crashed; the state will say so

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Stop it."""
        with refusals():
            stopped = await self.supervisor.stop(name, _seconds(self))
        self.finish(json.dumps({"name": name, "stopped": stopped}))


class RestartHandler(ChangingHandler):
    """A new process with the same models and ports."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Restart it."""
        with refusals():
            await self.supervisor.restart(name, _seconds(self))
            instance = await self.supervisor.find(name)
        self.finish(json.dumps(instance.describe()))


class LogsHandler(ServingHandler):
    """The log of a serving process, also after it has ended."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Return its last lines as text; with ``follow=true`` what comes after them, until the process ends."""
        lines = self._lines()
        wanted = self.get_argument("follow", "false")
        if wanted not in {"true", "false"}:
            raise RefusedError(400, f"follow must be true or false, not '{wanted[:40]}'.")
        with refusals():
            path = logfile.log_path(record_path(name))
            if not path.exists():
                raise ServerNotRunningError(f"No server of instance '{name}' has left a log.")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if wanted == "false":
            text = await self.supervisor.threads.run(logfile.tail, path, lines)
            self.finish(f"{text}\n" if text else "", set_content_type="text/plain; charset=utf-8")
            return
        with self.extensionapp.follower():
            await self._follow(name, path, lines)

    def _lines(self) -> int:
        text = self.get_argument("lines", "100")
        if not text.isdecimal() or int(text) > _MAX_LINES:
            raise RefusedError(400, f"lines must be a number from 0 to {_MAX_LINES}, not '{text[:40]}'.")
        return int(text)

    async def _follow(self, name: str, path: Path, lines: int) -> None:
        pieces = follow(path, lines, self.supervisor.threads, lambda: not self.supervisor.is_up(name))
        try:
            async for piece in pieces:
                if self.request.connection.stream.closed():
                    return
                if piece:
                    self.write(piece)
                    await self.flush()
        except StreamClosedError:
            return  # the reader has left
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
        self.finish(set_content_type="text/plain; charset=utf-8")


class ModelsHandler(ChangingHandler):
    """The models of a serving process."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Deploy a SavedModel as the next version: loaded beside the old one, proved, then put into service."""
        body = self.fields({"path": str, "name": str, "version": int, "root": str, "warmup": str, "timeout": _NUMBER})
        if "path" not in body or "name" not in body:
            raise RefusedError(400, "A deploy needs 'path', the folder of a SavedModel, and 'name'.")
        timeout = float(body.get("timeout", 120.0))
        if not 0 < timeout <= _MAX_DEPLOY_SECONDS:
            raise RefusedError(400, f"timeout must be more than 0 and at most {_MAX_DEPLOY_SECONDS:g} seconds.")
        path = self.extensionapp.absolute_path
        with refusals():
            record, _ = await self.supervisor.start(name)
            warmup = body.get("warmup")
            wish = Deploy(
                path=str(path(body["path"])),
                name=body["name"],
                instance=name,
                root=await self._root(record, body["name"], body.get("root")),
                version=body.get("version"),
                warmup=warmup if warmup in {None, "previous"} else str(path(warmup)),
                timeout=timeout,
            )
            async with self.extensionapp.deploying():
                answer = await deploy(wish)
        self.finish(json.dumps(answer))

    async def _root(self, record: Record, model: str, wanted: str | None) -> str:
        """Where versions go: as asked; "" where the workbench knows; else the models' folder of this Jupyter server."""
        path = self.extensionapp.absolute_path
        if wanted is not None:
            return str(path(wanted))
        status = await self.supervisor.threads.run(ControlClient.of(record).status)
        known = record.root is not None or model in status["models"]
        return "" if known else str(path("models"))


class BatchingHandler(ServingHandler):
    """The batching parameters of a model; they change while requests run."""

    @web.authenticated
    @authorized
    async def get(self, name: str, model: str) -> None:
        """Return those in force, null when batching is off."""
        with refusals():
            control = ControlClient.of(await self.supervisor.running(name))
            found = await self.supervisor.threads.run(control.batching, model)
        self.finish(json.dumps(found))

    @web.authenticated
    @authorized
    async def patch(self, name: str, model: str) -> None:
        """Change some; return all."""
        changes = self.json_object()  # their names and values are the serving process' to check
        with refusals():
            control = ControlClient.of(await self.supervisor.running(name))
            found = await self.supervisor.threads.run(control.patch_batching, model, changes)
        self.finish(json.dumps(found))


class RollbackHandler(ChangingHandler):
    """The way back to an older version of a model."""

    @web.authenticated
    @authorized
    async def post(self, name: str, model: str) -> None:
        """Let an older version answer: the one before, or the one that is named."""
        to = self.fields({"to": int}).get("to")
        with refusals():
            control = ControlClient.of(await self.supervisor.running(name))
            before = await self.supervisor.threads.run(control.model, model)
            now = await self.supervisor.threads.run(roll_back, control, before, to, _ROLLBACK_SECONDS)
        self.finish(json.dumps({"name": model, "version": now, "before": before["serving_version"]}))


def _seconds(handler: ServingHandler) -> float:
    text = handler.get_argument("timeout", "15")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_STOP_SECONDS:
        raise RefusedError(400, f"timeout must be a number of seconds from 0 to {_MAX_STOP_SECONDS:g}.")
    return seconds


#: Names are checked by the supervisor, which says what a name may be.
_INSTANCE: Final = r"/serving/api/instances/([^/]+)"
API_ROUTES: Final = [
    (r"/serving/api/config", ConfigHandler),
    (r"/serving/api/openapi.json", OpenApiHandler),
    (r"/serving/api/summary", SummaryHandler),
    (r"/serving/api/instances", InstancesHandler),
    (_INSTANCE, InstanceHandler),
    (_INSTANCE + r"/restart", RestartHandler),
    (_INSTANCE + r"/logs", LogsHandler),
    (_INSTANCE + r"/models", ModelsHandler),
    (_INSTANCE + r"/models/([^/]+)/batching", BatchingHandler),
    (_INSTANCE + r"/models/([^/]+)/rollback", RollbackHandler),
]
