"""Verbs for a server by its instance name and a model by its name, for those who hold no handle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_workbench import logfile
from serving_workbench.errors import RecordError, ServerNotRunningError
from serving_workbench.instance_name import chosen_instance
from serving_workbench.records import is_alive, list_instances, read_record, record_path
from serving_workbench.server import Server, stop_instance
from serving_workbench.tables import Table

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel
    from serving_workbench.warmup_requests import RecordedWarmup

__all__ = [
    "clean",
    "config",
    "follow_logs",
    "instances",
    "label",
    "logs",
    "predict",
    "restart",
    "rollback",
    "status",
    "stop",
    "traffic",
    "unload",
    "warmup",
]

# --- servers ---


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


def restart(instance: str | None = None, timeout: float = 120.0) -> Server:
    """Restart a server with the same models, policies, batching parameters, labels and ports.

    See `serving_workbench.restarting.restart_server` for parameters and errors.
    """
    from serving_workbench.restarting import restart_server  # starts processes: only for those who do

    return restart_server(chosen_instance(instance), timeout)


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
    return logfile.tail(_log_of(chosen_instance(instance)), n)


def _log_of(instance: str) -> Path:
    log = logfile.log_path(record_path(instance))
    if not log.exists():
        raise ServerNotRunningError(
            f"No server of instance '{instance}' has a log in '{log.parent}'.",
            hint="Start one with sw.serve(model, name=...), %serve or serving-workbench serve.",
        )
    return log


def follow_logs(n: int = 10, instance: str | None = None) -> Iterator[str]:
    """Yield the last `n` lines of a server's log, then each line as it comes, until the server has ended.

    Raises
    ------
    ServerNotRunningError
        No server of that instance has left a log.
    """
    instance = chosen_instance(instance)
    record = record_path(instance)
    return logfile.follow(_log_of(instance), n, lambda: not _lives(record))


def _lives(record: Path) -> bool:
    found = read_record(record)
    return found is not None and is_alive(found.pid, found.create_time)


def instances() -> list[str]:
    """Return the names of the servers that run and answer."""
    return [name for name in list_instances() if _answers(name)]


def _answers(instance: str) -> bool:
    try:
        return Server.find(instance) is not None
    except RecordError:  # one that hangs, or a file that is none of a server's: connect() says which
        return False


def clean(roots: Iterable[str | Path] = ("models",), *, rejected: bool = False, dry_run: bool = False) -> Table:
    """Remove what servers and deploys that ended by force have left behind; never a published version.

    Parameters
    ----------
    roots : iterable of str or Path
        Folders of all models to look into, besides those of the servers that run.
    rejected : bool
        Remove the versions too that failed their load or their proof, which are kept for a look.
    dry_run : bool
        Only say what would be removed.

    Returns
    -------
    Table
        One row for each: what it is, its path, its size in bytes, and whether it was removed.
    """
    from serving_workbench.cleaning import clean_up

    return clean_up([Path(root).expanduser() for root in roots], quarantined=rejected, dry_run=dry_run)


# --- models: see `ServedModel` for parameters and errors ---


def predict(
    name: str,
    x: object,
    version: int | str | None = None,
    signature: str | None = None,
    timeout: float = 10.0,
    *,
    raw_strings: bool = False,
    instance: str | None = None,
) -> Any:
    """Ask a model once: see `ServedModel.predict`. Who asks often keeps a handle, and with it the connection."""
    served = _served(name, instance)
    try:
        return served.predict(x, version, signature, timeout, raw_strings=raw_strings)
    finally:
        served.server.close()


def rollback(name: str, to: int | None = None, timeout: float = 60.0, *, instance: str | None = None) -> int:
    """Let an older version answer again; return it. See `ServedModel.rollback`."""
    served = _served(name, instance)
    try:
        return served.rollback(to, timeout)
    finally:
        served.server.close()


def label(name: str, labels: Mapping[str, int | None] | None = None, *, instance: str | None = None) -> dict[str, int]:
    """Point labels at versions, which requests may name in place of a number; return all labels of the model.

    >>> sw.label("digits", {"stable": 2, "canary": None})  # doctest: +SKIP

    Parameters
    ----------
    name : str
        Model name.
    labels : mapping of str to int or None, optional
        What to change, all at once; None removes a label.

    Raises
    ------
    DeployError
        A label that does not exist was to be removed, or a version is no number.
    ControlError
        ``FAILED_PRECONDITION``: a version is not available. Nothing has changed.
    """
    from serving_workbench.labelling import change_labels

    return change_labels(_served(name, instance), labels or {})


def unload(name: str, version: int, timeout: float = 60.0, *, instance: str | None = None) -> None:
    """Unload a version that does not answer. See `ServedModel.unload`."""
    served = _served(name, instance)
    try:
        served.unload(version, timeout)
    finally:
        served.server.close()


def config(
    name: str, *, policy: Any = None, batching: object = ..., instance: str | None = None, **parameters: Any
) -> Table:
    """Show, and change, what a model is set to, while requests run.

    Parameters
    ----------
    name : str
        Model name.
    policy : str or mapping, optional
        Which versions are loaded: ``"latest"``, ``"latest:2"``, ``"all"``, ``"1,3"``, or as the control channel has it.
    batching : str, Path, mapping, bool or None
        True: TensorFlow Serving's defaults; None or False: off; a mapping of parameters, or a file of them in the text
        format of ``--batching_parameters_file``: these, and defaults for the rest.
    **parameters
        Single batching parameters; the others stay. See `serving_workbench.settings.BATCHING_PARAMETERS`.

    Returns
    -------
    Table
        One row for each setting; ``.data`` has them for programs.

    Raises
    ------
    WorkbenchError, ControlError
        Naming what is wrong.
    """
    return _served(name, instance).config(policy=policy, batching=batching, **parameters)


def warmup(
    name: str,
    requests: int = 100,
    seconds: float = 60.0,
    *,
    version: int | None = None,
    replace: bool = False,
    instance: str | None = None,
) -> RecordedWarmup:
    """Record live requests as a version's warm-up. See `ServedModel.record_warmup`."""
    return _served(name, instance).record_warmup(requests, seconds, version=version, replace=replace)


def _served(name: str, instance: str | None) -> ServedModel:
    from serving_workbench.handle import ServedModel, connect  # brings numpy along, which the verbs above do without

    found = connect(name, instance)
    assert isinstance(found, ServedModel)
    return found
