"""Ramps on a real server under load: good versions go through, bad ones go back by themselves, and no request fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import psutil
import pytest

import serving_workbench as sw
from serving_workbench.records import record_path
from tests import leaks
from tests.models import copy_version
from tests.servers import wait_until

X = np.arange(300, dtype=np.float32)
QUICK: dict[str, Any] = {"steps": (20, 60), "hold": 0.2, "min_requests": 60}


@pytest.fixture(autouse=True)
def version_1_again(arms: sw.ServedModel) -> Iterator[None]:
    leaks.allow_path(journal_of(arms.server.name))
    yield
    arms.ramp(action="abort")
    arms.traffic({})
    arms.config(policy={"specific": {"versions": [1]}})
    wait_until(lambda: arms.serving_version == 1, what="version 1")


def journal_of(instance: str) -> Path:
    return record_path(instance).with_suffix(".ramps.jsonl")


class Load:
    """Four clients, each with a request at a time, until the end of the block."""

    def __init__(self, arms: sw.ServedModel, data: np.ndarray = X[:4]) -> None:
        self._arms = arms
        self._data = data
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, name=f"load {number}") for number in range(4)]
        self.answered = 0
        self.failed: list[str] = []

    def _ask(self) -> None:
        while not self._stop.wait(0.002):
            try:
                self._arms.predict(self._data)
            except sw.PredictError as error:
                self.failed.append(error.message)
            else:
                self.answered += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def ramp_of(arms: sw.ServedModel) -> dict[str, Any]:
    found: dict[str, Any] | None = arms.ramp().data
    assert found is not None
    return found


def until_over(arms: sw.ServedModel) -> dict[str, Any]:
    wait_until(lambda: ramp_of(arms)["state"] not in ("running", "paused"), timeout=40, what=lambda: repr(arms.ramp()))
    return ramp_of(arms)


def events(arms: sw.ServedModel, ramp: int) -> list[str]:
    frame = arms.ramp_journal()
    return list(frame[frame["ramp"] == ramp]["event"])


def test_a_good_version_goes_through_and_answers_alone(arms: sw.ServedModel) -> None:
    with Load(arms) as load:
        arms.ramp(2, **QUICK)
        found = until_over(arms)
        wait_until(lambda: arms.serving_version == 2, what="version 2")
    assert found["state"] == "finished", found
    assert events(arms, found["ramp"]) == ["begun", "step", "passed", "step", "passed", "finished"]
    assert load.failed == []
    assert arms.describe()["traffic"]["weights"] is None


def test_a_version_that_was_loaded_beside_by_hand_answers_alone_too(arms: sw.ServedModel) -> None:
    arms.load(2)
    assert [each["held"] for each in arms.describe()["versions"] if each["version"] == 2] == [True]
    with Load(arms) as load:
        arms.ramp(2, **QUICK)
        assert until_over(arms)["state"] == "finished"
        wait_until(lambda: arms.serving_version == 2, what="version 2")
    assert load.failed == []


def test_a_slow_version_goes_back_by_itself_without_a_failed_request(arms: sw.ServedModel) -> None:
    with Load(arms) as load:
        arms.ramp(5, **{**QUICK, "steps": (30, 60), "min_requests": 100_000})
        found = until_over(arms)
    assert found["state"] == "rolled back", found
    assert found["reason"].startswith("run_time: +")
    assert load.failed == []
    assert arms.serving_version == 1
    assert arms.describe()["traffic"]["weights"] is None
    last = arms.ramp_journal().iloc[-1]
    assert last["event"] == "rolled back"
    assert last["requests"]["5"] >= 200
    assert {each["name"]: each["breached"] for each in last["judgments"]} == {"errors": False, "run_time": True}


def test_a_version_that_fails_goes_back(arms: sw.ServedModel) -> None:
    with Load(arms, np.full(2, 13, np.float32)) as load:
        arms.ramp(4, **{**QUICK, "min_requests": 100_000})
        found = until_over(arms)
    assert found["state"] == "rolled back"
    assert found["reason"].startswith("errors: +100 %")
    assert 0 < len(load.failed) < 200  # those of the candidate before it was sure


def test_a_version_whose_process_dies_goes_back(arms: sw.ServedModel) -> None:
    with Load(arms):
        arms.ramp(3, **{**QUICK, "hold": 60})
        (pid,) = (each["worker_pid"] for each in arms.describe()["versions"] if each["version"] == 3)
        psutil.Process(pid).kill()
        found = until_over(arms)
    assert found["state"] == "rolled back"
    assert "version 3 is not available" in found["reason"]


def test_a_hand_on_the_weights_ends_it_and_is_not_overruled(arms: sw.ServedModel) -> None:
    with Load(arms) as load:
        arms.ramp(2, **{**QUICK, "hold": 60})
        arms.traffic({1: 50, 2: 50})
        found = until_over(arms)
        assert (found["state"], found["reason"]) == ("ended", "the weights were changed by hand")
        assert arms.describe()["traffic"]["weights"] == {"1": 50.0, "2": 50.0}
    assert load.failed == []


def test_it_waits_goes_on_and_can_be_taken_back(arms: sw.ServedModel) -> None:
    with Load(arms) as load:
        arms.ramp(2, **QUICK)
        assert "paused" in repr(arms.ramp(action="pause"))
        step = ramp_of(arms)["step"]
        seen = ramp_of(arms)["requests"].get("2", 0)
        wait_until(lambda: ramp_of(arms)["requests"].get("2", 0) > seen + 100, what="more requests")
        assert ramp_of(arms)["step"] == step
        arms.ramp(action="resume")
        arms.ramp(action="abort")
        assert ramp_of(arms)["state"] == "aborted"
        assert arms.serving_version == 1
    assert load.failed == []
    with pytest.raises(sw.ControlError, match="no ramp of model arms is running"):
        arms.ramp(action="pause")
    with pytest.raises(sw.ControlError, match="none of pause"):
        arms.ramp(action="stop")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": 1}, "from one version to another"),
        ({"version": 77}, "version 77 of model arms is not on disk"),
        ({"steps": (50, 10)}, "steps must rise"),
        ({"steps": (50, 100)}, "a step of 100 leaves no request to compare with"),
        ({"steps": ()}, "steps must be"),
        ({"steps": (150,)}, "from 0 to 100"),
        ({"guardrails": {"speed": 1}}, "no guardrail 'speed'"),
        ({"guardrails": {"slo_misses": 0.1}}, "needs an objective"),
        ({"finish": "party"}, "finish must be one of"),
        ({"min_requests": -1}, "min_requests"),
        ({"key": "grpc-x"}, "key must be the name of a header"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(arms: sw.ServedModel, options: dict[str, Any], words: str) -> None:
    before = arms.ramp().data
    with pytest.raises(sw.WorkbenchError, match=words):
        arms.ramp(options.pop("version", 2), **{**QUICK, **options})
    assert arms.ramp().data == before
    assert arms.serving_version == 1


def last_period(arms: sw.ServedModel) -> pd.DataFrame:
    frame = arms.outcomes()
    return frame[frame["period"] == frame["period"].max()]


def test_outcomes_tell_the_versions_apart(arms: sw.ServedModel) -> None:
    arms.traffic({1: 50, 5: 50})
    with Load(arms):
        wait_until(lambda: last_period(arms)["answered"].sum() >= 300, what="300 answers")
    last = last_period(arms).set_index("version")
    assert last.loc[5, "run_ms"] > 2 * last.loc[1, "run_ms"]
    assert (last["total_ms"] >= last["run_ms"]).all()
    assert last["errors"].sum() == 0
    assert last["misses"].isna().all()


def test_a_server_that_ends_says_so_in_the_journal(models_dir: Path, instance: str, tmp_path: Path) -> None:
    root = tmp_path / "models"
    served = sw.serve(models_dir / "half_plus_two" / "1", name="m", instance=instance, root=root, progress=False)
    sw.serve(models_dir / "half_plus_two" / "2", name="m", instance=instance, root=root, progress=False)
    served.rollback()
    served.ramp(2, hold=60)
    psutil.Process(served.server.pid).kill()
    wait_until(lambda: not served.server.is_running(), what="the end of the server")
    again = sw.serve(models_dir / "half_plus_two" / "1", name="m", instance=instance, root=root, progress=False)
    frame = again.ramp_journal()
    assert list(frame["event"]) == ["begun", "step", "ended"]
    assert "the server that ran it has ended" in frame["reason"].iloc[-1]
    assert frame["time"].is_monotonic_increasing
    assert journal_of(instance).stat().st_mode & 0o777 == 0o600
    assert time.time() - frame["time"].iloc[-1].timestamp() < 60


def test_versions_that_were_loaded_under_different_settings_are_named(
    models_dir: Path, instance: str, tmp_path: Path
) -> None:
    base, root = models_dir / "half_plus_two", tmp_path / "models"
    served = sw.serve(base / "1", name="m", instance=instance, root=root, progress=False)
    served.config(policy={"specific": {"versions": [1]}})
    served.config(batching={"max_batch_size": 8, "num_batch_threads": 64})  # version 1 keeps all processors for each op
    copy_version(base / "2", root / "m" / "2")
    served.load(2)
    leaks.allow_path(journal_of(instance))
    sessions = {each["version"]: each["session"] for each in served.describe()["versions"]}
    name = "intra_op_parallelism_threads"
    assert sessions[1][name] == 0 < sessions[2][name]
    words = f"Versions 1 and 2 were loaded under different settings .{name} 0 and {sessions[2][name]}"
    with pytest.warns(UserWarning, match=words):
        served.ramp(2, hold=60)
    served.ramp(action="abort")
    for result in (
        sw.compare_live(served, 1, 2, seconds=0.1, progress=False),
        sw.compare(served, 1, 2, data=X[:20], latency=False, progress=False),
    ):
        (check,) = [each for each in result.checks if each.name == "settings"]
        assert re.match(words, check.text)
        assert (check.ok, check.fatal) == (False, False)
    alike = sw.compare(served, 2, 2, data=X[:20], latency=False, progress=False)
    assert "settings" not in [check.name for check in alike.checks]
