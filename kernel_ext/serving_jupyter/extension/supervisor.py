"""Starts, adopts, watches, restarts and stops serving processes on behalf of one Jupyter server.

What a process is and who it ends with is decided by the workbench: `serving_workbench.launch` starts it with a lifeline
pipe whose other end this process holds, so it ends with the Jupyter server however that ends. Every server of the user
is found by its record, so those that kernels, scripts or a Jupyter server before this one have started are adopted:
shown, reached and stopped like the others. Those that nobody else looks after are restarted after a crash.

A crash leaves its record behind; a server that was told to end takes it away. That is how the two are told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from serving_jupyter.extension.blocking import Threads
from serving_jupyter.extension.instance import Instance, State
from serving_jupyter.extension.watching import wait_ended
from serving_workbench.control import ControlClient
from serving_workbench.discovery import trusted_record
from serving_workbench.errors import LaunchError, RecordError, ServerNotRunningError, WorkbenchError
from serving_workbench.known_models import Models, models_of, put_labels, put_models
from serving_workbench.launch import launch_again, ports_of
from serving_workbench.records import Record, is_alive, list_instances, read_record, record_path
from serving_workbench.server import stop_instance

__all__ = ["ServerStartingError", "Settings", "Supervisor"]

#: Seconds between a crash and the start, at most: the first wait doubles up to this.
_MAX_BACKOFF: Final = 30.0
#: Seconds for a server to say who it is: when a person wants it, and when records are looked through.
_TRUST_SECONDS: Final = 5.0
_SCAN_SECONDS: Final = 1.0
#: States from which a server comes to run by itself.
_COMING: Final = frozenset({State.STARTING, State.RESTARTING})
#: Seconds before a record that was not believed is looked at again.
_DISTRUST_SECONDS: Final = 10.0


class ServerStartingError(ServerNotRunningError):
    """A server does not run yet, or is about to run again."""


@dataclass
class Settings:
    """Bounds, in seconds where they are times; see the traits of the same names in `serving_jupyter.extension.app`."""

    max_instances: int = 8
    max_restarts: int = 5
    restart_window: float = 600.0
    restart_backoff: float = 1.0
    poll_interval: float = 2.0
    launch_timeout: float = 60.0
    drain_timeout: float = 3.0


class Supervisor:
    """The serving processes that one Jupyter server knows; made and used on its event loop.

    Parameters
    ----------
    settings : Settings
    log : logging.Logger or adapter
    on_traffic : callable
        Called when a server has answered requests since it was last looked at.
    """

    def __init__(
        self,
        settings: Settings,
        log: logging.Logger | logging.LoggerAdapter[Any],
        on_traffic: Callable[[], None] = lambda: None,
    ) -> None:
        self.threads = Threads()
        self._settings = settings
        self._log = log
        self._on_traffic = on_traffic
        self._instances: dict[str, Instance] = {}
        self._untrusted: dict[str, tuple[str, float]] = {}  # reason, and loop time until which it stands
        self._scan_lock = asyncio.Lock()
        self._scanning: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Begin to look for servers that others start."""
        self._scanning = asyncio.get_running_loop().create_task(self._scan_again_and_again())

    # --- questions ---

    def instances(self) -> list[Instance]:
        """Those known, by name."""
        return [self._instances[name] for name in sorted(self._instances)]

    def untrusted(self) -> dict[str, str]:
        """Instance names whose record is not believed, with the reason."""
        return {name: reason for name, (reason, _) in self._untrusted.items()}

    async def find(self, name: str) -> Instance:
        """Return an instance, looked for when it is not known.

        Raises
        ------
        RecordError
            The name is none, or its record is not believed.
        ServerNotRunningError
        """
        instance = self._instances.get(name)
        if instance is None or instance.state is State.STOPPED:
            await self._adopt_by_name(name)
            instance = self._instances.get(name)
        if instance is None:
            raise ServerNotRunningError(
                f"No server of instance '{name}' is running.",
                hint="POST its name to serving/api/instances to start it.",
            )
        return instance

    async def running(self, name: str) -> Record:
        """Return the record of a running instance.

        Raises
        ------
        RecordError
        ServerNotRunningError
            It does not run, with the reason; a `ServerStartingError` when it is about to.
        """
        instance = await self.find(name)
        if instance.record is None or instance.state is not State.RUNNING:
            reason = f": {instance.error}" if instance.error else ""
            kind = ServerStartingError if instance.state in _COMING else ServerNotRunningError
            raise kind(f"The server '{name}' is {instance.state.value}{reason}")
        return instance.record

    def is_up(self, name: str) -> bool:
        """Whether its log may still grow: it runs, or is about to run again."""
        instance = self._instances.get(name)
        return instance is not None and instance.state not in {State.STOPPED, State.FAILED}

    def endpoint(self, name: str) -> str | None:
        """REST URL of an instance that is known to run, without looking for it: for the proxy's every request."""
        instance = self._instances.get(name)
        if instance is None or instance.record is None or instance.state is not State.RUNNING:
            return None
        return instance.record.endpoints.get("rest")

    # --- verbs ---

    async def start(self, name: str, root: Path | None = None, *, keep: bool = False) -> tuple[Record, bool]:
        """Return the record of a server of that name, and whether this call has started it.

        Raises
        ------
        LaunchError
        RecordError
        """
        record_path(name)  # a bad name is refused before anything is kept under it
        instance = self._instances.get(name)
        if self._closed:
            raise LaunchError(f"'{name}' is not started: the Jupyter server is ending.", step="launch")
        if instance is None:
            self._refuse_too_many(name)
            instance = self._instances[name] = Instance(name)
        async with instance.lock:
            # Whoever had the lock may have stopped it, and somebody else may have started it again under this name.
            if self._instances.setdefault(name, instance) is instance:
                return await self._start_it(instance, root, keep=keep)
        return await self.start(name, root, keep=keep)

    async def stop(self, name: str, drain: float = 15.0) -> bool:
        """Stop a server, known or not, answering or not; return whether one ran.

        Raises
        ------
        RecordError
        WorkbenchError
            It survived SIGKILL.
        """
        record_path(name)
        instance = self._instances.get(name)
        if instance is None:
            return await self.threads.run(stop_instance, name, drain)
        async with instance.lock:
            was_coming_back = instance.state is State.RESTARTING
            instance.state = State.STOPPING
            self._unwatch(instance)
            try:
                ran = await self.threads.run(stop_instance, name, drain)
            except WorkbenchError as error:
                instance.state, instance.error = State.FAILED, str(error)
                raise
            self._forget(instance)
            return ran or was_coming_back

    async def restart(self, name: str, drain: float = 15.0) -> Record:
        """End a server and start another with the same models; also one that has failed.

        Raises
        ------
        LaunchError, RecordError, ServerNotRunningError
        """
        instance = await self.find(name)
        async with instance.lock:
            if self._instances.get(name) is not instance:
                raise ServerNotRunningError(f"The server '{name}' was stopped before its turn to restart came.")
            if instance.record is not None:
                # What is new since the last look; when it hangs, the last look has to do.
                with contextlib.suppress(WorkbenchError):
                    await self._look(instance, instance.record)
            instance.state = State.STOPPING
            self._unwatch(instance)
            try:
                await self.threads.run(stop_instance, name, drain)
            except WorkbenchError as error:
                instance.state, instance.error = State.FAILED, str(error)
                raise
            instance.crashes.clear()
            return await self._launch(instance)

    async def close(self) -> None:
        """End all servers that end with this Jupyter server: drain, then SIGKILL. Idempotent, and bounded in time."""
        self._closed = True
        if self._scanning is not None:
            self._scanning.cancel()
        ours = []
        for instance in self._instances.values():
            self._unwatch(instance)
            if instance.is_ours and instance.record is not None:
                instance.state = State.STOPPING
                ours.append(instance.record)
        await asyncio.gather(*(self._end(record) for record in ours))

    async def _end(self, record: Record) -> None:
        def ask() -> None:
            with contextlib.suppress(WorkbenchError):  # then it is killed below
                ControlClient.of(record, timeout=1.0).shutdown()

        asking = asyncio.ensure_future(self.threads.run(ask))
        if not await wait_ended(record, self._settings.drain_timeout):
            self._log.warning("The serving process %d did not end by itself; it is killed.", record.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                if is_alive(record.pid, record.create_time):
                    psutil.Process(record.pid).kill()
            await wait_ended(record, 1.0)
        asking.cancel()

    # --- starting and adopting; the instance's lock is held ---

    async def _start_it(self, instance: Instance, root: Path | None, *, keep: bool) -> tuple[Record, bool]:
        record = instance.record
        if record is not None and instance.state is State.RUNNING and is_alive(record.pid, record.create_time):
            return record, False
        self._unwatch(instance)
        instance.crashes.clear()
        try:
            found = await self._adopt(instance, _TRUST_SECONDS)
        except RecordError:
            self._forget(instance)
            raise
        if found is not None:
            return found, False
        instance.root, instance.keep = root, keep
        return await self._launch(instance), True

    async def _launch(self, instance: Instance) -> Record:
        instance.state, instance.error = State.STARTING, None
        try:
            record = await self.threads.run(
                *(launch_again, instance.name, instance.root, instance.ports),
                keep=instance.keep,
                timeout=self._settings.launch_timeout,
            )
        except WorkbenchError as error:
            instance.state, instance.record, instance.error = State.FAILED, None, str(error)
            raise
        except asyncio.CancelledError:
            instance.state, instance.error = State.FAILED, "Its start was given up."
            raise
        problems = await self._put_back(put_models, record, instance.models)
        self._take(instance, record, instance.models)
        instance.error = problems
        self._log.info("Serving instance '%s' runs, pid %d.", instance.name, record.pid)
        return record

    async def _put_back(
        self, put: Callable[[ControlClient, Models], list[str]], record: Record, models: Models
    ) -> str | None:
        """Tell a server what the one before it was told; return what could not be done."""
        if not models:
            return None
        try:
            problems = await self.threads.run(put, ControlClient.of(record), models)
        except WorkbenchError as error:
            problems = [str(error)]
        for problem in problems:
            self._log.warning("Serving instance '%s': %s", record.name, problem)
        return " ".join(problems) or None

    async def _adopt(self, instance: Instance, patience: float) -> Record | None:
        record = await self.threads.run(trusted_record, instance.name, timeout=patience)
        if record is not None:
            self._take(instance, record)
        return record

    def _take(self, instance: Instance, record: Record, labelled: Models | None = None) -> None:
        """Watch over a process that is believed to be what its record says; put the labels of models back."""
        self._unwatch(instance)
        instance.record, instance.state, instance.error = record, State.RUNNING, None
        instance.ports = ports_of(record)
        instance.root = None if record.root is None else Path(record.root)
        instance.keep = record.owner_pid is None
        instance.supervised = instance.keep or instance.is_ours
        self._untrusted.pop(instance.name, None)
        if not self._closed:
            instance.watch = asyncio.get_running_loop().create_task(self._watch(instance, record, labelled or {}))

    def _refuse_too_many(self, name: str) -> None:
        busy = [other.name for other in self._instances.values() if other.state not in {State.STOPPED, State.FAILED}]
        if len(busy) >= self._settings.max_instances:
            raise LaunchError(
                f"'{name}' is one instance too many: {', '.join(sorted(busy))} are there already.",
                step="launch",
                hint="Stop one, or raise ServingExtension.max_instances.",
            )

    def _unwatch(self, instance: Instance) -> None:
        watch, instance.watch = instance.watch, None
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()

    def _forget(self, instance: Instance) -> None:
        instance.record, instance.state = None, State.STOPPED
        if self._instances.get(instance.name) is instance:
            del self._instances[instance.name]

    # --- looking ---

    async def _scan_again_and_again(self) -> None:
        while not self._closed:
            try:
                await self.scan()
            except (WorkbenchError, OSError) as error:
                self._log.warning("The records of serving processes cannot be read: %s", error)
            await asyncio.sleep(self._settings.poll_interval)

    async def scan(self) -> None:
        """Adopt the servers that have a record and are not known yet."""
        async with self._scan_lock:
            names = await self.threads.run(list_instances)
            for name in self._untrusted.keys() - set(names):
                del self._untrusted[name]
            for name in names:
                known = self._instances.get(name)
                if known is None or known.state in {State.STOPPED, State.FAILED}:
                    with contextlib.suppress(RecordError):  # kept in `untrusted`
                        await self._adopt_by_name(name)

    async def _adopt_by_name(self, name: str) -> None:
        known = self._instances.get(name)
        instance = known or Instance(name)
        async with instance.lock:
            if instance.state is State.RUNNING or (known is None and name in self._instances):
                return  # started meanwhile
            now = asyncio.get_running_loop().time()
            reason, until = self._untrusted.get(name, ("", 0.0))
            if now < until and await self.threads.run(record_path(name).exists):
                raise RecordError(reason)
            try:
                found = await self._adopt(instance, _SCAN_SECONDS)
            except RecordError as error:
                self._untrusted[name] = str(error), now + _DISTRUST_SECONDS
                raise
            self._untrusted.pop(name, None)
            if found is None:
                return
            if self._instances.setdefault(name, instance) is not instance:
                self._unwatch(instance)  # started meanwhile; that one has its own watch
                return
            self._log.info("Serving instance '%s' was found, pid %d.", name, found.pid)

    async def _watch(self, instance: Instance, record: Record, labelled: Models) -> None:
        """Look at a server now and then, until it ends; then see to what follows."""
        instance.error = await self._put_back(put_labels, record, labelled) or instance.error
        while not await wait_ended(record, self._settings.poll_interval):
            # Too busy to answer, about to end, or of a version that tells other things: its end is waited for anyhow.
            with contextlib.suppress(WorkbenchError, LookupError, TypeError):
                await self._look(instance, record)
        crashed = await self.threads.run(_left_a_record, record)
        instance.watch = instance.record = None
        if not crashed:
            self._log.info("Serving instance '%s' has ended.", instance.name)
            self._forget(instance)
        elif not instance.supervised:
            self._log.warning("Serving instance '%s' crashed; another process started it.", instance.name)
            self._forget(instance)
        else:
            await self._come_back(instance)

    async def _look(self, instance: Instance, record: Record) -> None:
        control = ControlClient.of(record)
        status = await self.threads.run(control.status)
        instance.models = await self.threads.run(models_of, status)
        statistics = (await self.threads.run(control.statistics))["models"]
        if instance.statistics and statistics != instance.statistics:
            self._on_traffic()
        instance.statistics = statistics

    async def _come_back(self, instance: Instance) -> None:
        """Start a server again that crashed, unless it does so too often."""
        now = asyncio.get_running_loop().time()
        crashes = instance.crashes
        while crashes and now - crashes[0] > self._settings.restart_window:
            crashes.popleft()
        crashes.append(now)
        if len(crashes) > self._settings.max_restarts:
            instance.state = State.FAILED
            instance.error = (
                f"It crashed {len(crashes)} times within {self._settings.restart_window:g} s; it is not restarted "
                "again by itself. Its log says why."
            )
            self._log.error("Serving instance '%s': %s", instance.name, instance.error)
            return
        delay = min(self._settings.restart_backoff * 2 ** (len(crashes) - 1), _MAX_BACKOFF)
        instance.state = State.RESTARTING
        instance.error = f"It crashed; it is started again after {delay:g} s."
        self._log.warning("Serving instance '%s': %s", instance.name, instance.error)
        # A task of its own, as the watch ends here; kept as the watch, so that who stops the instance ends this too.
        instance.watch = asyncio.get_running_loop().create_task(self._restart_later(instance, delay))

    async def _restart_later(self, instance: Instance, delay: float) -> None:
        await asyncio.sleep(delay)
        async with instance.lock:
            if instance.state is not State.RESTARTING or self._closed:
                return
            instance.restarts += 1
            try:
                await self._launch(instance)
            except WorkbenchError as error:
                self._log.error("Serving instance '%s' could not be started again: %s", instance.name, error)


def _left_a_record(record: Record) -> bool:
    """Whether the record of a process that has ended is still there."""
    try:
        left = read_record(record_path(record.name))
    except RecordError:
        return False
    return left is not None and left.instance_id == record.instance_id
