"""Record live requests as the warmup file of the version that answers them.

What a version needs to be warm is one run of each thing that clients ask for, so of requests that run the same tensors
in the same shapes only a few are kept; their answers are not, as warmup does not look at them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from serving_server.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServingError,
    StatusCode,
    UnimplementedError,
)
from serving_server.place import Place, RemotePath
from serving_server.request_log.record import Record
from serving_server.request_log.registry import RequestLogs
from serving_server.wire.tfrecord import frame
from serving_server.wire.warmup_file import MAX_RECORDS, warmup_file

__all__ = ["MAX_BYTES", "MAX_SECONDS", "PER_SHAPE", "Recorder", "Wish", "write"]

#: Requests that are kept of the same kind, signature and shapes: lazy work is mostly done in the first run, and kernels
#: that choose by measuring do so within a few.
PER_SHAPE: Final = 3

#: Bytes that are kept in all; they wait in memory, and are replayed at each load. Larger requests are left out.
MAX_BYTES: Final = 64 * 1024 * 1024

#: How long one recording may wait. Seconds.
MAX_SECONDS: Final = 600.0

_DEFAULT_REQUESTS: Final = 100
_DEFAULT_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a recording shall do.

    Attributes
    ----------
    requests : int
        How many answered requests to look at, 1 to `MAX_RECORDS`.
    seconds : float
        How long to wait for them, at most `MAX_SECONDS`.
    version : int or None
        Whose; None for the one that answers requests without a version.
    replace : bool
        Whether a warmup file that is there may be replaced.
    """

    requests: int = _DEFAULT_REQUESTS
    seconds: float = _DEFAULT_SECONDS
    version: int | None = None
    replace: bool = False

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Wish:
        """Return the wish of a request's fields.

        Raises
        ------
        InvalidArgumentError
            Naming the field that is wrong.
        """
        requests = fields.get("requests", _DEFAULT_REQUESTS)
        if type(requests) is not int or not 1 <= requests <= MAX_RECORDS:
            raise InvalidArgumentError(f"requests is {requests!r}; it must be a whole number from 1 to {MAX_RECORDS}")
        seconds = fields.get("seconds", _DEFAULT_SECONDS)
        if type(seconds) not in (int, float) or not 0 < seconds <= MAX_SECONDS:
            raise InvalidArgumentError(f"seconds is {seconds!r}; it must be more than 0 and at most {MAX_SECONDS:g}")
        version = fields.get("version")
        if version is not None and (type(version) is not int or version < 0):
            raise InvalidArgumentError(f"version is {version!r}; it must be a version number, or be left out")
        replace = fields.get("replace", False)
        if type(replace) is not bool:
            raise InvalidArgumentError(f"replace is {replace!r}; it must be true or false")
        return cls(requests, float(seconds), version, replace)


class _Recording:
    """Takes the answered requests of one version (a `Tap`)."""

    def __init__(self, version: int, wanted: int) -> None:
        self._version = version
        self._wanted = wanted
        self._like: collections.Counter[Any] = collections.Counter()
        self.seen = 0
        self.too_large = 0
        self.kept: list[bytes] = []
        self.size = 0
        self.full = asyncio.Event()

    def wants(self, version: int) -> bool:
        return version == self._version

    def take(self, record: Record) -> None:
        if self.full.is_set():
            return
        self.seen += 1
        key = (record.kind, record.signature, record.shapes)
        if self._like[key] < PER_SHAPE:
            data = frame(record.serialize(response=False))
            if self.size + len(data) > MAX_BYTES:
                self.too_large += 1
            else:
                self._like[key] += 1
                self.kept.append(data)
                self.size += len(data)
        if self.seen == self._wanted:
            self.full.set()


