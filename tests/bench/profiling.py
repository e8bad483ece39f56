"""What the stamps of requests cost: ``python -m tests.bench.profiling [--part path|stamps|tab] [--models FOLDER]``.

``path``: the front's way of a request in this process, without sockets and worker (`tests.bench.front_path`), stamps on
and off in turns: microseconds of CPU, also where a busy machine hides them from the other part.

``stamps``: one server, requests of one row for half_plus_two (the smallest model there is) from a closed loop of 64 in
flight, over gRPC and REST. Blocks with the stamps on and off alternate, in random order within each pair. Compared
within the pairs: CPU of the front per request, and requests per second; medians with quartiles. Server and load share
the machine.

``tab``: what a reading of the profile tab costs the kernel: CPU, bytes to the browser, growth after 300 of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics as stats
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

import serving_workbench as sw
from serving_server.stamps.ring import Settings
from serving_workbench.load.testing import loadtest
from serving_workbench.profiling.tab.dashboard import _INTERVAL
from tests.bench.front_path import FrontPath
from tests.servers import ServerProcess

_MODEL = "half_plus_two"
_IN_FLIGHT = 64

#: Waves of requests that fill the ring.
_FILL = 320


def _block(server: ServerProcess, protocol: str, seconds: float, *, stamped: bool) -> tuple[float, float]:
    """Return the front's CPU per request in us, and requests per second."""
    status, answer = server.control("PUT", f"/models/{_MODEL}/profile/requests", {"enabled": stamped})
    assert status == 200, answer
    front = psutil.Process(server.pid)
    address = server.grpc_endpoint if protocol == "grpc" else server.rest_url
    before = sum(front.cpu_times()[:2])
    result = loadtest(
        address, model=_MODEL, protocol=protocol, seconds=seconds, warmup=0.0, concurrency=_IN_FLIGHT, progress=False
    )
    used = sum(front.cpu_times()[:2]) - before
    assert result.summary.good == result.summary.requests, "requests failed"
    return 1e6 * used / result.summary.requests, result.rate


def _stamps(models: Path, blocks: int, seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess("--enable_batching=true", directory=Path(folder)) as server,
    ):
        server.put_model(_MODEL, models / _MODEL)
        server.wait_available(_MODEL)
        for protocol in ("grpc", "rest"):
            _block(server, protocol, seconds, stamped=True)
            found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for number in range(blocks):
                for stamped in random.Random(number).sample([False, True], 2):
                    found[stamped].append(_block(server, protocol, seconds, stamped=stamped))
            cpu = [on[0] - off[0] for off, on in zip(found[False], found[True], strict=True)]
            rate = [on[1] / off[1] for off, on in zip(found[False], found[True], strict=True)]
            base = stats.median(off[0] for off in found[False])
            low, middle, high = stats.quantiles(cpu, n=4)
            print(f"{protocol}: CPU of the front {base:.1f} us, stamps {middle:+.2f} us ({low:+.2f} to {high:+.2f})")
            low, middle, high = stats.quantiles(rate, n=4)
            most = stats.median(off[1] for off in found[False])
            print(f"{protocol}: {most:,.0f} requests/s, with stamps x {middle:.3f} ({low:.3f} to {high:.3f})")


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
            before, began = process.memory_info().rss, time.process_time()
            for _ in range(readings):
                tab.refresh()
            cpu = (time.process_time() - began) / readings
            grown = process.memory_info().rss - before
            sent = sum(len(each.value) for each in (tab._numbers, tab._pictures, tab._story))
            tab.close()
        finally:
            sw.stop(instance)
    print(f"tab: {1e3 * cpu:.1f} ms of CPU a reading ({100 * cpu / _INTERVAL:.1f} % of a core), {sent / 1e3:.0f} KB")
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


def main() -> None:
    """Print lines of text."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling")
    parser.add_argument("--models", type=Path, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--part", choices=("path", "stamps", "tab"), default="path")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    if given.part == "path":
        asyncio.run(_path(given.blocks))
    elif given.models is None:
        parser.error(f"--part {given.part} needs --models")
    elif given.part == "tab":
        _tab(given.models.resolve())
    else:
        _stamps(given.models.resolve(), given.blocks, given.seconds)


if __name__ == "__main__":
    main()
