"""The running server as an object: found by its record, asked over its control channel, stopped for certain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import psutil

from serving_workbench import logfile
from serving_workbench.control import ControlClient
from serving_workbench.discovery import trusted_record
from serving_workbench.errors import ControlError, ModelNotServedError, ServerNotRunningError, WorkbenchError
from serving_workbench.instance_name import chosen_instance
from serving_workbench.launch import launch
from serving_workbench.locks import LockFile
from serving_workbench.mirroring import mirror_table
from serving_workbench.notes import metrics_text, read_notes
from serving_workbench.records import Record, delete_if_stale, delete_record, is_alive, read_record, record_path
from serving_workbench.rejected import rejected_versions
from serving_workbench.splitting import set_traffic, traffic_cells, traffic_table
from serving_workbench.surroundings import remote_hint, warn_about
from serving_workbench.tables import Table

__all__ = ["Server", "stop_instance", "stop_when_idle", "version_rows", "with_traffic"]

_STATUS_COLUMNS = (
    *("model", "version", "state", "serving", "labels", "step", "requests in flight", "restarts", "note", "error"),
)
_POLL_SECONDS = 0.02
#: Characters of a note in a table.
_NOTE_WIDTH = 60


class Server:
    """One serving process of this user.

    Made by `find`, `connect` or `launch`, never directly. The object holds no connection of its own to the process
    except a gRPC channel once `client` was used; dropping it leaves the server running. When the process was replaced,
    restarted by hand or after a crash, the next question goes to the one that has its name now.

    Attributes
    ----------
    record : Record
        As it was believed.
    control : ControlClient
        The private control channel.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.control = ControlClient.of(record)
        self._client: Any = None

    @classmethod
    def find(cls, instance: str | None = None) -> Server | None:
        """Return the running server of an instance name, or None; see `serving_workbench.discovery`.

        Without a name it is that of the environment, ``SERVING_WORKBENCH_INSTANCE``, else ``default``: here as in all
        that takes an instance name.
        """
        record = trusted_record(chosen_instance(instance))
        if record is None:
            return None
        warn_about(record)
        return cls(record)

    @classmethod
    def connect(cls, instance: str | None = None) -> Server:
        """Return the running server of an instance name.

        Raises
        ------
        ServerNotRunningError
            There is none.
        """
        found = cls.find(instance)
        if found is None:
            hint = "Start one with sw.serve(model, name=...), %serve or serving-workbench serve."
            raise ServerNotRunningError(
                f"No server of instance '{chosen_instance(instance)}' is running.",
                hint=" ".join(filter(None, [hint, remote_hint()])),
            )
        return found

    @classmethod
    def launch(
        cls, instance: str | None = None, *, root: Path | None = None, keep: bool = False, timeout: float = 60.0
    ) -> Server:
        """Return the running server of an instance name, started when there is none.

        See `serving_workbench.launch.launch` for parameters and errors; `root` defaults to ``./models``.
        """
        folder = (root or Path("models")).absolute()
        record = launch(chosen_instance(instance), folder, keep=keep, timeout=timeout)
        warn_about(record)
        return cls(record)

    @property
    def name(self) -> str:
        """Instance name."""
        return self.record.name

    @property
    def instance_id(self) -> str:
        """Drawn at the start of the process: equal ids mean the same process."""
        return self.record.instance_id

    @property
    def pid(self) -> int:
        """Of the front process."""
        return self.record.pid

    @property
    def endpoints(self) -> dict[str, str]:
        """``{"grpc": "127.0.0.1:41234", "rest": "http://127.0.0.1:41235"}``."""
        return dict(self.record.endpoints)

    @property
    def root(self) -> Path | None:
        """Folder of all models, as the launcher noted it."""
        return None if self.record.root is None else Path(self.record.root)

    @property
    def client(self) -> Any:
        """A `serving_workbench.client.PredictClient`, made on first use and closed by `close` or `stop`."""
        if self._client is None:
            from serving_workbench.client import PredictClient  # grpc takes 0.1 s: only for those who predict

            self._client = PredictClient(self.endpoints["grpc"])
        return self._client

    def close(self) -> None:
        """Close the gRPC channel; the server runs on. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def is_running(self) -> bool:
        """Whether this very process lives; asks the operating system only."""
        return is_alive(self.record.pid, self.record.create_time)

    # --- questions ---

    def status(self) -> Table:
        """Every version of every model as a table; ``.data`` is the control channel's whole answer.

        Raises
        ------
        ServerNotRunningError, ControlError
        """
        data = self.ask(self._control_status)
        rows = [row for name in sorted(data["models"]) for row in version_rows(data["models"][name])]
        where = ", ".join(f"{kind} {address}" for kind, address in data["endpoints"].items())
        state = data["forkserver"]
        title = f"server '{self.name}' (pid {self.pid}): {where}; TensorFlow {state['state']}"
        if state.get("error"):
            title += f": {state['error']}"
        return Table(rows, with_traffic(_STATUS_COLUMNS, rows), title, data)

    def models(self) -> list[str]:
        """Names of the models it knows."""
        return sorted(self.ask(self._control_status)["models"])

    def statistics(self) -> dict[str, Any]:
        """Request counts, latencies and batch sizes since the start, by model and version."""
        return dict(self.ask(self._control_statistics))

    def batching(self, name: str) -> dict[str, Any] | None:
        """Batching parameters of a model; None when it is off."""
        found: dict[str, Any] | None = self.ask(lambda: self.control.batching(name))
        return found

    def set_batching(self, name: str, **parameters: Any) -> dict[str, Any] | None:
        """Change batching parameters while requests run; return all that are in force.

        Parameters
        ----------
        name : str
            Model name.
        **parameters
            TensorFlow Serving's: max_batch_size, batch_timeout_micros, max_enqueued_batches, num_batch_threads,
            allowed_batch_sizes, pad_variable_length_inputs.
        """
        changed: dict[str, Any] | None = self.ask(lambda: self.control.patch_batching(name, parameters))
        return changed

    def traffic(
        self, name: str, weights: Mapping[int, float] | None = None, *, key: str | None = None, timeout: float = 60.0
    ) -> Table:
        """Look at how a model's requests are split over its versions, set or end it; see `ServedModel.traffic`."""
        with _not_served(f"Requests of '{name}' cannot be split"):
            answer = self.ask(lambda: set_traffic(self.control, name, weights, key, timeout))
            return traffic_table(name, answer, self.control.model(name))

    def mirror(
        self,
        name: str,
        version: int | None = None,
        *,
        fraction: float = 1.0,
        busy: float = 0.05,
        stop: bool = False,
        timeout: float = 60.0,
    ) -> Table:
        """Look at how a model's requests are copied to another version, begin or end it; see `ServedModel.mirror`."""
        control = self.control
        with _not_served(f"Requests of '{name}' cannot be copied"):
            if stop:
                return mirror_table(name, self.ask(lambda: control.delete_mirror(name)))
            if version is None:
                return mirror_table(name, self.ask(lambda: control.mirror(name)))
            answer = self.ask(lambda: control.put_mirror(name, version, seconds=timeout, fraction=fraction, busy=busy))
            return mirror_table(name, answer)

    def ask(self, question: Callable[[], Any]) -> Any:
        """Return what a call of `control` returns; after a restart, of that of the new process.

        Raises
        ------
        ServerNotRunningError
            It did not answer because the process has ended.
        ControlError
        """
        try:
            return question()
        except ControlError as error:
            if error.code != "UNAVAILABLE" or self.is_running():
                raise
            if not self.follow():
                raise ServerNotRunningError(
                    f"The server '{self.name}' (pid {self.pid}) has ended.",
                    hint="sw.serve(...) starts a new one; its log is shown by sw.logs().",
                ) from error
            return question()

    # Functions of their own, as `control` is another one after a restart.

    def _control_status(self) -> dict[str, Any]:
        return self.control.status()

    def _control_statistics(self) -> dict[str, Any]:
        return self.control.statistics()

    def follow(self) -> bool:
        """Go on with the process that has this name now, restarted by hand or after a crash; return whether one has."""
        # A record of our own process stays: it tells whoever supervises the server of a crash.
        left = read_record(record_path(self.name))
        record = None if left is None or left.instance_id == self.instance_id else trusted_record(self.name)
        if record is None:
            return False
        self.close()
        self.record, self.control = record, ControlClient.of(record)
        return True

    def logs(self, n: int = 100) -> str:
        """Return the last `n` lines of its log."""
        return logfile.tail(Path(self.record.log), n) if self.record.log else ""

    # --- the end ---

    def stop(self, timeout: float = 15.0) -> bool:
        """End the process: drain, else SIGTERM, else SIGKILL. Idempotent.

        Parameters
        ----------
        timeout : float
            Seconds for the graceful end; then 5 more for each signal.

        Returns
        -------
        bool
            False when it had ended already.

        Raises
        ------
        WorkbenchError
            The process survived SIGKILL for 5 s (it hangs in the kernel).
        """
        self.close()
        running = self.is_running()
        graceful = running and self._stop_gracefully(timeout)
        if running and not graceful:
            self._stop_by_signals()
        delete_if_stale(self.name)
        if graceful and self.record.log:
            # After an orderly end there is nothing to look up; after a crash the log stays.
            log = Path(self.record.log)
            for path in (log, log.with_name(f"{log.name}.old")):
                path.unlink(missing_ok=True)
        return running

    def _stop_gracefully(self, timeout: float) -> bool:
        try:
            self.control.shutdown()
        except ControlError:
            return self._wait_ended(0.5)  # it may be ending for another reason; else signals follow
        return self._wait_ended(timeout)

    def _stop_by_signals(self) -> None:
        try:
            # psutil compares create times before it signals, so a reused pid is never hit.
            process = psutil.Process(self.record.pid)
            if not self.is_running():
                return
            process.terminate()
            if self._wait_ended(5):
                return
            # A record that is left behind tells whoever supervises the server of a crash; this is none.
            delete_record(self.record)
            process.kill()
        except psutil.NoSuchProcess:
            return
        if not self._wait_ended(5):
            raise WorkbenchError(f"The server '{self.name}' (pid {self.pid}) survived SIGKILL for 5 s.")

    def _wait_ended(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def __repr__(self) -> str:
        state = "running" if self.is_running() else "ended"
        return f"<Server '{self.name}' {state}, pid {self.pid}, {self.endpoints}>"


def stop_instance(instance: str | None = None, timeout: float = 15.0) -> bool:
    """Stop the server of an instance name, also one that lives but no longer answers; return whether one ran.

    A record that fails the checks on its file is not followed: see `serving_workbench.records`.
    """
    record = read_record(record_path(chosen_instance(instance)))
    if record is None:
        return False
    if not is_alive(record.pid, record.create_time):
        delete_if_stale(record.name)
        return False
    return Server(record).stop(timeout)


def stop_when_idle(instance: str, lock: LockFile) -> bool:
    """Stop a server that serves no model, unless somebody is about to deploy into it; return whether it was stopped.

    Parameters
    ----------
    lock : LockFile
        The caller's share of the deploy lock (see `serving_workbench.records.deploy_lock`); given up.
    """
    if not lock.take(0):
        return False
    server = Server.find(instance)
    return server is not None and not server.models() and server.stop()


@contextmanager
def _not_served(what: str) -> Iterator[None]:
    try:
        yield
    except ControlError as error:
        if error.code == "NOT_FOUND":
            raise ModelNotServedError(f"{what}: {error.message}.") from error
        raise


def with_traffic(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns with one for shares of requests, when a version has one."""
    shown = list(columns)
    if any(row.get("traffic") for row in rows):
        shown.insert(shown.index("serving") + 1, "traffic")
    return shown


def version_rows(model: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one table row per version of a model as the control channel describes it, then the rejected ones."""
    shares = traffic_cells(model)
    labels: dict[int, list[str]] = {}
    for label, target in model.get("labels", {}).items():  # older servers tell of none
        labels.setdefault(target, []).append(label)
    rejected = rejected_versions(Path(model["base_path"]))
    gone = {found.version for found in rejected}
    rows = [
        {
            "model": model["name"],
            "version": version["version"],
            "state": version["state"],
            "serving": "yes" if version["version"] == model["serving_version"] else "held" if version["held"] else None,
            "traffic": shares.get(version["version"]),
            "step": version.get("step"),
            "requests in flight": version.get("requests_in_flight"),
            "restarts": version.get("restarts") or None,
            "error": version.get("error_message") or None,
            "held": version["held"],
            "labels": ", ".join(labels.get(version["version"], [])) or None,
            "note": _note(version["path"]),
        }
        for version in model["versions"]
        if version["state"] != "END" or version["version"] not in gone
    ]
    return rows + [
        {
            "model": model["name"],
            "version": found.version,
            "state": "REJECTED",
            "step": found.step or None,
            "note": _note(found.path),
            "error": found.reason.partition("\n")[0],
        }
        for found in rejected
    ]


def _note(folder: str) -> str | None:
    """Return the note and the metrics of a version in few words."""
    notes = read_notes(Path(folder))
    text = shorten(notes.note or "", _NOTE_WIDTH, placeholder=" ...")
    return "; ".join(part for part in (text, metrics_text(notes.metrics)) if part) or None
