"""Load by our own client: closed loop, and open loop with latencies from the intended times. One request, repeated.

    python -m tests.bench.load_own --url http://127.0.0.1:8500/tensorflow.serving.PredictionService/Predict --body FILE
        [--connections 8 --streams 8] [--seconds 2 --warmup 0.3 | --count 1000]
        [--rate 5000 --arrivals fixed|poisson] [--expect FILE | --expect-size 55 --tolerance 0.1] [--rest]

Prints one line of JSON, a `Round`. Closed loop: connections times streams requests are in flight, and each answer is
followed by a request. Open loop: requests arrive at a rate, whatever the server does, and a latency begins when its
request was due, not when it could be sent; so a stall counts against every request that would have come in it
(no "coordinated omission").

`run` starts it as a process, so that its CPU is its own.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from serving_server.errors import StatusCode
from serving_server.http2_client.call import Message, OnDone
from serving_server.http2_client.connecting import connect
from serving_server.http2_client.request_headers import RequestHeaders
from serving_workbench.load.alarm import Alarm
from tests.bench.arrivals import arrivals
from tests.bench.rest_client import RestConnection, RestPool, post
from tests.bench.rounds import Round, quantile

__all__ = ["run"]

ROOT: Final = Path(__file__).parent.parent.parent
#: Bounds of one round.
_MAX_SECONDS: Final = 300.0
_MAX_COUNT: Final = 5_000_000
_MAX_CONNECTIONS: Final = 4096
#: Requests of an open loop that may be unanswered; and failures after which a round ends.
_MAX_OPEN: Final = 20_000
_MAX_FAILED: Final = 1000
#: Seconds for the last answers.
_DRAIN: Final = 10.0
#: An open loop sends what is due at most so often. Seconds.
_SHORTEST_NAP: Final = 200e-6

Send = Callable[[OnDone], Any]
Check = Callable[[Message], str]


class _Tally:
    """What was answered while it counts."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self.counting = False
        self.latencies = array.array("d")
        self.late = array.array("d")
        self.bytes = 0
        self.failed = 0
        self.error = ""

    def take(self, seconds: float, message: Message | None, status: StatusCode, details: str) -> None:
        wrong = f"{status.name}: {details}" if message is None else self._check(message)
        if wrong:
            self.failed += 1
            self.error = self.error or wrong
        elif message is not None and self.counting:
            self.latencies.append(seconds)
            self.bytes += len(message)

    def round(self, seconds: float, cpu: float) -> Round:
        ordered = sorted(self.latencies)
        count = len(ordered)
        return Round(
            requests=count,
            rate=count / seconds,
            p50_ms=quantile(ordered, 0.5) * 1e3,
            p99_ms=quantile(ordered, 0.99) * 1e3,
            max_ms=quantile(ordered, 1.0) * 1e3,
            failed=self.failed,
            bytes_per_answer=self.bytes / max(1, count),
            client_cpu_us=cpu / max(1, count) * 1e6,
            late_p99_ms=quantile(sorted(self.late), 0.99) * 1e3 if self.late else 0.0,
            error=self.error,
        )


async def _closed(sends: list[Send], tally: _Tally, options: argparse.Namespace) -> Round:
    """Keep every lane busy."""
    clock = time.perf_counter
    ended = asyncio.Event()
    left = options.count or _MAX_COUNT
    in_flight = 0
    stopping = False

    def lane(send: Send) -> None:
        started = 0.0

        def begin() -> None:
            nonlocal started, left, in_flight
            left -= 1
            in_flight += 1
            started = clock()
            send(done)

        def done(message: Message | None, status: StatusCode, details: str) -> None:
            nonlocal in_flight, stopping
            in_flight -= 1
            tally.take(clock() - started, message, status, details)
            if tally.failed > _MAX_FAILED:
                stopping = True
            if left > 0 and not stopping:
                begin()
            elif not in_flight:
                ended.set()

        if left > 0:
            begin()

    tally.counting = not options.warmup
    before, cpu = clock(), time.process_time()
    for send in sends:
        lane(send)
    if options.warmup:
        await _nap(ended, options.warmup)
        tally.counting = True
        before, cpu = clock(), time.process_time()
    await _nap(ended, _MAX_SECONDS if options.count else options.seconds)
    seconds, cpu = clock() - before, time.process_time() - cpu
    tally.counting = False
    stopping = True
    if in_flight:
        await _nap(ended, _DRAIN)
    if in_flight:
        tally.failed += in_flight
        tally.error = tally.error or f"{in_flight} requests were not answered within {_DRAIN:g} s of the end"
    return tally.round(seconds, cpu)


async def _open(sends: list[Send], tally: _Tally, options: argparse.Namespace) -> Round:
    """Send at the times of arrival, turn and turn about."""
    clock = time.perf_counter
    ended = asyncio.Event()
    began = clock()
    times = (began + at for at in arrivals(options.rate, options.arrivals))
    counted_from, until = began + options.warmup, began + options.warmup + options.seconds
    due = next(times)
    sent = answered = turn = 0
    cpu_before, cpu = time.process_time(), 0.0

    def done(intended: float, message: Message | None, status: StatusCode, details: str) -> None:
        nonlocal answered
        answered += 1
        # What counts is when it was due, so that no slow answer is lost at the end.
        tally.counting = intended >= counted_from
        tally.take(clock() - intended, message, status, details)
        if answered == sent and due >= until:
            ended.set()

    def shoot() -> None:
        nonlocal due, sent, turn, cpu_before, cpu
        turn += 1
        send = sends[turn % len(sends)]  # what is due together goes out in one write
        now = clock()
        if now >= counted_from and not cpu:
            cpu_before, cpu = time.process_time(), 1.0
        while due <= now and due < until:
            if due >= counted_from:
                tally.late.append(now - due)
            sent += 1
            send(functools.partial(done, due))
            due = next(times)
        if sent - answered > _MAX_OPEN or tally.failed > _MAX_FAILED:
            tally.error = tally.error or f"{sent - answered} requests were unanswered: the rate is too much"
            due = until
        if due < until:
            alarm.set(max(due, now + _SHORTEST_NAP))
            return
        alarm.silence()
        if answered == sent:
            ended.set()

    alarm = Alarm(shoot)
    try:
        alarm.set(due)
        await _nap(ended, options.warmup + options.seconds + _DRAIN)
    finally:
        alarm.close()
    used = time.process_time() - cpu_before
    if answered < sent:
        tally.failed += sent - answered
        tally.error = tally.error or f"{sent - answered} requests were not answered within {_DRAIN:g} s of the end"
    return tally.round(options.seconds, used)


