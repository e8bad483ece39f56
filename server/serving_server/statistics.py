"""Counters of one version: requests by status, latencies, batch sizes. Cheap enough to be always on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from serving_server.errors import StatusCode
from serving_server.metrics.histogram import (
    FINE_BOUNDS,
    LATENCY_BOUNDS,
    MAX_ASIDE,
    FineTally,
    Tally,
    exponential,
    merged,
)
from serving_server.metrics.requests import SignatureRequests
from serving_server.metrics.stages import Stages
from serving_server.stamps.ring import Stamps

if TYPE_CHECKING:
    from serving_server.batching.task import Task

__all__ = ["QUEUING_BOUNDS", "Statistics"]

#: Upper bounds in seconds: 100 us x 1.2^i, 52 of them, as TensorFlow Serving's queuing_latency has.
QUEUING_BOUNDS: Final = tuple(bound / 1e6 for bound in exponential(100, 1.2, 52))

#: Sizes and paddings that are told apart; clients choose them, so beyond that they are rounded up to a power of two.
_MAX_SIZES: Final = 4096


class Statistics:
    """What happened in one version since it was first loaded.

    Attributes
    ----------
    runtime : dict of str to FineTally
        Seconds from taking a request to its outputs, by API (``Predict``, ``Classify``, ...); successes only.
    queuing : Tally
        Seconds that requests waited for their batch to start.
    waiting : Tally
        The same for requests that ran by themselves.
    batches : Counter of (int, int)
        Batches by (rows, rows added as padding).
    single : Counter of int
        Runs without batching, by rows.
    tasks : Counter of int
        Requests in batches, by rows.
    run_ns : int
        Time in the graph.
    stages : Stages
        Where the time of the batches went, and why they ran.
    signatures : dict of str to SignatureRequests
    stamps : Stamps
        What is kept of single requests; the model's, whatever the version.
    """

    def __init__(self) -> None:
        self.runtime: dict[str, FineTally] = {}
        self.queuing = Tally(QUEUING_BOUNDS)
        self.waiting = Tally(QUEUING_BOUNDS)
        self.batches: Counter[tuple[int, int]] = Counter()
        self.single: Counter[int] = Counter()
        self.tasks: Counter[int] = Counter()
        self.run_ns = 0
        self.stages = Stages()
        self.signatures: dict[str, SignatureRequests] = {}
        self.stamps = Stamps()
        self._errors: Counter[StatusCode] = Counter()

    def requests(self, signature: str) -> SignatureRequests:
        """Return where the requests of a signature count."""
        found = self.signatures.get(signature)
        if found is None:
            found = self.signatures[signature] = SignatureRequests()
        return found

    def runtime_of(self, api: str) -> FineTally:
        """Return where the run time of an API's requests counts."""
        found = self.runtime.get(api)
        if found is None:
            found = self.runtime[api] = FineTally(LATENCY_BOUNDS)
        return found

    def started(self, tasks: Sequence[Task], *, batched: bool) -> None:
        """Count how long requests waited that are about to run."""
        now = perf_counter()
        histogram = self.queuing if batched else self.waiting
        histogram.aside.fromlist([now - task.arrived for task in tasks])
        if len(histogram.aside) >= MAX_ASIDE:
            histogram.settle()
        requests = self.signatures.get(tasks[0].signature.name)
        if requests is not None and len(requests.predict.aside) >= MAX_ASIDE:
            requests.predict.settle()
        if batched:
            sizes = [task.rows for task in tasks]
            first = sizes[0]
            if sizes.count(first) == len(sizes):  # as a rule
                self.tasks[_rounded(first, self.tasks)] += len(sizes)
            else:
                for rows in sizes:
                    self.tasks[_rounded(rows, self.tasks)] += 1

    def succeeded(self, tasks: Sequence[Task]) -> None:
        """Count requests that have just been answered with success."""
        now = perf_counter()
        api = ""
        for task in tasks:
            if task.api != api:
                api = task.api
                histogram = self.runtime_of(api)
                put = histogram.aside.append
                if len(histogram.aside) >= MAX_ASIDE:
                    histogram.settle()
            put(now - task.arrived)

    def failed(self, code: StatusCode) -> None:
        """Count a request that was answered with an error."""
        self._errors[code] += 1

    def batch(self, rows: int, padding: int, run_ns: int) -> None:
        """Count a run of joined requests: its rows, those added as padding, how long the graph ran (ns)."""
        key = (rows, padding)
        if key not in self.batches and len(self.batches) >= _MAX_SIZES:
            key = (_power_of_two(rows), _power_of_two(padding))
        self.batches[key] += 1
        self.run_ns += run_ns

    def alone(self, rows: int, run_ns: int) -> None:
        """Count a run of a request by itself: its rows, and how long the graph ran (ns)."""
        self.single[_rounded(rows, self.single)] += 1
        self.run_ns += run_ns

    def sizes(self) -> Counter[int]:
        """Return how many runs had so many rows."""
        found = Counter(self.single)
        for (rows, _), count in self.batches.items():
            found[rows] += count
        return found

    def padding_rows(self) -> int:
        """Return the rows added as padding."""
        return sum(padding * count for (_, padding), count in self.batches.items())

    def merge(self, other: Statistics) -> None:
        """Add what another version has counted; which signatures it had is lost."""
        for api, tally in other.runtime.items():
            self.runtime_of(api).merge(tally)
        self.queuing.merge(other.queuing)
        self.waiting.merge(other.waiting)
        for (rows, padding), count in other.batches.items():
            key = (rows, padding)
            if key not in self.batches and len(self.batches) >= _MAX_SIZES:
                key = (_power_of_two(rows), _power_of_two(padding))
            self.batches[key] += count
        for mine, theirs in ((self.single, other.single), (self.tasks, other.tasks)):
            for rows, count in theirs.items():
                mine[_rounded(rows, mine)] += count
        self.run_ns += other.run_ns
        self.stages.merge(other.stages)
        for requests in other.signatures.values():
            self.requests("").merge(requests)  # one for all signatures: versions of many models may be joined
        self._errors.update(other._errors)

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as a JSON object; latency buckets are (upper bound in us, count), the last one open."""
        latency = merged(self.runtime.values(), LATENCY_BOUNDS)
        bounds: list[float | None] = [*(bound * 1e6 for bound in LATENCY_BOUNDS), None]
        requests = Counter(self._errors)
        if latency.count:
            requests[StatusCode.OK] = latency.count
        sizes = self.sizes()
        fine: Counter[int] = Counter()
        for tally in self.runtime.values():
            tally.settle()
            fine.update({index: count for index, count in enumerate(tally.fine) if count})
        cells = [cell for requests in self.signatures.values() for cell in requests.cells.values()]
        for cell in cells:
            cell.settle()
        return {
            "requests": {code.name: count for code, count in requests.items()},
            "latency_us": {
                "count": latency.count,
                "sum": latency.total * 1e6,
                "buckets": [list(pair) for pair in zip(bounds, latency.counts, strict=True)],
            },
            # For percentiles of what came between two looks: [i, count] for the upper bounds scale * growth^i.
            "latency_fine": {
                "scale_us": float(FINE_BOUNDS[0]) * 1e6,
                "growth": float(FINE_BOUNDS[1] / FINE_BOUNDS[0]),
                "counts": [list(pair) for pair in sorted(fine.items())],
            },
            # From the first byte that was read to the answer: `latency_us` with the transport and the codec.
            "answered_us": {
                "count": sum(sum(cell.counts) for cell in cells),
                "sum": sum(cell.total for cell in cells) * 1e6,
            },
            "queue_us": {
                "count": self.queuing.count + self.waiting.count,
                "sum": (self.queuing.total + self.waiting.total) * 1e6,
            },
            "stages": self.stages.snapshot(),
            "batches": {
                "count": sum(sizes.values()),
                "rows": sum(size * count for size, count in sizes.items()),
                "padding_rows": self.padding_rows(),
                "run_us": self.run_ns / 1000,
                "sizes": {str(size): count for size, count in sorted(sizes.items())},
                "padded": [[rows, padding, count] for (rows, padding), count in sorted(self.batches.items())],
            },
        }


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length() if number else 0


def _rounded(rows: int, known: Counter[int]) -> int:
    """Return the number of rows to count under."""
    return rows if rows in known or len(known) < _MAX_SIZES else _power_of_two(rows)
