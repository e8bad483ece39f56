"""What comparisons cost, and how often they cry wolf on this machine: ``python -m tests.bench.comparison``.

Trains a small CNN on scikit-learn's digits and serves it. 10,000 rows against itself (outputs, quality, verdict), and
20 A/A comparisons of lone requests; with ``--rate``, the slowdown that interleaved blocks would notice.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from sklearn.datasets import load_digits

import serving_workbench as sw
from serving_workbench.load.testing import LoadRun, start
from tests.bench.tuning import bar, train


def _keep_polling(run: LoadRun, ended: threading.Event) -> None:
    while not ended.is_set():
        run.poll(0.1)


def live(served: sw.ServedModel, deploy: Callable[[], sw.ServedModel], images: np.ndarray, runs: int) -> None:
    """Print how often a live split of equal versions, with batching and 16 requests in flight, tells them apart."""
    served.config(batching=True, max_batch_size=16, batch_timeout_micros=1000, num_batch_threads=2)
    # Both loaded under it: a version that was loaded before has more threads to a batch.
    first = deploy().version
    served = deploy()
    second = served.version
    assert first is not None
    assert second is not None
    served.load(first)
    for weights in ({first: 50, second: 50}, {first: 80, second: 20}):
        beside = rejected = 0
        for seed in range(runs):
            with start(served, concurrency=16, seconds=30, data=images, warmup=0.0, seed=seed) as run:
                while not run.began and not run.poll(0.05):
                    continue
                ended = threading.Event()
                sender = threading.Thread(target=_keep_polling, args=(run, ended))
                sender.start()
                try:
                    result = sw.compare_live(
                        served, first, second, weights=weights, seconds=6, stop_early=False, progress=False
                    )
                finally:
                    ended.set()
                    sender.join()
                run.stop()
            found = result.metric("run time").difference
            print(
                f"  {weights}: run time {found.value:+.1%} [{found.low:+.1%}, {found.high:+.1%}], n {found.n:,}",
                flush=True,
            )
            beside += found.low > 0 or found.high < 0
            rejected += result.verdict == "REJECT"
        shares = " : ".join(str(weight) for weight in weights.values())
        bar(f"live A/A at {shares}, batched, {runs} runs: rejected", str(rejected), rejected == 0)
        bar(f"live A/A at {shares}: sequences of run time beside zero", str(beside), None)


def tab(served: sw.ServedModel, images: np.ndarray, reads: int) -> None:
    """Print what a shown A/B tab costs: `reads` readings of a live split, as many as `reads` / 2 seconds have.

    D1 and D3 of a dashboard: CPU time of a reading in the kernel (two a second), and how much the kernel grows.
    """
    # Loaded again after `live`: both answer.
    first, second = served.versions[-2:]
    served.traffic({first: 50, second: 50})
    shown = sw.ab(served, first, second)
    process = psutil.Process()
    for _ in range(100):  # what is kept once is not growth
        shown.refresh()
    before, began = process.memory_info().rss, time.process_time()
    with start(served, concurrency=1, seconds=600, data=images, warmup=0.0) as run:
        for _ in range(reads):
            shown.refresh()
            run.poll(0.0)
        run.stop()
    cpu, grown = time.process_time() - began, process.memory_info().rss - before
    shown.close()
    served.traffic({})
    bar("A/B tab: kernel's CPU at 2 readings a second, % of a core", f"{200 * cpu / reads:.2f}", cpu / reads <= 0.015)
    bar(f"A/B tab: kernel's growth after {reads:,} readings, MB", f"{grown / 1e6:.1f}", grown < 20e6)


def main() -> None:
    """Print the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20, help="A/A comparisons (20)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the blocks (200)")
    parser.add_argument("--live", type=int, default=6, help="live A/A comparisons per split (6)")
    parser.add_argument("--reads", type=int, default=3600, help="readings of the A/B tab, two a second (3600: 30 min)")
    arguments = parser.parse_args()
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    rows = np.resize(np.arange(len(images)), 10_000)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JUPYTER_RUNTIME_DIR", str(Path(folder) / "runtime"))
        Path(os.environ["JUPYTER_RUNTIME_DIR"]).mkdir(parents=True, exist_ok=True)
        instance = f"bench{os.getpid()}"
        model = train(Path(folder), "32,48,64")
        root = Path(folder) / "models"

        def deploy() -> sw.ServedModel:
            return sw.serve(model, "digits", root=root, instance=instance, progress=False)

        deploy()
        served = deploy()
        try:
            began = time.monotonic()
            result = sw.compare(served, 1, 2, data=images[rows], labels=labels[rows], latency=False, progress=False)
            wall = time.monotonic() - began
            print(result, end="\n\n", flush=True)
            bar("10,000 rows: outputs, quality, verdict, s", f"{wall:.1f}", wall <= 20)
            found = sw.aa(served, data=images, runs=arguments.runs, rate=arguments.rate, progress=False)
            print(found, flush=True)
            bar(
                f"A/A, {found.runs} runs: verdicts of a difference",
                str(found.rejected),
                found.rejected <= found.runs // 20,
            )
            bar("A/A: intervals of 95 % beside zero (5 % are expected)", str(found.alarms), None)
            bar("blocks under load would notice a slowdown of", f"{found.detectable:.1%}", None)
            live(served, deploy, images, arguments.live)
            tab(served, images, arguments.reads)
        finally:
            sw.stop(instance)


if __name__ == "__main__":
    main()
