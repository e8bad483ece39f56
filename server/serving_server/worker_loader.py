"""What loads versions into workers, and what is counted over all loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from serving_server.batching.parameters import BatchingParameters
from serving_server.forkserver.client import ForkServer
from serving_server.load_options import LoadOptions
from serving_server.metrics.loads import LoadCounters
from serving_server.servable import ServedVersion
from serving_server.statistics import Statistics

__all__ = ["WorkerLoader"]


class WorkerLoader:
    """Loads versions into workers (implements `serving_server.lifecycle.servable.Loader`).

    Parameters
    ----------
    forkserver : ForkServer
    options_of : callable
        From a model's name to how it is loaded; asked at each load.
    batching_of : callable
        From a model's name and a version's folder to the batching parameters in force, None when off; asked at each
        load. May raise a `ServingError`, which fails the load.
    """

    def __init__(
        self,
        forkserver: ForkServer,
        options_of: Callable[[str], LoadOptions],
        batching_of: Callable[[str, Path], BatchingParameters | None],
    ) -> None:
        self._forkserver = forkserver
        self._options_of = options_of
        self._batching_of = batching_of
        # Counters go on after a restart of the worker, as monitoring expects of counters.
        self.statistics: dict[tuple[str, int], Statistics] = {}
        self.loads = LoadCounters()

    async def load(self, model: str, version: int, path: Path, on_step: Callable[[str], None]) -> ServedVersion:
        """Load one version; see `ServedVersion.load`."""
        batching = self._batching_of(model, path)
        statistics = self.statistics.setdefault((model, version), Statistics())
        served = ServedVersion(model, version, path, self._options_of(model), self._forkserver, statistics, self.loads)
        await served.load(batching, on_step)
        try:
            # They may have changed meanwhile, and whoever changed them saw no version to tell.
            latest = self._batching_of(model, path)
            if latest != batching:
                served.batching = latest
        except BaseException:
            await served.close()
            raise
        return served
