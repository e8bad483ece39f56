"""Batching and labels that come with a deploy, and their way back when it fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.control import ControlClient
from serving_workbench.known_models import models_of

Source = Callable[..., Path]


@pytest.fixture
def serve(warm: str, name: str, tmp_path: Path) -> Iterator[Callable[..., sw.ServedModel]]:
    """`serve(model, **options)` on the warm server, under the test's own name."""
    handles: list[sw.ServedModel] = []

    def run(model: object, **options: object) -> sw.ServedModel:
        options = {"instance": warm, "root": tmp_path, "progress": False, **options}
        handles.append(sw.serve(model, name, **options))  # type: ignore[arg-type]
        return handles[-1]

    yield run
    for handle in handles:
        if handle.name in handle.server.models():
            handle.server.control.delete_model(handle.name)
        handle.server.close()


def settings(served: sw.ServedModel) -> tuple[dict[str, int], int | None]:
    """Labels, and the maximum batch size (None: batching is off)."""
    model = served.describe()
    return model["labels"], model["batching"] and model["batching"]["max_batch_size"]


def test_they_are_there_when_the_version_answers(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    served = serve(source("half_plus_two"), label="stable", batching={"max_batch_size": 8})
    assert settings(served) == ({"stable": 1}, 8)
    assert served.predict(np.float32([2.0]), "stable").tolist() == [3.0]
    served = serve(source("half_plus_two", 2), label=["canary", "stable"], batching=False)
    assert settings(served) == ({"stable": 2, "canary": 2}, None)
    assert served.predict(np.float32([2.0]), "canary").tolist() == [4.0]


def test_a_deploy_that_fails_leaves_them(
    serve: Callable[..., sw.ServedModel], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(source("half_plus_two"), label="stable", batching={"max_batch_size": 8})

    def fail(*_: object, **__: object) -> None:
        raise sw.ProofError("no")

    monkeypatch.setattr("serving_workbench.deployment.prove", fail)
    with pytest.raises(sw.ProofError):
        serve(source("half_plus_two", 2), label="stable", batching={"max_batch_size": 9})
    assert settings(served) == ({"stable": 1}, 8)
    monkeypatch.undo()
    # Labels have moved by then.
    release, calls = ControlClient.release, itertools.count()

    def fail_once(control: ControlClient, name: str, version: int) -> object:
        if next(calls) == 0:
            raise sw.ControlError("no", code="INTERNAL")
        return release(control, name, version)

    monkeypatch.setattr(ControlClient, "release", fail_once)
    with pytest.raises(sw.ControlError):
        serve(source("half_plus_two", 2), label="stable", batching=False)
    assert settings(served) == ({"stable": 1}, 8)
    assert served.predict(np.float32([2.0]), "stable").tolist() == [3.0]


def test_what_means_nothing_is_refused_before_anything_happens(
    serve: Callable[..., sw.ServedModel], source: Source, warm: str, name: str
) -> None:
    with pytest.raises(sw.DeployError, match="'' is not a label"):
        serve(source("half_plus_two"), label="")
    with pytest.raises(sw.WorkbenchError, match="Cannot read the batching parameters '/no/file'"):
        serve(source("half_plus_two"), batching="/no/file")
    with pytest.raises(sw.ControlError, match="max_batch_size must be an integer of at least 1; was 0"):
        serve(source("half_plus_two"), batching={"max_batch_size": 0})
    assert name not in sw.Server.connect(warm).models()


def test_a_label_whose_version_has_gone_is_told(
    serve: Callable[..., sw.ServedModel], source: Source, name: str, warm: str
) -> None:
    serve(source("half_plus_two"), label="stable")
    served = serve(source("half_plus_two", 2))
    (message,) = served.messages
    assert message.startswith(f"Label 'stable' of '{name}' points at version 1, which is not loaded")
    assert sw.label(name, instance=warm) == {"stable": 1}
    with pytest.raises(sw.ControlError, match=r"Label 'stable' of .* points at version 1"):
        sw.label(name, {"canary": 2}, instance=warm)
    assert sw.label(name, {"canary": 2, "stable": None}, instance=warm) == {"canary": 2}


def test_labels_of_versions_that_are_gone_are_not_put_back() -> None:
    versions = [{"version": 2, "state": "AVAILABLE", "held": False}, {"version": 1, "state": "END", "held": False}]
    model = {"base_path": "/m", "policy": {}, "batching": None, "labels": {"new": 2, "old": 1, "older": 0}}
    status = {"models": {"m": {**model, "versions": versions, "serving_version": 2}}}
    assert models_of(status)["m"]["labels"] == {"new": 2}


def test_a_version_beside_is_proved_and_asked_by_label_only(
    serve: Callable[..., sw.ServedModel], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(source("half_plus_two"), beside=True, label="stable")
    assert served.serving_version == 1, "a first version answers"
    served = serve(source("half_plus_two", 2), beside=True, label="canary")
    assert (served.version, served.serving_version) == (2, 1)
    assert served.messages == [f"Version 2 of '{served.name}' is proved and loaded beside version 1, which answers."]
    assert settings(served)[0] == {"stable": 1, "canary": 2}
    assert served.predict(np.float32([2.0])).tolist() == [3.0]
    assert served.predict(np.float32([2.0]), "canary").tolist() == [4.0]
    # Whoever starts a server on this folder is told the same; a split reaches both; and a rollback goes forward.
    known = models_of(served.server.control.status())[served.name]
    assert (known["policy"], known["held"]) == ({"specific": {"versions": [1]}}, {2: False})
    served.traffic({1: 50, 2: 50})
    assert {served.predict(np.float32([2.0])).item() for _ in range(64)} == {3.0, 4.0}
    assert served.rollback(to=2) == 2
    assert served.predict(np.float32([2.0])).tolist() == [4.0]
    # Beside a pinned one, and one that fails: nothing changes.
    assert serve(source("half_plus_two"), beside=True).serving_version == 2
    policy = served.describe()["policy"]

    def fail(*_: object, **__: object) -> None:
        raise sw.ProofError("no")

    monkeypatch.setattr("serving_workbench.deployment.prove", fail)
    with pytest.raises(sw.ProofError):
        serve(source("half_plus_two"), beside=True, label="canary")
    assert served.describe()["policy"] == policy
    assert settings(served)[0]["canary"] == 2
