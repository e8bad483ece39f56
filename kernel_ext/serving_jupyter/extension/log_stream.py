"""A server's log as it grows, across restarts: a new process has a new file under the same name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from serving_jupyter.extension.blocking import Threads

__all__ = ["follow"]

_POLL_SECONDS: Final = 0.2
#: Read at once; what a burst writes beyond it comes with the next look.
_MAX_READ: Final = 256 * 1024


class _Reader:
    """Reads the last lines, then what is new; its calls may come from several threads, one after the other."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._file = path.open("rb")
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - _MAX_READ))
        last = self._file.read().splitlines(keepends=True)
        self._last = b"".join(last[-lines:]) if lines else b""

    def read(self) -> bytes:
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
        self._file.close()


async def follow(path: Path, lines: int, threads: Threads, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield a log's last lines and what is appended to it, until nothing new has come after `is_over` became true.

    Yields b"" at each look that finds nothing, so that whoever writes it on can see that its reader is gone.
    """
    reader = await threads.run(_Reader, path, lines)
    try:
        while True:
            over = is_over()
            new = await threads.run(reader.read)
            yield new
            if not new:
                if over:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        reader.close()
