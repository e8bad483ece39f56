"""A deploy is all or nothing: interrupted anywhere, killed, refused, or beside another deploy of the same model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serving_workbench as sw
from serving_workbench import deployment
from serving_workbench.control import ControlClient
from serving_workbench.progress import STEPS, Progress
from serving_workbench.records import deploy_lock
from tests.servers import wait_until

Serve = Callable[..., sw.ServedModel]
Source = Callable[..., Path]


@pytest.fixture
def serve(warm: str, name: str, tmp_path: Path) -> Iterator[Serve]:
    """`serve(model, **options)` on the warm server, under the test's own name and root; taken away at the end."""

    def run(model: object, **options: Any) -> sw.ServedModel:
        return sw.serve(model, name, **{"instance": warm, "root": tmp_path, "progress": False, **options})

    yield run
    server = sw.Server.connect(warm)
    if name in server.models():
        server.control.delete_model(name)


@pytest.fixture
def served(serve: Serve, source: Source) -> Iterator[sw.ServedModel]:
    """half_plus_two, version 1, served."""
    handle = serve(source("half_plus_two", 1))
    yield handle
    handle.close()


@pytest.fixture
def broken(source: Source, tmp_path: Path) -> Path:
    """A SavedModel that looks whole and does not load."""
    folder = Path(shutil.copytree(source("half_plus_two", 2), tmp_path / "broken"))
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    return folder


def hidden(served: sw.ServedModel) -> list[str]:
    folder = Path(served.describe()["base_path"])
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def assert_whole(served: sw.ServedModel, *serving: int) -> int:
    """One version answers, rightly; nothing else is loaded, held or half written, and the policy is the usual one."""
    model = served.describe()
    number = model["serving_version"]
    assert number in serving, model
    wait_until(
        lambda: [v["version"] for v in served.describe()["versions"] if v["state"] != "END"] == [number],
        what=f"version {number} to be the only one",
    )
    model = served.describe()
    assert not [v for v in model["versions"] if v["held"]]
    assert model["policy"] == {"latest": {"num_versions": 1}}
    assert served.predict([2.0]).tolist() == [3.0 if number == 1 else 4.0]
    assert hidden(served) == []
    return int(number)


# --- interrupts ---


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_at_each_step_leaves_nothing_half_done(
    served: sw.ServedModel, serve: Serve, source: Source, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    begin = Progress.step

    def interrupted(self: Progress, name: str) -> None:
        begin(self, name)
        if name == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the block is what fails
        patch.setattr(Progress, "step", interrupted)
        # A sample is warm-up too, so that this step is passed for certain.
        serve(source("half_plus_two", 2), sample=[1.0])
        signal.raise_signal(signal.SIGINT)  # "warm up" may be over before it is seen
    assert_whole(served, *((1, 2) if step == "warm up" else (1,)))
    assert serve(source("half_plus_two", 2)).predict([2.0]).tolist() == [4.0]


#: Requests of a deploy that change something, and the first, second and fourth that only ask.
_REQUESTS = [
    ("PUT", "/hold", 1),
    ("POST", "/poll", 1),
    ("DELETE", "/hold", 1),
    ("PUT", "/policy", 1),
    ("PUT", "/policy", 2),
    ("PUT", "", 1),
    ("PUT", "/labels", 1),
    ("GET", "", 1),
    ("GET", "", 2),
    ("GET", "", 4),
]


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("method", "end", "count"), _REQUESTS)
def test_an_interrupt_around_each_request_to_the_server_is_undone(
    served: sw.ServedModel,
    serve: Serve,
    source: Source,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    end: str,
    count: int,
    answered: bool,
) -> None:
    pinned = end == "/policy"
    if pinned:
        serve(source("half_plus_two", 2))
        assert served.rollback() == 1
    request, seen = ControlClient.request, []

    def interrupted(self: ControlClient, verb: str, path: str, *rest: Any, **named: Any) -> Any:
        if verb == method and path.startswith(f"/models/{name}") and path.endswith(end or name):
            seen.append(path)
        hit = len(seen) == count and not interrupted.done  # type: ignore[attr-defined]
        if hit:
            interrupted.done = True  # type: ignore[attr-defined]
            if answered:
                request(self, verb, path, *rest, **named)
            raise KeyboardInterrupt
        return request(self, verb, path, *rest, **named)

    interrupted.done = False  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(ControlClient, "request", interrupted)
        with pytest.raises(KeyboardInterrupt):
            serve(source("half_plus_two", 2), label="canary", batching={"max_batch_size": 8})
    assert served.describe()["labels"] == {}
    assert served.describe()["batching"] is None
    if pinned:
        wait_until(
            lambda: [v["version"] for v in served.describe()["versions"] if v["state"] != "END"] == [1],
            what="version 1 to be the only one",
        )
        assert served.describe()["policy"] == {"specific": {"versions": [1]}}
        assert (served.versions, served.predict([2.0]).tolist()) == ([1, 2], [3.0])
    else:
        assert_whole(served, 1)


