"""The in-process limit: rows/s of a model's own call, without any server. `python -m tests.bench.limit [<path> ...]`

One JSON line per model: ``make_callable`` at its best batch size, and the worker's call at batch 1 and 64, as loaded
and frozen, each the median of interleaved rounds. Threads are those of a worker of two batch threads, as the servers of
`tests.bench.data_plane` have it. Without a path: a table of what each property of the worker's call is
worth (`tests.bench.worker_call`).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from serving_server.session_options import SessionFlags, decide, share_processors
from serving_server.signatures import parse_signatures
from serving_server.worker.freeze import draw_sample, freeze
from serving_server.worker.model import Model
from tests.bench import worker_call

_BATCHES: Final = (1, 8, 32, 64, 128, 256)
_ROUND_SECONDS: Final = 0.2
_ROUNDS: Final = 5


def _rate(call: Callable[[], Any], rows: int) -> float:
    count = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _ROUND_SECONDS:
        call()
        count += 1
    return count * rows / elapsed


def measure(path: Path) -> dict[str, Any]:
    """Return the rates of one SavedModel in rows/s."""
    config = share_processors(decide(SessionFlags()).config, 2, os.cpu_count() or 1)
    model = Model(path, ["serve"], config)
    signatures = parse_signatures(model.signature_defs().signature_def)
    signature = signatures["serving_default"]
    feeds = [spec.tensor_name for spec in signature.inputs.values()]
    fetches = [spec.tensor_name for spec in signature.outputs.values()]
    best: tuple[float, int] = (0.0, 0)
    public = model.session.make_callable(fetches, feed_list=feeds)
    for rows in _BATCHES:
        arrays = list(draw_sample(signature, rows).values())
        public(*arrays)
        best = max(best, (_rate(lambda a=arrays: public(*a), rows), rows))
    plain, _ = model.runnable(feeds, fetches)
    twin = freeze(model.session, model.config, {"serving_default": signature}, {})
    calls = {"plain": plain}
    if twin.session is not None:  # else there is nothing to freeze
        model.adopt(twin, signatures)
        calls["frozen"], _ = model.runnable(feeds, fetches)
    result: dict[str, Any] = {"make_callable_best": best[0], "best_batch": best[1]}
    for rows in (1, 64):
        arrays = list(draw_sample(signature, rows).values())
        rates: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(_ROUNDS):
            for name, call in calls.items():
                rates[name].append(_rate(lambda c=call, a=arrays: c(*a), rows))
        for name, found in rates.items():
            result[f"{name}_b{rows}"] = statistics.median(found)
        if "frozen" in rates:
            ratios = [f / p for f, p in zip(rates["frozen"], rates["plain"], strict=True)]
            result[f"frozen_gain_b{rows}"] = statistics.median(ratios)
    return result


def main() -> None:
    """Measure every path of the command line; without one, print the gains."""
    if len(sys.argv) == 1:
        worker_call.print_gains()
    for path in sys.argv[1:]:
        print(json.dumps({"model": Path(path).parent.name, **measure(Path(path))}), flush=True)


if __name__ == "__main__":
    main()
