"""One version of one model: its state machine, and the tasks that load, restart and unload it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from serving_server.errors import InternalError, ServingError, StatusCode, UnavailableError
from serving_server.lifecycle.clock import Clock, LoopClock
from serving_server.lifecycle.crashes import CrashHistory, CrashPolicy
from serving_server.lifecycle.servable import Loader, Servable
from serving_server.lifecycle.slots import LoadSlots
from serving_server.lifecycle.states import State, VersionView
from serving_server.place import Place

__all__ = ["Settings", "Version"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Settings:
    """What all versions of a manager share. Times in seconds."""

    loader: Loader
    slots: LoadSlots
    unload_slots: LoadSlots | None = None  # None: unloads never wait for each other
    resource_preserving: bool = False  # unload what is not wanted before loading what is
    on_state: Callable[[Version, State, State], None]  # (version, old, new), after the change
    on_detail: Callable[[], None]  # a step or an error text changed
    on_failed: Callable[[Version, float], None]  # a try to load failed that had begun at this `time.time()`
    max_load_retries: int = 5
    load_retry_interval: float = 60.0
    crash: CrashPolicy = field(default_factory=CrashPolicy)
    drain_timeout: float = 60.0
    close_timeout: float = 10.0
    clock: Clock = field(default_factory=LoopClock)


class Version:
    """Drives one version from START to END, on the event loop.

    The manager decides *whether* it should be loaded (`begin`, `stop`, `retry`); this class knows *how*. At most one
    task works on loading and one on stopping, and the stopping one waits for the other.
    """

    def __init__(self, model: str, number: int, path: Place, settings: Settings) -> None:
        self.model = model
        self.number = number
        self.path = path
        self.offered_path = path  # where the next try to load will look
        self.state = State.UNKNOWN
        self.step: str | None = None
        self.error: ServingError | None = None
        self.servable: Servable | None = None
        self.load_seconds: float | None = None
        self.restarts = 0
        self.restarting = False  # LOADING because the worker crashed
        self.lapsed = False  # was unwanted since it failed, so wanting it again is a new beginning
        self._settings = settings
        self._crashes = CrashHistory(settings.crash)
        self._attempt: object | None = None  # the running try, whose steps are believed
        self._up_since = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stop_task: asyncio.Task[None] | None = None
        self._drain_task: asyncio.Task[bool] | None = None

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

    @property
    def stopping(self) -> bool:
        """True from `stop` until END."""
        return self._stop_task is not None and self.state is not State.END

    @property
    def failed(self) -> bool:
        """True in END after a failure, False in END after an ordinary unload."""
        return self.state is State.END and self.error is not None

    def view(self, *, held: bool) -> VersionView:
        """Return a snapshot."""
        return VersionView(
            version=self.number,
            state=self.state,
            held=held,
            error_code=StatusCode.OK if self.error is None else self.error.code,
            error_message="" if self.error is None else self.error.message,
            step=self.step,
            load_seconds=self.load_seconds,
            restarts=self.restarts,
            pending=0 if self.servable is None else self.servable.pending,
            worker_pid=None if self.servable is None else self.servable.pid,
            path=self.path,
        )

    # -- what the manager asks for ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Load it, from UNKNOWN or END."""
        assert self.state in {State.UNKNOWN, State.END}, self.state
        self.error = None
        self.lapsed = False
        self._crashes.clear()
        self._stop_task = None
        self._task = asyncio.create_task(self._load_with_retries(self._task), name=f"load {self}")
        self._set(State.START, step="queued")

    def stop(self) -> None:
        """Cancel the load, or drain and unload; ends in END. Nothing happens when it is stopping or ended."""
        if self.stopping or self.state in {State.UNKNOWN, State.END}:
            return
        self._stop_task = asyncio.create_task(self._shut(), name=f"unload {self}")
        if self.state is State.AVAILABLE:
            logger.info("Unloading %s", self)
            self._set(State.UNLOADING)

    def retry(self) -> bool:
        """Try a failed load again now, with the full number of retries; return False when there is none."""
        if self.failed:
            self.begin()
            return True
        if self.state is State.LOADING and self.error is not None and not self.restarting and not self.stopping:
            self._wake.set()
            return True
        return False

    def cut_drain(self) -> None:
        """Stop waiting for running requests."""
        if self._drain_task is not None:
            self._drain_task.cancel()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that are at work on this version."""
        return [task for task in (self._task, self._stop_task) if task is not None and not task.done()]

    # -- loading --------------------------------------------------------------------------------------------------

    async def _load_with_retries(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])  # a crashed worker of the life before is still being cleared away
        tries = 0
        while True:
            async with self._settings.slots.hold(self.model, self.number):
                began = time.time()
                failure = await self._try_load()
            if failure is None or self._abandoned():
                return
            tries += 1
            left = self._settings.max_load_retries + 1 - tries
            self.error = failure
            if left <= 0:
                times = f" (tried {tries} times)" if tries > 1 else ""
                logger.error("Loading %s failed%s: %s", self, times, failure.message)
                self._set(State.END)
                self._settings.on_failed(self, began)
                return
            pause = max(0.0, self._settings.load_retry_interval)
            logger.warning("Loading %s failed, %d tries left, the next in %g s: %s", self, left, pause, failure.message)
            self.step = "queued"
            self._wake.clear()
            self._settings.on_detail()
            self._settings.on_failed(self, began)
            if await self._pause(pause):
                tries = 0

    async def _pause(self, seconds: float) -> bool:
        """Wait; return True when `retry` ended the wait."""
        waits = [asyncio.create_task(self._settings.clock.sleep(seconds)), asyncio.create_task(self._wake.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._wake.is_set()

    async def _try_load(self) -> ServingError | None:
        """Load once and go to AVAILABLE; return what went wrong."""
        self.path = self.offered_path
        self._set(State.LOADING, step="queued")
        began = self._settings.clock.time()
        current = object()
        self._attempt = current

        def on_step(step: str) -> None:
            if self._attempt is current and self.state is State.LOADING and self.step != step:
                self.step = step
                self._settings.on_detail()

        try:
            servable = await self._settings.loader.load(self.model, self.number, self.path, on_step)
        except ServingError as error:
            return error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Something inside the loader was cancelled, not this load: without an answer it would look like
            # loading for ever.
            return InternalError(f"The load of {self} was cut off inside the server")
        except Exception as error:  # a bug in the loader must end as a failed version, with its traceback
            logger.exception("Unexpected error while loading %s", self)
            return InternalError(f"Loading {self} failed unexpectedly: {type(error).__name__}: {error}")
        finally:
            self._attempt = None
        if self._abandoned():
            await self._close(servable)
            return None
        now = self._settings.clock.time()
        self.servable = servable
        self.error = None
        self.restarting = False
        self.load_seconds = now - began
        self._up_since = now
        logger.info("Loaded %s in %.3f s from %s", self, self.load_seconds, self.path)
        self._set(State.AVAILABLE)
        # After AVAILABLE, because a worker that died in between may be reported from inside this call.
        servable.on_exit(partial(self._on_exit, servable))
        return None

    def _abandoned(self) -> bool:
        """Tell the loading task that a loader finished too late, in spite of being cancelled."""
        return self._stop_task is not None or asyncio.current_task() is not self._task

    # -- crashes --------------------------------------------------------------------------------------------------

    def _on_exit(self, servable: Servable, reason: str) -> None:
        if self.servable is not servable or self.state is not State.AVAILABLE:
            if self.state is State.UNLOADING:
                logger.warning("The worker of %s ended while it was being unloaded: %s", self, reason)
                self.cut_drain()
            return
        self.servable = None
        delay = self._note_crash(reason, self._up_since)
        cleanup = self._close(servable) if delay is None else self._restart(servable, delay)
        self._task = asyncio.create_task(cleanup, name=f"restart {self}")
        self._publish_crash(delay)

    def _note_crash(self, reason: str, up_since: float | None) -> float | None:
        delay = self._crashes.add(self._settings.clock.time(), up_since)
        window = self._settings.crash.window
        if delay is None:
            self.error = UnavailableError(
                f"worker of {self} crashed {len(self._crashes)} times in {window:g} s; last: {reason}. "
                "Not restarting it: look for the cause in the server's log, then deploy a corrected version or "
                "set the version policy to one that works"
            )
            logger.error("%s", self.error.message)
        else:
            when = f"in {delay:g} s" if delay else "now"
            self.error = UnavailableError(f"worker of {self} ended: {reason}; it is being restarted {when}")
            logger.error("%s", self.error.message)
        return delay

    def _publish_crash(self, delay: float | None) -> None:
        self.restarting = delay is not None
        if delay is None:
            self._set(State.END)
        else:
            self._set(State.LOADING, step="queued")

    async def _restart(self, dead: Servable, delay: float) -> None:
        await self._close(dead)
        while True:
            if delay:
                await self._settings.clock.sleep(delay)
            # No slot is taken: bringing back what was serving must not queue behind new versions.
            self.restarts += 1
            failure = await self._try_load()
            if failure is None or self._abandoned():
                return
            again = self._note_crash(f"the restart failed: {failure.message}", None)
            self._publish_crash(again)
            if again is None:
                return
            delay = again

    # -- unloading ------------------------------------------------------------------------------------------------

    async def _shut(self) -> None:
        bound = self._settings.close_timeout
        if self._task is not None and not self._task.done():
            self._task.cancel()
            _, late = await asyncio.wait([self._task], timeout=bound)
            if late:
                logger.error("The cancelled load of %s did not end within %g s", self, bound)
        servable = self.servable
        if servable is not None:
            await self._drain(servable)
            slots = self._settings.unload_slots
            async with nullcontext() if slots is None else slots.hold(self.model, self.number):
                await self._close(servable)
            self.servable = None
        self.error = None
        self.restarting = False
        logger.info("Unloaded %s", self)
        self._set(State.END)

    async def _drain(self, servable: Servable) -> None:
        limit = self._settings.drain_timeout
        self._drain_task = asyncio.create_task(servable.drain(limit), name=f"drain {self}")
        # `wait` does not raise when the drain is cut; the extra second lets the servable answer for itself.
        await asyncio.wait([self._drain_task], timeout=limit + 1.0)
        drained = False
        if not self._drain_task.done():
            self._drain_task.cancel()
        elif not self._drain_task.cancelled():
            error = self._drain_task.exception()
            if error is not None:
                logger.error("Draining %s failed", self, exc_info=error)
            else:
                drained = self._drain_task.result()
        self._drain_task = None
        if not drained:
            logger.warning("Closing %s with %d requests unanswered (drain limit %g s)", self, servable.pending, limit)

    async def _close(self, servable: Servable) -> None:
        try:
            async with asyncio.timeout(self._settings.close_timeout):
                await servable.close()
        except TimeoutError:
            logger.error("The worker of %s did not close within %g s", self, self._settings.close_timeout)
        except Exception:  # the version must reach END; the traceback is kept in the log
            logger.exception("Closing the worker of %s failed", self)

    def _set(self, state: State, step: str | None = None) -> None:
        old, self.state, self.step = self.state, state, step
        if old is state:
            self._settings.on_detail()
        else:
            self._settings.on_state(self, old, state)
