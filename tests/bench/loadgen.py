"""What the load generator is held to: what it sends, what it measures, what it costs.

    python -m tests.bench.loadgen [--quick] [--real]

Against a stub without models (`tests.load_stub`), so that the client is what is measured; with ``--real`` also against
a server with half_plus_two, over gRPC and REST. CPU is user + system of the sending process per answered request.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import serving_workbench as sw
from serving_workbench.load.objective import seconds_text
from serving_workbench.load.summary import summarise
from tests import models
from tests.load_stub import LoadStub
from tests.servers import ServerProcess
from tests.workbench.test_load_analysis import a_million, setup

Row = tuple[str, str, str]


def _run(address: str, model: str = "any", **options: Any) -> sw.LoadResult:
    return sw.loadtest(address, model=model, progress=False, **options)


def _sent(seconds: float) -> Iterator[Row]:
    with LoadStub() as stub:
        for arrivals, rate in (("constant", 200), ("constant", 1000), ("poisson", 1000), ("poisson", 5000)):
            result = _run(stub.address, rate=rate, seconds=seconds, arrivals=arrivals, warmup=0)
            inside = float((result.records.sent < seconds).mean())
            achieved = result.summary.rate / (rate if arrivals == "constant" else result.summary.offered_rate)
            lag = result.records.lag
            late = f"lag p50 {seconds_text(float(np.median(lag)))}, p99 {seconds_text(float(np.percentile(lag, 99)))}"
            found = f"{100 * inside:.2f} % sent in time, achieved / target {achieved:.4f}, {late}"
            yield f"L1: {arrivals}, {rate}/s for {seconds:g} s", found, ">= 99 %, 0.99 to 1.01"


def _known(seconds: float) -> Iterator[Row]:
    delays = np.array([1.0, 2.0, 5.0, 10.0, 20.0])
    for text, load in (
        ("one in flight", {"concurrency": 1}),
        ("20/s", {"rate": 20, "arrivals": "constant", "max_in_flight": 1}),
    ):
        with LoadStub(delays_ms=delays.tolist(), exact=True) as stub:
            latency = _run(stub.address, seconds=seconds, warmup=0, **load).records.latency
        known = delays[(1 + np.arange(len(latency))) % len(delays)] / 1e3
        errors = [f"{1e3 * float(np.median(latency[known == each] - each)):.2f}" for each in np.unique(known)]
        yield (
            f"L4: stub that sleeps {', '.join(f'{each:g}' for each in delays)} ms, {text}",
            f"median errors {', '.join(errors)} ms",
            "<= 0.3 ms + 1 %",
        )


def _cost(address: str, model: str, where: str, seconds: float, protocol: str = "grpc") -> Iterator[Row]:
    bar = "<= 40 us at >= 5000/s" if protocol == "grpc" else "<= 400 us"
    loads: list[tuple[str, dict[str, Any]]] = [
        ("64 in flight", {"concurrency": 64}),
        ("1000/s", {"rate": 1000}),
        ("5000/s", {"rate": 5000}),
        ("10,000/s", {"rate": 10_000}),
    ]
    for text, load in loads[: 4 if protocol == "grpc" else 3]:
        result = _run(address, model, seconds=seconds, protocol=protocol, warmup=0, **load)
        summary = result.summary
        cost = (
            f"{1e6 * summary.client_cpu_per_request:.1f} us CPU per request, {100 * summary.client_cpu:.0f} % of a core"
        )
        found = f"{cost}, {summary.rate:,.0f}/s, p50 {seconds_text(summary.p50)}, p99 {seconds_text(summary.p99)}"
        yield f"L5: {protocol} {where}, {text}", found, bar


def _summary() -> Iterator[Row]:
    many = a_million()
    ran = setup(float(many.scheduled[-1]) + 1e-4, "p99 20ms", None, 1e4)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        summarise(ran, many)
        seconds.append(time.perf_counter() - began)
    yield "L8: the summary of a million requests", f"{min(seconds):.2f} s at best of three", "< 1 s"


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--real", action="store_true", help="a server with a model, too")
    options = parser.parse_args(argv)
    seconds = 2.0 if options.quick else 5.0

    def show(rows: Iterator[Row]) -> None:
        for what, found, bar in rows:
            print(f"{what:58}  {found:100}  {bar}", flush=True)

    show(_sent(seconds))
    show(_known(seconds))
    show(_summary())
    with LoadStub() as stub:
        show(_cost(stub.address, "any", "stub", seconds))
    if options.real:
        with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
            folder = Path(name)
            base = models.cached(folder) / "half_plus_two"
            flags = ("--model_name=half", f"--model_base_path={base}", "--enable_batching")
            with ServerProcess(*flags, directory=folder / "server") as server:
                server.wait_available("half", 2)
                show(_cost(server.grpc_endpoint, "half", "half_plus_two", seconds))
                show(_cost(server.rest_url, "half", "half_plus_two", seconds, "rest"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
