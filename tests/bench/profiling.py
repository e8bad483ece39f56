"""What the stamps of requests cost: ``python -m tests.bench.profiling [--part path|stamps|tab] [--models FOLDER]``.

``path``: the front's way of a request in this process, without sockets and worker (`tests.bench.front_path`), stamps on
and off in turns: microseconds of CPU, also where a busy machine hides them from the other part.

``stamps``: one server, requests of one row for half_plus_two (the smallest model there is) from h2load, 64 in flight,
over gRPC and REST. Stamps are switched on and off under that load, in slices, random order within each pair. Compared
within the pairs: CPU of the front per request (the scheduler's nanoseconds), and requests per second; medians with 95 %
intervals; exits with 1 if they take more than 3 us or 2 % of the rate. Server and load share the machine.

``tab``: what a reading of the profile tab costs: CPU of the kernel and of the front, bytes to the browser, growth of
the kernel after 300 of them.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import gc
import json
import math
import os
import random
import statistics as stats
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

import serving_workbench as sw
from serving_server.stamps.ring import Settings
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from serving_workbench.profiling.tab.dashboard import _INTERVAL
from tests.bench import load_h2load
from tests.bench.front_path import FrontPath
from tests.bench.targets import PREDICT, SHAPES
from tests.servers import ServerProcess

_MODEL = "half_plus_two"
_IN_FLIGHT = 64

#: Bars: of a request's stamps, and of the rate with them.
_MOST_CPU_US = 3.0
_LEAST_RATE = 0.98

#: Waves of requests that fill the ring.
_FILL = 320


class _Slices:
    """What the front used and answered in slices of one continuous load, some of which are stamped."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def take(self, seconds: float, *, stamped: bool) -> tuple[float, float]:
        """Return the front's CPU per request in us, and requests per second."""
        status, answer = self._server.control("PUT", f"/models/{_MODEL}/profile/requests", {"enabled": stamped})
        assert status == 200, answer
        before, began = self._now(), time.perf_counter()
        time.sleep(seconds)
        after, ended = self._now(), time.perf_counter()
        requests = after[1] - before[1]
        return (after[0] - before[0]) / 1e3 / requests, requests / (ended - began)

    def _now(self) -> tuple[int, int]:
        """Return nanoseconds that the front has run, and how many requests it has answered."""
        tasks = Path(f"/proc/{self._server.pid}/task").iterdir()
        used = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        status, answer = self._server.control("GET", "/statistics")
        assert status == 200, answer
        return used, sum(version["requests"].get("OK", 0) for version in answer["models"][_MODEL].values())


def _stamps(models: Path, pairs: int, seconds: float) -> int:
    """Return how many bars are not met."""
    missed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("--enable_batching=true", directory=Path(folder)) as server,
        concurrent.futures.ThreadPoolExecutor(1) as beside,
    ):
        server.put_model(_MODEL, models / _MODEL)
        server.wait_available(_MODEL)
        slices = _Slices(server)
        for protocol in ("grpc", "rest"):
            url, body = _request(server, protocol)
            grpc = protocol == "grpc"
            connections, streams = SHAPES[_IN_FLIGHT] if grpc else (_IN_FLIGHT, 1)
            shape = {"connections": connections, "streams": streams, "seconds": 2.2 * pairs * seconds + 3}
            load = beside.submit(load_h2load.run, url, body, grpc=grpc, **shape)
            slices.take(1.0, stamped=True)
            found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for number in range(pairs):
                for stamped in random.Random(number).sample([False, True], 2):
                    found[stamped].append(slices.take(seconds, stamped=stamped))
            assert not load.done(), "the load ended before its slices"
            assert not load.result().failed, "requests failed"
            cpu = [on[0] - off[0] for off, on in zip(found[False], found[True], strict=True)]
            rate = [on[1] / off[1] for off, on in zip(found[False], found[True], strict=True)]
            base, most = (stats.median(off[which] for off in found[False]) for which in (0, 1))
            low, middle, high = _median(cpu)
            told = f"{protocol}: CPU of the front {base:.1f} us, stamps {middle:+.2f} us [{low:+.2f}, {high:+.2f}]"
            missed += _judged(told, f"at most {_MOST_CPU_US:g} us", met=middle <= _MOST_CPU_US)
            low, middle, high = _median(rate)
            told = f"{protocol}: {most:,.0f} requests/s, with stamps x {middle:.3f} [{low:.3f}, {high:.3f}]"
            missed += _judged(told, f"at least {_LEAST_RATE:g}", met=middle >= _LEAST_RATE)
    return missed


