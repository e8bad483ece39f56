"""Finds what a test leaves behind: processes, shared memory, files, sockets and pipes, threads.

`tests/conftest.py` owns the one `Watch` of a session: it takes a `Snapshot` before each test and asks for
`Watch.leaks` after it. Whoever starts something that outlives one test on purpose (a fixture of a wider scope) says so:

    leaks.allow(process.pid)      # the process and all of its descendants
    leaks.allow_path(path)        # a file or folder in the runtime or temporary folder, or in /dev/shm

At the end of the session nothing is allowed any more.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["DEADLINE", "Snapshot", "Watch", "allow", "allow_path", "start_session", "the_watch"]

#: Seconds that things on their way out get: a drained worker, a socket that a library closes in its own thread.
DEADLINE = 20.0
#: Seconds between two looks.
INTERVAL = 0.02
#: Environment variable by which a process is known as ours even when it left our session and our process tree.
MARK = "SERVING_TEST_MARK"
#: New sockets and pipes that one test may leave open in the test process. Libraries open a wake-up pair (two) on first
#: use and keep it: grpc's poller, zmq's context, multiprocessing's resource tracker.
FDS_PER_TEST = 2
#: The same for a whole session, so that no test hides a steady leak under the tolerance of one test.
FDS_PER_SESSION = 16
SHARED_MEMORY = Path("/dev/shm")
#: Helper of the standard library: one per process, from the first shared memory until the process ends.
_RESOURCE_TRACKER = "multiprocessing.resource_tracker"
#: Files that are kept between runs on purpose, not left by the test that happened to come first.
_KEPT = ("jupyter_cookie_secret", "__autograph_generated_file")

Identity = tuple[int, float]  # pid and create time: a pid alone may be used again


@dataclass(frozen=True)
class Snapshot:
    """What was there before the test."""

    processes: frozenset[Identity]
    files: frozenset[Path]
    fds: frozenset[str]
    threads: frozenset[threading.Thread]


@dataclass
class Watch:
    """Knows what belongs to this test session, and what of it is new since a snapshot.

    Parameters
    ----------
    mark : str
        Value of `MARK`, unique for the session.
    folder : Path
        The session's own folder: `r` is the Jupyter runtime folder and `t` the folder for temporary files.
    """

    mark: str
    folder: Path
    allowed: set[Identity] = field(default_factory=set)
    allowed_paths: set[Path] = field(default_factory=set)

    @property
    def runtime_dir(self) -> Path:
        return self.folder / "r"

    @property
    def temporary_dir(self) -> Path:
        return self.folder / "t"

    def snapshot(self) -> Snapshot:
        return Snapshot(
            processes=frozenset(_identity(process) for process in self._ours()),
            files=frozenset(self._files()),
            fds=frozenset(_sockets_and_pipes()),
            threads=frozenset(threading.enumerate()),
        )

    def leaks(self, before: Snapshot, deadline: float = DEADLINE, fds: int = FDS_PER_TEST) -> list[str]:
        """What is still there `deadline` seconds later, one line each; empty as soon as nothing is."""
        until = time.monotonic() + deadline
        found = self._look(before, fds)
        while found and time.monotonic() < until:
            # An object in a reference cycle (an exception with its frames) holds its socket until a collection.
            gc.collect()
            time.sleep(INTERVAL)
            found = self._look(before, fds)
        return found

    def clean(self, before: Snapshot) -> None:
        """Kill the processes and remove the files that `leaks` reports, so that the tests that follow start clean."""
        left = self._processes_since(before)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue  # ended meanwhile
        psutil.wait_procs(left, timeout=DEADLINE)  # reaps our own children too
        for path in self._files_since(before):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _look(self, before: Snapshot, fds: int) -> list[str]:
        found = [_describe(process) for process in self._processes_since(before)]
        found += [f"file: {path}" for path in self._files_since(before)]
        opened = _sockets_and_pipes() - before.fds
        if len(_sockets_and_pipes()) - len(before.fds) > fds:
            found.append(f"{len(opened)} open sockets or pipes in the test process: {', '.join(sorted(opened))}")
        found += [
            f"thread (not daemon): {thread.name}"
            for thread in threading.enumerate()
            if thread not in before.threads and not thread.daemon and thread.is_alive()
        ]
        return found

    # --- processes ---

    def _ours(self) -> Iterator[psutil.Process]:
        """Children of the test process, and every process that carries the mark wherever it went."""
        own = psutil.Process()
        seen = {own.pid}
        for process in own.children(recursive=True):
            seen.add(process.pid)
            yield process
        for process in psutil.process_iter():
            if process.pid not in seen and self._marked(process):
                yield process

    def _marked(self, process: psutil.Process) -> bool:
        try:
            return self.mark in process.environ().get(MARK, "").split(":")
        except psutil.Error:  # of another user, a zombie, or gone
            return False

    def _processes_since(self, before: Snapshot) -> list[psutil.Process]:
        tolerated = self._allowed_tree()
        left = []
        for process in self._ours():
            try:
                identity = _identity(process)
                if identity in before.processes or identity in tolerated or _RESOURCE_TRACKER in _command(process):
                    continue
            except psutil.NoSuchProcess:
                continue
            left.append(process)
        return left

    def _allowed_tree(self) -> set[Identity]:
        """The allowed processes that live, and their descendants: a server's workers come and go with it."""
        tree: set[Identity] = set()
        for pid, created in self.allowed:
            try:
                process = psutil.Process(pid)
                if process.create_time() == created:
                    tree.add((pid, created))
                    tree |= {_identity(child) for child in process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return tree

    # --- files ---

    def _files(self) -> Iterator[Path]:
        for folder in (self.runtime_dir, self.temporary_dir, SHARED_MEMORY):
            if folder.is_dir():
                yield from folder.iterdir()

    def _files_since(self, before: Snapshot) -> list[Path]:
        return [path for path in self._files() if path not in before.files and not self._tolerated(path)]

    def _tolerated(self, path: Path) -> bool:
        if path in self.allowed_paths or path.name.startswith(_KEPT):
            return True
        if path.parent == SHARED_MEMORY:
            # /dev/shm belongs to the whole machine: what a process of somebody else maps is not ours, and what an
            # allowed server maps is in use.
            allowed = {pid for pid, _ in self._allowed_tree()}
            return any(pid in allowed or not self._is_ours(pid) for pid in _mapping(path))
        return path.suffix == ".lock" and _is_free_lock(path)

    def _is_ours(self, pid: int) -> bool:
        return pid == os.getpid() or any(process.pid == pid for process in self._ours())


def _identity(process: psutil.Process) -> Identity:
    try:
        return process.pid, process.create_time()
    except psutil.NoSuchProcess:
        return process.pid, 0.0


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


def _describe(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return f"process {process.pid} ended but nobody waited for it: {process.name()}"
        return f"process {process.pid} (parent {process.ppid()}): {_command(process) or process.name()}"
    except psutil.Error as error:
        return f"process {process.pid}: {error}"


def _sockets_and_pipes() -> set[str]:
    """Open sockets and pipes of this process as '<fd>=<kind>:[<inode>]'; other files come from imports and caches."""
    found = set()
    folder = Path("/proc/self/fd")
    if folder.is_dir():
        for entry in folder.iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:  # the descriptor that listed the folder
                continue
            if target.startswith(("socket:", "pipe:")):
                found.add(f"{entry.name}={target}")
        return found
    for number in range(min(os.sysconf("SC_OPEN_MAX"), 4096)):  # macOS has no list of them to read
        try:
            status = os.fstat(number)
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
            found.add(f"{number}=inode:[{status.st_ino}]")
    return found


def _mapping(path: Path) -> Iterator[int]:
    """Pids of the processes that map the file or hold it open, of all users that we may look at."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = f" {path}\n" in (folder / "maps").read_text() or any(
                entry.readlink() == path for entry in (folder / "fd").iterdir()
            )
        except OSError:  # gone, or not ours to read
            continue
        if held:
            yield int(folder.name)


def _is_free_lock(path: Path) -> bool:
    """Whether nobody holds the lock file.

    A free one may stay: removing the file that another process is about to lock would give each its own lock.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass  # removed meanwhile: as good as free
    return True


# --- the watch of this session -------------------------------------------------------------------------------------

_watch: Watch | None = None


def start_session() -> Watch:
    """Mark this process and all that it will start, and give the session its own runtime and temporary folders."""
    global _watch
    # Unix socket paths end at 104 to 108 bytes, so the folder's name is short.
    folder = Path(tempfile.mkdtemp(prefix="sw-"))
    _watch = Watch(mark=uuid.uuid4().hex, folder=folder)
    _watch.runtime_dir.mkdir(mode=0o700)
    _watch.temporary_dir.mkdir()
    # A pytest inside a test adds its mark to ours: what it leaves is found by both.
    outer = os.environ.get(MARK)
    os.environ[MARK] = f"{outer}:{_watch.mark}" if outer else _watch.mark
    return _watch


def the_watch() -> Watch:
    """The watch of this session; RuntimeError when `start_session` was not called."""
    if _watch is None:
        raise RuntimeError("No test session was started; `tests/conftest.py` does it in pytest_configure.")
    return _watch


def allow(pid: int) -> None:
    """Let this process and its descendants outlive the running test; the end of the session still looks at them."""
    the_watch().allowed.add((pid, psutil.Process(pid).create_time()))


def allow_path(path: Path) -> None:
    """Let this entry of the runtime folder, the temporary folder or /dev/shm outlive the running test."""
    the_watch().allowed_paths.add(path)
