"""The log of a serving process: one file per instance, kept small by starting anew."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Reader", "follow", "log_path", "open_new", "tail"]

#: No more than this is read for a tail, however long the lines are.
_MAX_TAIL_BYTES = 1 << 20
#: Read at once by who follows; what a burst writes beyond it comes with the next look.
_MAX_READ = 256 * 1024
_POLL_SECONDS = 0.2


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


class Reader:
    """Reads the last lines, then what is new, across restarts: a new process has a new file under the same name.

    Its calls may come from several threads, one after the other.
    """

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._file = path.open("rb")
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - _MAX_READ))
        last = self._file.read().splitlines(keepends=True)
        self._last = b"".join(last[-lines:]) if lines else b""

    def read(self) -> bytes:
        """Return what has come since the last call, empty when nothing has."""
        last, self._last = self._last, b""
        new = last or self._file.read(_MAX_READ)
        if not new and self._replaced():
            self._file.close()
            self._file = self._path.open("rb")
            new = self._file.read(_MAX_READ)
        return new

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return there.st_ino != os.fstat(self._file.fileno()).st_ino

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()


def follow(path: Path, lines: int, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield the last lines of a log, then each line as it comes, until none has come after `is_over` became true.

    Raises
    ------
    FileNotFoundError
    """
    reader = Reader(path, lines)
    rest = b""
    try:
        while True:
            over = is_over()
            new = reader.read()
            *whole, rest = (rest + new).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
            if new:
                continue
            if over:
                if rest:
                    yield rest.decode("utf-8", "replace")
                return
            time.sleep(_POLL_SECONDS)
    finally:
        reader.close()
