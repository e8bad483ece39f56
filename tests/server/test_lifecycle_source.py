"""The version source on real folders: polling, file events, problems of base paths, folders that heal."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from test_lifecycle_fakes import DEADLINE, BadModelError, FakeLoader, reach, turns

from serving_server.errors import NotFoundError
from serving_server.lifecycle import Manager, State, VersionSource
from serving_server.lifecycle import scan as scan_module
from serving_server.lifecycle import source as source_module
from serving_server.lifecycle import watcher as watcher_module
from serving_server.lifecycle.scan import explain_denied, fingerprint, parse_version, scan
from serving_server.place import RemotePath

NEVER = 3600.0  # a poll interval that no test sees the end of


class Calls:
    """Collects callbacks, and waits for them."""

    def __init__(self) -> None:
        self.aspired: list[tuple[str, dict[int, Path]]] = []
        self.changed: list[tuple[str, int]] = []
        self.event = asyncio.Event()

    def on_aspired(self, model: str, versions: dict[int, Path]) -> None:
        self.aspired.append((model, versions))
        self.event.set()

    def on_changed(self, model: str, version: int) -> None:
        self.changed.append((model, version))
        self.event.set()

    def last(self, model: str = "m") -> set[int] | None:
        return next((set(versions) for name, versions in reversed(self.aspired) if name == model), None)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.event.clear()
                await self.event.wait()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    return folder


def publish(base: Path, name: str) -> Path:
    """Publish a version as an export does: a hidden folder, then a rename."""
    hidden = base / f".tmp-{name}"
    hidden.mkdir(parents=True)
    (hidden / "saved_model.pb").write_bytes(b"graph")
    return hidden.rename(base / name)


def make(calls: Calls, **options: object) -> VersionSource:
    return VersionSource(calls.on_aspired, on_changed=calls.on_changed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("0", 0),
        ("00000123", 123),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("9" * 5000, None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        (" 1", None),
        ("v1", None),
        (".1", None),
        ("", None),
        ("١", None),  # noqa: RUF001 - a digit of another script
    ],
)
def test_names_of_versions(name: str, version: int | None) -> None:
    assert parse_version(name) == version


def test_scan_finds_numbers_only(base: Path) -> None:
    for name in ("1", "00000123", "-4", ".5", "x6", "7x", ".tmp-8"):
        (base / name).mkdir()
    (base / "9").write_text("a plain file counts, as in TF Serving")
    assert scan(base).versions == {1: base / "1", 123: base / "00000123", 9: base / "9"}


async def test_duplicates_warn_once_and_the_last_name_wins(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    (base / "01").mkdir()
    (base / "1").mkdir()
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1)
    source.add("m", base)
    await source.poll_now("m")
    await source.poll_now("m")
    assert calls.aspired == [("m", {1: base / "1"})] * 2
    assert caplog.text.count("several folders") == 1
    assert "ignored: 01" in caplog.text
    await source.close()


async def test_a_rename_is_seen_by_its_event(base: Path) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=NEVER)
    publish(base, "1")
    source.add("m", str(base))
    await source.start()
    await source.start()
    # The first scan, and the one that follows once the folder is watched.
    await calls.until(lambda: len(calls.aspired) == 2)
    for version in (2, 3, 4):
        publish(base, str(version))
        await calls.until(partial(lambda newest: calls.last() == set(range(1, newest + 1)), version))
    shutil.rmtree(base / "1")
    await calls.until(lambda: calls.last() == {2, 3, 4})
    await source.close()


async def test_the_watcher_thread_ends_with_close(base: Path) -> None:
    def watchers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "folder-watcher"]

    calls = Calls()
    source = make(calls, poll_wait_seconds=NEVER)
    publish(base, "1")
    source.add("m", base)
    await source.start()
    await calls.until(lambda: len(calls.aspired) == 2)
    assert len(watchers()) == 1
    await source.close()
    assert not watchers()
    publish(base, "2")
    await source.close()
    await turns()
    assert calls.last() == {1}


async def test_a_base_path_that_was_replaced_is_watched_again(base: Path) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=0.05)
    publish(base, "1")
    source.add("m", base)
    await source.start()
    await calls.until(lambda: calls.last() == {1})
    shutil.rmtree(base)
    publish(base, "5")
    await calls.until(lambda: calls.last() == {5})
    await source.close()


async def test_models_come_and_go_while_watching(base: Path, tmp_path: Path) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=NEVER)
    await source.start()
    source.add("m", base)
    other = tmp_path / "n"
    other.mkdir()
    publish(other, "7")
    source.add("n", other)
    await calls.until(lambda: len([name for name, _ in calls.aspired if name == "n"]) == 2)
    publish(base, "1")
    await calls.until(lambda: calls.last("m") == {1})
    source.remove("m")
    source.remove("nobody")
    assert source.base_path("m") is None
    publish(base, "2")
    publish(other, "8")
    await calls.until(lambda: calls.last("n") == {7, 8})
    assert calls.last("m") == {1}
    source.add("n", other)
    source.add("n", base)
    assert source.base_path("n") == base
    await calls.until(lambda: calls.last("n") == {1, 2})
    await source.close()


async def test_polling_carries_on_without_events(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watcher_module, "RustNotify", broken)
    calls = Calls()
    source = make(calls, poll_wait_seconds=0.01)
    source.add("m", base)
    await source.start()
    publish(base, "1")
    await calls.until(lambda: calls.last() == {1})
    source.add("n", base.parent)  # another set of folders: tried, and not logged again
    publish(base, "2")
    await calls.until(lambda: calls.last() == {1, 2} and "inotify watch limit reached" in caplog.text)
    await source.close()
    assert caplog.text.count("inotify watch limit reached") == 1


async def test_poll_once_and_never(base: Path) -> None:
    publish(base, "1")
    once, never = Calls(), Calls()
    first, second = make(once, poll_wait_seconds=0), make(never, poll_wait_seconds=-1)
    for source in (first, second):
        source.add("m", base)
        await source.start()
    await once.until(lambda: once.aspired)
    publish(base, "2")
    late = base.parent / "late"
    late.mkdir()
    publish(late, "3")
    first.add("late", late)
    await once.until(lambda: once.last("late") == {3})
    assert len(once.aspired) == 2
    assert never.aspired == []
    await second.poll_now("m")
    assert never.last() == {1, 2}
    with pytest.raises(NotFoundError, match="Model x has no base path"):
        await second.poll_now("x")
    await first.close()
    await second.close()


async def test_scans_of_one_model_never_overlap_and_see_what_came_before(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = []
    overlaps = []
    gate = threading.Event()

    def slow(path: Path, failed: object) -> scan_module.Scan:
        running.append(1)
        overlaps.append(len(running))
        found = scan(path)
        assert gate.wait(DEADLINE)
        running.pop()
        return found

    monkeypatch.setattr(source_module, "scan", slow)
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1)
    source.add("m", base)
    publish(base, "1")
    polls = [asyncio.create_task(source.poll_now("m"))]
    async with asyncio.timeout(DEADLINE):
        while not running:
            await turns(1)
    publish(base, "2")
    polls += [asyncio.create_task(source.poll_now("m")) for _ in range(10)]
    await turns()
    gate.set()
    await asyncio.gather(*polls)
    assert calls.last() == {1, 2}
    assert overlaps == [1, 1]
    await source.close()


async def test_a_missing_base_path_affects_its_own_model_only(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "a" / "b" / "n"
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1)
    publish(base, "1")
    source.add("m", base)
    source.add("n", missing)
    for _ in range(3):
        await source.poll_now("n")
        await source.poll_now("m")
    assert calls.last("m") == {1}
    assert calls.last("n") is None
    assert source.problem("m") is None
    problem = source.problem("n")
    assert problem is not None
    assert f"base path {missing} does not exist ({tmp_path / 'a'} is the first folder" in problem
    assert caplog.text.count("does not exist") == 1
    missing.mkdir(parents=True)
    publish(missing, "4")
    await source.poll_now("n")
    assert calls.last("n") == {4}
    assert source.problem("n") is None
    shutil.rmtree(missing)
    await source.poll_now("n")
    assert calls.last("n") == {4}  # nothing is unloaded because a disk is away
    assert source.problem("n") is not None
    assert source.problem("nobody") is None
    await source.close()


async def test_a_base_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1)
    source.add("m", tmp_path / "f")
    await source.poll_now("m")
    assert source.problem("m") == f"base path {tmp_path / 'f'} is not a folder"
    await source.close()


async def test_an_empty_base_path_warns_once_and_keeps_what_is_loaded(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1)
    source.add("m", base)
    await source.poll_now("m")
    await source.poll_now("m")
    text = (
        f"No versions of servable m found under base path {base}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
    assert caplog.messages == [text]
    assert source.problem("m") == text
    assert calls.aspired == []
    publish(base, "1")
    await source.poll_now("m")
    shutil.rmtree(base / "1")
    await source.poll_now("m")
    assert calls.last() == {1}
    assert caplog.messages.count(text) == 2
    await source.close()


async def test_tf_servings_way_with_an_empty_base_path(base: Path) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=-1, unload_on_empty=True)
    source.add("m", base)
    await source.poll_now("m")
    assert calls.aspired == [("m", {})]
    await source.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for child in folder.rglob("*"):
        if child.is_dir():
            child.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def bound_by_permissions(folder: Path) -> Iterator[int]:
    """Run the block as a user whom permission bits bind, which root is not; yields the user id."""
    if os.geteuid() != 0:
        yield os.geteuid()
        return
    # The temporary folder of the test session is private, and must let the other user pass.
    modes = [(parent, parent.stat().st_mode & 0o7777) for parent in folder.parents]
    closed = [(parent, mode) for parent, mode in modes if not mode & 0o001]
    group, groups = os.getegid(), os.getgroups()
    for parent, mode in closed:
        parent.chmod(mode | 0o001)
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield 65534
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
        for parent, mode in closed:
            parent.chmod(mode)


def test_an_unreadable_base_path_names_the_bits(open_folder: Path) -> None:
    base = open_folder / "m"
    base.mkdir()
    base.chmod(0o000)
    owner = base.stat().st_uid
    with bound_by_permissions(open_folder) as uid:
        found = scan(base)
    who = "u" if owner == uid else "o"
    assert found.versions == {}
    assert found.problem == (
        f"cannot list {base}: permission denied; the folder has mode 0o0 and belongs to uid {owner}, the server runs "
        f"as uid {uid}: chmod {who}+rx {base}, or run the server as that user"
    )


def test_a_closed_folder_on_the_way_is_named(open_folder: Path) -> None:
    closed = open_folder / "closed"
    base = closed / "m"
    base.mkdir(parents=True)
    closed.chmod(0o600)
    with bound_by_permissions(open_folder):
        problem = scan(base).problem
    assert problem is not None
    assert f"cannot list {base}: permission denied; the folder {closed} on the way to it has mode 0o600" in problem
    assert f"+x {closed}, or run" in problem


def test_bits_that_allow_everything_point_elsewhere(tmp_path: Path) -> None:
    assert "access control lists" in explain_denied(tmp_path)


def test_fingerprints_change_with_the_folder(base: Path) -> None:
    version = publish(base, "1")
    first = fingerprint(version)
    assert fingerprint(version) == first
    assert abs(first.newest - time.time()) < 60
    (version / "variables").mkdir()
    second = fingerprint(version)
    assert second.digest != first.digest
    (version / "variables" / "data").write_bytes(b"0")
    third = fingerprint(version)
    assert third.digest != second.digest
    (version / "variables" / "data").write_bytes(b"01")
    fourth = fingerprint(version)
    assert fourth.digest != third.digest
    (version / "loop").symlink_to(version)
    (version / "nowhere").symlink_to(version / "not there")
    fifth = fingerprint(version)
    version.chmod(0o700)
    assert len({fourth.digest, fifth.digest, fingerprint(version).digest}) == 3
    assert fingerprint(base / "2").newest == 0.0


async def test_a_failed_version_is_reported_when_its_folder_has_changed(base: Path) -> None:
    version = publish(base, "3")
    calls = Calls()
    source = make(calls, poll_wait_seconds=0.01, settle_seconds=0.01)
    source.add("m", base)
    source.add("idle", base)
    await source.start()
    await calls.until(lambda: calls.last() == {3})
    source.watch_failed("m", 3, version, since=time.time() + 60.0)
    source.watch_failed("nobody", 3, version)
    seen = len(calls.aspired)
    await calls.until(lambda: len(calls.aspired) > seen + 8)
    assert calls.changed == []
    (version / "variables.data").write_bytes(b"the rest of the copy")
    await calls.until(lambda: calls.changed)
    seen = len(calls.aspired)
    await calls.until(lambda: len(calls.aspired) > seen + 8)
    assert calls.changed == [("m", 3)]
    await source.close()


async def test_a_folder_that_changed_during_the_failed_load_is_reported(base: Path) -> None:
    calls = Calls()
    source = make(calls, poll_wait_seconds=NEVER, settle_seconds=0.01)
    source.add("m", base)
    await source.start()
    began = time.time()
    version = publish(base, "3")
    source.watch_failed("m", 3, version, since=began)
    await calls.until(lambda: calls.changed == [("m", 3)])
    await source.close()


async def test_a_load_that_fails_after_its_model_has_moved_here_harms_nothing(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = publish(base, "2")
    publish(base, "3")
    calls = Calls()
    source = make(calls, poll_wait_seconds=0.01, settle_seconds=0.01)
    source.add("m", base)
    await source.start()
    await calls.until(lambda: calls.last() == {2, 3})
    source.watch_failed("m", 3, RemotePath("gs://bucket/m/3"))
    source.watch_failed("m", 2, version)
    seen = len(calls.aspired)
    await calls.until(lambda: len(calls.aspired) > seen + 8)
    (version / "variables.data").write_bytes(b"the rest of the copy")
    await calls.until(lambda: calls.changed == [("m", 2)])
    await source.close()
    assert "failed" not in caplog.text


async def test_a_bad_callback_does_not_end_the_watching(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(base, "1")

    def bad(model: str, versions: object) -> None:
        raise RuntimeError("callback")

    source = VersionSource(bad, poll_wait_seconds=-1)
    source.add("m", base)
    await source.poll_now("m")
    await source.poll_now("m")
    assert caplog.text.count("RuntimeError: callback") == 2
    await source.close()


class CarefulLoader(FakeLoader):
    """Fails unless the folder is complete, as TensorFlow does."""

    async def load(self, model, version, path, on_step):  # type: ignore[no-untyped-def]
        if not (path / "saved_model.pb").exists():
            self.errors[model, version] = [BadModelError(f"no saved_model.pb in {path}")]
        return await super().load(model, version, path, on_step)


@pytest.mark.parametrize("retries", [0, 5])
async def test_a_half_copied_version_heals_when_the_copy_is_complete(base: Path, retries: int) -> None:
    manager = Manager(CarefulLoader(), max_load_retries=retries)
    source = VersionSource(manager.aspire, on_changed=manager.retry, poll_wait_seconds=0.02, settle_seconds=0.02)
    manager.on_failed = source.watch_failed
    manager.explain = source.problem
    manager.add_model("m")
    source.add("m", base)
    publish(base, "1")
    await source.start()
    await reach(manager, v1=State.AVAILABLE)
    (base / "2").mkdir()
    await manager.wait_for(lambda: "no saved_model.pb" in manager.versions("m")[0].error_message, DEADLINE)
    assert manager.serving_version("m") == 1
    (base / "2" / "saved_model.pb").write_bytes(b"graph")
    await reach(manager, v2=State.AVAILABLE, v1=State.END)
    await source.close()
    await manager.close()


async def test_the_only_version_may_fail_vanish_and_come_back(base: Path) -> None:
    manager = Manager(CarefulLoader(), max_load_retries=0)
    source = VersionSource(manager.aspire, on_changed=manager.retry, poll_wait_seconds=0.02, settle_seconds=0.02)
    manager.on_failed = source.watch_failed
    manager.add_model("m")
    source.add("m", base)
    (base / "1").mkdir()
    await source.start()
    await reach(manager, v1=State.END)
    (base / "1").rmdir()
    await source.poll_now("m")
    publish(base, "1")
    await reach(manager, v1=State.AVAILABLE)
    await source.close()
    await manager.close()


async def test_logs_name_the_problem_when_it_changes(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = make(Calls(), poll_wait_seconds=-1)
    source.add("m", base)
    await source.poll_now("m")
    publish(base, "1")
    await source.poll_now("m")
    assert "Model m: base path" in caplog.messages[-1]
    await source.close()
