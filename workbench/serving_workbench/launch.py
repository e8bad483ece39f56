"""Start a serving process, or find that somebody else just did."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from serving_workbench import logfile
from serving_workbench.discovery import trusted_record
from serving_workbench.errors import LaunchError
from serving_workbench.interrupts import uninterrupted
from serving_workbench.jupyter_server import ask_to_start
from serving_workbench.ownership import Owner, find_owner, in_kernel
from serving_workbench.records import Record, read_record, record_path, start_lock

__all__ = ["launch", "launch_again", "ports_of"]

_POLL_SECONDS = 0.02
_TAIL_LINES = 20


def launch(
    instance: str,
    root: Path | None,
    *,
    keep: bool = False,
    timeout: float = 60.0,
    owner: Owner | None = None,
    ports: tuple[int, int] | None = None,
) -> Record:
    """Return the record of a running server of that instance, started now when none runs.

    Parameters
    ----------
    instance : str
        Instance name.
    root : Path or None
        Default folder of its models, noted in the record; an instance that runs already keeps its own. Without one,
        each deploy goes to its own process' ``./models``.
    keep : bool
        Let it run on after its owner (see `serving_workbench.ownership`) has ended, until it is stopped.
    owner : Owner, optional
        Who it ends with, when that is not to be found out (and not `keep`).
    ports : tuple of int, optional
        For gRPC and REST; else free ones.
    timeout : float
        Seconds until its ports must be bound; two processes that start the same instance wait for each other.

    Raises
    ------
    LaunchError
        With the end of the log when the process ended early, or with what was last seen when time ran out.
    RecordError
        A server is there that cannot be trusted.

    Notes
    -----
    A kernel first asks its Jupyter server to start the process (see `serving_workbench.jupyter_server`), so that it is
    restarted after a crash; when that cannot be, the kernel starts it.

    The process runs in a session of its own, so that an interrupt or restart of the kernel does not reach it; standard
    input is /dev/null, both outputs go to a 0600 log file in the runtime folder.
    """
    _check_platform()
    path = record_path(instance)
    if in_kernel() and owner is None and ports is None:
        _ask_jupyter_server(instance, root, keep, timeout)
    with start_lock(instance, wait=timeout) as held:
        if not held:
            raise LaunchError(
                f"Another process has been starting the server '{instance}' for {timeout:g} s.",
                step="launch",
                hint=f"Its log: {logfile.log_path(path)}.",
            )
        found = trusted_record(instance, lock_held=True)
        return (
            found
            if found is not None
            else _start(instance, path, root, None if keep else owner or find_owner(), timeout, ports)
        )


def launch_again(
    instance: str,
    root: Path | None,
    ports: tuple[int, int] | None,
    *,
    keep: bool = False,
    timeout: float = 60.0,
    owner: Owner | None = None,
) -> Record:
    """As `launch`, in place of a server that had these ports: on the same ones, unless somebody has taken one.

    So clients go on with the addresses that they have.
    """
    if ports is not None:
        with contextlib.suppress(LaunchError):  # a port is taken, or there is another reason, which is told below
            return launch(instance, root, keep=keep, timeout=timeout, owner=owner, ports=ports)
    return launch(instance, root, keep=keep, timeout=timeout, owner=owner)


def ports_of(record: Record) -> tuple[int, int] | None:
    """Return the ports of a server's gRPC and REST; None when it lacks one."""
    ports = [record.endpoints.get(kind, "").rpartition(":")[2] for kind in ("grpc", "rest")]
    return (int(ports[0]), int(ports[1])) if all(port.isdecimal() for port in ports) else None


def _ask_jupyter_server(instance: str, root: Path | None, keep: bool, timeout: float) -> None:
    """Have the kernel's Jupyter server start the process when none runs: found below, as if somebody had just done so.

    Before the start lock is taken, which it takes.
    """
    if trusted_record(instance) is None:
        ask_to_start(instance, root, keep=keep, timeout=timeout)


def _check_platform() -> None:
    if sys.platform == "win32":
        raise LaunchError(
            "The serving process does not run on Windows: it needs fork, unix sockets and POSIX shared memory.",
            step="launch",
            hint="Run the notebook inside WSL 2 or a Linux container.",
        )
    if not sys.executable:
        raise LaunchError("This Python does not know its own executable (it is embedded).", step="launch")


