"""All metrics of a server, gathered when somebody looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import psutil

from serving_server.build_info import tensorflow_version
from serving_server.catalog import Catalog
from serving_server.lifecycle.states import VersionView
from serving_server.metrics.exposition import Family, exposition
from serving_server.metrics.requests import Requests
from serving_server.metrics.serving_families import serving_families
from serving_server.metrics.workbench_families import process_families, server_families, version_families
from serving_server.statistics import Statistics

__all__ = ["Metrics"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Version:
    model: str
    view: VersionView
    statistics: Statistics | None
    running: int


class Metrics:
    """What a server's metrics page shows. All calls on the loop.

    Parameters
    ----------
    catalog : Catalog
    requests : Requests
        What the transports count in.
    """

    def __init__(self, catalog: Catalog, requests: Requests) -> None:
        self._catalog = catalog
        self._requests = requests
        self._process = psutil.Process()

    def families(self) -> list[Family]:
        """Return everything, now."""
        catalog = self._catalog
        names = catalog.names()
        serving = ((name, catalog.manager.serving_version(name)) for name in names)
        return [
            *self._serving(),
            *version_families(self._versions()),
            *server_families(
                ready=all(catalog.manager.serving_version(name) is not None for name in names),
                tensorflow=tensorflow_version(),
                labels=[(name, label, to) for name in names for label, to in catalog.labels.of(name).items()],
                serving=[(name, number) for name, number in serving if number is not None],
            ),
            *catalog.splits.families(),
            *catalog.ramps.families(),
            *catalog.mirrors.families(),
            *process_families(self._process),
        ]

    def page(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return exposition(self.families())

    def values(self, names: Collection[str]) -> dict[str, int]:
        """Return int64 metrics of TensorFlow Serving by name, each the sum over all labels, without the unknown ones.

        Parameters
        ----------
        names : collection of str
            As in TensorFlow's registry (``/tensorflow/serving/request_count``), or as on the metrics page.
        """
        found = {
            family.name: sum(int(sample) for sample in family.samples.values() if isinstance(sample, int | float))
            for family in self._serving()
            if family.kind == "counter"
        }
        return {name: found[known] for name in names if (known := name.replace("/", ":")) in found}

    def _serving(self) -> list[Family]:
        catalog = self._catalog
        return serving_families(catalog.counters(), self._requests, catalog.loads, catalog.request_logs.counts())

    def _versions(self) -> Iterator[_Version]:
        counters = self._catalog.counters()
        for name in self._catalog.names():
            running = self._catalog.running(name)
            for view in self._catalog.manager.versions(name):
                statistics = counters.get((name, view.version))
                yield _Version(name, view, statistics, running.get(view.version, 0))
