"""Verbs for a server by its instance name, for those who hold no handle."""

from __future__ import annotations

from collections.abc import Mapping

from serving_workbench import logfile
from serving_workbench.errors import ServerNotRunningError
from serving_workbench.instance_name import chosen_instance
from serving_workbench.records import list_instances, record_path
from serving_workbench.server import Server, stop_instance
from serving_workbench.tables import Table

__all__ = ["instances", "logs", "status", "stop", "traffic"]


def status(instance: str | None = None) -> Table:
    """Return every model and version of a running server as a table.

    Raises
    ------
    ServerNotRunningError
    """
    return Server.connect(instance).status()


def stop(instance: str | None = None, timeout: float = 15.0) -> bool:
    """Stop a server; return whether one ran. Idempotent. See `Server.stop`."""
    return stop_instance(instance, timeout)


def traffic(
    name: str,
    weights: Mapping[int, float] | None = None,
    *,
    key: str | None = None,
    instance: str | None = None,
    timeout: float = 60.0,
) -> Table:
    """Look at how a model's requests are split over its versions, set or end it; see `ServedModel.traffic`.

    Raises
    ------
    ServerNotRunningError
    ModelNotServedError, ControlError
        As `ServedModel.traffic`.
    """
    return Server.connect(instance).traffic(name, weights, key=key, timeout=timeout)


def logs(n: int = 100, instance: str | None = None) -> str:
    """Return the last `n` lines of a server's log, also after it crashed.

    Raises
    ------
    ServerNotRunningError
        No server of that instance has left a log.
    """
    instance = chosen_instance(instance)
    log = logfile.log_path(record_path(instance))
    if not log.exists():
        raise ServerNotRunningError(
            f"No server of instance '{instance}' has a log in '{log.parent}'.",
            hint="Start one with sw.serve(model, name=...) or %serve.",
        )
    return logfile.tail(log, n)


def instances() -> list[str]:
    """Return the names of the servers that run and answer."""
    return [name for name in list_instances() if Server.find(name) is not None]
