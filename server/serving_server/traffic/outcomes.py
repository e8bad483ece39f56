"""What became of the requests of one version in a split: sums that any statistics of a mean can be made of."""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from serving_server.errors import StatusCode
from serving_server.metrics.histogram import FINE_BOUNDS, MAX_ASIDE

if TYPE_CHECKING:
    from serving_server.traffic.exposures import ExposureLog

__all__ = ["FAILED", "GIVEN_UP", "KEYED", "Outcomes"]

#: Added to the point of a request whose key decided.
KEYED: Final = 1 << 32
#: In place of nanoseconds in the graph: this less the status code of a request that failed.
FAILED: Final = -(1 << 62)
#: In place of a status code: its client has given the request up, before any deadline.
GIVEN_UP: Final = 31


class Outcomes:
    """Counts and sums of one version in a period of unchanging shares.

    Requests that were given to the version by the split count, no others. A request that its client has given up
    counts only when its deadline had passed. The run stage is the time in the version's graph of the batch that a
    request was in: unlike the whole, it does not depend on the queue that versions share the processors behind.

    Parameters
    ----------
    log : ExposureLog
        Where requests are noted first.
    base : int
        Added to their points there, to tell them from those of others.
    objective : float or None
        Seconds from taking a request to its answer, beyond which it is a miss.

    Attributes
    ----------
    answered : int
        With success.
    errors : Counter of StatusCode
    misses : int
        Answered later than the objective.
    runs : int
        Batches whose time in the graph is known. Requests that ran together have one time, so they are one observation:
        taken as independent, they would be sure of differences that are not there.
    log_run, log_run_squared : float
        Sums of the logarithm of seconds in the graph, and of its square.
    log_total, log_total_squared : float
        The same of the whole time, over `answered`.
    latency : ndarray of int64
        Answers by the whole time, for percentiles: up to each of `FINE_BOUNDS`, and above the last.
    """

    __slots__ = (
        "_arrived",
        "_ended",
        "_log",
        "_noted",
        "_points",
        "_runs",
        "answered",
        "base",
        "errors",
        "latency",
        "log_run",
        "log_run_squared",
        "log_total",
        "log_total_squared",
        "misses",
        "objective",
        "runs",
    )

    def __init__(self, log: ExposureLog, base: int, objective: float | None = None) -> None:
        self.base = base
        self.objective = objective
        self.answered = 0
        self.errors: Counter[StatusCode] = Counter()
        self.misses = 0
        self.runs = 0
        self.log_run = self.log_run_squared = 0.0
        self.log_total = self.log_total_squared = 0.0
        self.latency = np.zeros(len(FINE_BOUNDS) + 1, np.int64)
        self._log = log
        # The methods themselves: each request of a split comes through here.
        self._arrived, self._ended = log.arrived.append, log.ended.append
        self._runs, self._points = log.runs.append, log.points.append
        self._noted = log.points

    def succeeded(self, arrived: float, run_ns: int, point: int) -> None:
        """Count an answer.

        Parameters
        ----------
        arrived : float
            When it came, by `time.perf_counter`.
        run_ns : int
            Nanoseconds in the graph; 0: not known; negative: counted with another request of the same batch.
        point : int
            See `serving_server.traffic.router.Arm.point`.
        """
        self._arrived(arrived)
        self._ended(perf_counter())
        self._runs(run_ns)
        self._points(self.base + point)
        if len(self._noted) >= MAX_ASIDE:
            self._log.settle()

    def failed(self, code: int, arrived: float, point: int) -> None:
        """Count an error: a `StatusCode`, or `GIVEN_UP`, which is remembered but does not count."""
        self.succeeded(arrived, FAILED - code, point)

    def settle(self) -> None:
        """Sort in what has come since the last time; all attributes are true after it."""
        self._log.settle()

    def add(
        self, totals: npt.NDArray[np.float64], runs: npt.NDArray[np.int64], status: npt.NDArray[np.integer[Any]]
    ) -> None:
        """Count requests: seconds of each, nanoseconds in the graph as for `succeeded`, status codes."""
        right = status == 0
        if not right.all():
            codes = np.bincount(status[~right]).tolist()
            self.errors.update(
                {StatusCode(code): count for code, count in enumerate(codes) if count and code != GIVEN_UP}
            )
            totals, runs = totals[right], runs[right]
        self.answered += len(totals)
        if self.objective is not None:
            self.misses += int(np.count_nonzero(totals > self.objective))
        # Logarithms of a thousand values at once cost a tenth of theirs one by one.
        logs = np.log(np.maximum(totals, 1e-9))
        self.log_total += float(logs.sum())
        self.log_total_squared += float(np.dot(logs, logs))
        self.latency += np.bincount(np.searchsorted(FINE_BOUNDS, totals), minlength=len(self.latency))
        logs = np.log(runs[runs > 0] * 1e-9)
        self.runs += len(logs)
        self.log_run += float(logs.sum())
        self.log_run_squared += float(np.dot(logs, logs))

    @property
    def requests(self) -> int:
        """Answered and failed."""
        self.settle()
        return self.answered + self.errors.total()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; sums of logarithms of seconds."""
        self.settle()
        seen = np.flatnonzero(self.latency)
        return {
            "answered": self.answered,
            "errors": {code.name: count for code, count in self.errors.items()},
            "misses": self.misses,
            "objective_s": self.objective,
            "runs": self.runs,
            "log_run": [self.log_run, self.log_run_squared],
            "log_total": [self.log_total, self.log_total_squared],
            # [i, count] for the upper bounds scale * growth^i.
            "latency_fine": {
                "scale_us": float(FINE_BOUNDS[0]) * 1e6,
                "growth": float(FINE_BOUNDS[1] / FINE_BOUNDS[0]),
                "counts": np.stack([seen, self.latency[seen]], axis=1).tolist(),
            },
        }
