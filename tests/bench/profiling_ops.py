"""What profiles are held to: ``python -m tests.bench.profiling_ops --models FOLDER [--part NAME] [--seconds 150]``.

Prints bars with what was measured; exits with 1 when one is not met.

``others``: one server with two models, each in its own worker. ``mlp`` gets requests of one row in an open loop without
an end; meanwhile profiles of 50 batches of ``dominated`` and pauses of the same length take turns, in random order
within each pair. Compared within the pairs: the other model's p50, as the median with a 95 % interval. Both are short,
so that what the machine does by itself falls on both.

``ops``: the heavy op's share against runs of that op alone in this process; what ops cover; when the table is there.

``memory``: the line through 1, 8 and 32 rows against what 64 take.

``wait``: the queue wait of lone requests whose batch may not run for 20 ms.
"""

from __future__ import annotations

import argparse
import random
import statistics as stats
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving_workbench.load.testing import start
from serving_workbench.profiling import memory, operations
from tests.bench.profiling import _median
from tests.servers import ServerProcess

#: Bar, what was found, whether that is enough.
Row = tuple[str, str, bool]

_OTHER, _PROFILED = "mlp", "dominated"
_BATCHES = 50
_HEAVY = "heavy_product"

#: Lone requests of `wait`.
_LONE = 50


def _profile(server: ServerProcess, kind: str, model: str = _PROFILED, **fields: Any) -> dict[str, Any]:
    status, answer = server.control("POST", f"/models/{model}/versions/1/profile/{kind}", fields, timeout=180)
    assert status == 200, answer
    found: dict[str, Any] = answer["profile"]
    return found


