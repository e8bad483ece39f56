"""How much memory this machine, or the container around this process, still has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil

__all__ = ["available_bytes"]

_GROUPS: Final = Path("/sys/fs/cgroup")


def available_bytes(groups: Path = _GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that can be had without swapping: the machine's, or what control groups leave of their limits.

    Control groups version 2 (Linux); elsewhere, and without limits, the machine's alone.

    Parameters
    ----------
    groups : Path
        Where the file system of control groups is.
    own : Path
        Which group this process is in.
    """
    found = int(psutil.virtual_memory().available)
    for folder in _folders(groups, own):
        try:
            limit = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue  # no such group here, or version 1: the machine's own number stands
        if limit.isdigit():
            # Pages of files count as used and are given up when something needs them.
            cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
            found = min(found, max(0, int(limit) - used + cached))
    return found


def _folders(groups: Path, own: Path) -> list[Path]:
    """Return this process's group and those around it: each may have a limit."""
    try:
        line = next((each for each in own.read_text().splitlines() if each.startswith("0::")), "0::/")
    except OSError:
        return []
    folder = groups / line.removeprefix("0::").strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(groups))]
