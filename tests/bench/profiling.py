"""What the stamps of requests cost: ``python -m tests.bench.profiling --models FOLDER [--part stamps] [--blocks 12]``.

One server, requests of one row for half_plus_two (the smallest model there is) from a closed loop of 64 in flight, over
gRPC and REST. Blocks with the stamps on and off alternate, in random order within each pair. Compared within the pairs:
CPU of the front per request, and requests per second; medians with quartiles. Server and load share the machine.
"""

from __future__ import annotations

import argparse
import random
import statistics as stats
import tempfile
from pathlib import Path

import psutil

from serving_workbench.load.testing import loadtest
from tests.servers import ServerProcess

_MODEL = "half_plus_two"
_IN_FLIGHT = 64


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


_PARTS = {"stamps": _stamps}


def main() -> None:
    """Print lines of text."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling")
    parser.add_argument("--models", type=Path, required=True, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--part", choices=_PARTS, default="stamps")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.5)
    given = parser.parse_args()
    _PARTS[given.part](given.models.resolve(), given.blocks, given.seconds)


if __name__ == "__main__":
    main()
