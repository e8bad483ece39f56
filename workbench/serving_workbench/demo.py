"""The whole story in one run: `python -m serving_workbench.demo`, which is what `make demo` does.

A small Keras model learns scikit-learn's digits and is served; gRPC and REST clients ask it; a second version goes live
while a client keeps asking; both are compared on rows that neither has seen; the first comes back by a rollback. Every
answer is checked, and the exit code says whether all was as it should be. Servers and files of the user are not touched:
the demo has an instance and a folder of its own, and leaves neither behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel

__all__ = ["main"]

Array = NDArray[Any]

#: Rows that the models never see in training.
_HELD_OUT = 360
#: Requests of the background client while the second version is deployed, per second.
_RATE = 100.0
#: One-row requests per version for the latency.
_LATENCY_REQUESTS = 200
#: Relative and absolute difference to the model's own answer that a batch of another size may make.
_RTOL, _ATOL = 1e-4, 1e-5


class DemoError(Exception):
    """Something was not as it should be; the message says what."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 when everything was as it should be, else 1."""
    parser = argparse.ArgumentParser(prog="python -m serving_workbench.demo", description=__doc__)
    parser.parse_args(arguments)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="serving-demo-") as folder:
            _run(Path(folder))
    except (DemoError, WorkbenchError) as error:
        step = f"{error.step}: " if isinstance(error, WorkbenchError) and error.step else ""
        print(f"\nThe demo failed. {step}{error}", file=sys.stderr)
        return 1
    print(
        f"\nAll of this took {time.monotonic() - began:.0f} s. The same in a notebook: `make lab`, then open "
        "01_quickstart.ipynb; there it is\n"
        "    %load_ext serving_workbench\n"
        "    %serve model --name digits"
    )
    return 0


def _run(folder: Path) -> None:
    # Read by TensorFlow and Keras when they are imported. A Keras of another backend could not export a SavedModel.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    digits = _told("Load scikit-learn's digits, TensorFlow and Keras", _load)
    first, second = digits.models()

    _told(f"Train a linear model on {len(digits.train_x)} rows", lambda: digits.train(first, epochs=12))
    instance = f"demo-{os.getpid()}"
    served = _serve(first, instance, folder, digits.test_x[:1])
    try:
        print(f"  gRPC {served.grpc_endpoint}\n  REST {served.rest_url}/v1/models/digits:predict")
        _ask(served, digits, first)

        # Under the policy "latest 1" the first version would be unloaded as soon as the second answers.
        served.server.control.put_policy("digits", {"latest": {"num_versions": 2}})
        _told("Train version 2, with two hidden layers", lambda: digits.train(second, epochs=40))
        expected = [_predict(model, digits.test_x) for model in (first, second)]
        with Background(served, digits.test_x, expected) as background:
            background.wait_answered(20)
            served = _serve(second, instance, folder, digits.test_x[:1])
            background.wait_answered(20, version=1)
        background.report()

        _compare(served, digits, expected)

        version = _told("Roll back", served.rollback)
        _check(version == 1, f"the rollback led to version {version}")
        _check(_close(served.predict(digits.test_x), expected[0]), "the answers after the rollback are not version 1's")
        print("  Version 1 answers again.")
    finally:
        _told("Stop the server", served.server.stop)
    _check(not served.server.is_running(), "the server still runs")


def _told[Result](what: str, work: Callable[[], Result]) -> Result:
    """Do the work, and print what it was and how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    began = time.monotonic()
    try:
        result = work()
    except BaseException:
        print("failed")
        raise
    print(f"{time.monotonic() - began:.1f} s", flush=True)
    return result
