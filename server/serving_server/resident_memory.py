"""How much memory a worker has, and has had at most, as the kernel keeps it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

__all__ = ["resident_memory"]

_PEAK = b"VmHWM:"


def resident_memory(pid: int | None) -> dict[str, int | None]:
    """Return ``rss_bytes`` and ``peak_rss_bytes`` of a process, shared pages of TensorFlow's libraries included.

    None where there is no process, and None for the peak where the system does not tell it.
    """
    now = peak = None
    if pid is not None:
        with contextlib.suppress(psutil.Error):  # it has just ended
            now = int(psutil.Process(pid).memory_info().rss)
        peak = _peak(pid)
    return {"rss_bytes": now, "peak_rss_bytes": peak}


def _peak(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has just ended, or this is no Linux
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(_PEAK):
                return 1024 * int(line.split()[1])
    return None