class Recorder:
    """Records warmup files, one at a time for each model. All calls on the loop.

    Parameters
    ----------
    logs : RequestLogs
        Shows the requests.
    """

    def __init__(self, logs: RequestLogs) -> None:
        self._logs = logs
        self._running: set[str] = set()

    def is_recording(self, model: str) -> bool:
        """Whether requests of a model are being recorded."""
        return model in self._running

    async def record(self, model: str, version: int, folder: Place, wish: Wish) -> dict[str, Any]:
        """Record the next requests that a version answers, and write its warmup file. A cancel leaves no file.

        Parameters
        ----------
        model : str
        version : int
        folder : Path or RemotePath
            Of the version.
        wish : Wish

        Returns
        -------
        dict
            ``version``, ``requests`` (looked at), ``records`` and ``bytes`` (written), ``too_large`` (left out),
            ``path``, and whether it is ``complete``: all the requests came in time.

        Raises
        ------
        FailedPreconditionError
            The model is being recorded.
        UnimplementedError
            The version lies at a URI.
        AlreadyExistsError
            There is a warmup file, and nobody said to replace it.
        PermissionDeniedError, ServingError
            The file cannot be written.
        DeadlineExceededError
            No request was answered in time.
        """
        if self.is_recording(model):
            raise FailedPreconditionError(f"the warmup of model '{model}' is being recorded already; wait for its end")
        if isinstance(folder, RemotePath):
            raise UnimplementedError(
                f"version {version} of model '{model}' lies at {folder}, and recordings are written into folders only; "
                "record it on a server that has a copy in a folder, and put the file beside the model"
            )
        _check(folder, replace=wish.replace)
        recording = _Recording(version, wish.requests)
        self._running.add(model)
        self._logs.add(model, recording)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(recording.full.wait(), wish.seconds)
        finally:
            self._logs.remove(model, recording)
            self._running.discard(model)
        what = f"version {version} of model '{model}'"
        if not recording.seen:
            raise DeadlineExceededError(
                f"{what} answered no request within {wish.seconds:g} s; nothing was written. "
                "Send it requests while it is recorded"
            )
        if not recording.kept:
            raise ResourceExhaustedError(
                f"each of the {recording.seen} requests that {what} answered is larger than {MAX_BYTES} bytes, "
                "the most that is recorded; nothing was written"
            )
        path = await asyncio.to_thread(write, folder, recording.kept, replace=wish.replace)
        return {
            "version": version,
            "requests": recording.seen,
            "records": len(recording.kept),
            "bytes": recording.size,
            "too_large": recording.too_large,
            "path": str(path),
            "complete": recording.full.is_set(),
        }


def _exists(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f'there is a warmup file already: {path}; say "replace": true to replace it')


def _check(folder: Path, *, replace: bool) -> None:
    """Refuse what cannot be written, before anybody waits for requests."""
    path = warmup_file(folder)
    if path.exists() and not replace:
        raise _exists(path)
    if not folder.is_dir():
        raise NotFoundError(f"the folder {folder} is gone; its warmup file cannot be written")
    place = path.parent if path.parent.exists() else folder
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise PermissionDeniedError(f"cannot write the warmup file {path}: {place} is not a folder to write in")


def write(folder: Path, records: Sequence[bytes], *, replace: bool) -> Path:
    """Write the warmup file of a version: whole, or not at all.

    Parameters
    ----------
    folder : Path
        Of the version.
    records : sequence of bytes
        Framed.
    replace : bool
        Whether one that is there may be replaced.

    Raises
    ------
    AlreadyExistsError, PermissionDeniedError, ServingError
        What was there is still there.
    """
    path = warmup_file(folder)
    made = False
    temporary: Path | None = None
    try:
        try:
            path.parent.mkdir(mode=stat.S_IMODE(folder.stat().st_mode))
            made = True
        except FileExistsError:
            pass  # the model brought other extra assets
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".warmup-")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(records)
            file.flush()
            os.fchmod(file.fileno(), _mode(folder))
            os.fsync(file.fileno())
        if path.exists() and not replace:  # it came meanwhile
            raise _exists(path)
        temporary.rename(path)
        _sync(path.parent)
        if made:
            _sync(folder)
    except AlreadyExistsError:
        _withdraw(temporary, None)
        raise
    except OSError as error:
        _withdraw(temporary, path.parent if made else None)
        raise _explained(error, path) from error
    return path


def _withdraw(temporary: Path | None, made: Path | None) -> None:
    with contextlib.suppress(OSError):  # a disk that fails: the first error is the one to tell
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if made is not None:
            made.rmdir()


def _mode(folder: Path) -> int:
    """Return the mode of the version's other files, as whoever may read the model may read this."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    return stat.S_IMODE(files[0].stat().st_mode) & 0o666 if files else 0o644


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> ServingError:
    message = f"cannot write the warmup file {path}: {error.strerror or error}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDeniedError(message)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhaustedError(message)
    return ServingError(message, StatusCode.INTERNAL)
