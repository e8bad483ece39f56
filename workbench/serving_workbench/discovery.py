"""Find the running server of an instance name, and believe only what it proves."""

from __future__ import annotations

import os
import time

import psutil

from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError, RecordError
from serving_workbench.records import (
    Record,
    delete_if_stale,
    delete_if_stale_locked,
    is_alive,
    read_record,
    record_path,
)

__all__ = ["trusted_record"]


def trusted_record(instance: str, *, timeout: float = 5.0, lock_held: bool = False) -> Record | None:
    """Return the record of the instance's server, after that server has named its instance id.

    Parameters
    ----------
    timeout : float
        Seconds for a server that lives but does not answer (it may be about to end).
    lock_held : bool
        The caller holds the start lock, so stale records are deleted without taking it.

    Returns
    -------
    Record or None
        None when no server runs; a record that a dead one left behind is deleted, unless the process that it belonged
        to lives: a Jupyter server sees by the record that its server has crashed, and is to be started again.

    Raises
    ------
    RecordError
        A record is there that cannot be trusted: another user's, damaged, or its process does not answer or gives
        another identity. Nothing is deleted and no process touched.
    """
    path = record_path(instance)
    deadline = time.monotonic() + timeout
    while True:
        record = read_record(path)
        if record is None:
            return None
        if not is_alive(record.pid, record.create_time):
            if lock_held:
                delete_if_stale_locked(path)
            elif not _is_anothers(record):
                delete_if_stale(instance)
            return None
        try:
            identity = ControlClient.of(record, timeout=timeout).identity()
        except ControlError as error:
            if error.code == "UNAVAILABLE" and time.monotonic() < deadline:
                # It closes this channel first when it ends: soon the process is gone, or a new record is there.
                time.sleep(0.05)
                continue
            raise _untrusted(record, instance, error) from error
        if identity.get("instance_id") != record.instance_id:
            raise RecordError(
                f"The server of instance '{instance}' (pid {record.pid}) answers with another identity than its record "
                f"'{path}'; the record is not trusted.",
                hint=f"Delete the record and start again: rm '{path}'.",
            )
        return record


def _is_anothers(record: Record) -> bool:
    """Whether the server belonged to another process, which is still there."""
    return record.owner_pid not in {None, os.getpid()} and psutil.pid_exists(int(record.owner_pid or 0))


def _untrusted(record: Record, instance: str, error: ControlError) -> RecordError:
    if error.code == "UNAUTHENTICATED":
        return RecordError(
            f"The server of instance '{instance}' (pid {record.pid}) does not accept the token of its record.",
            hint=f"The record was changed: delete it, rm '{record_path(instance)}', and stop that process.",
        )
    return RecordError(
        f"The server of instance '{instance}' (pid {record.pid}) lives but does not answer: {error.message}",
        hint=f"End it with sw.stop(instance={instance!r}); its log: {record.log or 'unknown'}.",
    )
