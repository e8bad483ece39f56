"""What Jupyter adds, and what a user waits for: `python -m tests.bench.jupyter`.

A real Jupyter server with `warm_start`, a real kernel, cells as a user types them. Measured are

- `%load_ext serving_workbench` in fresh kernels, by the kernel's own clock,
- `%serve model` of Keras models that were just trained: from the request that runs the cell to its reply, with a
  prediction in the same cell that must be the model's own,
- what the extension's proxy adds to a REST request (`tests.bench.proxy`).
"""

from __future__ import annotations

import argparse
import ast
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import proxy
from tests.kernel_ext.extension import ask
from tests.kernel_ext.jupyter import JupyterServer, Kernel
from tests.servers import wait_until

_LOAD = """
import sys, time
_began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "serving_workbench")
print([time.perf_counter() - _began, "tensorflow" in sys.modules])
"""
_TRAIN = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
from sklearn.datasets import load_digits
pixels, labels = load_digits(return_X_y=True)
pixels = pixels.astype("float32") / 16
def train(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pixels[:320], labels[:320], epochs=1, verbose=0)
    return model
"""
#: A cell: serve, ask, compare with the model itself.
_SERVE = """
served = %serve model --name {name} --no-progress
answer = served.predict(pixels[:3])
"""
_CHECK = """
assert np.allclose(answer, model.predict(pixels[:3], verbose=0), rtol=1e-4, atol=1e-6), answer
print({step: round(seconds, 4) for step, seconds in served.seconds.items()})
"""


def _last_line(shown: str) -> Any:
    """What a cell printed last; TensorFlow may have warned before."""
    return ast.literal_eval(shown.strip().splitlines()[-1])


def _load_ext(jupyter: JupyterServer, rounds: int) -> None:
    seconds, imported = [], False
    for _ in range(rounds):
        kernel = jupyter.start_kernel()
        took, tensorflow = _last_line(kernel.run(_LOAD))
        seconds.append(took)
        imported |= tensorflow
        kernel.shutdown()
    median = statistics.median(seconds)
    print(
        f"%load_ext serving_workbench: median {median:.3f} s of {rounds} fresh kernels (from {min(seconds):.3f} to "
        f"{max(seconds):.3f}); imports TensorFlow: {imported}; the bar is 0.3 s and no: "
        f"{'met' if median <= 0.3 and not imported else 'missed'}"
    )


def _serve(kernel: Kernel, names: list[str], what: str) -> float:
    seconds: list[float] = []
    steps: dict[str, list[float]] = {}
    for number, name in enumerate(names):
        kernel.run(f"model = train({number})")
        began = time.perf_counter()
        kernel.run(_SERVE.format(name=name))
        seconds.append(time.perf_counter() - began)
        for step, took in _last_line(kernel.run(_CHECK)).items():
            steps.setdefault(step, []).append(took)
    median = statistics.median(seconds)
    print(
        f"%serve model, {what}: median {median:.2f} s of {len(names)} (from {min(seconds):.2f} to {max(seconds):.2f}, "
        f"the first {seconds[0]:.2f})"
    )
    print("   " + ", ".join(f"{step} {statistics.median(took):.3f}" for step, took in steps.items()))
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each kind")
    parser.add_argument("--requests", type=int, default=2000, help="through the proxy, and as many directly")
    parser.add_argument("--quick", action="store_true", help="3 rounds and 300 requests")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.requests = 3, 300
    with tempfile.TemporaryDirectory(prefix="sw-") as folder:
        with JupyterServer(Path(folder) / "j", "--ServingExtension.warm_start=True") as jupyter:
            wait_until(lambda: _is_warm(jupyter), 120, "TensorFlow's import")
            _load_ext(jupyter, options.rounds)
            kernel = jupyter.start_kernel()
            kernel.run("%load_ext serving_workbench\n" + _TRAIN)
            median = _serve(kernel, [f"digits_{number}" for number in range(options.rounds)], "new names")
            print(f"the bar is 1.5 s with Jupyter warm: {'met' if median <= 1.5 else 'missed'}")
            _serve(kernel, ["digits_0"] * options.rounds, "next versions of one name")
            kernel.shutdown()
        proxy.measure(Path(folder) / "p", options.requests)


def _is_warm(jupyter: JupyterServer) -> bool:
    answer = ask(jupyter, "GET", "/serving/api/instances/default")
    return answer.status == 200 and (answer.json["status"] or {}).get("forkserver", {}).get("state") == "ready"


if __name__ == "__main__":
    main()
