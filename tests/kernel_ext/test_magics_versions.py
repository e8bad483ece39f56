"""`%serve label`, `load`, `unload`, `config`, `restart`, `logs -f`: a server that runs is changed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.records import record_path
from tests import leaks
from tests.kernel_ext.conftest import Session
from tests.servers import wait_until

SetVariables = Callable[..., None]


_numbers = itertools.count()


@pytest.fixture
def two(session: Session, set_variables: SetVariables, half: str, models_dir: Path) -> str:
    """A model with versions 1 (y = x / 2 + 2) and 2 (y = x / 2 + 3), of which version 2 answers."""
    set_variables(instance=half, one=models_dir / "half_plus_two/1", other=models_dir / "half_plus_two/2")
    # Versions stay on disk, so each test has a model of its own.
    name = f"two{next(_numbers)}"
    for variable in ("one", "other"):
        session.run(f"served = %serve {variable} --name {name} --instance {{instance}} --no-progress")
        session.run("served.server.close(); del served")
    set_variables(two=name)
    return name


def loaded(table: Any) -> list[int]:
    return [row["version"] for row in table.rows if row["state"] == "AVAILABLE"]


def test_versions_are_loaded_labelled_and_unloaded(session: Session, half: str, two: str) -> None:
    assert "available are 2" in session.error("%serve label {two} stable=1 --instance {instance}")
    table = session.run("%serve load {two} 1 --instance {instance}")
    assert table.title == f"{two}: version 1 is loaded"
    assert loaded(table) == [2, 1]
    assert sw.connect(two, half).serving_version == 2, "unversioned requests stay where they were"
    table = session.run("%serve label {two} stable=1 canary=2 --instance {instance}")
    assert table.data == {"stable": 1, "canary": 2}
    assert session.run("%predict --instance {instance} --label stable {two} [2.0]").tolist() == [3.0]
    assert "label 'stable'" in session.error("%serve unload {two} 1 --instance {instance}")
    table = session.run("%serve label {two} stable= --instance {instance}")
    assert repr(table).splitlines() == [f"{two}: 1 label", "label   version  state", "canary  2        AVAILABLE"]
    assert session.run("%serve label {two} --instance {instance}").data == {"canary": 2}
    assert loaded(session.run("%serve unload {two} 1 --instance {instance}")) == [2]
    assert "Version 2" in session.error("%serve unload {two} 2 --instance {instance}")
    assert "has no version 9" in session.error("%serve load {two} 9 --instance {instance}")


def test_what_comes_with_a_deploy(
    session: Session, set_variables: SetVariables, half: str, models_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "batching.pbtxt"
    file.write_text("max_batch_size { value: 16 }\n")
    set_variables(instance=half, folder=models_dir / "half_plus_two/1", accuracy=0.97, file=file)
    session.run(
        "served = %serve folder --name noted --version 7 --label stable --label best --batching {file} "
        "--note 'first try' --metric accuracy={accuracy} --metric loss=0.1 --instance {instance} --no-progress"
    )
    served = session.shell.user_ns["served"]
    model = served.describe()
    assert (model["serving_version"], model["labels"]) == (7, {"stable": 7, "best": 7})
    assert model["batching"]["max_batch_size"] == 16
    (row,) = session.run("%serve history noted --instance {instance}").to_dict("records")
    assert (row["note"], row["metrics.accuracy"], row["metrics.loss"]) == ("first try", 0.97, 0.1)
    served.server.close()
    error = session.error
    assert "'accuracy' is not NAME=VALUE, such as accuracy=0.97" in error("%serve folder --metric accuracy")
    assert "'high' is not a number" in error("%serve folder --metric accuracy=high")
    assert "Version 7 of 'noted'" in error("%serve folder --name noted --version 7 --instance {instance}")
    assert "the model has no 'nope' to offer as a signature" in error("%serve folder --signature nope --name noted")
    assert "signatures= goes with a tf.Module only" in error(
        "%serve folder --signature one={len} --name noted --instance {instance}"
    )


def test_requests_are_split(session: Session, half: str, two: str) -> None:
    table = session.run("%serve traffic {two} 1=90 2=10 --key x-user --instance {instance}")
    assert {int(version): weight for version, weight in table.data["weights"].items()} == {1: 90, 2: 10}
    assert (table.data["key"], loaded(sw.connect(two, half).status())) == ("x-user", [2, 1])  # type: ignore[union-attr]
    assert "10 %" in repr(session.run("%serve traffic {two} --instance {instance}"))
    assert not session.run("%serve traffic {two} --off --instance {instance}").data["weights"]
    error = session.error
    assert "copied to version 1" in repr(session.run("%serve mirror {two} 1 --fraction 10% --instance {instance}"))
    assert "10 % of the requests" in repr(session.run("%serve mirror {two} --off --instance {instance}"))
    assert "not both" in error("%serve mirror {two} 1 --off --instance {instance}")
    leaks.allow_path(record_path(half).with_suffix(".ramps.jsonl"))
    ramp = session.run("%serve ramp {two} 1 5% 50% --hold 1min --errors 2% --instance {instance}")
    assert "(5 % -> 50 %): running at 5 %, step 1 of 2" in repr(ramp)
    assert "aborted" in repr(session.run("%serve ramp {two} --abort --instance {instance}"))
    journal = session.run("%serve ramp {two} --journal --instance {instance}")
    assert list(journal["event"]) == ["begun", "step", "aborted"]
    assert "steps must rise" in error("%serve ramp {two} 1 50% 5% --instance {instance}")
    assert "give a version, or one of --pause" in error("%serve ramp {two} 1 --pause --instance {instance}")
    assert "'1:90' is not NAME=VALUE, such as 2=10" in error("%serve traffic {two} 1:90 --instance {instance}")
    assert "'much' is not a number" in error("%serve traffic {two} 1=much --instance {instance}")
    assert "give weights or --off, not both" in error("%serve traffic {two} 1=1 --off --instance {instance}")
    assert "version 1 is given twice" in error("%serve traffic {two} 1=1 1=2 --instance {instance}")
    assert "the weights are all 0, so no version would answer; --off ends a split" in error(
        "%serve traffic {two} 1=0 --instance {instance}"
    )
    assert "--key goes with weights" in error("%serve traffic {two} --key x --instance {instance}")
    assert "version 9" in error("%serve traffic {two} 9=1 --instance {instance}")


def test_labels_that_are_not_typed_right(session: Session, half: str, two: str) -> None:
    error = session.error
    assert (
        error("%serve label {two} stable= --instance {instance}")
        == f"'{two}' has no label 'stable'; its labels are none."
    )
    assert "'stable' is not NAME=VALUE, such as stable=2" in error("%serve label {two} stable --instance {instance}")
    assert "'x' is not a whole number from 1 on" in error("%serve label {two} stable=x --instance {instance}")
    assert "say which model; the server serves: half, two" in error("%serve label stable=2 --instance {instance}")
    assert "label a is given twice" in error("%serve label {two} a=1 a=2 --instance {instance}")
    assert f"'{two}' is not a whole number" in error("%serve load 1 {two} --instance {instance}")
    assert "required: version" in error("%serve unload {two} --instance {instance}")


def test_settings_are_shown_and_changed(session: Session, half: str, two: str, tmp_path: Path) -> None:
    assert session.run("%serve config {two} --instance {instance}").columns == ["setting", "value"]
    table = session.run("%serve config {two} --batching off --policy latest:2 --instance {instance}")
    assert table.data["batching"] is None
    assert table.data["policy"] == {"latest": {"num_versions": 2}}
    assert "latest 2 versions" in repr(table)
    table = session.run("%serve config {two} max_batch_size=32 allowed_batch_sizes=8,32 --instance {instance}")
    assert table.data["batching"]["max_batch_size"] == 32
    assert table.data["batching"]["allowed_batch_sizes"] == [8, 32]
    file = tmp_path / "batching.pbtxt"
    file.write_text("max_batch_size { value: 16 }\nbatch_timeout_micros { value: 500 }\nallowed_batch_sizes: 16\n")
    session.shell.push({"file": file})
    table = session.run("%serve config {two} --batching {file} --instance {instance}")
    assert (table.data["batching"]["max_batch_size"], table.data["batching"]["batch_timeout_micros"]) == (16, 500)
    wait_until(lambda: loaded(sw.connect(two, half).status()) == [2, 1], what="both versions")  # type: ignore[union-attr]


def test_settings_that_are_not_typed_right(session: Session, half: str, two: str, tmp_path: Path) -> None:
    error = session.error
    assert "there is no setting max_batchsize; did you mean 'max_batch_size'?" in error(
        "%serve config {two} max_batchsize=3 --instance {instance}"
    )
    assert "max_batch_size must be an integer of at least 1; was 0" in error(
        "%serve config {two} --batching on max_batch_size=0 --instance {instance}"
    )
    assert "'newest' is no version policy. Give latest" in error(
        "%serve config {two} --policy newest --instance {instance}"
    )
    assert "Cannot read the batching parameters" in error(
        "%serve config {two} --batching no/file --instance {instance}"
    )
    (tmp_path / "bad").write_text("max_batch: 3")
    session.shell.push({"bad": str(tmp_path / "bad")})
    assert 'no field named "max_batch"' in error("%serve config {two} --batching {bad} --instance {instance}")
    assert "cannot be off and have" in error(
        "%serve config {two} --batching off max_batch_size=3 --instance {instance}"
    )


def test_a_restart_brings_everything_back(
    session: Session, set_variables: SetVariables, models_dir: Path, tmp_path: Path
) -> None:
    set_variables(root=tmp_path / "models", folder=models_dir / "half_plus_two")
    handles = [session.run("%serve {folder / '1'} --name a --root {root} --instance t2 --no-progress")]
    handles.append(session.run("%serve {folder / '2'} --name a --instance t2 --no-progress"))
    session.run("%serve config a --policy latest:2 --batching on max_batch_size=7 --instance t2")
    wait_until(lambda: loaded(handles[0].status()) == [2, 1], what="both versions")
    session.run("%serve label a old=1 --instance t2")
    before = sw.Server.connect("t2")
    table = session.run("%serve restart --instance t2")
    after = sw.Server.connect("t2")
    assert not before.is_running()
    assert (after.instance_id != before.instance_id, after.root) == (True, before.root)
    assert after.endpoints == before.endpoints
    assert after.record.owner_pid == before.record.owner_pid
    assert handles[0].serving_version == 2, "a handle goes on with the new process"
    assert (handles[0].server.pid, handles[0].server.instance_id) == (after.pid, after.instance_id)
    assert table.data["models"]["a"]["serving_version"] == 2
    model = after.control.model("a")
    assert (model["labels"], model["policy"]) == ({"old": 1}, {"latest": {"num_versions": 2}})
    assert model["batching"]["max_batch_size"] == 7
    assert session.run("%predict a [2.0] --instance t2").tolist() == [4.0]
    assert session.says("%serve stop --instance t2") == "Stopped the server 't2'.\n"
    assert "No server of instance 't2' is running." in session.error("%serve restart --instance t2")
    for handle in handles:
        handle.server.close()


@pytest.fixture
def lone_server() -> Iterator[sw.Server]:
    server = sw.Server.launch("t3")
    yield server
    server.stop()


def test_logs_are_followed_until_the_server_ends(
    session: Session, lone_server: sw.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow, ending = sw.follow_logs, threading.Thread(target=lone_server.stop)

    def lines(*arguments: Any) -> Iterator[str]:
        for line in follow(*arguments):
            if ending.ident is None:
                ending.start()
            yield line

    monkeypatch.setattr(sw, "follow_logs", lines)
    said = session.says("%serve logs -f -n 1000 --instance t3").splitlines()
    ending.join()
    assert any("serving grpc at" in line for line in said)
    assert any("stopp" in line or "draining" in line or "ending" in line for line in said), said
    assert said[-1] == "(The server 't3' has ended.)"


def test_an_interrupt_ends_the_following_of_logs(
    session: Session, half: str, set_variables: SetVariables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*_: object) -> Iterator[str]:
        yield "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(sw, "follow_logs", lines)
    assert session.says("%serve logs --follow") == "one\n"


def test_python_functions_have_the_same_names(half: str, models_dir: Path) -> None:
    served = sw.serve(models_dir / "half_plus_two/1", "same", instance=half, progress=False)
    second = sw.serve(models_dir / "half_plus_two/2", "same", instance=half, progress=False)
    assert sw.predict("same", np.float32([2.0]), instance=half).tolist() == [4.0]
    assert sw.rollback("same", instance=half) == 1
    assert sw.label("same", {"stable": 1}, instance=half) == {"stable": 1}
    assert sw.predict("same", [2.0], "stable", instance=half).tolist() == [3.0]
    assert sw.config("same", batching=False, instance=half).data["batching"] is None
    served.load(2)
    sw.unload("same", 2, instance=half)
    with pytest.raises(sw.ControlError):
        sw.warmup("same", seconds=0.05, instance=half)
    for handle in (served, second):
        handle.server.close()
