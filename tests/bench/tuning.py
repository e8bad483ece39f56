"""What a search for batching parameters is worth, and what the live dashboard costs: ``python -m tests.bench.tuning``.

Trains and serves a small CNN on scikit-learn's digits. ``--part search`` (four minutes): the tuner against a whole
coarse grid, batching off and TensorFlow Serving's recipe, each measured again in repeats that take turns, with arrivals
that the tuner has not seen. ``--part live`` (a minute): processor time and memory of the dashboard, and how soon a knob
is in force.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import serving_workbench as sw
from serving_server.batching.parameters import BatchingParameters
from serving_workbench.load.payload import from_signature
from serving_workbench.load.target import resolve
from serving_workbench.tuning.dashboard import TuneDashboard
from serving_workbench.tuning.decision import Evidence, Sustained, gain, sustained
from serving_workbench.tuning.ladder import Ladder, around
from serving_workbench.tuning.measuring import Measurer
from serving_workbench.tuning.verdict import short

_TRAIN = """
import sys, keras
from sklearn.datasets import load_digits
pixels, labels = load_digits(return_X_y=True)
layers = keras.layers
first, second, third = map(int, sys.argv[2].split(","))
model = keras.Sequential([
    keras.Input((8, 8, 1), name="image"),
    layers.Conv2D(first, 3, activation="relu", padding="same"),
    layers.Conv2D(second, 3, activation="relu", padding="same"),
    layers.MaxPooling2D(), layers.Conv2D(third, 3, activation="relu"), layers.Flatten(),
    layers.Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit((pixels / 16).reshape(-1, 8, 8, 1), labels, epochs=1, verbose=0)
model.export(sys.argv[1], verbose=False)
"""
_GRID = [(size, timeout, threads) for size in (8, 32, 128) for timeout in (0, 4000) for threads in (1, 2)]
_RUNGS = (0.45, 0.65, 0.85, 1.0, 1.2)


def train(folder: Path, channels: str) -> Path:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _TRAIN, str(folder / "cnn"), channels]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return folder / "cnn"


def bar(name: str, value: str, kept: bool | None) -> None:
    mark = {True: "kept", False: "MISSED", None: ""}[kept]
    print(f"{name:<72} {value:>24}  {mark}", flush=True)


def _measurer(served: sw.ServedModel) -> Measurer:
    target = resolve(served, model=None, protocol="grpc", version=None, instance="default", tls=None)
    signature = next(iter(served.signatures().values()))
    return Measurer(served, from_signature(target, signature, 1), 99.0, lambda: None)


def _one(measurer: Measurer, parameters: BatchingParameters | None, guess: float, slo: float, seconds: float) -> float:
    """Return the rate of one short ladder, moved to where it crosses the objective."""
    found = 0.0
    for _ in range(3):
        ladder = around(guess, _RUNGS, seconds, 7)
        evidence = Evidence(parameters, np.array(ladder.rates), measurer.climb(parameters, ladder, slo).latencies[None])
        found = sustained(evidence, slo).rate
        if 0 < found < 0.999 * ladder.rates[-1]:
            break
        guess *= 1.8 if found else 0.4
    return found


def search(served: sw.ServedModel, slo: float) -> None:
    """Print the bars of the search."""
    began = time.monotonic()
    result = sw.tune(served, slo, progress=False)
    wall = time.monotonic() - began
    assert isinstance(result, sw.TuneResult)
    print(result, end="\n\n", flush=True)
    bar("tuner: wall time, s", f"{wall:.0f}", wall <= 120)
    best = result.best
    if best is None:
        bar("tuner: a choice", "none", False)
        return
    with _measurer(served) as measurer:
        recipe = BatchingParameters(max_batch_size=1000)
        fast = max(result.sustained, 1000.0)
        grid: dict[str, tuple[BatchingParameters, float]] = {}
        for size, timeout, threads in _GRID:
            parameters = BatchingParameters(
                max_batch_size=size,
                batch_timeout_micros=timeout,
                num_batch_threads=threads,
                max_enqueued_batches=max(10, 2000 // size),
            )
            grid[short(parameters)] = (parameters, _one(measurer, parameters, 0.7 * fast, slo, 0.25))
        first = max(grid, key=lambda name: grid[name][1])
        print(
            "grid, one run each:", ", ".join(f"{name}: {rate:,.0f}/s" for name, (_, rate) in grid.items()), flush=True
        )
        rivals: dict[str, tuple[BatchingParameters | None, float]] = {
            "choice": (best.parameters, fast),
            "best of the grid": grid[first],
            "batching off": (None, _one(measurer, None, 0.1 * fast, slo, 0.3)),
            "TF Serving's recipe": (recipe, _one(measurer, recipe, 0.7 * fast, slo, 0.25)),
        }
        found = _repeat(measurer, rivals, slo)
    for name, each in found.items():
        print(f"  {name:<22} {each.rate:>9,.0f}/s [{each.low:,.0f}, {each.high:,.0f}]")
    for name, factor in (("best of the grid", 0.95), ("batching off", 1.3), ("TF Serving's recipe", 1.3)):
        compared = gain(found["choice"], found[name])
        reachable = gain(found["best of the grid"], found[name])
        # Where not even the grid's best gains so much there is nothing to win.
        needed = factor if name == "best of the grid" or (reachable and reachable.ratio >= factor) else None
        if compared is None:
            bar(f"choice against {name}", "not comparable", None)
        else:
            text = f"{compared.ratio:.2f} [{compared.low:.2f}, {compared.high:.2f}]"
            bar(f"choice against {name}", text, None if needed is None else compared.ratio >= needed)
    predicted = result.predict(best.parameters).rate
    measured = found["choice"].rate
    bar("prediction against measurement", f"{predicted / measured:.2f}", abs(predicted / measured - 1) <= 0.2)
    impossible = sw.tune(served, 1e-4, progress=False)
    assert isinstance(impossible, sw.TuneResult)
    bar("objective of 0.1 ms: answered by one probe", impossible.verdict[-24:], not impossible.feasible)


def _repeat(
    measurer: Measurer, rivals: dict[str, tuple[BatchingParameters | None, float]], slo: float
) -> dict[str, Sustained]:
    latencies: dict[str, list[Any]] = {name: [] for name in rivals}
    disturbed: dict[str, list[bool]] = {name: [] for name in rivals}
    # The same rates for all that come near each other, or differences would be those of the ladders.
    most = max(rate for _, rate in rivals.values())
    middles = {name: most if rate > 0.4 * most else max(rate, 50.0) for name, (_, rate) in rivals.items()}
    rates = {name: tuple(middle * part for part in (0.4, 0.6, 0.8, 1.0, 1.2)) for name, middle in middles.items()}
    order = np.random.default_rng(1)
    for repeat in range(7):
        for name in order.permutation(list(rivals)).tolist():
            climbed = measurer.climb(rivals[name][0], Ladder(rates[name], 0.3, 1000 + repeat), slo)
            latencies[name].append(climbed.latencies)
            disturbed[name].append(climbed.disturbed)
    return {
        name: sustained(
            Evidence(rivals[name][0], np.array(rates[name]), np.array(latencies[name]), tuple(disturbed[name])), slo
        )
        for name in rivals
    }


def live(served: sw.ServedModel) -> None:
    """Print the bars of the dashboard."""
    server = psutil.Process(served.server.pid)
    own = psutil.Process()
    dashboard = sw.tune(served, slo="20ms", rate=200.0)
    assert isinstance(dashboard, TuneDashboard)

    def spent(seconds: float) -> tuple[float, float]:
        before = sum(own.cpu_times()[:2]), sum(server.cpu_times()[:2])
        time.sleep(seconds)
        after = sum(own.cpu_times()[:2]), sum(server.cpu_times()[:2])
        return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds

    dashboard.start_load()
    time.sleep(2)
    without = spent(10)
    dashboard.view.start()
    time.sleep(2)
    shown = spent(20)
    kernel, front = shown[0] - without[0], shown[1] - without[1]
    bar("live at 2 Hz, 200 requests/s: processor of the kernel", f"{kernel:.2%} of a core", kernel <= 0.03)
    bar("live: processor of the server", f"{front:.2%} of a core", front <= 0.01)
    control = served.server.control
    times = []
    for number in range(50):
        began = time.perf_counter()
        control.patch_batching(served.name, {"max_batch_size": 1 + number})
        times.append(time.perf_counter() - began)
    slowest = max(times) * 1e3
    bar("a knob is in force: slowest of 50", f"{slowest:.1f} ms", slowest <= 100)
    dashboard.view.poller.stop()
    clock = time.monotonic()
    for number in range(3900):
        if number == 300:  # the series are full
            before = own.memory_info().rss
        dashboard._show(dashboard._read()._replace(now=clock + number / 2))
    grown = (own.memory_info().rss - before) / 2**20
    bar("3,600 updates, as in 30 minutes: memory of the kernel", f"{grown:+.1f} MiB", grown < 20)
    dashboard.close()
    bar("closed: its thread has ended", str(not dashboard.view.poller.is_running), not dashboard.view.poller.is_running)


def main() -> None:
    """Print the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=["search", "live", "all"], default="all")
    parser.add_argument("--p99", type=float, default=20.0, help="objective in milliseconds (20)")
    parser.add_argument(
        "--channels",
        default="64,96,96",
        help="of the CNN's three convolutions (64,96,96). With 32,48,64 a row takes a quarter of that, and the load "
        "generator and the front use as much of two cores as the model: nothing can be told from its runs there",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JUPYTER_RUNTIME_DIR", str(Path(folder) / "runtime"))
        Path(os.environ["JUPYTER_RUNTIME_DIR"]).mkdir(parents=True, exist_ok=True)
        instance = f"bench{os.getpid()}"
        served = sw.serve(
            train(Path(folder), arguments.channels),
            "digits",
            root=Path(folder) / "models",
            instance=instance,
            progress=False,
        )
        try:
            if arguments.part in {"search", "all"}:
                search(served, arguments.p99 / 1e3)
            if arguments.part in {"live", "all"}:
                live(served)
        finally:
            sw.stop(instance)


if __name__ == "__main__":
    main()
