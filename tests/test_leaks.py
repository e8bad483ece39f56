"""The leak fixture itself: each kind of thing left behind is named; what is allowed or on its way out is not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.servers import wait_until

Spawn = Callable[[str], subprocess.Popen[bytes]]
Detach = Callable[..., psutil.Process]

#: Ends when its stdin is closed, or after a minute.
WAIT = "import select, sys; select.select([sys.stdin], [], [], 60)"
needs_shared_memory = pytest.mark.skipif(not leaks.SHARED_MEMORY.is_dir(), reason="this system has no /dev/shm")


@pytest.fixture
def watch(tmp_path: Path) -> leaks.Watch:
    """A watch over this session's processes, with folders of its own."""
    watch = leaks.Watch(mark=leaks.the_watch().mark, folder=tmp_path)
    watch.runtime_dir.mkdir()
    watch.temporary_dir.mkdir()
    return watch


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`spawn(code)` runs Python code in a child that has a pipe as its stdin; ended with the test."""
    with contextlib.ExitStack() as stack:

        def run(code: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            return stack.enter_context(process)

        yield run


@pytest.fixture
def detach() -> Iterator[Detach]:
    """`detach(code, marked=True)` runs Python code in its own session, without a parent: as a launched server."""
    started: list[psutil.Process] = []

    def run(code: str, *, marked: bool = True) -> psutil.Process:
        launcher = (
            "import subprocess, sys; r, w = subprocess.os.pipe();"
            f"p = subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True, pass_fds=[w], stdin=r,"
            "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); p.returncode = 0; print(p.pid)"
        )
        env = {name: value for name, value in os.environ.items() if marked or name != leaks.MARK}
        done = subprocess.run([sys.executable, "-c", launcher], stdout=subprocess.PIPE, check=True, env=env)
        process = psutil.Process(int(done.stdout))
        started.append(process)
        wait_until(process.environ, what="its environment")  # Popen is told of the exec before the kernel has filled it
        return process

    yield run
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait(60)


def test_a_running_child_is_named_with_pid_and_command(watch: leaks.Watch, spawn: Spawn) -> None:
    before = watch.snapshot()
    child = spawn(WAIT)
    wait_until(psutil.Process(child.pid).cmdline, what="its command")
    (line,) = watch.leaks(before, deadline=0)
    assert f"process {child.pid} " in line
    assert WAIT in line


def test_a_child_that_ends_before_the_deadline_is_fine(watch: leaks.Watch, spawn: Spawn) -> None:
    before = watch.snapshot()
    child = spawn(WAIT)
    reaper = threading.Thread(target=child.communicate, daemon=True)  # closes stdin and waits, while the watch looks
    reaper.start()
    assert watch.leaks(before) == []
    reaper.join(60)


def test_a_child_that_nobody_waited_for_is_named(watch: leaks.Watch, spawn: Spawn) -> None:
    before = watch.snapshot()
    child = spawn("")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays for its parent to collect
    (line,) = watch.leaks(before, deadline=0)
    assert line.startswith(f"process {child.pid} ended but nobody waited for it")


def test_a_detached_process_is_found_and_killed(watch: leaks.Watch, detach: Detach) -> None:
    before = watch.snapshot()
    process = detach(WAIT)
    (line,) = watch.leaks(before, deadline=0)
    assert f"process {process.pid} " in line
    watch.clean(before)
    assert watch.leaks(before) == []
    assert not process.is_running()


def test_processes_of_others_are_not_ours(watch: leaks.Watch, detach: Detach) -> None:
    before = watch.snapshot()
    detach(WAIT, marked=False)
    assert watch.leaks(before, deadline=0) == []


def test_an_allowed_process_may_have_children(watch: leaks.Watch, spawn: Spawn) -> None:
    before = watch.snapshot()
    parent = spawn(
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE);"
        "print('started', flush=True); input()"
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"started\n"
    watch.allowed.add((parent.pid, psutil.Process(parent.pid).create_time()))
    assert watch.leaks(before, deadline=0, fds=10) == []
    watch.allowed.clear()
    assert len(watch.leaks(before, deadline=0, fds=10)) == 2
    watch.clean(before)
    assert watch.leaks(before, fds=10) == []


def test_files_of_the_runtime_and_temporary_folders_are_named_and_removed(watch: leaks.Watch) -> None:
    before = watch.snapshot()
    record = watch.runtime_dir / "serving-workbench-default.json"
    record.touch()
    folder = watch.temporary_dir / "export"
    (folder / "inner").mkdir(parents=True)
    assert sorted(watch.leaks(before, deadline=0)) == sorted([f"file: {record}", f"file: {folder}"])
    watch.clean(before)
    assert watch.leaks(before, deadline=0) == []
    assert not folder.exists()


def test_an_allowed_file_may_stay(watch: leaks.Watch) -> None:
    before = watch.snapshot()
    record = watch.runtime_dir / "serving-workbench-default.json"
    record.touch()
    watch.allowed_paths.add(record)
    assert watch.leaks(before, deadline=0) == []


def test_a_lock_file_may_stay_when_nobody_holds_it(watch: leaks.Watch) -> None:
    before = watch.snapshot()
    lock = watch.runtime_dir / "serving-workbench-default.json.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert watch.leaks(before, deadline=0) == [f"file: {lock}"]
    assert watch.leaks(before, deadline=0) == []


@needs_shared_memory
def test_shared_memory_is_ours_unless_somebody_else_maps_it(watch: leaks.Watch, spawn: Spawn, detach: Detach) -> None:
    before = watch.snapshot()
    segment = leaks.SHARED_MEMORY / f"serving-test-{uuid.uuid4().hex}"
    maps_it = f"import mmap; f = open({str(segment)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close();"
    segment.write_bytes(bytes(4096))
    try:
        line = f"file: {segment}"
        assert watch.leaks(before, deadline=0) == [line]

        ours = spawn(maps_it + "print('mapped', flush=True); input()")
        assert ours.stdout is not None
        assert ours.stdout.readline() == b"mapped\n"
        assert line in watch.leaks(before, deadline=0)
        watch.allowed.add((ours.pid, psutil.Process(ours.pid).create_time()))
        assert line not in watch.leaks(before, deadline=0)
        ours.communicate(b"\n")
        assert watch.leaks(before, deadline=0) == [line]

        other = detach(maps_it + WAIT, marked=False)
        wait_until(lambda: any(str(segment) in mapping.path for mapping in other.memory_maps()), what="the mapping")
        assert watch.leaks(before, deadline=0) == []
    finally:
        segment.unlink()


def test_sockets_are_counted_with_a_tolerance(watch: leaks.Watch) -> None:
    before = watch.snapshot()
    first = socket.socketpair()
    assert watch.leaks(before, deadline=0) == []
    second = socket.socketpair()
    (line,) = watch.leaks(before, deadline=0)
    assert line.startswith("4 open sockets or pipes in the test process: ")
    assert f"{second[0].fileno()}=" in line
    for end in first + second:
        end.close()


def test_threads_are_named_unless_they_are_daemons(watch: leaks.Watch) -> None:
    before = watch.snapshot()
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, name=f"test-{daemon}", daemon=daemon) for daemon in (False, True)]
    for thread in threads:
        thread.start()
    assert watch.leaks(before, deadline=0) == ["thread (not daemon): test-False"]
    end.set()
    assert watch.leaks(before) == []


def test_the_fixture_fails_the_test_that_leaks_and_cleans_up(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath))
    pytester.makepyfile(
        f"""
        import subprocess, sys

        from tests import leaks

        leaks.DEADLINE = 0.5  # what is left here never goes by itself
        left = []

        def test_clean_before():
            subprocess.run([sys.executable, "-c", ""], check=True)

        def test_leaks():
            left.append(subprocess.Popen([sys.executable, "-c", {WAIT!r}], stdin=subprocess.PIPE))

        def test_clean_after():
            assert left[0].poll() is not None
        """
    )
    result = pytester.runpytest_subprocess("-p", "tests.conftest", "-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*test_leaks left behind, * s after it ended:", "  process * *select.select*"])