# Between the standard library's `os.scandir` and its `with`, an interrupt leaves the iterator to the collector.
@pytest.mark.filterwarnings("ignore:.*ScandirIterator:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed scandir iterator:ResourceWarning")
def test_an_interrupt_at_any_moment_leaves_nothing_half_done(
    served: sw.ServedModel, serve: Serve, source: Source
) -> None:
    # A real signal from outside, at moments spread over a deploy and a little longer.
    main = threading.main_thread().ident
    assert main is not None
    serve(source("half_plus_two", 2))
    whole = sum(serve(source("half_plus_two", 2)).seconds.values())
    for part in range(12):
        timer = threading.Timer(whole * part / 10, signal.pthread_kill, (main, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the block is what fails
            timer.start()
            serve(source("half_plus_two", 2))
            threading.Event().wait(60)  # it was done before
        timer.join()
        assert_whole(served, *served.versions)


def test_an_interrupted_start_leaves_no_server(
    instance: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Progress.step

    def interrupted(self: Progress, name: str) -> None:
        begin(self, name)
        if name == "export":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sw.serve(source("half_plus_two"), "m", root=tmp_path / "models", instance=instance, progress=False)
    assert sw.Server.find(instance) is None
    assert not (tmp_path / "models").exists()


def test_a_rollback_that_is_interrupted_keeps_the_present_version(
    served: sw.ServedModel, serve: Serve, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(source("half_plus_two", 2))
    poll = ControlClient.poll

    def interrupted(self: ControlClient, name: str) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return poll(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(ControlClient, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            served.rollback()
    assert_whole(served, 2)


# --- versions that do not pass ---


def test_a_bad_version_is_kept_apart_with_its_reason_and_comes_back_by_no_restart(
    served: sw.ServedModel, serve: Serve, broken: Path, warm: str, name: str, source: Source
) -> None:
    with pytest.raises(sw.DeployError, match="Version 2"):
        serve(broken)
    (found,) = served.rejected()
    assert (found.version, found.step) == (2, "load")
    assert "Version 2 of" in found.reason
    for status in (served.status(), sw.status(warm)):
        (row,) = [row for row in status.rows if row["model"] == name and row["version"] == 2]
        assert (row["state"], row["step"]) == ("REJECTED", "load")
        assert "Version 2 of" in row["error"]
    assert f"sw.connect({name!r}).clear_rejected()" in repr(served.status())

    # To a server, a model that is put anew is what it is after a restart.
    folder = served.describe()["base_path"]
    control = served.server.control
    control.delete_model(name)
    control.put_model(name, folder)
    wait_until(lambda: served.serving_version == 1, 30, "version 1")
    assert [v["version"] for v in served.describe()["versions"] if v["state"] != "END"] == [1]
    assert [row["state"] for row in served.status().rows if row["version"] == 2] == ["REJECTED"]

    # It can be tried again from where it lies, once it is mended; its reason is not part of the model.
    shutil.copytree(source("half_plus_two", 2), found.path, dirs_exist_ok=True)
    again = serve(found.path)
    assert (again.version, again.predict([2.0]).tolist()) == (3, [4.0])
    assert not (Path(folder) / "3" / "rejected.json").exists()
    assert served.clear_rejected(2) == [2]
    assert served.rejected() == []
    assert "REJECTED" not in repr(served.status())


@pytest.mark.parametrize("known", [True, False], ids=["still held", "after a restart"])
def test_a_version_whose_deployer_was_killed_is_rejected_by_the_next_deploy(
    served: sw.ServedModel, serve: Serve, source: Source, warm: str, name: str, tmp_path: Path, known: bool
) -> None:
    script = (
        "import os, signal, serving_workbench as sw\n"
        "from serving_workbench import deployment\n"
        "deployment.prove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"sw.serve({str(source('half_plus_two', 2))!r}, {name!r}, instance={warm!r}, root={str(tmp_path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert served.predict([2.0]).tolist() == [3.0], "unproved, so it does not answer"
    assert [row["serving"] for row in served.status().rows if row["version"] == 2] == ["held"]
    if not known:
        served.server.control.delete_model(name)
    assert serve(source("half_plus_two", 2)).version == 3
    (found,) = served.rejected()
    assert (found.version, found.reason) == (2, "its deploy was killed before it was proved")
    served.clear_rejected()
    assert_whole(served, 3)


# --- beside others ---


def test_two_deploys_at_once_get_different_versions_and_both_are_told(
    served: sw.ServedModel, serve: Serve, source: Source, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove, both = deployment.prove, threading.Barrier(2)

    def together(*arguments: Any) -> Any:
        both.wait(30)
        return prove(*arguments)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(deployment, "prove", together)
        jobs = [pool.submit(serve, source("half_plus_two", 2)) for _ in range(2)]
        second, third = sorted((job.result() for job in jobs), key=lambda handle: handle.version or 0)
    assert (second.version, third.version) == (2, 3)
    assert third.messages == [
        f"Version 2 of '{name}' is deployed at the same time, by process {os.getpid()}.",
    ]
    (told,) = second.messages
    overtaken = f"Version 3 of '{name}', deployed meanwhile, answers now; version 2 is proved and kept"
    beside = f"Version 3 of '{name}' is deployed at the same time, by process {os.getpid()}; it will answer when"
    assert told.startswith((overtaken, beside))
    assert told in second._repr_mimebundle_()["text/plain"]
    assert_whole(served, 3)
    second.close()
    third.close()


def test_a_server_is_not_ended_under_somebody_who_is_about_to_deploy(
    instance: str, source: Source, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"root": tmp_path / "models", "instance": instance, "progress": False, "sample": ["text"]}
    with deploy_lock(instance, wait=0):  # as somebody has it who exports at this moment
        with pytest.raises(sw.PredictError):
            sw.serve(source("half_plus_two"), "m", **options)
        server = sw.Server.connect(instance)
    with pytest.raises(sw.PredictError):
        sw.serve(source("half_plus_two"), "m", **options)
    assert server.is_running(), "it was there before"
    assert server.stop()
    with pytest.raises(sw.PredictError):
        sw.serve(source("half_plus_two"), "m", **options)
    assert sw.Server.find(instance) is None, "started for nothing, and nobody else wants it"
