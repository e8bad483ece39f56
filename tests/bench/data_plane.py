"""The data plane's numbers: rows/s, server CPU per request, latency, memory; all from one run, interleaved.

    python -m tests.bench.data_plane [--quick] [--models half_plus_two,mlp] [--in-flight 1,64] [--no-open-loop]
        [--no-limits] [--generator own|h2load|auto] [--markdown FILE] [--folder FOLDER]

Servers: ours with its own gRPC transport and REST, ours with the grpcio transport, and for half_plus_two a minimal
Tornado handler (`tests.bench.rest_peer`); beside them the worker's own call in a process without a server. The load
comes from h2load (Debian's nghttp2-client) where it is installed, else from our own generator, `load_own`; the open
loop always from that, and where wrk is installed, REST of half_plus_two from wrk as well. Everything runs on the same
machine. Rounds alternate between the servers, so that drift of the machine hits all of them; ratios are medians of
ratios of neighbouring rounds. CPU is user + system of the front and the workers, not of the client. The last table says
which bars were met.

A whole run takes a quarter of an hour. In parts (a model and some loads at a time; `--in-flight ""` for the in-process
limits alone), each bar is measured within one part; `--folder` keeps the exported models for the next.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests import models
from tests.bench import load_h2load
from tests.bench.bars import Found, Many, judge
from tests.bench.in_process import InProcess
from tests.bench.rest_peer import RestPeer
from tests.bench.targets import Case, Target, cases, front_rss, make_targets, rss, start_servers
from tests.servers import ServerProcess

ROOT: Final = Path(__file__).parent.parent.parent

#: Requests of the many connections: five for each that is in flight.
_MANY: Final = 4096
_MANY_COUNT: Final = 5 * _MANY

CLOSED: Final = [
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
OPEN: Final = [
    "model",
    "way in",
    "load",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "generator late, p99 ms",
    "failed",
]
BARS: Final = ["bar", "measured", ""]


class _Run:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, servers: dict[str, ServerProcess], peer: RestPeer) -> None:
        self._generator: str = options.generator
        self._rounds, self._seconds = (1, 1.0) if options.quick else (3, 1.5)
        self._servers = servers
        self._peer = peer
        self.found = Found()
        self.closed: list[list[str]] = []
        self.open: list[list[str]] = []

    def measure(self, case: Case, in_flight: int, alone: InProcess | None, rows: int = 1, *labels: str) -> None:
        """Rounds of a closed loop on every way in, and of the in-process call, with `rows` in its batch."""
        targets = [
            target for target in make_targets(self._servers, self._peer, case) if not labels or target.label in labels
        ]
        per_request = len(case.array)
        name = case.name if per_request == 1 else f"{case.name} x{per_request}"
        for target in targets:  # not counted: first-use allocations
            target.measure(self._generator, in_flight, None, 4 * in_flight)
            target.rounds.clear()
        beside = self.found.alone.setdefault((name, in_flight), [])
        for _ in range(self._rounds):
            for target in targets:
                target.measure(self._generator, in_flight, self._seconds)
            if alone is not None:
                beside.append(alone.measure(case.name, rows, self._seconds / 2))
        for target in targets:
            target.check()
            self.found.targets[name, in_flight, target.label] = target
            self._tell(self.closed, _closed_row(name, in_flight, per_request, target, targets))

    def open_loop(self, case: Case) -> None:
        """At half and at four fifths of what the closed loop has just reached."""
        for share in (50, 80):
            for label in ("gRPC own", "gRPC grpcio", "REST"):
                target = self.found.targets.get((case.name, 64, label))
                if target is None:
                    continue
                rate = target.median(lambda found, _: found.rate) * share / 100
                got = target.measure_open(rate, self._seconds * 1.5)
                numbers = [f"{ms:.2f}" for ms in (got.p50_ms, got.p99_ms, got.max_ms, got.late_p99_ms)]
                self._tell(self.open, [case.name, label, f"{share} %", f"{rate:,.0f}", *numbers, str(got.failed)])
                if got.failed:
                    print(f"  the first failure: {got.error}", flush=True)

    def many(self, case: Case, wait: float) -> None:
        """512 connections with 8 requests in flight each."""
        (target,) = (t for t in make_targets(self._servers, self._peer, case) if t.label == "gRPC own")
        server = self._servers["own"]
        before = front_rss(server)
        got = target.measure(self._generator, _MANY, None, _MANY_COUNT)
        after = front_rss(server)
        time.sleep(wait)
        failed = got.failed + _MANY_COUNT - got.requests
        # h2load looks at no answer, and an error has none of its message's bytes.
        if abs(got.bytes_per_answer - self.found.targets[case.name, 64, "gRPC own"].rounds[0][0].bytes_per_answer) > 3:
            raise RuntimeError(f"answers of {got.bytes_per_answer} bytes on 512 connections: {got.error}")
        self.found.many = Many(failed, before, after, front_rss(server))

    @staticmethod
    def _tell(table: list[list[str]], row: list[str]) -> None:
        table.append(row)
        print(" ".join(f"{cell:>14}" for cell in row), flush=True)


def _closed_row(name: str, in_flight: int, per_request: int, target: Target, targets: list[Target]) -> list[str]:
    def ratio(label: str) -> str:
        for base in targets:
            if base.label == label:
                return f"{target.ratio(base, lambda found, _: found.rate):.2f}"
        return "-"

    return [
        name,
        str(in_flight),
        target.label,
        f"{target.median(lambda found, _: found.rate) * per_request:,.0f}",
        ratio("gRPC grpcio"),
        ratio("tornado"),
        f"{target.median(lambda _, used: used) / per_request:.1f}",
        f"{target.median(lambda found, _: found.p50_ms):.2f}",
        f"{target.median(lambda found, _: found.p99_ms):.2f}",
        f"{rss(target.server):.0f}",
    ]


def _table(rows: list[list[str]], header: list[str]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _limits(sources: dict[str, Path], wanted: list[Case]) -> dict[str, dict[str, Any]]:
    """The in-process limit of each model, from a process of its own."""
    paths = [str(sources[case.name] / "1") for case in wanted]
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
    return {found["model"]: found for found in map(json.loads, output.splitlines())}


def _limits_table(limits: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, found in limits.items():
        gains = [f"{found[f'frozen_gain_b{b}']:.2f}" if f"frozen_gain_b{b}" in found else "-" for b in (1, 64)]
        best = f"{found['make_callable_best']:,.0f} (batch {found['best_batch']})"
        rows.append([name, best, f"{found['plain_b1']:,.0f}", f"{found['plain_b64']:,.0f}", *gains])
    header = ["model", "make_callable, best rows/s", "worker's call b1", "b64", "frozen gain b1", "b64"]
    return _table(rows, header)


def _build(folder: Path) -> dict[str, Path]:
    (folder / "test-models").mkdir(parents=True, exist_ok=True)
    tests = models.cached(folder / "test-models")
    own = folder / "bench-models"
    if not own.exists():
        fresh = folder / "bench-models.part"
        subprocess.run(
            [sys.executable, "-m", "tests.bench.bench_models", str(fresh)],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )
        fresh.rename(own)
    return {
        **{name: tests / name for name in ("half_plus_two", "mlp")},
        **{name: own / name for name in ("mobilenet", "strings", "payload")},
    }


def _newest(source: Path) -> Path:
    """The version that a server serves."""
    return source / max((folder.name for folder in source.iterdir() if folder.name.isdigit()), key=int)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round each")
    parser.add_argument("--models", default="", help="comma list; all by default")
    parser.add_argument("--in-flight", default="1,8,64,512", help="comma list of 1, 8, 64, 512; may be empty")
    parser.add_argument("--generator", choices=("auto", "own", "h2load"), default="auto")
    parser.add_argument("--markdown", type=Path, help="also write the tables there")
    parser.add_argument("--folder", type=Path, help="keep the exported models there, and use those that are there")
    parser.add_argument("--no-limits", action="store_true", help="leave the in-process limits out")
    parser.add_argument("--no-open-loop", action="store_true", help="leave the open loop out")
    options = parser.parse_args(argv)
    options.in_flight = list(map(int, filter(None, options.in_flight.split(","))))
    if options.generator == "auto":
        options.generator = "h2load" if load_h2load.available() else "own"
    elif options.generator == "h2load" and not load_h2load.available():
        parser.error("h2load is not installed (Debian: apt-get install nghttp2-client); --generator=own needs nothing")
    wanted = set(filter(None, options.models.split(",")))
    options.cases = [case for case in cases() if not wanted or case.name in wanted]
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print the tables."""
    options = _parse(argv)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="serving-bench-") as name:
        folder = Path(name)
        sources = _build(options.folder or folder)
        alone = InProcess({case.name: _newest(sources[case.name]) for case in options.cases})
        with start_servers(folder, sources, options.cases) as servers, RestPeer() as peer, alone:
            run = _Run(options, servers, peer)
            for case in options.cases:
                for in_flight in options.in_flight:
                    beside = alone if in_flight == 1 and case.name != "payload" else None
                    run.measure(case, in_flight, beside)
                if case.name == "mobilenet" and 64 in options.in_flight:
                    run.measure(case, 128, alone, 64, "gRPC own")
                    run.measure(case.of_rows(64), 4, alone, 64, "gRPC own")
                if case.name != "payload" and not options.no_open_loop:
                    run.open_loop(case)
                if case.name == "half_plus_two" and 64 in options.in_flight:
                    run.many(case, 5.0 if options.quick else 30.0)
        found = run.found
        limits = {} if options.no_limits else _limits(sources, options.cases)
        found.limits = limits
    tables = [_table(run.closed, CLOSED)]
    if run.open:
        tables.append(f"Open loop, Poisson arrivals:\n\n{_table(run.open, OPEN)}")
    if limits:
        tables.append(_limits_table(limits))
    tables.append(_table(judge(found), BARS))
    seconds = time.monotonic() - started
    where = f"{datetime.date.today():%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}"
    tables.append(f"({where}; load by {options.generator}; {seconds / 60:.1f} minutes)")
    text = "\n\n".join(tables) + "\n"
    print("\n" + text)
    if options.markdown:
        options.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
