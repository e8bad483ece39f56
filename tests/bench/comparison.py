"""What comparisons cost, and how often they cry wolf on this machine: ``python -m tests.bench.comparison``.

Trains a small CNN on scikit-learn's digits and serves it. 10,000 rows against itself (outputs, quality, verdict), and
20 A/A comparisons of lone requests; with ``--rate``, the slowdown that interleaved blocks would notice.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import serving_workbench as sw
from tests.bench.tuning import bar, train


def main() -> None:
    """Print the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20, help="A/A comparisons (20)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second of the blocks (200)")
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
        sw.serve(model, "digits", root=root, instance=instance, progress=False)
        served = sw.serve(model, "digits", root=root, instance=instance, progress=False)
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
        finally:
            sw.stop(instance)


if __name__ == "__main__":
    main()
