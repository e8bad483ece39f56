"""What each property of the worker's call is worth, on its own: `python -m tests.bench.limit` without a path.

Two calls that differ in one property, in the same process where TensorFlow allows it and else in one process each;
rounds alternate, a gain is the median of the ratios of neighbouring rounds, of wall and of CPU time per call.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving_server.session_options import SessionFlags, decide
from serving_server.signatures import parse_signatures
from serving_server.worker.freeze import draw_sample
from serving_server.worker.model import Model
from tests import models

__all__ = ["print_gains"]

ROOT: Final = Path(__file__).parent.parent.parent
_ROUNDS: Final = 15
_SECONDS: Final = 0.1

#: What each item compares: (text, model, rows, kind of the base, kind of the improvement).
_ITEMS: Final = (
    ("in the caller's thread", "half_plus_two", 1, "pool", "plain"),
    ("in the caller's thread", "mlp", 1, "pool", "plain"),
    ("one callable per fetches, not session.run", "half_plus_two", 1, "session.run", "plain"),
    ("_make_callable_from_options, not make_callable", "half_plus_two", 1, "make_callable", "plain"),
    ("one thread per batch", "mobilenet", 1, "plain", "plain one thread"),
    ("one thread per batch", "mobilenet", 64, "plain", "plain one thread"),
    ("aligned feed (1 MiB)", "payload", 1, "misaligned", "plain"),
    ("aligned feed (7 MB)", "mobilenet", 64, "misaligned one thread", "plain one thread"),
    ("freezing", "mlp", 1, "plain one thread", "frozen one thread"),
    ("freezing", "mlp", 64, "plain one thread", "frozen one thread"),
    ("freezing", "mobilenet", 1, "plain one thread", "frozen one thread"),
    ("freezing", "mobilenet", 64, "plain one thread", "frozen one thread"),
    ("gc.freeze(), on a full collection", "mobilenet", 1, "collect", "collect gc.freeze"),
)


def _place(array: Any, offset: int) -> Any:
    """Return a copy whose memory lies `offset` bytes behind a multiple of 64."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _call(path: Path, kind: str, rows: int) -> Callable[[], Any]:
    flags = SessionFlags(intra_op=1 if "one thread" in kind else 0, inter_op=2 if kind == "pool" else 0)
    model = Model(path, ["serve"], decide(flags).config)
    signatures = parse_signatures(model.signature_defs().signature_def)
    signature = signatures["serving_default"]
    if "frozen" in kind:
        found = model.freeze(signatures, {})
        if "serving_default" not in found.signatures:
            raise RuntimeError(f"{path} is not frozen: {found.reasons}")
    feeds = [spec.tensor_name for spec in signature.inputs.values()]
    fetches = [spec.tensor_name for spec in signature.outputs.values()]
    offset = 4 if "misaligned" in kind else 0
    arrays = [_place(array, offset) for array in draw_sample(signature, rows).values()]
    if kind == "session.run":
        return lambda: model.session.run(fetches, dict(zip(feeds, arrays, strict=True)))
    if kind == "make_callable":
        public = model.session.make_callable(fetches, feed_list=feeds)
        return lambda: public(*arrays)
    runnable, _ = model.runnable(feeds, fetches)
    runnable(*arrays)
    if kind.startswith("collect"):
        gc.collect()
        if "gc.freeze" in kind:
            gc.freeze()
        return lambda: (model, gc.collect())
    return lambda: runnable(*arrays)


def _serve(path: str, kind: str, rows: str) -> None:
    """The measuring process: a round for each line it reads."""
    call = _call(Path(path), kind, int(rows))
    for _ in range(3):
        call()
    print("ready", flush=True)
    for _ in sys.stdin:
        count = 0
        cpu, started = time.process_time(), time.perf_counter()
        while (wall := time.perf_counter() - started) < _SECONDS:
            call()
            count += 1
        print(json.dumps([wall / count * 1e6, (time.process_time() - cpu) / count * 1e6]), flush=True)


def _compare(path: Path, rows: int, kinds: tuple[str, str]) -> list[list[tuple[float, float]]]:
    """Rounds of (wall, CPU) in us per call, for both kinds."""
    with contextlib.ExitStack() as stack:
        processes = []
        for kind in kinds:
            command = [sys.executable, "-m", "tests.bench.worker_call", str(path), kind, str(rows)]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            stack.callback(process.communicate)  # closes its input, which ends it
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{process.args} ended before it was ready")
        rounds: list[list[tuple[float, float]]] = [[], []]
        for _ in range(_ROUNDS):
            for process, found in zip(processes, rounds, strict=True):
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                found.append(tuple(json.loads(process.stdout.readline())))
        return rounds


def print_gains() -> None:
    """Build the models, measure every item and print a table."""
    print("| property | model | rows | us per call without | with | gain, wall | gain, CPU |")
    print("|---|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="serving-bench-") as name:
        folder = Path(name)
        tests = models.cached(folder)
        own = folder / "bench-models"
        command = [sys.executable, "-m", "tests.bench.bench_models", str(own)]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL, timeout=300)
        for text, model, rows, base, better in _ITEMS:
            path = (own if (own / model).exists() else tests) / model / "1"
            without, with_ = _compare(path, rows, (base, better))
            gains = [
                statistics.median(a[which] / b[which] for a, b in zip(without, with_, strict=True)) for which in (0, 1)
            ]
            wall = [statistics.median(found[0] for found in rounds) for rounds in (without, with_)]
            print(
                f"| {text} | {model} | {rows} | {wall[0]:,.1f} | {wall[1]:,.1f} | {gains[0]:.2f} | {gains[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    _serve(*sys.argv[1:])
