"""The log of a serving process: one file per instance, kept small by starting anew."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["log_path", "open_new", "tail"]

#: No more than this is read for a tail, however long the lines are.
_MAX_TAIL_BYTES = 1 << 20


def log_path(record: Path) -> Path:
    """Return the log file that goes with a record file."""
    return record.with_suffix(".log")


def open_new(path: Path) -> int:
    """Open a fresh log (mode 0600) for appending; the one before is kept as ``<path>.old``. Return the descriptor."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.old"))
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)


def tail(path: Path, lines: int) -> str:
    """Return the last `lines` lines of a log, empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MAX_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""
