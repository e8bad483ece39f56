"""The private record of a running server: where it is, how it is read, and when it is believed.

A server writes one JSON file (mode 0600) into the user's Jupyter runtime folder when its ports are bound, and removes
it when it ends. A crash or a power cut leaves the file behind, and the pid in it may by now belong to somebody else.
So a record is believed only when all of this holds:

1. the file is this user's and nobody else may read or write it (it contains the token);
2. a process of that pid lives and was created at the recorded time;
3. that process, asked over the control channel with the token, names the recorded instance id.

Of these, 1 and 2 are checked here, 3 by `serving_workbench.discovery`. A record whose process is gone is
deleted; no process is ever signalled because of a record that is not believed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from serving_workbench.errors import LaunchError, RecordError
from serving_workbench.files import describe_access
from serving_workbench.locks import LockFile, lock_file

__all__ = [
    "Record",
    "delete_if_stale",
    "delete_record",
    "deploy_lock",
    "is_alive",
    "known_instances",
    "list_instances",
    "read_record",
    "record_path",
    "runtime_folder",
    "start_lock",
]

SCHEMA = 1
#: psutil derives create times from clock ticks since boot: two readings may differ by rounding, reused pids by more.
CREATE_TIME_TOLERANCE = 1.0
_INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PREFIX = "serving-workbench-"


@dataclass(frozen=True)
class Record:
    """A server's record, every field checked.

    Attributes
    ----------
    instance_id : str
        32 hexadecimal digits, drawn at each start.
    name : str
        Instance name; ``default`` unless the user runs several servers.
    pid, create_time : int, float
        The front process, as psutil reports them.
    control : tuple
        ``("unix", path)`` or ``("tcp", host, port)``.
    token : str
        Bearer token of the control channel; not shown by `repr`.
    endpoints : dict of str to str
        ``grpc`` -> ``host:port``, ``rest`` -> URL.
    owner_pid, log, root : optional
        Who it ends with, its log file, the folder of its models: as its launcher passed them.
    """

    instance_id: str
    name: str
    pid: int
    create_time: float
    server_version: str
    started_at: float
    control: tuple[str, str] | tuple[str, str, int]
    token: str = field(repr=False)
    endpoints: dict[str, str]
    owner_pid: int | None = None
    log: str | None = None
    root: str | None = None


def runtime_folder() -> Path:
    """Return the user's Jupyter runtime folder, created (0700) when missing.

    Raises
    ------
    LaunchError
        When it cannot be created.
    """
    from jupyter_core.paths import jupyter_runtime_dir  # 50 ms: not at import of the package

    folder = Path(jupyter_runtime_dir())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(
            f"The Jupyter runtime folder '{folder}' cannot be created: {error.strerror}.",
            step="launch",
            hint="Set JUPYTER_RUNTIME_DIR to a folder that you can write.",
        ) from error
    return folder


def record_path(instance: str) -> Path:
    """Return where the record of an instance lies.

    Raises
    ------
    RecordError
        When the instance name cannot be part of a file name.
    """
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        raise RecordError(
            f"{instance!r:.80} is not an instance name.",
            hint="It has 1 to 64 letters, digits, '_', '-' or '.', and begins with a letter, a digit or '_'.",
        )
    return runtime_folder() / f"{_PREFIX}{instance}.json"


def list_instances() -> list[str]:
    """Return the instance names that have a record, alive or not."""
    return sorted(path.name[len(_PREFIX) : -len(".json")] for path in runtime_folder().glob(f"{_PREFIX}*.json"))


def known_instances() -> list[str]:
    """Return the instance names that have left anything in the runtime folder: a record, or a log only."""
    names = {path.name[len(_PREFIX) :] for path in runtime_folder().glob(f"{_PREFIX}*")}
    ends = (".json", ".log", ".log.old")
    return sorted({name.removesuffix(end) for name in names for end in ends if name.endswith(end)})


def read_record(path: Path) -> Record | None:
    """Read and check a record's file and fields; its process is not looked at.

    Returns
    -------
    Record or None
        None when there is no file.

    Raises
    ------
    RecordError
        The file is another user's, readable by others, damaged, or of a schema that this version does not know.
    """
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"Cannot read the record '{path}': {error.strerror}. {describe_access(path)}.") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise _damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(data, dict):
        raise _damaged(path, f"it holds a {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise RecordError(
            f"The record '{path}' has schema {data.get('schema')!r}; this version of the workbench knows {SCHEMA}.",
            hint="The server was started by another version: stop it from there, or upgrade here.",
        )
    return _parse(path, data)


def _check_private(path: Path, info: os.stat_result) -> None:
    if info.st_uid != os.getuid():
        raise RecordError(
            f"The record '{path}' belongs to uid {info.st_uid}, not to you (uid {os.getuid()}); it is not trusted.",
            hint="Set JUPYTER_RUNTIME_DIR to a folder of your own.",
        )
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        raise RecordError(
            f"The record '{path}' has mode {mode:04o}: others may read its token, so it is not trusted.",
            hint=f"Stop that server, then delete the file: rm '{path}'.",
        )


def _damaged(path: Path, reason: str) -> RecordError:
    return RecordError(f"The record '{path}' is damaged: {reason}.", hint=f"If no server runs, delete it: rm '{path}'.")


def _parse(path: Path, data: dict[str, Any]) -> Record:
    def take(key: str, kind: type | tuple[type, ...]) -> Any:
        value = data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _damaged(path, f"'{key}' is {value!r:.60}")
        return value

    optional_text, number = (str, type(None)), (int, float)
    endpoints = take("endpoints", dict)
    if not all(isinstance(value, str | None) for value in endpoints.values()):
        raise _damaged(path, f"'endpoints' is {endpoints!r:.80}")
    return Record(
        instance_id=take("instance_id", str),
        name=take("name", str),
        pid=take("pid", int),
        create_time=float(take("create_time", number)),
        server_version=take("server_version", str),
        started_at=float(take("started_at", number)),
        control=_control(path, take("control", dict)),
        token=take("token", str),
        endpoints={key: value for key, value in endpoints.items() if value is not None},
        owner_pid=take("owner_pid", (int, type(None))),
        log=take("log", optional_text),
        root=take("root", optional_text),
    )


def _control(path: Path, control: dict[str, Any]) -> tuple[str, str] | tuple[str, str, int]:
    match control:
        case {"unix": str(socket)}:
            return ("unix", socket)
        case {"tcp": [str(host), int(port)]}:
            return ("tcp", host, port)
    raise _damaged(path, f"'control' is {control!r:.80}")


def is_alive(pid: int, create_time: float) -> bool:
    """Whether the very process lives that had this pid at this create time (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        return (
            abs(process.create_time() - create_time) < CREATE_TIME_TOLERANCE
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


@contextmanager
def start_lock(instance: str, wait: float) -> Iterator[bool]:
    """Hold the instance's start lock: one process at a time starts a server or clears its record.

    Parameters
    ----------
    wait : float
        Seconds to wait for another holder; 0 tries once.

    Yields
    ------
    bool
        False when another process still holds it.
    """
    with lock_file(record_path(instance).with_suffix(".start.lock"), wait) as lock:
        yield lock.held


@contextmanager
def deploy_lock(instance: str, wait: float) -> Iterator[LockFile]:
    """Share the instance's deploy lock with others who deploy into it.

    Whoever wants to end a server that serves nothing takes it for himself first (`LockFile.take`): then nobody is about
    to deploy into it.

    Parameters
    ----------
    wait : float
        Seconds to wait for a server that is being ended.
    """
    with lock_file(record_path(instance).with_suffix(".deploy.lock"), wait, shared=True) as lock:
        yield lock


def delete_if_stale(instance: str) -> bool:
    """Delete the record of a server that is gone; return whether it was deleted.

    Under the start lock, so that the record of a server which starts at this moment is never the one deleted.
    """
    path = record_path(instance)
    with start_lock(instance, wait=0) as held:
        if not held:
            return False
        return delete_if_stale_locked(path)


def delete_if_stale_locked(path: Path) -> bool:
    """Do the work of `delete_if_stale` for a caller that holds the start lock."""
    record = read_record(path)
    if record is None or is_alive(record.pid, record.create_time):
        return False
    _remove(path, record)
    return True


def delete_record(record: Record) -> None:
    """Delete the record of a server that is about to be killed; one of another server is left alone."""
    path = record_path(record.name)
    with suppress(RecordError):  # damaged: then it is nobody's sign of anything
        left = read_record(path)
        if left is not None and left.instance_id == record.instance_id:
            _remove(path, record)


def _remove(path: Path, record: Record) -> None:
    path.unlink(missing_ok=True)
    # A killed server leaves its socket too; only one that lies where servers of this record put theirs is ours.
    socket = Path(record.control[1]) if record.control[0] == "unix" else None
    if socket is not None and socket.parent == path.parent and socket.name.startswith(f"{path.stem}-"):
        with suppress(OSError):
            if socket.is_socket():
                socket.unlink()
