"""What loads versions into workers, and what is counted over all loads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from serving_server.batching.parameters import BatchingParameters
from serving_server.forkserver.client import ForkServer
from serving_server.lifecycle.states import State
from serving_server.load_options import LoadOptions
from serving_server.metrics.loads import LoadCounters
from serving_server.metrics.requests import OTHER
from serving_server.place import Place
from serving_server.servable import ServedVersion
from serving_server.stamps.ring import Stamps
from serving_server.statistics import Statistics

__all__ = ["ENDED_VERSIONS", "MODELS", "OTHER_MODELS", "WorkerLoader"]

#: Versions that have ended whose counters are kept apart; those of older ones are joined, by model.
ENDED_VERSIONS: Final = 256

#: Models whose joined counters are kept apart; those of further ones go together under `OTHER_MODELS`.
MODELS: Final = 256
OTHER_MODELS: Final = OTHER

#: Stands for the versions whose counters were joined.
_JOINED: Final = -1


class WorkerLoader:
    """Loads versions into workers (implements `serving_server.lifecycle.servable.Loader`).

    Parameters
    ----------
    forkserver : ForkServer
    options_of : callable
        From a model's name to how it is loaded; asked at each load.
    batching_of : callable
        From a model's name and what a version brings along to the batching parameters in force, None when off; asked at
        each load.
    brought_by : callable
        From a model's name and a version's folder to the batching parameters that it brings along. May raise a
        `ServingError`, which fails the load.
    """

    def __init__(
        self,
        forkserver: ForkServer,
        options_of: Callable[[str], LoadOptions],
        batching_of: Callable[[str, BatchingParameters | None], BatchingParameters | None],
        brought_by: Callable[[str, Place], Awaitable[BatchingParameters | None]],
    ) -> None:
        self._forkserver = forkserver
        self._options_of = options_of
        self._batching_of = batching_of
        self._brought_by = brought_by
        # Counters go on after a restart of the worker, as monitoring expects of counters.
        self.statistics: dict[tuple[str, int], Statistics] = {}
        self._ended: dict[tuple[str, int], None] = {}  # in the order of their ends
        self.loads = LoadCounters()
        self._stamps: dict[str, Stamps] = {}

    def stamps_of(self, model: str) -> Stamps:
        """Return the stamps of a model's requests."""
        return self._stamps.setdefault(model, Stamps())

    def forget_stamps(self, model: str) -> None:
        """Let go of the stamps of a model that was removed."""
        self._stamps.pop(model, None)

    def on_state(self, model: str, version: int, _old: State, new: State) -> None:
        """Take note of versions that end (a `serving_server.lifecycle.manager.Listener`).

        A server that gets a version every minute runs for years: the counters of the oldest are joined, so that sums
        over the versions of a model do not go down, as monitoring expects.
        """
        if new is not State.END or (model, version) not in self.statistics:
            return
        self._ended.pop((model, version), None)
        self._ended[model, version] = None
        while len(self._ended) > ENDED_VERSIONS:
            key = next(iter(self._ended))
            del self._ended[key]
            into = (key[0], _JOINED)
            if into not in self.statistics and sum(version == _JOINED for _, version in self.statistics) >= MODELS:
                into = (OTHER_MODELS, _JOINED)
            self.statistics.setdefault(into, Statistics()).merge(self.statistics.pop(key))

    async def load(self, model: str, version: int, path: Place, on_step: Callable[[str], None]) -> ServedVersion:
        """Load one version; see `ServedVersion.load`."""
        own = await self._brought_by(model, path)
        batching = self._batching_of(model, own)
        self._ended.pop((model, version), None)
        statistics = self.statistics.setdefault((model, version), Statistics())
        statistics.stamps = self.stamps_of(model)
        served = ServedVersion(model, version, path, self._options_of(model), self._forkserver, statistics, self.loads)
        await served.load(batching, on_step)
        try:
            # They may have changed meanwhile, and whoever changed them saw no version to tell.
            latest = self._batching_of(model, own)
            if latest != batching:
                served.batching = latest
        except BaseException:
            await served.close()
            raise
        return served
