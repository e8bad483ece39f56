"""What became of the requests of one version in a split: sums that any statistics of a mean can be made of."""

from __future__ import annotations

from array import array
from collections import Counter
from time import perf_counter
from typing import Any

import numpy as np

from serving_server.errors import StatusCode
from serving_server.metrics.histogram import FINE_BOUNDS, LATENCY_BOUNDS, MAX_ASIDE, FineTally

__all__ = ["Outcomes"]


class Outcomes:
    """Counts and sums of one version in a period of unchanging shares.

    Requests that were given to the version by the split count, no others. A request that its client has given up
    counts only when its deadline had passed. The run stage is the time in the version's graph of the batch that a
    request was in: unlike the whole, it does not depend on the queue that versions share the processors behind.

    Parameters
    ----------
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
    latency : FineTally
        The whole time, for percentiles.
    """

    __slots__ = (
        "_aside",
        "_runs_aside",
        "answered",
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

    def __init__(self, objective: float | None = None) -> None:
        self.objective = objective
        self.answered = 0
        self.errors: Counter[StatusCode] = Counter()
        self.misses = 0
        self.runs = 0
        self.log_run = self.log_run_squared = 0.0
        self.log_total = self.log_total_squared = 0.0
        self.latency = FineTally(LATENCY_BOUNDS)
        # Logarithms of a thousand values at once cost a tenth of theirs one by one.
        self._aside = array("d")
        self._runs_aside = array("q")

    def succeeded(self, arrived: float, run_ns: int) -> None:
        """Count an answer.

        Parameters
        ----------
        arrived : float
            When it came, by `time.perf_counter`.
        run_ns : int
            Nanoseconds in the graph; 0: not known, or counted with another request of the same batch.
        """
        aside = self._aside
        aside.append(perf_counter() - arrived)
        self._runs_aside.append(run_ns)
        if len(aside) >= MAX_ASIDE:
            self.settle()

    def settle(self) -> None:
        """Sort in what has come since the last time; all attributes are true after it."""
        if not self._aside:
            return
        totals, self._aside = np.array(self._aside), array("d")
        runs, self._runs_aside = np.array(self._runs_aside), array("q")
        self.answered += len(totals)
        logs = np.log(np.maximum(totals, 1e-9))
        self.log_total += float(logs.sum())
        self.log_total_squared += float((logs * logs).sum())
        if self.objective is not None:
            self.misses += int((totals > self.objective).sum())
        logs = np.log(runs[runs > 0] * 1e-9)
        self.runs += len(logs)
        self.log_run += float(logs.sum())
        self.log_run_squared += float((logs * logs).sum())
        self.latency.aside.fromlist(totals.tolist())
        self.latency.settle()

    def failed(self, code: StatusCode) -> None:
        """Count an error."""
        self.errors[code] += 1

    @property
    def requests(self) -> int:
        """Answered and failed."""
        self.settle()
        return self.answered + self.errors.total()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object; sums of logarithms of seconds."""
        self.settle()
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
                "counts": [[index, count] for index, count in enumerate(self.latency.fine) if count],
            },
        }
