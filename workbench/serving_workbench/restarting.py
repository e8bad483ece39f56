"""A new process in place of a server's, with the same models, policies, batching parameters and labels."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from serving_workbench.errors import DeployError, LaunchError
from serving_workbench.known_models import models_of, put_labels, put_models
from serving_workbench.launch import launch_again, ports_of
from serving_workbench.ownership import Owner
from serving_workbench.records import Record
from serving_workbench.server import Server
from serving_workbench.waiting import find_version

__all__ = ["restart_server"]

_POLL_SECONDS = 0.05


def restart_server(instance: str, timeout: float) -> Server:
    """Restart a server; return the new one when every version that answered before answers again.

    It has the same ports, unless somebody else has taken one meanwhile. It ends with whom it ended before: a Jupyter
    server, which goes on to watch over it, a process of yours, or nobody.

    Parameters
    ----------
    instance : str
    timeout : float
        Seconds for all of it; running requests get at most 15 of them to end.

    Raises
    ------
    ServerNotRunningError
        There is none to restart.
    LaunchError
        The new one does not start: then none runs.
    DeployError
        It runs, but a model is not back.
    """
    deadline = time.monotonic() + timeout
    server = Server.connect(instance)
    status = server.ask(server.control.status)
    models = models_of(status)
    answered = {name: model["serving_version"] for name, model in status["models"].items()}
    record = server.record
    server.stop(min(15.0, timeout))
    try:
        found = _launch(record, max(1.0, deadline - time.monotonic()))
    except LaunchError as error:
        error.hint = f"None runs now. It had served: {', '.join(models) or 'nothing'}. {error.hint or ''}".strip()
        raise
    fresh = Server(found)
    problems = put_models(fresh.control, models)
    problems += _wait_for_versions(fresh, answered, deadline)
    problems += put_labels(fresh.control, models)
    if problems:
        raise DeployError(f"The server '{instance}' was restarted, but: {' '.join(problems)}", step="restart")
    return fresh


def _launch(record: Record, timeout: float) -> Record:
    root, ports = None if record.root is None else Path(record.root), ports_of(record)
    if record.owner_pid is None:
        return launch_again(record.name, root, ports, keep=True, timeout=timeout)
    return launch_again(record.name, root, ports, timeout=timeout, owner=_other_owner(record.owner_pid))


def _other_owner(pid: int) -> Owner | None:
    """Return the owner to keep; None where it is to be found out, being this process, or gone."""
    if pid == os.getpid():
        return None
    try:
        return Owner(pid, psutil.Process(pid).create_time(), by_pipe=False)
    except psutil.Error:
        return None


def _wait_for_versions(server: Server, answered: dict[str, int | None], deadline: float) -> list[str]:
    """Wait until each model's version answers that did before; return what failed, a sentence each."""
    problems = []
    for name, version in answered.items():
        if version is None:
            continue
        while True:
            model = server.control.status()["models"].get(name)
            if model is None:
                problems.append(f"Model '{name}' is not there.")
                break
            if model["serving_version"] == version:
                break
            found = find_version(model, version)
            failed = found is not None and found["state"] == "END"
            if failed or time.monotonic() > deadline:
                state = "not seen" if found is None else found["state"]
                reason = (found or {}).get("error_message") or f"it is {state}"
                problems.append(f"Version {version} of '{name}' does not answer: {reason}.")
                break
            time.sleep(_POLL_SECONDS)
    return problems
