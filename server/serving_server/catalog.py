"""The models of this server: where each lives, how it is batched, and the watching and loading behind it.

Joins the version source (what is on disk), the manager (what is loaded) and the workers; the control channel and the
command line change it while requests run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from pathlib import Path
from typing import Any, Final, cast

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import of_version
from serving_server.errors import InvalidArgumentError, NotFoundError
from serving_server.forkserver.client import ForkServer
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.source import VersionSource
from serving_server.lifecycle.states import Policy, State, VersionView
from serving_server.options import ModelOptions, ServerOptions
from serving_server.servable import LoadOptions, ServedVersion, WorkerLoader
from serving_server.session_options import DeviceOptions, decide

__all__ = ["Catalog"]

log = logging.getLogger(__name__)

#: How often idle lanes give memory back. Seconds.
_TRIM_SECONDS: Final = 10.0

#: Of a model's name: it is part of paths and URLs, and of log lines.
_MAX_NAME: Final = 256


@dataclasses.dataclass(slots=True)
class _Entry:
    base_path: Path
    batching: BatchingParameters | None
    devices: DeviceOptions | None = None
    #: Each version says by a file of its own how it is batched.
    batching_by_version: bool = False


class Catalog:
    """All models. All calls on the loop.

    Attributes
    ----------
    manager : Manager
        Which version answers.
    forkserver : ForkServer
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._entries: dict[str, _Entry] = {}
        self._told: set[str] = set()
        self.forkserver = ForkServer()
        loader = WorkerLoader(
            self.forkserver,
            self._load_options,
            self._batching_at,
        )
        self.manager = Manager(
            loader,
            max_load_retries=options.max_load_retries,
            load_retry_interval=options.load_retry_interval,
            num_load_threads=options.num_load_threads,
        )
        self._source = VersionSource(
            self.manager.aspire,
            on_changed=self.manager.retry,
            poll_wait_seconds=options.poll_wait,
        )
        self.manager.on_failed = self._source.watch_failed
        self.manager.explain = self._source.problem
        self._trimmer: asyncio.TimerHandle | None = None
        for model in options.models:
            self.put(model, options.batching)
            self._entries[model.name].batching_by_version = options.per_model_batching

    def _load_options(self, model: str) -> LoadOptions:
        """Return how versions of a model are loaded from now on."""
        options = self._options
        devices = self._entries[model].devices if model in self._entries else None
        decision = decide(options.session, options.session_template, devices, os.environ)
        for note in decision.notes:
            if note not in self._told:
                self._told.add(note)
                log.warning("sessions: %s", note)
        return LoadOptions(options.saved_model_tags, decision.config, options.warmup, options.freeze)

    async def start(self) -> None:
        """Start importing TensorFlow in the background, and looking for versions."""
        self.forkserver.start()
        await self._source.start()
        self._trim()

    async def close(self, drain_timeout: float) -> None:
        """Unload everything and end all processes. Idempotent."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        await self._source.close()
        await self.manager.close(drain_timeout)
        await self.forkserver.close()

    # -- models --------------------------------------------------------------------------------------------------------

    def put(self, model: ModelOptions, batching: BatchingParameters | None) -> None:
        """Add a model, or change where it lives, its policy and its batching.

        Raises
        ------
        InvalidArgumentError
            For a name that cannot be in a path or URL, or a relative base path.
        """
        check_name(model.name)
        if not model.base_path.is_absolute():
            msg = f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            raise InvalidArgumentError(msg)
        self._entries[model.name] = _Entry(model.base_path, batching, model.devices)
        self.manager.add_model(model.name, model.policy)
        self._source.add(model.name, model.base_path)
        self._apply_batching(model.name, batching)

    def remove(self, name: str) -> None:
        """Forget a model; its versions unload in the background."""
        self._entry(name)
        del self._entries[name]
        self._source.remove(name)
        self.manager.remove_model(name)

    def names(self) -> list[str]:
        """Return all models' names, sorted."""
        return sorted(self._entries)

    def base_path(self, name: str) -> Path:
        """Return where a model's versions lie."""
        return self._entry(name).base_path

    def policy(self, name: str) -> Policy:
        """Return which versions of a model are wanted."""
        self._entry(name)
        return self.manager.policy(name)

    def problem(self, name: str) -> str | None:
        """Return what is wrong with a model's base path, None if nothing is known to be."""
        return self._source.problem(name)

    async def poll(self, name: str) -> None:
        """Look for versions of a model now."""
        self._entry(name)
        await self._source.poll_now(name)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self.names()) or "none"
            raise NotFoundError(f"no model named '{name}'; this server has: {known}") from None

    # -- batching ------------------------------------------------------------------------------------------------------

    def batching(self, name: str) -> BatchingParameters | None:
        """Return a model's batching parameters; None when off or for a model that was removed meanwhile.

        Those of its newest loaded version, where each version has its own.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.batching_by_version:
            return next((served.batching for _, served in self._served(name)), None)
        return entry.batching

    def _batching_at(self, name: str, version_folder: Path) -> BatchingParameters | None:
        """Return what a version is loaded with.

        Raises
        ------
        ServingError
            When the version's own file is wrong.
        """
        entry = self._entries.get(name)
        if entry is None or not entry.batching_by_version or entry.batching is None:
            return self.batching(name)
        return of_version(version_folder, entry.batching)

    def set_batching(self, name: str, parameters: BatchingParameters | None) -> None:
        """Change a model's batching, for all its versions, while requests run."""
        entry = self._entry(name)
        self._apply_batching(name, parameters)  # first: what is refused there must not come into force at the next load
        entry.batching = parameters
        entry.batching_by_version = False

    def _apply_batching(self, name: str, parameters: BatchingParameters | None) -> None:
        for _, served in self._served(name):
            if served.batching != parameters:
                served.batching = parameters

    def frozen(self, name: str) -> dict[int, list[str]]:
        """Return which signatures of each AVAILABLE version run with constants in place of variables."""
        return {view.version: list(served.frozen) for view, served in self._served(name)}

    # -- what is loaded ------------------------------------------------------------------------------------------------

    def _served(self, name: str) -> list[tuple[VersionView, ServedVersion]]:
        if name not in self.manager.model_names():
            return []
        return [
            (view, cast("ServedVersion", self.manager.resolve(name, view.version)))
            for view in self.manager.versions(name)
            if view.state is State.AVAILABLE
        ]

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the counters of every loaded version, by model and version."""
        return {
            name: {
                str(view.version): {**served.statistics.snapshot(), "queued": served.queued, "running": served.running}
                for view, served in self._served(name)
            }
            for name in self.names()
        }

    def _trim(self) -> None:
        for name in self.names():
            for _, served in self._served(name):
                served.trim()
        self._trimmer = asyncio.get_running_loop().call_later(_TRIM_SECONDS, self._trim)


def check_name(name: str) -> None:
    """Check that a model's name can stand in a URL, a path and a log line.

    Raises
    ------
    InvalidArgumentError
        Saying what is allowed.
    """
    bad = next((c for c in name if not c.isprintable() or c in "/:\\"), None)
    if not name or bad is not None or name in {".", ".."} or len(name) > _MAX_NAME:
        what = "is empty" if not name else f"has {bad!r} in it" if bad else "cannot be used"
        msg = f"model name {name[:64]!r} {what}; allowed: 1 to {_MAX_NAME} printable characters without / : and \\"
        raise InvalidArgumentError(msg)
