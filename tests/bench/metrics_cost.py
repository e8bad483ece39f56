"""What counting costs per request: ``python -m tests.bench.metrics_cost``.

Times, on batches of 32 as 64 requests in flight make them, what one request of gRPC Predict adds for metrics: two looks
at the clock, the queue, the run time, the request's own latency and its part of what a batch adds. Microseconds of CPU.
"""

from __future__ import annotations

import statistics as stats
import time
from collections.abc import Callable
from time import perf_counter, perf_counter_ns

import numpy as np

from serving_server.batching.task import Task
from serving_server.metrics.histogram import MAX_ASIDE
from serving_server.metrics.requests import RequestCell
from serving_server.metrics.stages import FULL
from serving_server.signatures import Signature
from serving_server.statistics import Statistics

_BATCH = 32
_ROUNDS = 320
_GROUPS = 15


def _tasks() -> list[Task]:
    signature = Signature("serving_default", "", {}, {}, {})
    return [Task(signature, {"x": np.float32([1])}, ("y",), 0.0, None, lambda *_: None) for _ in range(_BATCH)]


def _median_us(run: Callable[[], object]) -> float:
    """Return the median of groups of rounds, per request; what happens once in a thousand requests is in each."""
    times = []
    for _ in range(_GROUPS):
        start = time.process_time_ns()
        for _ in range(_ROUNDS):
            run()
        times.append(time.process_time_ns() - start)
    return stats.median(times) / _ROUNDS / _BATCH / 1000


def main() -> None:
    """Print a table."""
    tasks = _tasks()
    counted = Statistics()
    cell = RequestCell()
    started = perf_counter()

    def clocks() -> None:
        for _ in range(_BATCH):
            perf_counter()
            perf_counter()

    def request() -> None:
        aside = cell.aside
        for _ in range(_BATCH):
            aside.append(perf_counter() - started)
        if len(aside) >= MAX_ASIDE:
            cell.settle()

    def stages() -> None:
        began = perf_counter_ns()
        sent = perf_counter_ns()
        counted.stages.add(FULL, _BATCH, sent - began, perf_counter_ns() - sent, 1000)

    parts: dict[str, Callable[[], object]] = {
        "two looks at the clock": clocks,
        "queue and batch size": lambda: counted.started(tasks, batched=True),
        "run time": lambda: counted.succeeded(tasks),
        "request latency": request,
        "stages of its batch": stages,
    }
    whole = 0.0
    for name, run in parts.items():
        cost = _median_us(run)
        whole += cost
        print(f"{name:<24}{cost:7.3f} us")
    print(f"{'all':<24}{whole:7.3f} us")


if __name__ == "__main__":
    main()