def _judged(told: str, bar: str, *, met: bool) -> int:
    print(f"{told}; {bar}: {'met' if met else 'NOT met'}", flush=True)
    return not met


def _request(server: ServerProcess, protocol: str) -> tuple[str, bytes]:
    """Return where and what the load sends: one row."""
    if protocol == "rest":
        return f"{server.rest_url}/v1/models/{_MODEL}:predict", b'{"instances": [1.0]}'
    request = PredictRequest()
    request.model_spec.name = _MODEL
    request.inputs["x"].CopyFrom(to_proto(np.float32([1.0])))
    return f"http://{server.grpc_endpoint}{PREDICT}", request.SerializeToString()


def _median(values: list[float]) -> tuple[float, float, float]:
    """Return the median between the ends of its 95 % interval, of order statistics (binomial)."""
    ordered = sorted(values)
    reach = 0.98 * len(ordered) ** 0.5
    middle = len(ordered) / 2
    low, high = max(0, int(middle - reach)), min(len(ordered) - 1, math.ceil(middle + reach))
    return ordered[low], stats.median(ordered), ordered[high]


def _tab(models: Path, readings: int = 300) -> None:
    instance = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        source = max((models / _MODEL).iterdir())
        served = sw.serve(source, _MODEL, root=Path(folder), instance=instance, progress=False)
        try:
            for number in range(400):
                served.predict(np.float32([number]))
            tab = sw.profile_live(served)
            for _ in range(20):
                tab.refresh()
            process = psutil.Process()
            front = psutil.Process(served.server.pid)
            before, began, front_began = process.memory_info().rss, time.process_time(), sum(front.cpu_times()[:2])
            for _ in range(readings):
                tab.refresh()
            cpu = (time.process_time() - began) / readings
            front_cpu = (sum(front.cpu_times()[:2]) - front_began) / readings
            grown = process.memory_info().rss - before
            texts = sum(len(each.value) for each in (tab._numbers, tab._price))
            drawn = json.dumps(tab.chart.widget.data, ensure_ascii=False).encode()
            tab.close()
        finally:
            sw.stop(instance)
    for whose, spent in (("kernel", cpu), ("front", front_cpu)):
        print(f"tab: {1e3 * spent:.1f} ms of the {whose}'s CPU a reading ({100 * spent / _INTERVAL:.1f} % of a core)")
    print(f"tab: {(len(drawn) + texts) / 1e3:.1f} KB a reading")
    print(f"tab: {grown / 1e6:+.1f} MB after {readings} readings")


async def _path(blocks: int) -> None:
    path = FrontPath()
    stamps = path.statistics.stamps
    await path.cpu_us(_FILL)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the front has them
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(blocks):
        for stamped in random.Random(number).sample([False, True], 2):
            stamps.change(Settings(enabled=stamped))
            await path.cpu_us(_FILL)
            found[stamped].append(await path.cpu_us(_FILL))
    path.close()
    low, middle, high = stats.quantiles([on - off for off, on in zip(found[False], found[True], strict=True)], n=4)
    print(f"path: {stats.median(found[False]):.1f} us, stamps {middle:+.2f} us ({low:+.2f} to {high:+.2f})")


def main() -> int:
    """Print lines of text; return 1 when a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling")
    parser.add_argument("--models", type=Path, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--part", choices=("path", "stamps", "tab"), default="path")
    parser.add_argument("--blocks", type=int, default=20, help="pairs of `path`")
    parser.add_argument("--pairs", type=int, default=150, help="of slices of `stamps`")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a slice")
    given = parser.parse_args()
    if given.part == "path":
        asyncio.run(_path(given.blocks))
    elif given.models is None:
        parser.error(f"--part {given.part} needs --models")
    elif given.part == "tab":
        _tab(given.models.resolve())
    else:
        return min(1, _stamps(given.models.resolve(), given.pairs, given.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
