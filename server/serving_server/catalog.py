"""The models of this server, and the watching and loading behind them.

Joins the version source (what is on disk), the manager (what is loaded) and the workers; the control channel and the
command line change it while requests run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from serving_server.awaiting import wait_until_available
from serving_server.batching.parameters import BatchingParameters
from serving_server.config_file import ConfigFilePoll
from serving_server.errors import ServingError
from serving_server.forkserver.client import ForkServer
from serving_server.free_memory import give_back
from serving_server.labels import Labels
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.source import VersionSource
from serving_server.lifecycle.states import Policy, State, VersionView
from serving_server.metrics.loads import LoadCounters
from serving_server.mirroring.mirrors import Mirrors
from serving_server.model_config import ModelConfigError, absolute, check_name, models_of
from serving_server.model_settings import ModelSettings, Settings
from serving_server.options import ModelOptions, ServerOptions
from serving_server.place import Place, is_remote
from serving_server.remote_files import RemoteFiles
from serving_server.request_log.registry import RequestLogs
from serving_server.request_log.request_logger import check as check_logging
from serving_server.servable import ServedVersion
from serving_server.stamps.ring import Stamps
from serving_server.statistics import Statistics
from serving_server.text_files import MAX_BYTES, check_size, read_bytes
from serving_server.traffic.ramps import Ramps
from serving_server.traffic.splits import Splits
from serving_server.wire.messages import LoggingConfig
from serving_server.worker_loader import WorkerLoader

__all__ = ["NEW_MODEL_PATIENCE", "RELOAD_SECONDS", "Catalog"]

log = logging.getLogger(__name__)

#: How often idle lanes give memory back. Seconds.
_TRIM_SECONDS: Final = 10.0

#: How long a reload waits for new models, when its caller sets no deadline. Seconds.
RELOAD_SECONDS: Final = 600.0

#: A model that the control channel adds is about to get its first version; till then it is no news that there is none.
#: Seconds.
NEW_MODEL_PATIENCE: Final = 10.0


class Catalog:
    """All models. All calls on the loop.

    Attributes
    ----------
    manager : Manager
        Which version answers.
    forkserver : ForkServer
    labels : Labels
    splits : Splits
        Which versions answer requests that name none, where that is not one alone.
    ramps : Ramps
        Splits that move step by step.
    mirrors : Mirrors
        Which versions see copies of such requests.
    request_logs : RequestLogs
    configured : tuple of ModelOptions or None
        The whole list that was applied last, of a file or a request; None for never.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self.forkserver = ForkServer()
        self._remote = RemoteFiles(self.forkserver, options.op_libraries)
        self._settings = ModelSettings(options, self._remote.read)
        self._loader = loader = WorkerLoader(
            self.forkserver,
            self._settings.load_options,
            self._settings.batching_of,
            self._settings.brought_by,
        )
        self.manager = Manager(
            loader,
            max_load_retries=options.max_load_retries,
            load_retry_interval=options.load_retry_interval,
            num_load_threads=options.num_load_threads,
            num_unload_threads=options.num_unload_threads,
            resource_preserving=options.resource_preserving,
        )
        self.manager.subscribe(loader.on_state)
        self.labels = Labels(self._is_available, allow_unavailable=options.allow_unavailable_labels)
        self.splits = Splits(self.manager, self.poll)
        # Beside the record, whose folder is private and outlives the server.
        journal = None if options.record_file is None else options.record_file.with_suffix(".ramps.jsonl")
        self.ramps = Ramps(self.manager, self.splits, journal)
        self.mirrors = Mirrors(self.manager, self.poll)
        self.request_logs = RequestLogs(
            options.saved_model_tags,
            max_megabytes=options.request_log_megabytes,
            max_files=options.request_log_files,
        )
        self.configured: tuple[ModelOptions, ...] | None = None
        self._source = VersionSource(
            self.manager.aspire,
            on_changed=self.manager.retry,
            poll_wait_seconds=options.poll_wait,
            unload_on_empty=options.unload_on_empty,
            on_problem=lambda _model: self.manager.wake(),
            look=self._remote.look,
        )
        self.manager.on_failed = self._source.watch_failed
        self.manager.explain = self._source.problem
        self._trimmer: asyncio.TimerHandle | None = None
        self._poll: ConfigFilePoll | None = None
        self._reports: set[asyncio.Task[None]] = set()
        if options.models is not None:
            self.apply(options.models)

    async def start(self) -> None:
        """Start importing TensorFlow in the background, and looking for versions and at the config file."""
        self.forkserver.start()
        await self._source.start()
        self._trim()
        options = self._options
        if options.config_file and options.config_poll_wait > 0:
            self._poll = ConfigFilePoll(
                options.config_file,
                self._read_config_file,
                options.config_poll_wait,
                lambda: self.configured,
                self._follow_file,
            )
            self._poll.start()
        if self.configured and not options.wait_for_models:
            self._report([model.name for model in self.configured])

    async def wait_for_start(self, timeout: float) -> None:  # noqa: ASYNC109 - the error tells what was last seen
        """Return when the models of the start answer.

        Raises
        ------
        ModelsUnavailableError
            When all tries to load one have failed, or at the end of the time; naming all that do not answer.
        """
        names = [model.name for model in self.configured or ()]
        await self.wait_until_available(names, timeout, patient=True, what="servable")

    async def _read_config_file(self) -> bytes:
        file = self._options.config_file
        if is_remote(file):
            return check_size(file, await self._remote.read(file, MAX_BYTES))
        return await asyncio.to_thread(read_bytes, file)  # a file system may hang

    def _follow_file(self, models: tuple[ModelOptions, ...]) -> None:
        new = self.apply(models)
        if new:
            self._report(new)

    def _report(self, names: list[str]) -> None:
        """Log in the background what becomes of new models."""

        async def wait() -> None:
            try:
                await self.wait_until_available(names, RELOAD_SECONDS)
            except ServingError as error:
                log.error("%s", error.message)
            else:
                log.info("all %d models are available", len(names))

        task = asyncio.get_running_loop().create_task(wait(), name="report models")
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def close(self, drain_timeout: float) -> None:
        """Unload everything and end all processes. Idempotent."""
        if self._trimmer is not None:
            self._trimmer.cancel()
        if self._poll is not None:
            await self._poll.close()
        for report in list(self._reports):
            report.cancel()
        self.ramps.close()
        await self._source.close()
        self._remote.close()
        await self.manager.close(drain_timeout)
        await asyncio.to_thread(self.request_logs.close)
        await self.forkserver.close()

    # -- models --------------------------------------------------------------------------------------------------------

    def apply(self, models: Sequence[ModelOptions]) -> list[str]:
        """Have exactly these models, their labels included: those left out are unloaded. All or nothing.

        Returns
        -------
        list of str
            The models that are new.

        Raises
        ------
        ModelConfigError
            A label points at a version that it may not, or requests cannot be logged; nothing has changed.
        """
        for index, model in enumerate(models):
            check_name(model.name)
            try:
                self.labels.check(model.name, model.labels)
                if model.logging is not None:
                    check_logging(LoggingConfig.FromString(model.logging))  # its folder may have gone meanwhile
            except ServingError as error:
                raise ModelConfigError(error, index) from None
        self.labels.replace_all({model.name: dict(model.labels) for model in models})
        listed = {model.name for model in models}
        new = [model.name for model in models if model.name not in self._settings]
        for name in set(self._settings.names()) - listed:
            self._drop(name)
        for model in models:
            self._put(model, self._settings.listed(model))
        for model in models:
            logging_config = None if model.logging is None else LoggingConfig.FromString(model.logging)
            self.request_logs.configure(model.name, logging_config)
        self.configured = tuple(models)
        return new

    async def reload(self, config: Any, timeout: float = RELOAD_SECONDS) -> None:  # noqa: ASYNC109 - the error tells
        """Follow a `ModelServerConfig` and wait for the models that are new in it.

        Parameters
        ----------
        config : ModelServerConfig
        timeout : float
            Seconds to wait for them.

        Raises
        ------
        ServingError
            The config is refused; nothing has changed.
        ModelsUnavailableError
            It is in force, but some of the new models do not answer; naming each, with the reason. A folder that is
            missing, and a load that will be tried again, count; the server goes on trying.
        """
        models = models_of(config, known=self.names())
        if models is None:
            log.info("an empty list of models: nothing changes")
            return
        new = self.apply(models)
        log.info("the models are now %s", ", ".join(self.names()) or "none")
        await self.wait_until_available(new, timeout)

    async def wait_until_available(
        self,
        names: Sequence[str],
        timeout: float,  # noqa: ASYNC109 - the error tells what was last seen
        *,
        patient: bool = False,
        what: str = "model",
    ) -> None:
        """Return when these models answer; see `serving_server.awaiting.wait_until_available`."""
        await wait_until_available(self.manager, names, self._source.problem, timeout, patient=patient, what=what)

    def put(self, model: ModelOptions, batching: BatchingParameters | None, *, patience: float = 0.0) -> None:
        """Add a model, or change where it lives, its policy and its batching. Its labels and devices stay.

        Versions that bring their own batching parameters do so until others than those in force are put.

        That it has no versions within the first `patience` seconds is not worth a warning.

        Raises
        ------
        InvalidArgumentError
            For a name that cannot be in a path or URL, or a relative base path.
        """
        settings = Settings(model.base_path, batching, model.devices)
        if model.name in self._settings:
            known = self._settings.of(model.name)
            settings.devices = model.devices or known.devices
            if known.batching_by_version and batching == self.batching(model.name):
                settings.batching, settings.batching_by_version = known.batching, True
        self._put(model, settings, patience)

    def _put(self, model: ModelOptions, settings: Settings, patience: float = 0.0) -> None:
        check_name(model.name)
        absolute(model.name, model.base_path)
        self._settings.put(model.name, settings)
        self.manager.add_model(model.name, model.policy)
        self._source.add(model.name, model.base_path, patience=patience)
        if not settings.batching_by_version:
            self._apply_batching(model.name, settings.batching)

    def remove(self, name: str) -> None:
        """Forget a model; its versions unload in the background."""
        self._settings.of(name)
        self.labels.forget(name)
        self._drop(name)

    def _drop(self, name: str) -> None:
        self._settings.forget(name)
        self.ramps.forget(name)
        self.splits.forget(name)
        self.mirrors.forget(name)
        self.request_logs.configure(name, None)
        self._loader.forget_stamps(name)
        self._source.remove(name)
        self.manager.remove_model(name)

    def names(self) -> list[str]:
        """Return all models' names, sorted."""
        return self._settings.names()

    def base_path(self, name: str) -> Place:
        """Return where a model's versions lie."""
        return self._settings.of(name).base_path

    def policy(self, name: str) -> Policy:
        """Return which versions of a model are wanted."""
        self._settings.of(name)
        return self.manager.policy(name)

    def problem(self, name: str) -> str | None:
        """Return what is wrong with a model's base path, None if nothing is known to be."""
        return self._source.problem(name)

    def set_labels(self, name: str, labels: dict[str, int]) -> None:
        """Put other labels in place of a model's.

        Raises
        ------
        FailedPreconditionError
            One points at a version that it may not; nothing has changed.
        """
        self._settings.of(name)
        self.labels.replace(name, labels)

    def _is_available(self, model: str, version: int) -> bool:
        view = self.manager.version(model, version) if model in self._settings else None
        return view is not None and view.state is State.AVAILABLE

    async def poll(self, name: str) -> None:
        """Look for versions of a model now."""
        self._settings.of(name)
        await self._source.poll_now(name)

    # -- batching ------------------------------------------------------------------------------------------------------

    def batching(self, name: str) -> BatchingParameters | None:
        """Return a model's batching parameters; None when off or for a model that was removed meanwhile.

        Those of its newest loaded version, where each version has its own.
        """
        if name not in self._settings:
            return None
        settings = self._settings.of(name)
        if settings.batching_by_version:
            return next((served.batching for _, served in self._served(name)), None)
        return settings.batching

    @property
    def default_batching(self) -> BatchingParameters | None:
        """What a model is batched with about which nothing else was said: the flags' parameters; None when off."""
        return self._options.batching

    def set_batching(self, name: str, parameters: BatchingParameters | None) -> None:
        """Change a model's batching, for all its versions, while requests run."""
        settings = self._settings.of(name)
        self._apply_batching(name, parameters)  # first: what is refused there must not come into force at the next load
        settings.batching = parameters
        settings.batching_by_version = False

    def _apply_batching(self, name: str, parameters: BatchingParameters | None) -> None:
        for _, served in self._served(name):
            if served.batching != parameters:
                served.batching = parameters

    def frozen(self, name: str) -> dict[int, list[str]]:
        """Return which signatures of each AVAILABLE version run with constants in place of variables."""
        return {view.version: list(served.frozen) for view, served in self._served(name)}

    def sessions(self, name: str) -> dict[int, dict[str, Any]]:
        """Return what the session of each AVAILABLE version was made with."""
        return {view.version: served.session for view, served in self._served(name)}

    # -- what is loaded ------------------------------------------------------------------------------------------------

    def _served(self, name: str) -> list[tuple[VersionView, ServedVersion]]:
        if name not in self.manager.model_names():
            return []
        return [
            (view, cast("ServedVersion", self.manager.resolve(name, view.version)))
            for view in self.manager.versions(name)
            if view.state is State.AVAILABLE
        ]

    def served(self, name: str, version: int | None) -> ServedVersion:
        """Return an AVAILABLE version; None: the one that answers requests without a version.

        Raises
        ------
        ServingError
            There is none, with the reason.
        """
        self._settings.of(name)
        return cast("ServedVersion", self.manager.resolve(name, version))

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the counters of every loaded version, by model and version."""
        return {
            name: {
                str(view.version): {**served.statistics.snapshot(), "queued": served.queued, "running": served.running}
                for view, served in self._served(name)
            }
            for name in self.names()
        }

    def counters(self) -> Mapping[tuple[str, int], Statistics]:
        """Return the counters of every version that was ever loaded, by model and version.

        Those of versions that ended long ago are joined, under a version below 0.
        """
        return self._loader.statistics

    def stamps(self, name: str) -> Stamps:
        """Return the stamps of a model's requests."""
        self._settings.of(name)
        return self._loader.stamps_of(name)

    @property
    def loads(self) -> LoadCounters:
        """Tries to load a version, and warmups."""
        return self._loader.loads

    def loaded(self) -> list[ServedVersion]:
        """Return all AVAILABLE versions of all models."""
        return [served for name in self.names() for _, served in self._served(name)]

    def running(self, name: str) -> dict[int, int]:
        """Return how many requests run in each AVAILABLE version of a model."""
        return {view.version: served.running for view, served in self._served(name)}

    def _trim(self) -> None:
        busy = False
        for name in self.names():
            for _, served in self._served(name):
                served.trim()
                busy |= served.pending > 0
        if not busy:
            give_back()
        self._trimmer = asyncio.get_running_loop().call_later(_TRIM_SECONDS, self._trim)
