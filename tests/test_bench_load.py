"""The benchmark's own load generator: it counts what it should, and sees wrong answers."""

from __future__ import annotations

import itertools
import statistics

import grpc
import numpy as np
import pytest

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from tests.bench import load_own, load_wrk
from tests.bench.arrivals import arrivals
from tests.bench.targets import PREDICT
from tests.servers import SharedServer


def test_arrivals() -> None:
    assert list(itertools.islice(arrivals(10.0, "fixed"), 3)) == pytest.approx([0.1, 0.2, 0.3])
    times = list(itertools.islice(arrivals(100.0, "poisson"), 10_000))
    distances = [later - earlier for earlier, later in itertools.pairwise(times)]
    # Of an exponential distribution, mean and standard deviation are equal.
    assert statistics.mean(distances) == pytest.approx(0.01, rel=0.05)
    assert statistics.stdev(distances) == pytest.approx(0.01, rel=0.05)


def test_grpc_rounds(shared_server: SharedServer) -> None:
    message = PredictRequest()
    message.model_spec.name = "half_plus_two"
    message.inputs["x"].CopyFrom(to_proto(np.float32([1.0])))
    body = bytes(message.SerializeToString())
    with grpc.insecure_channel(shared_server.grpc_endpoint) as channel:
        right = bytes(channel.unary_unary(PREDICT)(body, timeout=60))
    url = f"http://{shared_server.grpc_endpoint}{PREDICT}"

    def run(expect: bytes, **options: float) -> load_own.Round:
        amount = {"seconds": None, "count": 300} | options
        return load_own.run(
            url,
            body,
            connections=3,
            streams=4,
            grpc=True,
            expect=expect,
            exact=True,
            **amount,  # type: ignore[arg-type]
        )

    found = run(right)
    assert (found.requests, found.failed, found.error) == (300, 0, "")
    assert found.bytes_per_answer == len(right)
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms
    wrong = run(right + b"?")
    assert (wrong.requests, wrong.failed) == (0, 300)
    assert wrong.error.startswith("a wrong answer")
    opened = run(right, seconds=0.5, rate=200.0, warmup=0.1)
    assert opened.failed == 0, opened.error
    assert 60 <= opened.requests <= 140


def test_rest_rounds(shared_server: SharedServer) -> None:
    url = f"{shared_server.rest_url}/v1/models/half_plus_two:predict"
    right = b'{"predictions":[3.5]}'
    options = {"connections": 4, "streams": 1, "grpc": False, "expect": right, "exact": False}
    found = load_own.run(url, b'{"instances": [1.0]}', seconds=None, count=200, **options)  # type: ignore[arg-type]
    assert (found.requests, found.failed, found.error) == (200, 0, "")
    wrong = load_own.run(url, b'{"instances": [[', seconds=None, count=10, **options)  # type: ignore[arg-type]
    assert (wrong.requests, wrong.failed) == (0, 10)
    assert "HTTP 400" in wrong.error


@pytest.mark.skipif(not load_wrk.available(), reason="wrk is not installed (Debian: wrk)")
def test_rest_rounds_of_wrk(shared_server: SharedServer) -> None:
    url = f"{shared_server.rest_url}/v1/models/half_plus_two:predict"
    found = load_wrk.run(url, b'{"instances": [1.0]}', connections=4, seconds=1)
    assert found.requests > 0
    assert found.failed == 0
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms
    wrong = load_wrk.run(url, b'{"instances": [[', connections=4, seconds=1)
    assert (wrong.requests, wrong.failed > 0) == (0, True)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--url=http://example.com:80/a/B", "not on this machine"),
        ("--seconds=1e9", "not between"),
        ("--count=-1", "not"),
    ],
)
def test_rounds_are_bounded_and_local(flag: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_own.main(["--url=http://127.0.0.1:1/a/B", "--body=x", "--expect-size=1", flag])
    assert text in capsys.readouterr().err
