"""What a split costs per request: ``python -m tests.bench.traffic_cost``.

Finds the target of a Predict request as the transport does, with the headers that grpcio sends: by code that knows of
no splits (kept here, to be compared with), on a server without a split, for a model that is not split beside one that
is, and with weights, by lot and by keys. Microseconds of CPU, medians over interleaved rounds of one run.
"""

from __future__ import annotations

import asyncio
import statistics as stats
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from serving_server.catalog import Catalog
from serving_server.http2.call import Call
from serving_server.http2.headers import RequestHead
from serving_server.inference import Inference, Resolved
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import All
from serving_server.traffic.exposures import ExposureLog
from serving_server.traffic.splits import Splits
from serving_server.traffic.wish import Wish

_CALLS = 5000
_ROUNDS = 41
_KEY = b"x-serving-key"
_SPEC = ("m", None, None, "")


class _Servable:
    """A version that is there and does nothing."""

    pid = None
    pending = 0

    def __init__(self, version: int) -> None:
        self.version = version
        self.resolved = {"": Resolved(cast("Any", self), cast("Any", None), (), cast("Any", None))}

    def on_exit(self, callback: Callable[[str], None]) -> None:
        """Never ends by itself."""

    async def drain(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - as in the protocol
        """Return at once."""
        return True

    async def close(self) -> None:
        """Do nothing."""


class _Loader:
    async def load(self, model: str, version: int, path: Path, on_step: Callable[[str], None]) -> _Servable:
        return _Servable(version)


class _Before(Inference):
    """`Inference.signature` without the question whether anything is split."""

    def signature(
        self, model: str, version: int | None, label: str | None, signature_name: str, caller: Any = None
    ) -> Resolved:
        usual = model and label is None
        servable = self._resolve(model, version) if usual else self.servable(model, version, label)
        resolved: Resolved | None = servable.resolved.get(signature_name)
        assert resolved is not None
        return resolved


def _call(key: bytes) -> Call:
    fields = [
        (b":scheme", b"http"),
        (b":method", b"POST"),
        (b":authority", b"127.0.0.1:8500"),
        (b":path", b"/tensorflow.serving.PredictionService/Predict"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-python/1.80.0 grpc-c/53.0.0 (linux; chttp2)"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"grpc-timeout", b"9999m"),
        (_KEY, key),
    ]
    return Call(cast("Any", None), cast("Any", None), 1, RequestHead(fields))


async def _manager(*names: str) -> Manager:
    manager = Manager(cast("Any", _Loader()))
    for name in names:
        manager.add_model(name, All())
        manager.aspire(name, {1: Path("/1"), 2: Path("/2")})
    await manager.wait_for(lambda: all(len(manager.answering(name)) == 3 for name in names), 10)
    return manager


async def _inference(kind: type[Inference], split: str = "", key: str | None = None) -> Inference:
    """Answers for the models m and other, of which one is split."""
    manager = await _manager("m", "other")

    async def poll(model: str) -> None:
        """Nothing is on disk that is not known."""

    splits = Splits(manager, poll)
    if split:
        await splits.put(split, Wish.from_json({"weights": {"1": 90, "2": 10}, "key": key}))
    logs = SimpleNamespace(by_model={})
    mirrors = SimpleNamespace(by_model={})
    catalog = SimpleNamespace(manager=manager, splits=splits, mirrors=mirrors, request_logs=logs, labels=None)
    return kind(cast("Catalog", catalog))


def _cpu_us(run: Callable[[], object]) -> float:
    start = time.process_time_ns()
    for _ in range(_CALLS):
        run()
    return (time.process_time_ns() - start) / _CALLS / 1000


async def _measure() -> None:
    same = _call(b"user-4711")
    before, none = await _inference(_Before), await _inference(Inference)
    other, lot = await _inference(Inference, "other"), await _inference(Inference, "m")
    keyed = await _inference(Inference, "m", _KEY.decode())
    cases: dict[str, Callable[[], object]] = {
        "without splits in the code": lambda: before.signature(*_SPEC, same),
        "nothing is split": lambda: none.signature(*_SPEC, same),
        "another model is split": lambda: other.signature(*_SPEC, same),
        "by lot": lambda: lot.signature(*_SPEC, same),
        "by key": lambda: keyed.signature(*_SPEC, same),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(_ROUNDS):
        for name, run in cases.items():
            times[name].append(_cpu_us(run))
    base = stats.median(times["without splits in the code"])
    for name, found in times.items():
        cost = stats.median(found)
        print(f"{name:<28}{cost:7.3f} us  {cost - base:+7.3f} us")


def _outcome() -> float:
    """Microseconds of CPU that it takes to count and remember what became of a request."""
    outcomes = ExposureLog(10_000).open(1, 0.02)
    found = []
    for _ in range(_ROUNDS):
        arrived = time.perf_counter() - 0.001
        began = time.process_time()
        for _ in range(_CALLS):
            outcomes.succeeded(arrived, 500_000, 4711)
        found.append(1e6 * (time.process_time() - began) / _CALLS)
    return stats.median(found)


def main() -> None:
    """Print a table."""
    asyncio.run(_measure())
    print(f"{'its outcome':<28}  {_outcome():>5.3f} us")


if __name__ == "__main__":
    main()
