"""What a server holds in memory, told apart from what other processes of the machine do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

__all__ = ["shared_buffers", "tree_pss"]


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


def shared_buffers(pid: int) -> int:
    """How many buffers the front holds; they have no name in /dev/shm and live as long as a descriptor of theirs."""
    links = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return sum("memfd:serving-lane" in str(link) for link in links)
