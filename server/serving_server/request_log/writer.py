"""Files of records that grow, are rotated, and never hold up whoever writes to them."""

from __future__ import annotations

import datetime
import logging
import os
import queue
import threading
from pathlib import Path
from typing import IO, Final

from serving_server.wire.tfrecord import frame

__all__ = ["RotatingWriter"]

log = logging.getLogger(__name__)

#: Bytes that may wait for the disk; records beyond are dropped and counted.
MAX_WAITING: Final = 64 * 1024 * 1024

#: How long the end waits for the disk. Seconds.
_CLOSE_SECONDS: Final = 5.0


class RotatingWriter:
    """Appends records to ``<prefix>-<time>-<pid>-<number>.tfrecord`` in a thread of its own.

    The thread begins with the first record. A disk that is slow or full costs records, never requests: they are
    dropped, counted, and told once per file.

    Parameters
    ----------
    prefix : Path
        Absolute; its folder must exist.
    max_bytes : int
        A file that has grown to this is closed and another begun.
    max_files : int
        Older files of this writer are removed; 0 keeps all.

    Attributes
    ----------
    written, dropped : int
        Records so far.
    """

    def __init__(self, prefix: Path, max_bytes: int, max_files: int) -> None:
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._files: list[Path] = []
        self._number = 0
        self._failing = False
        self._closed = False
        self.written = 0
        self.dropped = 0

    def write(self, record: bytes) -> bool:
        """Append a record soon; False when it was dropped because too much waits for the disk."""
        with self._lock:
            if self._closed or self._waiting + len(record) > MAX_WAITING:
                self.dropped += 1
                return False
            self._waiting += len(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                self._thread.start()
        self._queue.put(record)
        return True

    @property
    def is_writing(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def close(self, *, wait: bool = True) -> None:
        """End the thread once it has written what waits, and wait a few seconds for that. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
        if thread is not None and wait:
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                log.error("the request log %s did not reach the disk in %g s", self._prefix, _CLOSE_SECONDS)

    def _run(self) -> None:
        file: IO[bytes] | None = None
        while (record := self._queue.get()) is not None:
            try:
                if file is None:
                    file = self._open()
                file.write(frame(record))
                if self._queue.empty():
                    file.flush()
                if file.tell() >= self._max_bytes:
                    file.close()
                    file = None
                self._failing = False
                self.written += 1
            except OSError as error:
                self._failed(error)
                if file is not None:
                    _abandon(file)
                    file = None
            with self._lock:
                self._waiting -= len(record)
        if file is not None:
            _abandon(file)

    def _open(self) -> IO[bytes]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        while True:
            self._number += 1
            path = self._prefix.with_name(f"{self._prefix.name}-{now}-{os.getpid()}-{self._number:05d}.tfrecord")
            try:
                # Requests may hold what is nobody else's business.
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                break
            except FileExistsError:
                continue  # of another writer with this prefix: of a second model, or of the time before a reload
        self._files.append(path)
        while self._max_files and len(self._files) > self._max_files:
            self._files.pop(0).unlink(missing_ok=True)
        return os.fdopen(descriptor, "wb")

    def _failed(self, error: OSError) -> None:
        self.dropped += 1
        if not self._failing:
            log.error("the request log %s cannot be written: %s; requests go on without it", self._prefix, error)
        self._failing = True


def _abandon(file: IO[bytes]) -> None:
    try:
        file.close()
    except OSError as error:  # the disk is full: what its buffer held is lost
        log.error("the end of %s is lost: %s", file.name, error)
