"""What a mirror costs the primary: ``python -m tests.bench.mirror_cost [--model mlp] [--share 0.3] [--blocks 10]``.

One server, one SavedModel as versions 1 and 2, requests of one row at a share of what the server can do, found by a
closed loop first. Blocks without and with a mirror of all requests alternate, in random order within each pair; what is
compared are the latencies of the pairs. Shadow, primary and load generator share the machine's processors.
"""

from __future__ import annotations

import argparse
import random
import statistics as stats
import tempfile
from pathlib import Path
from typing import Any

from serving_workbench.load.testing import loadtest
from tests import models
from tests.servers import ServerProcess, wait_until

_MODEL = "mirrored"


def _load(server: ServerProcess, seconds: float, **options: Any) -> Any:
    return loadtest(server.grpc_endpoint, model=_MODEL, seconds=seconds, progress=False, warmup=0.5, **options)


def _control(server: ServerProcess, method: str, body: Any = None) -> Any:
    status, answer = server.control(method, f"/models/{_MODEL}/mirror", body)
    assert status == 200, answer
    return answer


def _block(server: ServerProcess, rate: float, seconds: float, *, mirrored: bool) -> tuple[float, float, Any]:
    """Return p50 and p99 in ms, and the mirror's counts."""
    if mirrored:
        _control(server, "PUT", {"version": 2})
    result = _load(server, seconds, rate=rate)
    told = None
    if mirrored:
        wait_until(lambda: not (now := _control(server, "GET"))["waiting"] + now["running"])
        told = _control(server, "GET")
    # Both versions stay loaded: only the copies differ.
    _control(server, "DELETE")
    assert result.summary.good == result.summary.requests, "requests failed"
    return 1000 * result.p50, 1000 * result.p99, told


def _measure(folder: Path, arguments: argparse.Namespace) -> None:
    for version in ("1", "2"):
        models.copy_version(arguments.models / arguments.model / "1", folder / "models" / version)
    flags = ("--enable_batching=true",)
    with ServerProcess(*flags, directory=folder / "server") as server:
        server.put_model(_MODEL, folder / "models", policy={"specific": {"versions": [1]}})
        server.wait_available(_MODEL, 1)
        assert server.control("PUT", f"/models/{_MODEL}/versions/2/hold")[0] == 200
        server.wait_available(_MODEL, 2)
        most = _load(server, 4.0, concurrency=64).rate
        rate = arguments.share * most
        print(f"{arguments.model}: {most:,.0f} requests/s at most; {rate:,.0f} in these blocks")
        ratios50, ratios99, counts = [], [], []
        for number in range(arguments.blocks):
            found = {}
            for mirrored in random.Random(number).sample([False, True], 2):
                found[mirrored] = _block(server, rate, arguments.seconds, mirrored=mirrored)
            (off50, off99, _), (on50, on99, told) = found[False], found[True]
            ratios50.append(on50 / off50)
            ratios99.append(on99 / off99)
            counts.append(told)
            print(
                f"p50 {off50:.2f} -> {on50:.2f} ms, p99 {off99:.2f} -> {on99:.2f} ms, coverage {told['coverage']:.3f}"
            )
        for name, ratios in (("p50", ratios50), ("p99", ratios99)):
            low, middle, high = stats.quantiles(ratios, n=4)
            print(f"{name} with the mirror / without: median {middle:.2f} (quartiles {low:.2f} to {high:.2f})")
        seen, answered, dropped = (sum(told[name] for told in counts) for name in ("seen", "answered", "dropped"))
        print(f"{seen} requests seen, {answered} answered by the shadow, {dropped} dropped")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mirror_cost")
    parser.add_argument("--models", type=Path, required=True, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0)
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), parser.parse_args())


if __name__ == "__main__":
    main()
