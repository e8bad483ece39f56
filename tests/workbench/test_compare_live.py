"""Versions compared by live requests: by a split, with sequences that may be looked at all the time, and by blocks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.comparison.periods import counts_of
from tests.servers import wait_until
from tests.workbench.test_ramps import Load


@pytest.fixture(autouse=True)
def version_1_again(arms: sw.ServedModel) -> Iterator[None]:
    yield
    arms.traffic({})
    arms.config(policy={"specific": {"versions": [1]}})
    wait_until(lambda: arms.serving_version == 1, what="version 1")


def test_a_slow_version_is_rejected_as_soon_as_it_is_sure(arms: sw.ServedModel) -> None:
    with Load(arms) as load:
        result = sw.compare_live(arms, 1, 5, seconds=90, progress=False)
    assert result.verdict == "REJECT"
    assert result.reasons[0].startswith("Run time is worse than allowed")
    assert load.failed == []
    assert result.metric("error rate").b == 0
    assert result.metric("latency under shared load").role == "shown"
    (check,) = [each for each in result.checks if each.name == "sample ratio"]
    assert check.ok
    sequence = result.sequence
    assert sequence["n"] == sorted(sequence["n"])
    assert sequence["low"][-1] > 0.1
    assert arms.describe()["traffic"]["weights"] is None  # it was its own split


def test_a_version_that_is_no_worse_is_not_called_different(arms: sw.ServedModel) -> None:
    with Load(arms):
        result = sw.compare_live(arms, 1, 2, margins={"run time": 0.5, "error rate": 0.05}, seconds=90, progress=False)
    assert result.verdict == "SHIP", result
    found = result.metric("run time").difference
    assert found.low < 0.2


def test_errors_are_found_by_an_exact_sequence(arms: sw.ServedModel) -> None:
    with Load(arms, np.full(2, 13, np.float32)):
        result = sw.compare_live(arms, 1, 4, seconds=90, progress=False)
    assert result.verdict == "REJECT"
    assert any(reason.startswith("Error rate is worse than allowed") for reason in result.reasons)


def test_a_split_that_is_there_is_looked_at_and_left(arms: sw.ServedModel) -> None:
    arms.traffic({1: 80, 2: 20})
    with Load(arms):
        result = sw.compare_live(arms, 1, 2, seconds=1.5, stop_early=False, progress=False)
    assert arms.describe()["traffic"]["weights"] == {"1": 80.0, "2": 20.0}
    assert result.metric("run time").role == "shown"  # the smaller share is slower by itself
    assert "The shares are unequal" in " ".join(check.text for check in result.checks)
    with pytest.raises(sw.WorkbenchError, match="split already"):
        sw.compare_live(arms, 1, 2, weights={1: 1, 2: 1}, progress=False)
    with pytest.raises(sw.WorkbenchError, match="slo_ms= and key="):
        sw.compare_live(arms, 1, 2, slo_ms=5, progress=False)
    share = result.sequence["share"][-1]
    assert 0.1 < share < 0.3
    with pytest.raises(sw.WorkbenchError, match="Version 3 has no part"):
        sw.compare_live(arms, 1, 3, seconds=1, progress=False)


def test_too_few_requests_decide_nothing(arms: sw.ServedModel) -> None:
    result = sw.compare_live(arms, 1, 2, seconds=0.1, progress=False)
    assert result.verdict == "INCONCLUSIVE"
    assert "nothing is said below 200" in result.reasons[0]
    assert "Nothing to compare" in result.checks[0].text


class KeyedLoad:
    """Requests of many users, each of whom is content with version 1 only."""

    def __init__(self, arms: sw.ServedModel) -> None:
        import grpc

        from serving_server.tensors import to_array, to_proto
        from serving_server.wire.messages import PredictRequest, PredictResponse

        self.content: dict[str, float] = {}
        self._stop = threading.Event()
        channel = grpc.insecure_channel(arms.grpc_endpoint)
        self._channel = channel
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        request = PredictRequest()
        request.model_spec.name = "arms"
        request.inputs["x"].CopyFrom(to_proto(np.float32([7])))

        def ask() -> None:
            number = 0
            while not self._stop.wait(0.001):
                number += 1
                key = f"user-{number}"
                answer = call(request, timeout=60, metadata=(("x-user", key),))
                self.content[key] = float(to_array(answer.outputs["scores"])[0].argmax() == 1)

        self._thread = threading.Thread(target=ask, name="users")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._channel.close()


def test_what_users_say_decides_when_they_say_it(arms: sw.ServedModel) -> None:
    with KeyedLoad(arms) as users:
        result = sw.compare_live(
            arms,
            1,
            2,
            key="x-user",
            feedback=lambda: dict(users.content),
            margins={"feedback": 0.05, "run time": 1},
            seconds=90,
            progress=False,
        )
    found = result.metric("feedback")
    assert (found.role, found.a, found.b) == ("primary", 1.0, 0.0)
    assert result.verdict == "REJECT"
    assert result.source.startswith("live split by key, ")
    (ratio,) = [check for check in result.checks if check.name == "sample ratio"]
    assert ratio.ok
    assert " keys, as declared" in ratio.text
    errors = result.metric("error rate").difference
    assert errors.method.endswith("over keys")
    assert 0 < errors.n <= len(users.content), "each key is one observation"


@pytest.mark.slow
def test_versions_take_turns_and_the_slow_one_is_told(arms: sw.ServedModel) -> None:
    result = sw.switchback(
        arms, 1, 5, blocks=20, seconds=0.5, rate=80, data=np.arange(50, dtype=np.float32), progress=False
    )
    assert result.metric("latency").difference.n == 20
    assert result.metric("latency").difference.low > 0.1
    assert result.verdict == "REJECT"
    assert arms.describe()["traffic"]["weights"] is None
    assert arms.serving_version == 1


def test_the_command_does_the_same(arms: sw.ServedModel) -> None:
    command = [
        sys.executable,
        "-m",
        "serving_workbench.cli",
        "ab",
        "arms",
        "1",
        "2",
        "--instance",
        "arms",
        "--no-progress",
    ]
    with Load(arms):
        live = [*command, "--live", "--for", "1s"]
        done = subprocess.run(live, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "live split, " in done.stdout
    both = [*command, "--live", "--switchback"]
    bad = subprocess.run(both, capture_output=True, text=True, timeout=60, check=False)
    assert (bad.returncode, "not both" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        ("compare_live", {"b": 1}, "given twice"),
        ("compare_live", {"b": 2, "margins": {"accuracy": 1}}, "no such metric"),
        ("compare_live", {"b": 3, "weights": {1: 50, 2: 50}}, "Version 3 has no part"),
        ("compare_live", {"b": 2, "feedback": dict}, "the split is by lot"),
        ("switchback", {"b": 1}, "given twice"),
        ("switchback", {"b": 2, "blocks": 3}, "20 to 200"),
        ("switchback", {"b": 2, "seconds": 0}, "length of a block"),
    ],
)
def test_what_is_wrong_is_named(arms: sw.ServedModel, function: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(sw.WorkbenchError, match=words):
        getattr(sw, function)(arms, 1, **options, progress=False)


def test_counts_are_of_the_periods_that_count() -> None:
    outcome = {"answered": 5, "errors": {"INTERNAL": 1}, "misses": 2, "runs": 5, "log_run": [1, 2], "log_total": [3, 4]}
    period = {
        "since": 10.0,
        "shares": {"1": 0.25, "2": 0.75},
        "requests": {"1": 6, "2": 18},
        "outcomes": {"1": outcome},
    }
    found = counts_of([period, period], 1)
    assert (found.given, found.expected, found.answered, found.errors, found.misses) == (12, 12.0, 10, 2, 4)
    assert found.run == (10, 2, 4)
    assert counts_of([period], 2).requests == 0
