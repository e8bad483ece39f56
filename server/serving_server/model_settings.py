"""What the operator said about each model: where it lives, how its versions are loaded and batched."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Awaitable, Callable

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import of_version
from serving_server.errors import NotFoundError
from serving_server.load_options import LoadOptions
from serving_server.options import ModelOptions, ServerOptions
from serving_server.place import Place
from serving_server.session_options import DeviceOptions, decide

__all__ = ["ModelSettings", "Settings"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class Settings:
    """Of one model.

    Attributes
    ----------
    base_path : Path or RemotePath
    batching : BatchingParameters or None
        None: off.
    devices : DeviceOptions or None
    batching_by_version : bool
        Each version says by a file of its own how it is batched; `batching` tells the number of batch threads only.
    """

    base_path: Place
    batching: BatchingParameters | None
    devices: DeviceOptions | None = None
    batching_by_version: bool = False


class ModelSettings:
    """The settings of all models of a server, by name; asked at each load of a version.

    Parameters
    ----------
    options : ServerOptions
    read_remote : callable
        ``read_remote(uri, limit)`` reads a file of a version that lies at a URI.
    """

    def __init__(self, options: ServerOptions, read_remote: Callable[[str, int], Awaitable[bytes]]) -> None:
        self._options = options
        self._read_remote = read_remote
        self._settings: dict[str, Settings] = {}
        self._told: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def names(self) -> list[str]:
        """Return all models' names, sorted."""
        return sorted(self._settings)

    def of(self, name: str) -> Settings:
        """Return a model's settings.

        Raises
        ------
        NotFoundError
            Naming the models that there are.
        """
        try:
            return self._settings[name]
        except KeyError:
            known = ", ".join(self.names()) or "none"
            raise NotFoundError(f"no model named '{name}'; this server has: {known}") from None

    def listed(self, model: ModelOptions) -> Settings:
        """Return the settings of a model of the operator's list: what was tuned meanwhile stays."""
        known = self._settings.get(model.name)
        if known is None:
            batching, by_version = self._options.batching, self._options.per_model_batching
        else:
            batching, by_version = known.batching, known.batching_by_version
        return Settings(model.base_path, batching, model.devices, by_version)

    def put(self, name: str, settings: Settings) -> None:
        """Put settings in place of a model's, or of a new one."""
        self._settings[name] = settings

    def forget(self, name: str) -> None:
        """Forget a model."""
        del self._settings[name]

    # -- for the loads of versions -------------------------------------------------------------------------------------

    def load_options(self, name: str) -> LoadOptions:
        """Return how versions of a model are loaded from now on."""
        options = self._options
        devices = self._settings[name].devices if name in self._settings else None
        decision = decide(options.session, options.session_template, devices, os.environ)
        for note in decision.notes:
            if note not in self._told:
                self._told.add(note)
                log.warning("sessions: %s", note)
        return LoadOptions(
            options.saved_model_tags,
            decision.config,
            options.warmup,
            options.freeze,
            options.prefer_tflite,
            options.op_libraries,
            warmup_iterations=options.warmup_iterations,
            check_method_names=options.check_method_names,
        )

    async def brought_by(self, name: str, version_folder: Place) -> BatchingParameters | None:
        """Return the batching parameters in a version's own file; None without one, and where none are looked for.

        Raises
        ------
        ServingError
            When the file is wrong.
        """
        found = self._settings.get(name)
        if found is None or found.batching is None or not found.batching_by_version:
            return None
        return await of_version(version_folder, self._read_remote)

    def batching_of(self, name: str, own: BatchingParameters | None) -> BatchingParameters | None:
        """Return what a version is batched with; None, not at all, for a model that was removed meanwhile too.

        Parameters
        ----------
        name : str
        own : BatchingParameters or None
            What the version brings along. The number of batch threads is the server's, whatever the version says.
        """
        found = self._settings.get(name)
        if found is None or found.batching is None:
            return None
        if not found.batching_by_version:
            return found.batching
        return None if own is None else dataclasses.replace(own, num_batch_threads=found.batching.num_batch_threads)
