"""The data plane's numbers: rows/s, server CPU per request, latency, memory; all from one run, interleaved.

    python -m tests.bench.data_plane [--quick] [--models half_plus_two,mlp] [--markdown FILE]

Servers: ours with its own gRPC transport and REST, ours with the grpcio transport, and for half_plus_two a minimal
Tornado handler (`tests.bench.rest_peer`); beside them the in-process limit of each model. The load generator (h2load,
Debian's nghttp2-client) runs on the same machine. Rounds alternate between the servers, so that drift of the machine
hits all of them; ratios are medians of ratios of neighbouring rounds. CPU is user + system of the front and the
workers, not of the client.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from tests import models
from tests.bench import load_h2load
from tests.bench.bench_models import PAYLOAD_FLOATS
from tests.bench.rest_peer import RestPeer
from tests.servers import ServerProcess

ROOT: Final = Path(__file__).parent.parent.parent
BATCHING: Final = """max_batch_size {{ value: {size} }} batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: 1000 }} num_batch_threads {{ value: 2 }}"""

#: Requests in flight as (connections, streams per connection) for gRPC; REST has one per connection.
SHAPES: Final = {1: (1, 1), 8: (2, 4), 64: (8, 8), 512: (64, 8)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model: its input, and the largest batch."""

    name: str
    array: Any
    batch: int = 64

    def grpc_body(self, alias: str) -> bytes:
        request = PredictRequest()
        request.model_spec.name = self.name
        content = self.array.dtype != object
        request.inputs[alias].CopyFrom(to_proto(self.array, as_content=content))
        message = bytes(request.SerializeToString())
        return b"\0" + len(message).to_bytes(4, "big") + message

    def rest_body(self) -> bytes:
        values = [v.decode() for v in self.array] if self.array.dtype == object else self.array.tolist()
        return json.dumps({"instances": values}).encode()


def _cases() -> list[Case]:
    rng = np.random.default_rng(0)
    return [
        Case("half_plus_two", np.float32([2.5])),
        Case("mlp", rng.random((1, 784), dtype=np.float32)),
        Case("mobilenet", rng.standard_normal((1, 96, 96, 3)).astype(np.float32)),
        Case("strings", np.array([b"what language is this?"], dtype=object)),
        Case("payload", rng.random((1, PAYLOAD_FLOATS), dtype=np.float32), 8),
    ]


@dataclasses.dataclass
class Target:
    """One way into a server, and what was measured there."""

    label: str
    server: ServerProcess | RestPeer
    url: str
    body: bytes
    grpc: bool
    rounds: list[tuple[load_h2load.Round, float]] = dataclasses.field(default_factory=list)

    def measure(self, in_flight: int, seconds: float) -> None:
        connections, streams = SHAPES[in_flight] if self.grpc else (in_flight, 1)
        before = _cpu(self.server)
        found = load_h2load.run(
            self.url, self.body, connections=connections, streams=streams, seconds=seconds, grpc=self.grpc
        )
        cpu = _cpu(self.server) - before
        self.rounds.append((found, cpu / max(1, found.requests) * 1e6))


def _processes(server: ServerProcess | RestPeer) -> list[psutil.Process]:
    if isinstance(server, RestPeer):
        return server.processes()
    front = psutil.Process(server.pid)
    forkserver = server.control("GET", "/status")[1]["forkserver"]["pid"]
    return [front, *psutil.Process(forkserver).children()]


def _cpu(server: ServerProcess | RestPeer) -> float:
    """User and system seconds of the front and all workers so far."""
    total = 0.0
    for process in _processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _rss(server: ServerProcess | RestPeer) -> float:
    return sum(process.memory_info().rss for process in _processes(server)) / 1e6


@contextlib.contextmanager
def _servers(folder: Path, sources: dict[str, Path], cases: list[Case]) -> Iterator[dict[str, ServerProcess]]:
    batching = folder / "batching.pbtxt"
    batching.write_text(BATCHING.format(size=64))
    flags = ["--enable_batching", f"--batching_parameters_file={batching}"]
    with contextlib.ExitStack() as stack:
        found = {}
        for transport in ("own", "grpcio"):
            server = ServerProcess(*flags, f"--grpc_transport={transport}", directory=folder / transport)
            found[transport] = stack.enter_context(server)
        for server in found.values():
            for case in cases:
                parameters = {
                    "max_batch_size": case.batch,
                    "max_enqueued_batches": 1000,
                    "num_batch_threads": 2,
                }
                server.put_model(case.name, sources[case.name], batching=parameters)
                server.wait_available(case.name, timeout=120)
        yield found


def _alias(server: ServerProcess, case: Case) -> str:
    _, answer = server.rest("GET", f"/v1/models/{case.name}/metadata")
    (alias,) = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    return str(alias)


def _targets(servers: dict[str, ServerProcess], peer: RestPeer, case: Case) -> list[Target]:
    body = case.grpc_body(_alias(servers["own"], case))
    path = "/tensorflow.serving.PredictionService/Predict"
    found = [
        Target(f"gRPC {name}", server, f"http://{server.grpc_endpoint}{path}", body, True)
        for name, server in servers.items()
    ]
    if case.name != "payload":
        own = servers["own"]
        path = f"/v1/models/{case.name}:predict"
        found.append(Target("REST", own, own.rest_url + path, case.rest_body(), False))
        if case.name == "half_plus_two":
            found.append(Target("tornado", peer, peer.rest_url + path, case.rest_body(), False))
    return found


