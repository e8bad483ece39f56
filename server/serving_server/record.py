"""The record file: how the workbench finds this server again. Private (0600), whole or absent, one server per record.

A lock on ``<record>.lock`` is held for the server's life, so a second server on the same record refuses to start
instead of hiding the first; the lock ends with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from serving_server.errors import AlreadyExistsError, PermissionDeniedError, ServingError, StatusCode

__all__ = ["Record"]


class Record:
    """Owner of one record file.

    Parameters
    ----------
    path : Path
        Its folder must exist or be makable.

    Raises
    ------
    AlreadyExistsError
        When a running server has it, naming that server's pid.
    ServingError
        When the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise PermissionDeniedError(
                f"cannot write the record {path}: {error.strerror} ({error.filename})"
            ) from None
        except OSError as error:
            msg = f"cannot write the record {path}: {error.strerror} ({error.filename})"
            raise ServingError(msg, StatusCode.FAILED_PRECONDITION) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            msg = (
                f"record {path} belongs to a running server{self._owner()}; stop that one, or give this server "
                "another --record_file"
            )
            raise AlreadyExistsError(msg) from None

    def _owner(self) -> str:
        try:
            return f" (pid {json.loads(self.path.read_text())['pid']})"
        except (OSError, ValueError, KeyError):
            return " (which is still starting)"

    def write(self, content: dict[str, Any]) -> None:
        """Put the record in place, whole, readable by this user only."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(content, file)
        draft.rename(self.path)
        self._written = True

    def close(self) -> None:
        """Remove the record and give up the lock. Idempotent."""
        if self._lock < 0:
            return
        if self._written:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        # Removing the lock file too would let two servers lock two different files of that name; an empty file stays.
        os.close(self._lock)
        self._lock = -1
