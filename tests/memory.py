"""What a server holds in memory, told apart from what other processes of the machine do."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Self

import psutil

__all__ = ["PeakMemory", "shared_buffers", "tree_pss"]


def tree_pss(pid: int) -> float:
    """Memory of the process tree in MB, shared pages counted once.

    Without pages of files: a library's are divided among all processes of the machine that map it, so that those would
    grow here whenever a stranger's process with the same library ends.
    """
    root = psutil.Process(pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total / 1e6


class PeakMemory:
    """The most that a process tree has taken within a `with` block, in MB, pages of files included.

    Attributes
    ----------
    peak : float
    by_process : dict of str to float
        What each process took at that moment.
    """

    def __init__(self, pid: int, interval: float = 0.2) -> None:
        self.peak = 0.0
        self.by_process: dict[str, float] = {}
        self._root = psutil.Process(pid)
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory")

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            taken = {}
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                        name = f"{process.pid} {' '.join(process.cmdline())[-60:]}"
                        taken[name] = process.memory_full_info().pss / 1e6
            if sum(taken.values()) > self.peak:
                self.peak, self.by_process = sum(taken.values()), taken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def shared_buffers(pid: int) -> int:
    """How many buffers the front holds; they have no name in /dev/shm and live as long as a descriptor of theirs."""
    links = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return sum("memfd:serving-lane" in str(link) for link in links)
