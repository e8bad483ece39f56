"""Counters of one version: requests by status, latency, batch sizes. Cheap enough to be always on."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from serving_server.errors import StatusCode

__all__ = ["LATENCY_BOUNDS_US", "Statistics"]

#: Upper bounds in microseconds: 10 x 1.8^i, 33 of them, as TensorFlow Serving's request_latency has.
LATENCY_BOUNDS_US: Final = tuple(10 * 1.8**i for i in range(33))


class Statistics:
    """What happened in one version since it was loaded."""

    def __init__(self) -> None:
        self._requests: Counter[StatusCode] = Counter()
        self._buckets = [0] * (len(LATENCY_BOUNDS_US) + 1)
        self._latency_sum_us = 0.0
        self._batch_sizes: Counter[int] = Counter()
        self._padding_rows = 0
        self._run_ns = 0

    def request(self, code: StatusCode, seconds: float) -> None:
        """Count a request; latency counts for successes only, as in TensorFlow Serving."""
        self._requests[code] += 1
        if code is StatusCode.OK:
            micros = seconds * 1e6
            self._latency_sum_us += micros
            self._buckets[bisect.bisect_left(LATENCY_BOUNDS_US, micros)] += 1

    def successes(self, created: Iterable[float], now: float) -> None:
        """Count requests answered with success at `now`, by when each came; both in seconds on one clock."""
        buckets, total, count = self._buckets, 0.0, 0
        for start in created:
            micros = (now - start) * 1e6
            total += micros
            count += 1
            buckets[bisect.bisect_left(LATENCY_BOUNDS_US, micros)] += 1
        self._latency_sum_us += total
        self._requests[StatusCode.OK] += count

    def batch(self, rows: int, padding: int, run_ns: int) -> None:
        """Count a run: its rows, those added as padding, and how long the graph ran (ns)."""
        self._batch_sizes[rows] += 1
        self._padding_rows += padding
        self._run_ns += run_ns

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as a JSON object; latency buckets are (upper bound in us, count), the last one open."""
        bounds: list[float | None] = [*LATENCY_BOUNDS_US, None]
        return {
            "requests": {code.name: count for code, count in self._requests.items()},
            "latency_us": {
                "count": sum(self._buckets),
                "sum": self._latency_sum_us,
                "buckets": [list(pair) for pair in zip(bounds, self._buckets, strict=True)],
            },
            "batches": {
                "count": sum(self._batch_sizes.values()),
                "rows": sum(size * count for size, count in self._batch_sizes.items()),
                "padding_rows": self._padding_rows,
                "run_us": self._run_ns / 1000,
                "sizes": {str(size): count for size, count in sorted(self._batch_sizes.items())},
            },
        }
