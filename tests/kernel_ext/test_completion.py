"""What the Tab key offers on `%serve` lines."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from serving_jupyter import completion
from serving_jupyter.soon import Soon
from serving_workbench.records import record_path
from tests.kernel_ext.conftest import Session
from tests.servers import wait_until
from tests.workbench.stub import ControlStub

SetVariables = Callable[..., None]
TOKEN = "0" * 64
IDENTITY = {"instance_id": "1" * 32}
MODELS = {
    "digits": {"versions": [{"version": 2}, {"version": 1}], "labels": {"stable": 1}},
    "faces": {"versions": [{"version": 7}], "labels": {}},
}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test asks anew, and waits as long as it takes: `test_soon` tests that nobody has to. No server runs."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(completion, "_served", Soon({}, wait=10.0))
    monkeypatch.setattr(completion, "_instances", Soon([], wait=10.0))


def write_record(instance: str, port: int) -> Path:
    record = {
        "schema": 1,
        **IDENTITY,
        "name": instance,
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "server_version": "0",
        "started_at": 0.0,
        "control": {"tcp": ["127.0.0.1", port]},
        "token": TOKEN,
        "endpoints": {},
    }
    path = record_path(instance)
    path.touch(mode=0o600)
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def server() -> Iterator[None]:
    """The default instance serves two models."""
    answers = {"/control/v1/identity": (200, IDENTITY), "/control/v1/status": (200, {"models": MODELS})}
    with ControlStub(TOKEN, answers) as stub:
        write_record("default", stub.port)
        yield


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%serve st", ["status", "stop"]),
        ("%serve mo", ["model", "models"]),
        ("handle = %serve mo", ["model", "models"]),
        ("x = 1\n%serve mo", ["model", "models"]),
        ("%serve model --no-", ["--no-progress"]),
        ("%serve --root r mo", ["model", "models"]),
        ("%serve model --sample ", ["rows"]),
        ("%serve model --sample=r", ["rows"]),
        ("%serve stop --a", ["--all"]),
        ("%serve warm", ["warmup"]),
        ("%serve warmup --re", ["--requests", "--replace"]),
        ("%serve model --warmup ", ["previous"]),
        ("%serve logs --li", ["--lines"]),
        ("%predict digits ro", ["rows"]),
        ("%predict digits --time", ["--timeout"]),
    ],
)
def test_words_of_this_notebook(session: Session, set_variables: SetVariables, text: str, words: list[str]) -> None:
    set_variables(model=Path("a"), models=Path("b"), rows=np.zeros(3), more=1)
    assert session.complete(text) == words


def test_at_the_beginning_there_is_everything(session: Session, set_variables: SetVariables) -> None:
    set_variables(model=Path("a"))
    found = session.complete("%serve ")
    assert found[:3] == ["model", "status", "logs"]
    assert {"label", "load", "unload", "config", "warmup", "restart", "stop"} <= set(found)
    assert {"--name", "--help"} <= set(found)


def test_a_flag_is_offered_once_and_a_model_too(session: Session, set_variables: SetVariables) -> None:
    set_variables(model=Path("a"))
    found = session.complete("%serve model --name x --")
    assert "--name" not in found
    assert "--root" in found
    assert "model" not in session.complete("%serve model --no-progress ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%serve status ", ["digits", "faces"]),
        ("%serve stop f", ["faces"]),
        ("%serve model --name di", ["digits"]),
        ("%serve model --name=", ["digits", "faces"]),
        ("%serve rollback digits --to ", ["2", "1"]),
        ("%serve rollback --to ", ["2", "1", "7"]),
        ("%serve warmup d", ["digits"]),
        ("%serve warmup digits --version ", ["2", "1"]),
        ("%serve stop --instance ", ["default"]),
        ("%serve load digits ", ["2", "1"]),
        ("%serve load digits --timeout 5 ", ["2", "1"]),
        ("%serve label digits s", ["stable="]),
        ("%serve label digits stable=", ["2", "1"]),
        ("%serve traffic digits ", ["2=", "1="]),
        ("%serve config digits max_b", ["max_batch_size="]),
        ("%serve config digits --policy l", ["latest", "latest:2"]),
        ("%serve config digits --batching=o", ["on", "off"]),
        ("%predict f", ["faces"]),
        ("%%predict f", ["faces"]),
        ("answer = %predict f", ["faces"]),
        ("%predict digits --label ", ["stable"]),
        ("%predict digits --version ", ["2", "1"]),
        ("%predict --version 2 dig", ["digits"]),
    ],
)
def test_words_of_the_server(session: Session, server: None, text: str, words: list[str]) -> None:
    assert [word for word in session.complete(text) if not word.startswith("--")] == words


def test_another_instance_is_asked_for_its_own_models(session: Session, server: None) -> None:
    assert "digits" not in session.complete("%serve status --instance other d")


def test_python_in_braces_is_left_to_ipython(session: Session, set_variables: SetVariables) -> None:
    set_variables(modern=1)
    assert session.complete("%serve {moder") == ["modern"]
    assert session.complete("%serve --sample={moder") == ["modern"]


def test_paths_are_left_to_ipython(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported").mkdir()
    monkeypatch.chdir(tmp_path)
    assert session.complete("%serve expor") == ["exported/"]


def test_other_lines_are_none_of_ours(session: Session) -> None:
    assert completion.complete(session.shell, "serve = 1; st") == ("", [])
    assert completion.complete(session.shell, "%server st") == ("", [])
    assert "status" not in session.complete("print(st")


def test_a_server_that_does_not_answer_does_not_hold_up_the_tab_key(
    session: Session, set_variables: SetVariables, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(model=Path("a"))
    monkeypatch.setattr(completion, "_served", Soon({}))
    monkeypatch.setattr(completion, "_TIMEOUT", 30.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = write_record("default", silent.getsockname()[1])
        # Returns while the server is still silent, and is not asked to wait for it: that is the test.
        assert completion.complete(session.shell, "%serve status d") == ("d", [])
        silent.settimeout(10)
        silent.accept()[0].close()
    path.unlink()  # so that the thread stops waiting for a server that is about to end
    wait_until(
        lambda: not any(thread.name == "serve-completion" for thread in threading.enumerate()),
        what="the end of the thread that asked",
    )


def test_a_damaged_record_offers_nothing(session: Session) -> None:
    path = write_record("default", 1)
    path.write_text("{")
    assert completion.complete(session.shell, "%serve status d") == ("d", [])
