"""The numbers that the foundation is held to: start-up, deploy, swaps under load, memory, recovery.

    make bench        (or: python -m tests.bench.foundation [--quick])

Prints one table; every row is measured on real server processes in this run. Times are wall times of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import psutil

from tests import models
from tests.load import HalfPlusTwoLoad
from tests.memory import shared_buffers, tree_pss
from tests.servers import ServerProcess, wait_until

ONE = {"x": np.float32([2])}
Row = tuple[str, str, str]


def _start_up(folder: Path, base: Path, runs: int) -> list[Row]:
    """Launch to the first answer of each port, and the front's memory."""
    seconds = []
    rss = 0
    for run in range(runs):
        with ServerProcess("--model_name=m", f"--model_base_path={base}", directory=folder / f"start-{run}") as server:
            created = psutil.Process(server.pid).create_time()
            server.rest("GET", "/v1/models/m")
            with contextlib.suppress(grpc.RpcError):  # NOT_FOUND while loading is an answer too
                server.predict("m", ONE, timeout=5)
            seconds.append(time.time() - created)
            rss = max(rss, server.control("GET", "/status")[1]["front"]["rss_bytes"])
    return [
        ("front: launch to both ports answering, median", f"{statistics.median(seconds):.2f} s", "<= 1.0 s"),
        ("front: resident memory", f"{rss / 1e6:.0f} MB", "<= 90 MB"),
    ]


def _publish(source: Path, base: Path, number: int) -> None:
    models.copy_version(source, base / str(number))


def _deploy(server: ServerProcess, source: Path, base: Path, runs: int) -> list[Row]:
    """Rename of a version folder to the first answer that names it."""
    seconds = []
    for number in range(2, 2 + runs):
        draft = models.copy_version(source / str(2 - number % 2), base / f".draft-{number}")
        started = time.monotonic()
        draft.rename(base / str(number))
        wait_until(lambda n=number: server.predict_versioned("m", ONE)[1] == n, 30, f"version {number}")
        seconds.append(time.monotonic() - started)
    return [("new version: rename to served, median", f"{statistics.median(seconds):.2f} s", "<= 0.5 s")]


def _swaps(server: ServerProcess, source: Path, base: Path, first: int, count: int) -> list[Row]:
    with HalfPlusTwoLoad(server.grpc_endpoint, "m", rate=200) as load:
        for number in range(first, first + count):
            _publish(source / str(2 - number % 2), base, number)
            wait_until(lambda n=number: server.model("m")["serving_version"] == n, 30, f"version {number}")
            shutil.rmtree(base / str(number - 2), ignore_errors=True)
    rate = len(load.answers) / (load.answers[-1].sent - load.answers[0].sent)
    return [
        (f"{count} swaps under {rate:.0f} requests/s: failed", str(len(load.failed)), "0"),
        (f"{count} swaps under {rate:.0f} requests/s: wrong", str(len(load.wrong)), "0"),
    ]


def _memory(server: ServerProcess, source: Path, rounds: int) -> list[Row]:
    forkserver = psutil.Process(server.control("GET", "/status")[1]["forkserver"]["pid"])

    def round_() -> None:
        before = len(forkserver.children())
        server.put_model("digits", source / "digits")
        server.wait_available("digits")
        server.control("DELETE", "/models/digits")
        wait_until(lambda: len(forkserver.children()) <= before, 20, "the worker to end")

    round_()
    start, buffers = tree_pss(server.pid), shared_buffers(server.pid)
    for _ in range(rounds):
        round_()
    grown = tree_pss(server.pid) - start
    left = shared_buffers(server.pid) - buffers
    return [
        (f"{rounds} load/unload rounds: growth of the tree's PSS", f"{grown:+.1f} MB", "<= 20 MB"),
        ("shared buffers left", str(left), "0"),
    ]


def _recovery(server: ServerProcess, runs: int) -> list[Row]:
    seconds = []
    for _ in range(runs):
        version = server.model("m")["serving_version"]
        os.kill(server.versions("m")[version]["worker_pid"], signal.SIGKILL)
        started = time.monotonic()

        def back() -> bool:
            with contextlib.suppress(grpc.RpcError):
                server.predict("m", ONE, timeout=5)
                return True
            return False

        # The first answers may still come from before the kill was noticed.
        wait_until(lambda v=version: server.versions("m")[v]["restarts"] > len(seconds), 20, "the restart")
        wait_until(back, 20, "the version to serve again")
        seconds.append(time.monotonic() - started)
    return [("worker killed: to serving again, worst", f"{max(seconds):.2f} s", "<= 2 s")]


_SERVE_TWICE = """
import sys
import keras
import serving_workbench as sw

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
sw.serve(model, name="digits", root=sys.argv[1], progress=False)
import time

started = time.monotonic()
sw.serve(model, name="digits", root=sys.argv[1], progress=False)
print("SECONDS", time.monotonic() - started)
sw.stop()
"""


def _serve(folder: Path, runs: int) -> list[Row]:
    """What `%serve model` does for a second version, export and proof included, in a process of its own."""
    seconds = []
    for run in range(runs):
        runtime = folder / f"runtime-{run}"
        runtime.mkdir(mode=0o700)
        output = subprocess.run(
            [sys.executable, "-c", _SERVE_TWICE, str(folder / f"exports-{run}")],
            env=os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "TF_CPP_MIN_LOG_LEVEL": "2"},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=180,
        ).stdout
        seconds.append(float(output.split("SECONDS")[1]))
    return [("serve(model) of version 2, export included, median", f"{statistics.median(seconds):.2f} s", "<= 2 s")]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    quick = parser.parse_args(argv).quick
    repeats: Callable[[int], int] = lambda n: max(2, n // 5) if quick else n  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="serving-bench-") as name:
        folder = Path(name)
        source = models.cached(folder)
        base = folder / "served"
        _publish(source / "half_plus_two" / "1", base, 1)
        rows = _start_up(folder, base, repeats(5))
        with ServerProcess("--model_name=m", f"--model_base_path={base}", directory=folder / "server") as server:
            server.wait_available("m")
            rows += _deploy(server, source / "half_plus_two", base, repeats(10))
            rows += _recovery(server, 2)
            rows += _swaps(server, source / "half_plus_two", base, 100, repeats(50))
            rows += _memory(server, source, repeats(20))
        rows += _serve(folder, 3)
    width = max(len(row[0]) for row in rows)
    for row in rows:
        print(f"{row[0]:<{width}}  {row[1]:>10}  bar {row[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