def _others(models: Path, folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    wish = {"batches": _BATCHES, "batch_size": given.rows, "busy": given.busy, "trace": True}
    slices: list[dict[bool, tuple[float, float]]] = []
    profiles: list[dict[str, Any]] = []
    flags = ("--enable_batching=true",) if given.batching else ()
    with ServerProcess(*flags, directory=folder) as server:
        for name in (_OTHER, _PROFILED):
            server.put_model(name, models / name, policy={"specific": {"versions": [1]}})
            server.wait_available(name, 1)
        _profile(server, "ops", **{**wish, "busy": 1.0})  # what only the first one pays is not told
        with start(server.grpc_endpoint, model=_OTHER, rate=given.rate, seconds=2 * given.seconds + 60) as load:
            while not load.began:
                load.poll(0.1)
            until = time.monotonic() + given.seconds
            lasted = given.seconds / 100
            while time.monotonic() < until:
                pair = {}
                for profiled in random.Random(len(slices)).sample([False, True], 2):
                    began = time.monotonic()
                    if profiled:
                        profiles.append(_profile(server, "ops", **wish))
                        lasted = time.monotonic() - began
                    else:
                        time.sleep(lasted)
                    pair[profiled] = began, time.monotonic()
                slices.append(pair)
            records = load.stop().records
    due = records.scheduled + records.began

    def p50(began: float, ended: float) -> float:
        return float(np.median(records.latency[(due >= began) & (due < ended)]))

    off, on = ([p50(*pair[profiled]) for pair in slices] for profiled in (False, True))
    low, middle, high = _median([one / other for one, other in zip(on, off, strict=True)])
    times = f"{1e3 * stats.median(off):.2f} -> {1e3 * stats.median(on):.2f} ms"
    found = f"x {middle:.3f} [{low:.3f}, {high:.3f}], {times}, {len(slices)} pairs"
    yield f"p50 of another model at {given.rate:g}/s while profiled <= 1.05", found, middle <= 1.05
    asked = due < slices[-1][True][1]  # the end of the load cuts off what was asked after
    lost = int((~records.good[asked]).sum())
    yield "requests lost = 0", f"{lost} of {int(asked.sum()):,}", lost == 0
    tables = max(each["table_seconds"] for each in profiles)
    yield "P5: table after the last batch, under load <= 2 s", f"{tables:.3f} s at most", tables <= 2
    fewest = min(each["batches"] for each in profiles)
    yield f"traced batches = {_BATCHES}", f"{fewest} at least", fewest == _BATCHES
    plain = stats.median(ns for each in profiles for ns in each["plain_ns"])
    traced = stats.median(ns for each in profiles for ns in each["profiled_ns"])
    yield "price of tracing a run (no bar)", f"{plain / 1e3:.0f} -> {traced / 1e3:.0f} us", True


def _ops(models: Path, folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    with ServerProcess("--enable_batching=true", "--tensorflow_intra_op_parallelism=1", directory=folder) as server:
        for name in (_PROFILED, _OTHER, "digits"):
            server.put_model(name, models / name, policy={"specific": {"versions": [1]}})
            server.wait_available(name, 1)
            found = [_profile(server, "ops", name, batches=_BATCHES, batch_size=64, busy=0.5) for _ in range(5)]
            covered = stats.median(operations.self_covered(each) for each in found)
            yield f"P4: ops of {name} cover >= 80 %, one thread", f"{100 * covered:.1f} %", covered >= 0.8
            tables = max(each["table_seconds"] for each in found)
            yield f"P5: table of {name} after the last batch <= 2 s", f"{tables:.3f} s at most", tables <= 2
            if name == _PROFILED:
                tops = [operations.by_op(each).iloc[0] for each in found]
    ranked = all(top["name"] == _HEAVY for top in tops)
    share, truth = float(stats.median(top["share"] for top in tops)), _calibrated(models / _PROFILED / "1")
    yield f"P3: {_HEAVY} ranks first", "always" if ranked else "not always", ranked
    away = 100 * abs(share - truth)
    text = f"{100 * share:.1f} %, alone {100 * truth:.1f} % of the run"
    yield "P3: share within 10 points of the op alone", text, away <= 10


def _calibrated(path: Path, rows: int = 64, runs: int = 300) -> float:
    """Return the heavy op's part of a run: runs that end with it against whole ones, in turns, in this process."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1)
    with tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = loaded.signature_def["serving_default"]
        feed, fetch = signature.inputs["x"].name, signature.outputs["y"].name
        whole = config_pb2.CallableOptions(feed=[feed], fetch=[fetch])
        heavy = config_pb2.CallableOptions(feed=[feed], target=[_HEAVY])
        calls = [session._make_callable_from_options(each) for each in (whole, heavy)]
        array = np.random.default_rng(0).normal(size=(rows, 512)).astype(np.float32)
        times: list[list[int]] = [[], []]
        for number in range(runs):
            for which in random.Random(number).sample([0, 1], 2):
                began = time.perf_counter_ns()
                calls[which](array)
                times[which].append(time.perf_counter_ns() - began)
    return stats.median(times[1][10:]) / stats.median(times[0][10:])


def _memory(models: Path, folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    with ServerProcess(directory=folder) as server:
        for name in (_PROFILED, _OTHER, "digits"):
            server.put_model(name, models / name, policy={"specific": {"versions": [1]}})
            server.wait_available(name, 1)
            sizes = memory.sizes_frame(_profile(server, "memory", name, sizes=[1, 8, 32, 64]))
            line = memory.fit(sizes.iloc[:3])
            assert line is not None
            taken, foretold = float(sizes["run_bytes"].iloc[3]), line.run_bytes(64)
            text = f"{memory.in_words(foretold)} foretold, {memory.in_words(taken)} taken"
            yield f"P7: {name}, 64 rows by 1 to 32, within 20 %", text, abs(foretold / taken - 1) <= 0.2


def _wait(models: Path, folder: Path, given: argparse.Namespace) -> Iterator[Row]:
    name = "half_plus_two"
    batching = {"max_batch_size": 64, "batch_timeout_micros": 20_000}
    with ServerProcess(directory=folder) as server:
        server.put_model(name, models / name, batching=batching)
        server.wait_available(name)
        for _ in range(_LONE):
            server.predict(name, {"x": np.float32([1])})
        status, answer = server.control("GET", f"/models/{name}/profile/requests?limit={_LONE}")
        assert status == 200, answer
    waits = [(row["stages_us"]["batch_wait"] + row["stages_us"]["thread_wait"]) / 1e3 for row in answer["requests"]]
    low, middle, high = min(waits), stats.median(waits), max(waits)
    inside = sum(abs(each - 20) <= 2 for each in waits)
    text = f"median {middle:.2f} ms, {low:.2f} to {high:.2f}; {inside} of {len(waits)} inside"
    yield "P8: queue wait of lone requests = 20 +- 2 ms", text, abs(middle - 20) <= 2
    reasons = {batch["reason"] for batch in answer["batches"]}
    yield 'P8: reason "timeout"', ", ".join(sorted(reasons)), reasons == {"timeout"}


_PARTS = {"others": _others, "ops": _ops, "memory": _memory, "wait": _wait}


def main() -> int:
    """Print the bars; return 1 when one is not met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling_ops")
    parser.add_argument("--models", type=Path, required=True, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--part", choices=_PARTS, action="append", help="by default all")
    parser.add_argument("--seconds", type=float, default=150.0, help="of `others`")
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second of `others`")
    parser.add_argument("--rows", type=int, default=1, help="of a profiled batch of `others`")
    parser.add_argument("--busy", type=float, default=0.05)
    parser.add_argument("--batching", action="store_true", help="of `others`: ops then use half of the processors")
    given = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in given.part or _PARTS:
            for text, found, met in _PARTS[part](given.models.resolve(), Path(folder) / part, given):
                missed += not met
                print(f"{text:58}  {found:70}  {'met' if met else 'NOT met'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
