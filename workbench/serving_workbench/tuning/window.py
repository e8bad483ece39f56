"""What happened between two looks at a version's counters: rates, percentiles, stages. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Window", "window"]


@dataclasses.dataclass(frozen=True)
class Window:
    """Counters of a span of time.

    Attributes
    ----------
    seconds : float
    requests : int
        Answered well.
    errors : dict of str to int
        The others, by the name of the status.
    p50, p99 : float
        Seconds in the server, without transport and codec; not a number when there was no request.
    batches : dict of (int, int) to int
        By rows and padding; requests that ran by themselves have no padding.
    reasons : dict of str to int
        ``full``, ``timeout``, ``immediate``, ``alone``.
    stages : dict of str to float
        Mean seconds of a request: ``queue``, ``assembly``, ``run`` (in the graph), ``channel`` (to the worker and
        back), ``codec`` (reading, checking, writing).
    held : float
        Seconds that batches held a batch thread, summed over the threads.
    queued, running : int
        Requests now.
    """

    seconds: float
    requests: int
    errors: Mapping[str, int]
    p50: float
    p99: float
    batches: Mapping[tuple[int, int], int]
    reasons: Mapping[str, int]
    stages: Mapping[str, float]
    held: float
    queued: int
    running: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0

    @property
    def runs(self) -> int:
        """Batches."""
        return sum(self.batches.values())

    @property
    def rows(self) -> int:
        """Rows without padding."""
        return sum(rows * count for (rows, _), count in self.batches.items())

    @property
    def mean_rows(self) -> float:
        """Mean rows of a batch."""
        return self.rows / self.runs if self.runs else 0.0

    @property
    def requests_per_batch(self) -> float:
        """Mean requests of a batch."""
        return self.requests / self.runs if self.runs else 0.0

    @property
    def padding(self) -> float:
        """Part of the rows that were run which is padding, 0 to 1."""
        added = sum(padding * count for (_, padding), count in self.batches.items())
        total = self.rows + added
        return added / total if total else 0.0

    def busy(self, threads: int) -> float:
        """Return the part of the time that the batch threads held a batch, 0 to 1."""
        return min(1.0, self.held / (self.seconds * threads)) if self.seconds > 0 else 0.0

    def share(self, reason: str) -> float:
        """Return the part of the batches that ran for a reason, 0 to 1."""
        total = sum(self.reasons.values())
        return self.reasons.get(reason, 0) / total if total else 0.0


def window(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> Window:
    """Return what happened between two snapshots of one version's statistics (`Statistics.snapshot` of the server)."""

    def count(*path: str) -> float:
        return _at(after, path) - _at(before, path)

    requests = int(count("latency_us", "count"))
    per_request = 1e-6 / max(1.0, count("stages", "requests"))
    answered = max(1.0, count("answered_us", "count"))
    queue = 1e-6 * count("queue_us", "sum") / max(1.0, count("queue_us", "count"))
    assembly = per_request * count("stages", "request_us", "assembly")
    lane = per_request * count("stages", "request_us", "lane")
    run = per_request * count("stages", "request_us", "run")
    whole = 1e-6 * count("answered_us", "sum") / answered
    errors = _counted(before["requests"], after["requests"])
    errors.pop("OK", None)
    return Window(
        seconds=seconds,
        requests=requests,
        errors=errors,
        p50=_percentile(before["latency_fine"], after["latency_fine"], 50),
        p99=_percentile(before["latency_fine"], after["latency_fine"], 99),
        batches=_batches(before["batches"], after["batches"]),
        reasons=_counted(before["stages"]["reasons"], after["stages"]["reasons"]),
        stages={
            "queue": queue,
            "assembly": assembly,
            "run": run,
            "channel": max(0.0, lane - run),
            "codec": max(0.0, whole - queue - assembly - lane) if requests else 0.0,
        },
        held=1e-6 * (count("stages", "batch_us", "lane") + count("stages", "batch_us", "assembly")),
        queued=int(after["queued"]),
        running=int(after["running"]),
    )


def _at(value: Any, path: tuple[str, ...]) -> float:
    for name in path:
        value = value[name]
    return float(value)


def _counted(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    found = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in found.items() if count > 0}


def _batches(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    known = {(rows, padding): count for rows, padding, count in before["padded"]}
    found = {(rows, padding): count - known.get((rows, padding), 0) for rows, padding, count in after["padded"]}
    batched, everything = sum_by_rows(after["padded"]), {int(rows): n for rows, n in after["sizes"].items()}
    earlier, earlier_all = sum_by_rows(before["padded"]), {int(rows): n for rows, n in before["sizes"].items()}
    for rows, total in everything.items():
        # What is in `sizes` and not in `padded` ran by itself.
        alone = (total - batched.get(rows, 0)) - (earlier_all.get(rows, 0) - earlier.get(rows, 0))
        if alone > 0:
            found[rows, 0] = found.get((rows, 0), 0) + alone
    return {key: count for key, count in found.items() if count > 0}


def sum_by_rows(padded: list[list[int]]) -> dict[int, int]:
    """Return how many batches had so many rows, whatever their padding."""
    found: dict[int, int] = {}
    for rows, _, count in padded:
        found[rows] = found.get(rows, 0) + count
    return found


def _percentile(before: Mapping[str, Any], after: Mapping[str, Any], percent: float) -> float:
    """Return a percentile in seconds: within a bucket, on a line in the logarithm."""
    known = dict(map(tuple, before["counts"]))
    counts = [(index, count - known.get(index, 0)) for index, count in after["counts"]]
    total = sum(count for _, count in counts)
    if total <= 0:
        return float("nan")
    wanted = percent / 100 * total
    seen = 0.0
    for index, count in counts:
        if count > 0 and seen + count >= wanted:
            inside = (wanted - seen) / count
            return float(after["scale_us"] * 1e-6 * np.power(after["growth"], index - 1 + inside))
        seen += count
    raise AssertionError("the counts do not add up")
