"""What the client's side of stamps costs and shows: ``python -m tests.bench.client_stamps --models FOLDER``.

``cost``: one-row Predicts, one at a time, with an ``x-request-id`` of their own and without, in turns: microseconds of
this process's and the server front's CPU per request, and of the wall; medians of differences within pairs of slices,
with 95 % intervals. ``stamping`` is what the id, the four looks at the clock and the ring take alone.

``sums``: requests by `ServedModel.predict`, over REST, and of a load test with 16 in flight: the largest difference of
the server's stages from its total, and the share of requests whose transport is not negative.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics as stats
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import psutil

import serving_workbench as sw
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from serving_workbench.client_stamps import HEADER, ClientStamp, fresh_id, keep
from serving_workbench.profiling.client_side import COLUMNS
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.rest import predict_by_rest
from tests.bench.profiling import _median
from tests.bench.targets import PREDICT

_MODEL = "half_plus_two"
_SLICE = 50
_REQUESTS = 3000


def _cost(served: sw.ServedModel, pairs: int) -> None:
    began = time.perf_counter()
    for _ in range(100_000):
        request_id = fresh_id()
        keep(ClientStamp(request_id, *(time.perf_counter() for _ in range(4))))
    print(f"stamping alone: {10 * (time.perf_counter() - began):.2f} us")
    request = PredictRequest()
    request.model_spec.name = _MODEL
    request.inputs["x"].CopyFrom(to_proto(np.float32([1.0])))
    message = request.SerializeToString()
    front = psutil.Process(served.server.pid)
    with grpc.insecure_channel(served.grpc_endpoint) as channel:
        call = channel.unary_unary(PREDICT)

        def take(*, named: bool) -> tuple[float, ...]:
            before = (time.process_time(), sum(front.cpu_times()[:2]), time.perf_counter())
            for _ in range(_SLICE):
                call(message, timeout=10, metadata=((HEADER, fresh_id()),) if named else None)
            after = (time.process_time(), sum(front.cpu_times()[:2]), time.perf_counter())
            return tuple(1e6 * (end - start) / _SLICE for start, end in zip(before, after, strict=True))

        take(named=True)
        found: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
        for number in range(pairs):
            for named in random.Random(number).sample([False, True], 2):
                found[named].append(take(named=named))
    for place, what in enumerate(("client's CPU", "front's CPU", "wall")):
        low, middle, high = _median([on[place] - off[place] for off, on in zip(found[False], found[True], strict=True)])
        # The kernel counts the front's CPU in hundredths of a second: only its mean over all slices tells something.
        mean = stats.mean(on[place] - off[place] for off, on in zip(found[False], found[True], strict=True))
        base = stats.mean(off[place] for off in found[False])
        print(f"{what}: {base:.0f} us, with an id {middle:+.1f} us [{low:+.1f}, {high:+.1f}], mean {mean:+.1f}")


def _tell(what: str, found: RequestProfile) -> None:
    frame = found.frame[found.frame["client_total_us"].notna()]
    stages = frame[[f"{stage}_us" for stage in found.stages]].sum(axis=1)
    off = (stages - frame["total_us"]).abs().max()
    shares = ", ".join(
        f"{way} {(frame[way] >= 0).mean():.4f}" for way in ("transport_us", "transport_out_us", "transport_back_us")
    )
    parts = [*COLUMNS[:2], "total_us", *COLUMNS[2:4], "client_total_us"]
    medians = ", ".join(f"{name} {frame[name].median():.0f}" for name in parts)
    print(
        f"{what}: {len(frame)} requests, stages off by {off:.3f} us at most; not negative: {shares}; medians: {medians}"
    )


def _sums(served: sw.ServedModel) -> None:
    for what in ("predict", "REST", "load test, gRPC", "load test, REST"):
        served.stamping(enabled=False)
        served.stamping(enabled=True)
        if what.startswith("load"):
            protocol = "rest" if what.endswith("REST") else "grpc"
            sw.loadtest(served, concurrency=16, seconds=3, stamped=4, protocol=protocol, progress=False)
        else:
            for number in range(_REQUESTS):
                if what == "predict":
                    served.predict(np.float32([number]), request_id=True)
                else:
                    predict_by_rest(served.rest_url, _MODEL, {"instances": [float(number)]})
        _tell(what, served.requests(limit=10_000))


def main() -> None:
    """Print lines of text."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.client_stamps")
    parser.add_argument("--models", type=Path, required=True, help="folder that `python -m tests.models` has filled")
    parser.add_argument("--pairs", type=int, default=150, help="of slices of `cost`")
    given = parser.parse_args()
    instance = f"bench{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        source = max((given.models.resolve() / _MODEL).iterdir())
        served = sw.serve(source, _MODEL, root=Path(folder), instance=instance, progress=False)
        try:
            _cost(served, given.pairs)
            _sums(served)
        finally:
            sw.stop(instance)


if __name__ == "__main__":
    main()
