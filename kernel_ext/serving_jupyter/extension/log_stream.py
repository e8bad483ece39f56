"""A server's log as it grows, across restarts: a new process has a new file under the same name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from serving_jupyter.extension.blocking import Threads
from serving_workbench.logfile import Reader

__all__ = ["follow"]

_POLL_SECONDS: Final = 0.2


async def follow(path: Path, lines: int, threads: Threads, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield a log's last lines and what is appended to it, until nothing new has come after `is_over` became true.

    Yields b"" at each look that finds nothing, so that whoever writes it on can see that its reader is gone.
    """
    reader = await threads.run(Reader, path, lines)
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
