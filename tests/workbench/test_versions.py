"""Versions of a served model by hand, on a real server: load, unload, label, and the notes that a deploy leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import serving_workbench as sw
from serving_workbench.digest import content_digest
from serving_workbench.notes import read_notes
from tests.servers import wait_until

Source = Callable[..., Path]


@pytest.fixture
def serve(warm: str, name: str, tmp_path: Path) -> Iterator[Callable[..., sw.ServedModel]]:
    """`serve(model, **options)` on the warm server, under the test's own name and root; stopped at the end."""
    handles: list[sw.ServedModel] = []

    def run(model: object, **options: Any) -> sw.ServedModel:
        handle = sw.serve(model, name, **{"instance": warm, "root": tmp_path, "progress": False, **options})
        handles.append(handle)
        return handle

    yield run
    for handle in handles:
        if handle.name in handle.server.models():
            handle.server.control.delete_model(handle.name)
        handle.server.close()


def states(served: sw.ServedModel) -> dict[int, str]:
    return {row["version"]: row["state"] for row in served.status().rows}


def test_notes_travel_from_the_deploy_to_status_and_history(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path, name: str
) -> None:
    serve(source("half_plus_two"))
    served = serve(source("half_plus_two", 2), note="plus three <b>", metrics={"accuracy": 0.975})
    folder = tmp_path / name / "2"
    notes = read_notes(folder)
    assert (notes.note, notes.metrics, notes.digest) == (
        "plus three <b>",
        {"accuracy": 0.975},
        content_digest(folder),
    )
    assert notes.model == str(source("half_plus_two", 2))
    assert "plus three <b>; accuracy 0.975" in repr(served.status())
    assert "plus three <b>; accuracy 0.975" in repr(served.server.status())
    shown = served._repr_mimebundle_()
    assert "accuracy 0.975" in shown["text/plain"]
    assert "plus three &lt;b&gt;" in shown["text/html"]
    wait_until(lambda: states(served)[1] == "END", what="the drained version to end")
    frame = served.history(verify=True)
    assert frame["version"].tolist() == [2, 1]
    assert frame["state"].tolist() == ["AVAILABLE", "END"]
    assert frame["serving"].tolist() == [True, False]
    assert frame["intact"].tolist() == [True, True]
    # By name, where the server says that it is.
    assert sw.history(name, instance=served.server.name)["note"].fillna("").tolist() == ["plus three <b>", ""]


def test_a_version_that_was_withdrawn_keeps_its_notes_and_the_reason(
    serve: Callable[..., sw.ServedModel], source: Source, tmp_path: Path
) -> None:
    served = serve(source("half_plus_two"))
    with pytest.raises(sw.PredictError):
        serve(source("half_plus_two"), warmup={"y": [1.0]}, note="never published")
    assert served.history()["version"].tolist() == [1]
    with pytest.raises(sw.DeployError, match="warmup record 1"):
        serve(source("multi"), warmup=_warmup_of_another(tmp_path), note="bad")
    rejected = served.history().iloc[0]
    assert (rejected["state"], rejected["note"]) == ("REJECTED", "bad")
    assert "warmup record 1" in rejected["rejected"]
    assert served.serving_version == 1


def _warmup_of_another(folder: Path) -> Path:
    from serving_server.wire import tfrecord
    from serving_server.wire.messages import PredictionLog

    log = PredictionLog()
    log.predict_log.request.model_spec.name = "another"
    path = folder / "warmup"
    path.write_bytes(tfrecord.frame(log.SerializeToString()))
    return path


def test_load_label_unload(serve: Callable[..., sw.ServedModel], source: Source) -> None:
    serve(source("half_plus_two", 1))
    served = serve(source("half_plus_two", 2))
    assert served.load(1) == 1
    assert served.load(1) == 1
    # It is there by its number; nobody else is sent to it.
    assert (served.serving_version, states(served)) == (2, {2: "AVAILABLE", 1: "AVAILABLE"})
    assert served.predict([2.0], version=1).tolist() == [3.0]
    assert served.predict([2.0]).tolist() == [4.0]

    assert served.label("stable", 1) == {"stable": 1}
    assert served.label("canary", 2) == {"stable": 1, "canary": 2}
    assert {row["version"]: row["labels"] for row in served.status().rows} == {2: "canary", 1: "stable"}
    with pytest.raises(sw.DeployError, match=r"Version 1 of '.*' answers to the label 'stable'"):
        served.unload(1)
    with pytest.raises(sw.DeployError, match=r"cannot point at version 7: it is not available. Load it first"):
        served.label("stable", 7)
    assert served.label("stable") == {"canary": 2}
    assert served.label("stable") == {"canary": 2}

    with pytest.raises(sw.DeployError, match=r"Version 2 of '.*' is the one that answers"):
        served.unload(2)
    served.unload(1)
    served.unload(1)
    assert (served.serving_version, states(served)) == (2, {2: "AVAILABLE", 1: "END"})
    with pytest.raises(sw.DeployError, match="no version 7 to load; its versions are 1, 2"):
        served.load(7)


def test_a_newer_version_is_loaded_and_unloaded_beside_an_older_one_that_answers(
    serve: Callable[..., sw.ServedModel], source: Source
) -> None:
    serve(source("half_plus_two", 1))
    served = serve(source("half_plus_two", 2))
    served.rollback()
    served.load(2)
    assert (served.serving_version, states(served)) == (1, {2: "AVAILABLE", 1: "AVAILABLE"})
    served.unload(2)
    assert (served.serving_version, states(served)) == (1, {2: "END", 1: "AVAILABLE"})
    # A version that was loaded beside can become the one that answers, in both directions.
    served.load(2)
    assert served.rollback(to=2) == 2
    served.load(1)
    assert served.rollback(to=1) == 1
    third = serve(source("half_plus_two", 1))
    assert (third.version, third.serving_version) == (3, 3)