def _start(
    instance: str,
    path: Path,
    root: Path | None,
    owner: Owner | None,
    timeout: float,
    ports: tuple[int, int] | None,
) -> Record:
    log = logfile.log_path(path)
    with _lifeline(owner) as (read_end, write_end), _fresh_log(log) as output:
        command = _command(instance, path, root, log, owner, read_end, ports)
        process: subprocess.Popen[bytes] | None = None
        try:
            # An interrupt between the start and here would leave a process that nobody knows of.
            with uninterrupted():
                process = _run(command, path.parent, output, read_end)
            record = _wait_for_record(process, instance, path, log, timeout)
            with uninterrupted():
                threading.Thread(
                    target=_reap, args=(process, write_end), name=f"reap-serving-{process.pid}", daemon=True
                ).start()
                return record
        except BaseException:
            # KeyboardInterrupt included: a server that nobody waits for is a server that nobody knows of.
            if process is not None:
                with uninterrupted():
                    _end(process)
            raise


def _run(command: list[str], folder: Path, output: int, read_end: int | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=() if read_end is None else (read_end,),
            start_new_session=True,
            cwd=folder,  # the notebook's folder may hold a module that shadows one of ours, or vanish
            env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
        )
    except OSError as error:
        raise LaunchError(f"'{command[0]}' cannot be run: {error.strerror}.", step="launch") from error


def _reap(process: subprocess.Popen[bytes], write_end: int | None) -> None:
    """Wait for the server's end: a child stays in the process table until then, and its pipe is needed no longer."""
    process.wait()
    if write_end is not None:
        os.close(write_end)


@contextlib.contextmanager
def _lifeline(owner: Owner | None) -> Iterator[tuple[int | None, int | None]]:
    """Yield the read end to hand down and the write end, which stays open in this process after success."""
    if owner is None or not owner.by_pipe:
        yield None, None
        return
    read_end, write_end = os.pipe()
    try:
        yield read_end, write_end
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)


@contextlib.contextmanager
def _fresh_log(path: Path) -> Iterator[int]:
    try:
        descriptor = logfile.open_new(path)
    except OSError as error:
        raise LaunchError(f"The log '{path}' cannot be written: {error.strerror}.", step="launch") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _command(
    instance: str,
    path: Path,
    root: Path | None,
    log: Path,
    owner: Owner | None,
    read_end: int | None,
    ports: tuple[int, int] | None,
) -> list[str]:
    extra = {
        "owner_pid": None if owner is None else owner.pid,
        "log": str(log),
        "root": None if root is None else str(root),
    }
    command = [
        sys.executable,
        *("-m", "serving_server"),
        f"--record_file={path}",
        *(("--ephemeral_ports=true",) if ports is None else (f"--port={ports[0]}", f"--rest_api_port={ports[1]}")),
        "--bind_address=127.0.0.1",
        f"--instance_name={instance}",
        f"--record_extra={json.dumps(extra)}",
    ]
    if read_end is not None:
        command.append(f"--lifeline_fd={read_end}")
    elif owner is not None:
        command += [f"--owner_pid={owner.pid}", f"--owner_create_time={owner.create_time!r}"]
    return command


def _wait_for_record(process: subprocess.Popen[bytes], instance: str, path: Path, log: Path, timeout: float) -> Record:
    """Wait for two things at once: the record of this process, and its end."""
    deadline = time.monotonic() + timeout
    while True:
        record = read_record(path)
        if record is not None and record.pid == process.pid:
            found = trusted_record(instance, lock_held=True)
            if found is not None:
                return found
        code = process.poll()
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            raise LaunchError(
                f"The serving process of instance '{instance}' ended at once ({how}). Its log ends with:\n"
                f"{logfile.tail(log, _TAIL_LINES) or '(nothing)'}",
                step="launch",
            )
        if time.monotonic() > deadline:
            raise LaunchError(
                f"The serving process of instance '{instance}' (pid {process.pid}) was not ready after {timeout:g} s; "
                f"it runs, but has written no record '{path}'. Its log ends with:\n"
                f"{logfile.tail(log, _TAIL_LINES) or '(nothing)'}",
                step="launch",
                hint="Try again with a longer timeout.",
            )
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