async def _nap(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _checker(options: argparse.Namespace) -> Check:
    if options.expect:
        expected = options.expect.read_bytes()
        return lambda message: "" if message == expected else f"a wrong answer: {bytes(message[:200])!r}"
    size, slack = options.expect_size, options.expect_size * options.tolerance
    return lambda message: "" if abs(len(message) - size) <= slack else f"an answer of {len(message)} bytes, not {size}"


async def _round(options: argparse.Namespace) -> Round:
    address = urllib.parse.urlsplit(options.url)
    body = options.body.read_bytes()
    closers: list[Any] = []
    try:
        if options.rest:
            request = post(address.netloc, address.path, body)
            loop = asyncio.get_running_loop()
            for _ in range(options.connections):
                _, made = await loop.create_connection(
                    functools.partial(RestConnection, request), address.hostname, address.port
                )
                closers.append(made.close)
                options.lanes.append(made)
            sends = [RestPool(options.lanes).send] if options.rate else [lane.send for lane in options.lanes]
        else:
            headers = RequestHeaders(address.path, address.netloc)
            sends = []
            for _ in range(options.connections):
                connection = await connect(address.netloc)
                closers.append(connection.close)
                send = functools.partial(connection.unary, headers, body)
                sends += [send] * (1 if options.rate else options.streams)
        return await (_open if options.rate else _closed)(sends, _Tally(_checker(options)), options)
    finally:
        await asyncio.gather(*(close() for close in closers))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--body", type=Path, required=True, help="the message or JSON, without any framing")
    parser.add_argument("--rest", action="store_true", help="HTTP/1.1 and JSON, else gRPC")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8, help="in flight on each connection (gRPC, closed loop)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--count", type=int, default=0, help="end after so many requests, in place of --seconds")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds that do not count")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second: an open loop")
    parser.add_argument("--arrivals", choices=("fixed", "poisson"), default="poisson")
    parser.add_argument("--expect", type=Path, help="every answer must be these bytes")
    parser.add_argument("--expect-size", type=int, default=0, help="every answer must be so long")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of the size, a fraction")
    options = parser.parse_args(argv)
    bounds = {
        "connections": _MAX_CONNECTIONS,
        "streams": 1024,
        "seconds": _MAX_SECONDS,
        "warmup": _MAX_SECONDS,
        "count": _MAX_COUNT,
        "rate": 1e6,
    }
    for name, most in bounds.items():
        value = getattr(options, name)
        if not 0 <= value <= most or (name in {"connections", "streams", "seconds"} and not value):
            parser.error(f"--{name}={value} is not between 0 and {most:g}")
    if not options.expect and not options.expect_size:
        parser.error("--expect or --expect-size: answers that nobody looks at prove nothing")
    if urllib.parse.urlsplit(options.url).hostname not in {"127.0.0.1", "localhost", "::1"}:
        parser.error(f"--url={options.url} is not on this machine; others are not loaded without being asked")
    options.lanes = []
    return options


def run(
    url: str,
    body: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float | None,
    grpc: bool,
    expect: bytes,
    exact: bool,
    count: int = 0,
    warmup: float = 0.3,
    rate: float = 0.0,
    arrivals: str = "poisson",
) -> Round:
    """Send one request over and over, from a process of its own.

    Parameters
    ----------
    url, body, connections, streams, grpc
        As on the command line.
    seconds : float or None
        How long; None: `count` requests.
    expect : bytes
        A right answer.
    exact : bool
        Every answer must equal it; else have its size, which JSON varies by its digits.
    rate : float
        Open loop.

    Raises
    ------
    RuntimeError
        The generator failed; with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="load-own-") as name:
        data, right = Path(name) / "body", Path(name) / "right"
        data.write_bytes(body)
        right.write_bytes(expect)
        checks = [f"--expect={right}"] if exact else [f"--expect-size={len(expect)}"]
        if not exact and not grpc:
            checks.append("--tolerance=0.25")
        amount = (
            [f"--count={count}", "--warmup=0"] if seconds is None else [f"--seconds={seconds}", f"--warmup={warmup}"]
        )
        command = [sys.executable, "-m", "tests.bench.load_own", f"--url={url}", f"--body={data}", *checks, *amount]
        command += [f"--connections={connections}", f"--streams={streams}", *([] if grpc else ["--rest"])]
        command += [f"--rate={rate}", f"--arrivals={arrivals}"] if rate else []
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=(seconds or 120) + 90, check=False
        )
    if done.returncode:
        raise RuntimeError(f"the load generator failed:\n{done.stderr[-2000:]}")
    return Round(**json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    """Run one round and print it."""
    options = _parse(argv)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ImportError:  # Windows has none
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(_round(options))
    print(json.dumps(dataclasses.asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
