"""A served model under real load, with one set of batching parameters after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import psutil
from numpy.typing import NDArray

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel
from serving_workbench.load.payload import Payload
from serving_workbench.load.result import LoadResult
from serving_workbench.load.testing import start
from serving_workbench.tuning.ladder import Ladder

__all__ = ["Climb", "Closed", "Measurer"]

Floats = NDArray[np.float64]

#: Requests of others, as a part of all, beyond which a run is flagged.
_OTHERS: Final = 0.02

#: Processors that neither the server nor the load generator used, from which on a run is called disturbed.
_DISTURBED: Final = 0.3

#: The largest burst that a load test warms the server up with.
_BURST: Final = 64

#: Beyond the last arrival, so that a ladder is climbed to its end. Seconds.
_WHOLE: Final = 60.0

#: How often a run is looked at. Seconds.
_LOOK: Final = 0.05


@dataclasses.dataclass(frozen=True)
class Climb:
    """One ladder: p99 in seconds at each rate, infinite where it was not kept up; what flags the run.

    `disturbed`: something else than server and load generator used the processors.
    """

    latencies: Floats
    flags: tuple[str, ...] = ()
    disturbed: bool = False


@dataclasses.dataclass(frozen=True)
class Closed:
    """A closed loop: requests per second, and CPU seconds per request of the server's front and of the sender."""

    rate: float
    front_cpu: float
    client_cpu: float


class Measurer:
    """Applies parameters and sends load; puts the parameters back that were there before.

    Parameters
    ----------
    model : ServedModel
    payload : Payload
        Encoded once for all runs.
    percent : float
        Which percentile is judged.
    tick : callable
        Called now and then while a run goes on.

    Notes
    -----
    A context manager: at its end, the first parameters are in force again, unless the server has ended.
    """

    def __init__(self, model: ServedModel, payload: Payload, percent: float, tick: Callable[[], None]) -> None:
        self.model = model
        self.before: dict[str, Any] | None = model.server.control.batching(model.name)
        self._payload = payload
        self._percent = percent
        self._tick = tick
        self._changed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._changed:
            return
        try:
            self.model.server.control.patch_batching(self.model.name, self.before)
        except WorkbenchError as failed:
            if self.model.server.is_running():
                message = f"The batching parameters of '{self.model.name}' could not be put back to {self.before}"
                raise WorkbenchError(f"{message}: {failed}") from failed

    def use(self, parameters: BatchingParameters | None) -> None:
        """Put parameters into force; None: batching off."""
        self._changed = True
        self.model.server.control.patch_batching(self.model.name, None if parameters is None else parameters.to_json())

    def lone(self, rate: float, seconds: float, seed: int = 0) -> Floats:
        """Return the latencies of requests that hardly ever meet, in seconds."""
        result, _ = self._load(rate=rate, arrivals="constant", seconds=seconds, seed=seed)
        return result.records.latency[result.records.good]

    def closed(self, concurrency: int, seconds: float) -> Closed:
        """Keep so many requests in flight."""
        front = psutil.Process(self.model.server.pid)
        before = sum(front.cpu_times()[:2])
        result, _ = self._load(concurrency=concurrency, seconds=seconds)
        used = sum(front.cpu_times()[:2]) - before
        answers = int(result.records.good.sum())
        if not answers:
            raise WorkbenchError(f"'{self.model.name}' answered none of {len(result.records)} requests.")
        return Closed(result.rate, used / answers, result.records.client.cpu_seconds / answers)

    def climb(self, parameters: BatchingParameters | None, ladder: Ladder, slo: float) -> Climb:
        """Put parameters into force, climb a ladder, and return what was seen."""
        self.use(parameters)
        times = ladder.times()
        backlog = int(max(1000, 10 * slo * ladder.rates[-1]))
        room = backlog if parameters is None else parameters.max_enqueued_batches * parameters.batch_limit
        # A queue smaller than the bursts before the run would refuse these; what does not fit waits at the sender.
        in_flight = max(1024, backlog) if room >= _BURST else room
        began, before, served = time.monotonic(), _machine_seconds(), self._server_seconds()
        result, others = self._load(
            arrivals=times,
            seconds=float(times[-1]) + _WHOLE,  # a replay is cut there
            max_backlog=backlog,
            drain=max(1.0, 4 * slo),
            max_in_flight=in_flight,
        )
        records = result.records
        latencies = np.where(records.good, records.latency, np.inf)
        found = ladder.judge(latencies, self._percent)
        flags = []
        total = max(1, len(records))
        if others > _OTHERS * total:
            flags.append("others sent requests meanwhile")
        if result.client_limited:
            flags.append("the load generator was the limit")
        if not result.summary.littles_law.holds and result.complete:
            flags.append("Little's law does not hold")
        foreign = _machine_seconds() - before - (self._server_seconds() - served) - records.client.cpu_seconds
        disturbed = records.client.stolen > 0.05 or foreign > _DISTURBED * (time.monotonic() - began)
        if disturbed:
            flags.append("something else used the processors")
        return Climb(found, tuple(flags), disturbed)

    def _server_seconds(self) -> float:
        """Return the CPU seconds of the server's processes so far."""
        front = psutil.Process(self.model.server.pid)
        found = 0.0
        for process in (front, *front.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # one of them has just ended
                found += sum(process.cpu_times()[:2])
        return found

    def answered(self) -> int:
        """Return how many requests the server has answered since its start, of all models."""
        models = self.model.server.control.statistics()["models"]
        return sum(version["latency_us"]["count"] for versions in models.values() for version in versions.values())

    def _load(self, **options: Any) -> tuple[LoadResult, int]:
        """Run one load test; return it and how many requests of others were answered meanwhile."""
        before = self.answered()
        with start(self.model, data=self._payload, warmup=0.0, **options) as run:
            while not run.poll(_LOOK):
                self._tick()
            result = run.wait()
        if result.records.reason in {"gone", "crashed"}:
            raise WorkbenchError(f"The server of '{self.model.name}' could not be reached any more under load.")
        warm = 2 * _BURST  # the bursts before the run are no requests of others
        others = self.answered() - before - int(result.records.good.sum()) - warm
        return result, max(0, others)


def _machine_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return float(
        times.user + times.system + getattr(times, "nice", 0.0)
    )  # those that were asked to be nice disturb too
