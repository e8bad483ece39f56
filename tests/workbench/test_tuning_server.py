"""The search on real servers: it ends, decides, disturbs nothing, and says what cannot be done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import serving_workbench as sw
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import read_batching_file
from serving_workbench.commands import COMMANDS
from serving_workbench.errors import CommandLineError, WorkbenchError
from serving_workbench.load.payload import from_signature
from serving_workbench.load.target import resolve
from serving_workbench.tuning.ladder import Ladder
from serving_workbench.tuning.measuring import Measurer
from serving_workbench.tuning.verifying import Verifier
from tests.servers import wait_until

#: A grid and times as small as they can be: these tests are about what happens, not about how good it is.
QUICK = {
    "seconds": 8.0,
    "repeats": 2,
    "sizes": (1, 8),
    "timeouts": (0, 2000),
    "threads": (1, 2),
    "trials": 1,
    "progress": False,
}


@pytest.fixture
def served(warm: str, name: str, source: Callable[..., Path]) -> sw.ServedModel:
    return sw.serve(source("half_plus_two"), name, instance=warm, progress=False)


@pytest.mark.slow
def test_a_search_decides_and_puts_everything_back(served: sw.ServedModel, tmp_path: Path) -> None:
    before = served.server.set_batching(served.name, max_batch_size=8, max_enqueued_batches=2000)
    asked: list[float] = []
    over = threading.Event()

    def client() -> None:
        while not over.wait(0.05):
            asked.append(float(served.predict(np.float32([2.0]))[0]))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        result = sw.tune(served, "100ms", **QUICK)
    finally:
        over.set()
        thread.join(60)
    assert isinstance(result, sw.TuneResult)
    assert result.complete, str(result)
    assert any("under other load" in note for note in result.notes)
    assert set(asked) == {3.0}  # requests of others are answered, and rightly
    assert served.server.batching(served.name) == before
    labels = [candidate.label for candidate in result.candidates]
    assert labels[:3] == ["current", "batching off", "TF Serving's recipe"]
    assert result.current == BatchingParameters.from_json(before)
    assert set(result.seconds) == {"look", "profile", "probe", "range", "predict", "screen", "repeat"}
    assert result.best is not None, str(result)
    assert result.floor < 0.1
    assert result.measured
    assert "digest unknown" not in result.digest
    if result.best.parameters is not None:
        written, _ = result.export(tmp_path / "batching.pbtxt")
        assert read_batching_file(str(written)) == result.best.parameters
    assert sw.TuneResult.load(result.save(tmp_path / "run")).verdict == result.verdict
    assert result.apply() == (None if result.best.parameters is None else result.best.parameters.to_json())


@pytest.mark.slow
def test_a_search_without_the_simulator_at_a_given_rate(served: sw.ServedModel) -> None:
    options = {**QUICK, "method": "random", "trials": 2, "rate": 200.0, "padding": True}
    result = sw.tune(served, "100ms", **options)
    assert isinstance(result, sw.TuneResult)
    assert result.complete, str(result)
    assert "search" in result.seconds
    assert all(candidate.screened is not None for candidate in result.candidates)
    assert 3 <= len(result.candidates) <= 4  # a second trial is only begun while there is time
    assert set(result.space.paddings) == {"none", "powers of two"}
    assert "at 200 requests/s" in result.verdict
    assert served.server.batching(served.name) is None


@pytest.mark.slow
def test_a_ladder_is_climbed_to_its_end_however_long_it_takes(served: sw.ServedModel) -> None:
    target = resolve(served, model=None, protocol="grpc", version=None, instance="default", tls=None)
    payload = from_signature(target, served.signatures()["serving_default"], 1)
    ladder = Ladder((40.0, 50.0, 60.0), 0.2)
    assert ladder.duration > 10  # what a load test takes by default
    with Measurer(served, payload, 99.0, lambda: None) as measurer:
        assert np.isfinite(measurer.climb(None, ladder, 0.5).latencies).all()


def test_an_interrupt_keeps_what_was_found(served: sw.ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Verifier) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Verifier, "predict", interrupted)
    result = sw.tune(served, "100ms", **QUICK)
    assert isinstance(result, sw.TuneResult)
    assert not result.complete
    assert "Interrupted" in str(result)
    assert result.curve.sizes == [1, 2, 4, 8]
    assert served.server.batching(served.name) is None


def test_an_impossible_objective_is_found_by_one_probe(served: sw.ServedModel) -> None:
    result = sw.tune(served, "1us", **QUICK)
    assert not result.feasible
    assert set(result.seconds) == {"look", "profile", "probe"}
    assert "cannot be kept" in result.verdict
    assert f"{result.floor * 1e3:.3g} ms" in result.verdict
    assert served.server.batching(served.name) is None


@pytest.mark.parametrize("model", ["no_batch_dim", "bad_output_batch"])
def test_what_cannot_be_batched_is_said(warm: str, name: str, source: Callable[..., Path], model: str) -> None:
    served = sw.serve(source(model), name, instance=warm, progress=False, tolerance=None)
    with pytest.raises(WorkbenchError, match="batch"):
        sw.tune(served, "20ms", **QUICK)
    assert served.server.batching(served.name) is None


def test_wrong_arguments_are_named(served: sw.ServedModel) -> None:
    for wrong, message in (
        ({"method": "magic"}, "guided, optuna, random, grid"),
        ({"rate": -1}, "rate=-1"),
        ({"rate": "500"}, "rate='500'"),
        ({"seconds": "60s"}, "seconds='60s'"),
        ({"seconds": 0}, "seconds=0"),
        ({"repeats": 2.5}, "repeats=2.5"),
        ({"trials": 0}, "trials=0"),
        ({"rows": 0}, "rows=0"),
        ({"sizes": 8}, "sizes=8 is no list"),
        ({"sizes": ["a"]}, "sizes="),
        ({"timeouts": [-1]}, "timeouts="),
        ({"threads": [0]}, "threads="),
        ({"repeats": 1}, "at least 2"),
        ({"signature": "nobody"}, "no signature 'nobody'"),
        ({"rows": 9}, "9 rows"),
    ):
        with pytest.raises(WorkbenchError, match=message):
            sw.tune(served, "20ms", **{**QUICK, **wrong})
    with pytest.raises(WorkbenchError, match="no latency objective"):
        sw.tune(served, "soon", **QUICK)


@pytest.mark.slow
def test_a_server_that_dies_leaves_what_was_found(instance: str, source: Callable[..., Path], tmp_path: Path) -> None:
    served = sw.serve(source("half_plus_two"), "half", instance=instance, root=tmp_path / "models", progress=False)
    results: list[sw.TuneResult] = []
    options = {**QUICK, "seconds": 30.0}
    thread = threading.Thread(target=lambda: results.append(sw.tune(served, "500ms", **options)))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    thread.start()
    loaded = served.server.statistics
    # The probe sends requests: from then on there is something to keep.
    wait_until(lambda: loaded()["models"]["half"]["1"]["requests"].get("OK", 0) > 30, 30, "the probe's requests")
    os.kill(served.server.pid, signal.SIGKILL)
    thread.join(40)
    (result,) = results
    assert not result.complete
    assert result.curve.sizes == [1, 2, 4, 8]
    assert "Ended early" in str(result)
    assert "Not finished" in result.verdict
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before


def test_the_command_has_flags_of_its_own() -> None:
    command = next(each for each in COMMANDS if each.name == "tune")
    assert command.magic == "tune"
    parser = command.parser("%tune", in_notebook=True)
    found = parser.read(["digits", "--p99", "20ms", "--rate", "500", "--for", "60"], str)
    assert (found.name, found.p99, found.rate, found.seconds) == ("digits", "20ms", 500.0, 60.0)
    with pytest.raises(CommandLineError, match="requests per second"):
        parser.read(["digits", "--p99", "20ms", "--rate", "fast"], str)