def _check(target: Target) -> None:
    """Every answer of a gRPC round must carry a message of the size of a right one.

    Within 5 %: answers that are cut off by the end of a round count their bytes, but not as answers.
    """
    sizes = {round(found.bytes_per_answer) for found, _ in target.rounds}
    failed = sum(found.failed for found, _ in target.rounds)
    varies = target.grpc and max(sizes) > 1.05 * min(
        sizes
    )  # JSON has more or fewer digits from one batch size to another
    if failed or varies or min(sizes) < 10:
        raise RuntimeError(f"{target.label} {target.url}: {failed} failed, answers of {sorted(sizes)} bytes")


def _ratio(target: Target, targets: list[Target], label: str) -> str:
    """The median ratio of rows/s to another target of the same rounds."""
    for base in targets:
        if base.label == label:
            pairs = zip(target.rounds, base.rounds, strict=True)
            return f"{statistics.median(a.rate / b.rate for (a, _), (b, _) in pairs):.2f}"
    return "-"


def _row(case: Case, in_flight: int, target: Target, targets: list[Target]) -> list[str]:
    rates = [found.rate for found, _ in target.rounds]
    cpu = statistics.median(cpu for _, cpu in target.rounds)
    return [
        case.name,
        str(in_flight),
        target.label,
        f"{statistics.median(rates):,.0f}",
        _ratio(target, targets, "gRPC grpcio"),
        _ratio(target, targets, "tornado"),
        f"{cpu:.1f}",
        f"{statistics.median(f.p50_ms for f, _ in target.rounds):.2f}",
        f"{statistics.median(f.p99_ms for f, _ in target.rounds):.2f}",
        f"{_rss(target.server):.0f}",
    ]


HEADER: Final = [
    "model",
    "in flight",
    "way in",
    "rows/s",
    "vs grpcio",
    "vs tornado",
    "server CPU us/row",
    "p50 ms",
    "p99 ms",
    "RSS MB",
]


def _table(rows: list[list[str]], header: list[str]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _limits(sources: dict[str, Path], cases: list[Case]) -> str:
    """The in-process limit of each model, from a process of its own."""
    paths = [str(sources[case.name] / "1") for case in cases]
    output = subprocess.run(
        [sys.executable, "-m", "tests.bench.limit", *paths],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=600,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    ).stdout
    rows = []
    for found in map(json.loads, output.splitlines()):
        gains = [f"{found[f'frozen_gain_b{b}']:.2f}" if f"frozen_gain_b{b}" in found else "-" for b in (1, 64)]
        rows.append(
            [
                found["model"],
                f"{found['make_callable_best']:,.0f} (batch {found['best_batch']})",
                f"{found['plain_b1']:,.0f}",
                f"{found['plain_b64']:,.0f}",
                *gains,
            ]
        )
    header = ["model", "make_callable, best rows/s", "worker's call b1", "b64", "frozen gain b1", "b64"]
    return _table(rows, header)


def _build(folder: Path) -> dict[str, Path]:
    tests = models.cached(folder)
    own = folder / "bench-models"
    subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_models", str(own)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=300,
    )
    return {
        **{name: tests / name for name in ("half_plus_two", "mlp")},
        **{name: own / name for name in ("mobilenet", "strings", "payload")},
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round each")
    parser.add_argument("--models", default="", help="comma list; all by default")
    parser.add_argument("--in-flight", default="1,8,64,512", help="comma list of 1, 8, 64, 512")
    parser.add_argument("--markdown", type=Path, help="also write the tables there")
    parser.add_argument("--no-limits", action="store_true", help="leave the in-process limits out")
    options = parser.parse_args(argv)
    if not load_h2load.available():
        print("h2load is not installed (Debian: apt-get install nghttp2-client); nothing measured.", file=sys.stderr)
        return 1
    rounds, seconds = (1, 1.0) if options.quick else (3, 2.0)
    wanted = set(filter(None, options.models.split(",")))
    cases = [case for case in _cases() if not wanted or case.name in wanted]
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="serving-bench-") as name:
        folder = Path(name)
        sources = _build(folder)
        with _servers(folder, sources, cases) as servers, RestPeer() as peer:
            for case in cases:
                for in_flight in map(int, options.in_flight.split(",")):
                    targets = _targets(servers, peer, case)
                    for target in targets:  # not counted: first-use allocations
                        target.measure(in_flight, 0.3)
                        target.rounds.clear()
                    for _ in range(rounds):
                        for target in targets:
                            target.measure(in_flight, seconds)
                    for target in targets:
                        _check(target)
                        rows.append(_row(case, in_flight, target, targets))
                        print(" ".join(f"{cell:>14}" for cell in rows[-1]), flush=True)
        limits = "" if options.no_limits else _limits(sources, cases)
    when = f"{datetime.date.today():%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
    text = f"{_table(rows, HEADER)}\n\n{limits}\n\n({when})\n"
    print("\n" + text)
    if options.markdown:
        options.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
