"""Metrics that TensorFlow Serving does not have: versions, signatures, queues, workers, the server itself.

In Prometheus' own conventions: seconds and bytes, counters that end in ``_total``. TensorFlow Serving's own families
stay as they are, so dashboards made for it go on working.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import psutil

from serving_server import __version__
from serving_server.errors import StatusCode
from serving_server.lifecycle.states import State, VersionView
from serving_server.metrics.exposition import Family
from serving_server.metrics.histogram import Histogram, exponential
from serving_server.statistics import Statistics

__all__ = ["VersionNow", "process_families", "server_families", "version_families"]

_PREFIX: Final = "serving_workbench_"
_SIZE_BOUNDS: Final = exponential(1, 2, 14)


class VersionNow(Protocol):
    """A version that is known now."""

    @property
    def model(self) -> str:
        """Name."""

    @property
    def view(self) -> VersionView:
        """State, worker, load."""

    @property
    def statistics(self) -> Statistics | None:
        """None when it was never loaded."""

    @property
    def running(self) -> int:
        """Requests being run."""


class _Families:
    """Families in the making, by name without prefix."""

    def __init__(self) -> None:
        self._found: dict[str, Family] = {}

    def put(self, name: str, kind: str, labels: dict[str, str], value: float | Histogram, what: str) -> None:
        family = self._found.get(name)
        if family is None:
            family = self._found[name] = Family(_PREFIX + name, kind, tuple(labels), help=what)
        family.samples[tuple(labels.values())] = value

    def all(self) -> list[Family]:
        return list(self._found.values())


def version_families(versions: Iterable[VersionNow]) -> list[Family]:
    """Return what there is to say of versions; those that have ended in good order are left out."""
    found = _Families()
    for version in versions:
        view = version.view
        if view.state is State.END and view.error_code is StatusCode.OK:
            continue
        labels = {"model_name": version.model, "version": str(view.version)}
        _state(found, labels, view)
        if view.worker_pid is not None:
            _worker(found, labels, view.worker_pid)
        if version.statistics is not None:
            running = version.running
            found.put("requests_running", "gauge", labels, running, "Requests in the graph, or on their way there.")
            found.put("requests_queued", "gauge", labels, max(0, view.pending - running), "Requests that wait.")
            _counters(found, labels, version.statistics)
    return found.all()


def _state(found: _Families, labels: dict[str, str], view: VersionView) -> None:
    for state in State:
        if state is not State.UNKNOWN:
            found.put(
                "version_state",
                "gauge",
                {**labels, "state": state.name},
                int(view.state is state),
                "1 for the state that a version is in.",
            )
    found.put("worker_restarts_total", "counter", labels, view.restarts, "Restarts of the worker after a crash.")
    if view.load_seconds is not None:
        found.put("version_load_seconds", "gauge", labels, view.load_seconds, "How long the last load took.")


def _worker(found: _Families, labels: dict[str, str], pid: int) -> None:
    with contextlib.suppress(psutil.Error):  # it has just ended
        process = psutil.Process(pid)
        with process.oneshot():
            memory = process.memory_info().rss
            times = process.cpu_times()
        what = "Resident memory of the worker, shared pages of TensorFlow's libraries included."
        found.put("worker_resident_memory_bytes", "gauge", labels, memory, what)
        cpu = times.user + times.system
        found.put("worker_cpu_seconds_total", "counter", labels, cpu, "Processor time of the present worker.")


def _counters(found: _Families, labels: dict[str, str], statistics: Statistics) -> None:
    for name, requests in statistics.signatures.items():
        signature = {**labels, "signature_name": name}
        for (api, entrypoint), cell in requests.cells.items():
            kind = {**signature, "API": api, "entrypoint": entrypoint}
            counts = {StatusCode.OK: cell.count, **cell.errors}
            for code, count in counts.items():
                if count:
                    each = {**kind, "status": code.name}
                    what = "Requests of a signature by how they ended."
                    found.put("requests_total", "counter", each, count, what)
            if counts[StatusCode.OK]:
                what = "Time from a request to its answer, of the good ones."
                found.put("request_duration_seconds", "histogram", kind, cell, what)
        for code, count in requests.ended.items():
            each = {**signature, "status": code.name}
            what = "Requests that ended before they had an answer."
            found.put("requests_abandoned_total", "counter", each, count, what)
    sizes = statistics.sizes()
    if not sizes:
        return
    histogram = Histogram(_SIZE_BOUNDS)
    for size, count in sizes.items():
        histogram.add(size, count)
    found.put("batch_rows", "histogram", labels, histogram, "Rows of the requests that ran together.")
    padding = statistics.padding_rows()
    found.put("padding_rows_total", "counter", labels, padding, "Rows added so that a batch has an allowed size.")
    found.put("graph_seconds_total", "counter", labels, statistics.run_ns / 1e9, "Time in the model's graph.")
    stages = statistics.stages
    for reason, count in stages.counts().items():
        what = "Batches by why they ran: full, timeout, immediate (nothing to wait for), alone (not batched)."
        found.put("batches_total", "counter", {**labels, "reason": reason}, count, what)
    what = "Time of the batch threads: putting batches together, and from the hand-over to the worker to its answer."
    for stage, spent in (("assembly", stages.assembly), ("lane", stages.lane)):
        found.put("batch_stage_seconds_total", "counter", {**labels, "stage": stage}, spent / 1e9, what)
    queue = Histogram(statistics.queuing.bounds)
    queue.merge(statistics.queuing)
    queue.merge(statistics.waiting)
    found.put("queue_seconds", "histogram", labels, queue, "Time that requests waited to be run.")


def server_families(
    *, ready: bool, tensorflow: str, labels: Iterable[tuple[str, str, int]], serving: Iterable[tuple[str, int]]
) -> list[Family]:
    """Return what there is to say of the server.

    Parameters
    ----------
    ready : bool
        Whether every model has a version that answers.
    tensorflow : str
        Its version.
    labels : iterable of (model, label, version)
    serving : iterable of (model, version)
        The version that answers requests which name none.
    """
    build = {("version", __version__), ("python", platform.python_version()), ("tensorflow", tensorflow)}
    names = dict(sorted(build))
    return [
        _family("build_info", "gauge", tuple(names), {tuple(names.values()): 1}, "What this server is made of."),
        _family("ready", "gauge", (), {(): int(ready)}, "Whether every model has a version that answers."),
        _family(
            "version_label",
            "gauge",
            ("model_name", "label", "version"),
            {(model, label, str(version)): 1 for model, label, version in labels},
            "Version that a label points at.",
        ),
        _family(
            "serving_version",
            "gauge",
            ("model_name",),
            {(model,): version for model, version in serving},
            "Version that answers requests which name none.",
        ),
    ]


def process_families(process: psutil.Process) -> list[Family]:
    """Return the front process's own, in the names that Prometheus' client libraries use."""
    with process.oneshot():
        times = process.cpu_times()
        values: Sequence[tuple[str, str, Any, str]] = (
            ("process_start_time_seconds", "gauge", process.create_time(), "When the process began, since 1970."),
            ("process_cpu_seconds_total", "counter", times.user + times.system, "Processor time of the front."),
            ("process_resident_memory_bytes", "gauge", process.memory_info().rss, "Resident memory of the front."),
            ("process_open_fds", "gauge", process.num_fds(), "Open descriptors of the front."),
        )
    return [Family(name, kind, (), {(): value}, what) for name, kind, value, what in values]


def _family(name: str, kind: str, labels: tuple[str, ...], samples: dict[tuple[str, ...], Any], what: str) -> Family:
    return Family(_PREFIX + name, kind, labels, samples, what)
