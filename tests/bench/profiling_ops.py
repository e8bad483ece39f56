"""What a profile of ops costs: ``python -m tests.bench.profiling_ops --models FOLDER [--blocks 8] [--rate 300]``.

One server with two models, each in its own worker: ``mlp`` gets requests of one row in an open loop, ``dominated`` is
profiled. Blocks without and with profiles of 50 batches, one after another, alternate in random order within each
pair; compared are the other model's p50 (bar: 5 %) and that no request fails. Then the price of tracing itself, and how
long after the last batch the table is there (bar: 2 s).
"""

from __future__ import annotations

import argparse
import random
import statistics as stats
import tempfile
import threading
from pathlib import Path
from typing import Any

from serving_workbench.load.testing import loadtest
from tests import models
from tests.servers import ServerProcess

_OTHER, _PROFILED = "mlp", "dominated"
_BATCHES = 50


def _profile(server: ServerProcess, rows: int, busy: float) -> dict[str, Any]:
    body = {"batches": _BATCHES, "batch_size": rows, "busy": busy}
    path = f"/models/{_PROFILED}/versions/1/profile/ops"
    status, answer = server.control("POST", path, body, timeout=180)
    assert status == 200, answer
    found: dict[str, Any] = answer["profile"]
    return found


def _block(server: ServerProcess, arguments: argparse.Namespace, *, profiled: bool) -> tuple[float, float, list[Any]]:
    """Return p50 and p99 in ms, and the profiles that were made meanwhile."""
    over = threading.Event()
    found: list[Any] = []
    errors: list[Exception] = []

    def go_on() -> None:
        try:
            while profiled and not over.is_set():
                found.append(_profile(server, arguments.rows, arguments.busy))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        result = loadtest(
            server.grpc_endpoint,
            model=_OTHER,
            rate=arguments.rate,
            seconds=arguments.seconds,
            warmup=0.5,
            progress=False,
        )
    finally:
        over.set()
        thread.join()
    assert errors == []
    assert result.summary.good == result.summary.requests, "requests failed"
    return 1000 * result.p50, 1000 * result.p99, found


def _measure(folder: Path, arguments: argparse.Namespace) -> None:
    with ServerProcess("--enable_batching=true", directory=folder / "server") as server:
        for name in (_OTHER, _PROFILED):
            models.copy_version(arguments.models / name / "1", folder / name / "1")
            server.put_model(name, folder / name)
            server.wait_available(name, 1)
        _profile(server, arguments.rows, 1.0)  # what only the first one pays is not told
        ratios: dict[str, list[float]] = {"p50": [], "p99": []}
        profiles: list[Any] = []
        for number in range(arguments.blocks):
            times = {}
            for profiled in random.Random(number).sample([False, True], 2):
                p50, p99, found = _block(server, arguments, profiled=profiled)
                times[profiled] = p50, p99
                profiles += found
            for name, off, on in zip(ratios, times[False], times[True], strict=True):
                ratios[name].append(on / off)
                print(f"{name} {off:.2f} -> {on:.2f} ms", end="   ")
            print()
        for name, found_ratios in ratios.items():
            low, middle, high = stats.quantiles(found_ratios, n=4)
            bar = ", bar 1.05" if name == "p50" else ""
            print(f"{name} with a profile / without: median {middle:.3f} (quartiles {low:.3f} to {high:.3f}){bar}")
        plain = stats.median(ns for each in profiles for ns in each["plain_ns"])
        traced = stats.median(ns for each in profiles for ns in each["profiled_ns"])
        covered = stats.median(sum(op["self_ns"] for op in each["ops"]) / each["run_ns"] for each in profiles)
        tables = max(each["table_seconds"] for each in profiles)
        print(f"{len(profiles)} profiles of {_BATCHES} batches of {arguments.rows} rows, busy {arguments.busy:g}")
        print(f"tracing: {plain / 1e3:.1f} -> {traced / 1e3:.1f} us per run ({100 * (traced / plain - 1):+.1f} %)")
        print(f"ops cover {100 * covered:.1f} % of the run (bar 80 %)")
        print(f"the table is there {tables:.2f} s after the last batch (bar 2)")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling_ops")
    parser.add_argument("--models", type=Path, required=True, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--busy", type=float, default=0.1)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), parser.parse_args())


if __name__ == "__main__":
    main()
