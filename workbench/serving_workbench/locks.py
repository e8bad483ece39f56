"""Locks between processes on one machine: files that the system unlocks when their holder ends, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LockFile", "lock_file"]

_POLL_SECONDS = 0.05


class LockFile:
    """An open lock file; made by `lock_file`.

    Attributes
    ----------
    held : bool
        Whether the lock is held.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.held = False

    def take(self, wait: float, *, shared: bool = False) -> bool:
        """Take the lock, or change its kind, within `wait` seconds (0 tries once); return whether it is held now.

        A change that fails gives up what was held: the system has no other.
        """
        try:
            import fcntl
        except ImportError:  # Windows, where nothing that needs a lock can run, as launch says
            self.held = True
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                # A blocking flock could not be bounded in time without a signal.
                if time.monotonic() >= deadline:
                    self.held = False
                    return False
                time.sleep(_POLL_SECONDS)
            else:
                self.held = True
                return True


@contextmanager
def lock_file(path: Path, wait: float, *, shared: bool = False) -> Iterator[LockFile]:
    """Open a lock file, made when missing, and take its lock; look at `held` for whether that was possible.

    Parameters
    ----------
    wait : float
        Seconds to wait for other holders; 0 tries once.
    shared : bool
        With others who share it, but with nobody who does not.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        lock = LockFile(descriptor)
        lock.take(wait, shared=shared)
        yield lock
    finally:
        os.close(descriptor)
