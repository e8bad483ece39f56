"""A loaded version as the front sees it: its worker process, its scheduler, its signatures.

`ServedVersion` implements `serving_server.lifecycle.servable.Servable`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import psutil

from serving_server.batching.aside import Timing
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.scheduler import Scheduler
from serving_server.batching.task import Task
from serving_server.channel.lines import LineChannel, Message
from serving_server.errors import InternalError, ResourceExhaustedError, ServingError, StatusCode, UnavailableError
from serving_server.forkserver.client import ForkServer
from serving_server.load_options import LoadOptions
from serving_server.metrics.loads import LoadCounters
from serving_server.place import Place
from serving_server.profiles import WorkerProfiles
from serving_server.session_options import settings_of, share_processors
from serving_server.signatures import Signature, parse_signatures
from serving_server.statistics import Statistics
from serving_server.wire.messages import SignatureDefMap

__all__ = ["ServedVersion"]

log = logging.getLogger(__name__)

#: A worker ends at once when its control socket closes; one that does not within this is killed. Seconds.
_END_SECONDS: Final = 5.0

#: Lanes per version, however many processors or batch threads there are; runs beyond them wait. A lane is three
#: descriptors on both sides, and all of a new worker's must fit into one message (`serving_server.channel.lines`).
_MAX_LANES: Final = 64

#: How long the end of a worker's sockets waits for the forkserver to say why it ended. Seconds.
_REASON_SECONDS: Final = 0.3


class ServedVersion:
    """One version in one worker process. All calls on the loop.

    Attributes
    ----------
    model, version, path
        What is loaded, from where.
    signatures : dict of str to Signature
        All of the MetaGraphDef's, by name; set once loaded.
    signature_defs : message
        The same as `SignatureDefMap`, for metadata answers.
    frozen : tuple of str
        Signatures that run with constants in place of variables.
    session : dict of str to object
        What its session was made with, which stays when batching changes (see `session_options.settings_of`).
    statistics : Statistics
    """

    def __init__(
        self,
        model: str,
        version: int,
        path: Place,
        options: LoadOptions,
        forkserver: ForkServer,
        statistics: Statistics,
        loads: LoadCounters,
    ) -> None:
        self.model = model
        self.version = version
        self.path = path
        self.signatures: dict[str, Signature] = {}
        self.signature_defs: Any = SignatureDefMap()
        self.frozen: tuple[str, ...] = ()
        self.session: dict[str, Any] = {}
        #: What `serving_server.inference` and `example_inference` have found out about each signature, by what requests
        #: say: its name alone for Predict, with the method for the others.
        self.resolved: dict[Hashable, Any] = {}
        self.statistics = statistics
        self._loads = loads
        self._step = ""
        self._step_since = 0.0
        #: Where the time of the load went; None until it is loaded (`serving_server.version_profiles.startup`).
        self.startup: dict[str, Any] | None = None
        self._load_began = 0
        #: Profiles that its worker is asked for.
        self.profiles = WorkerProfiles(self._tell)
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._forkserver = forkserver
        self._process: psutil.Process | None = None
        self._control: LineChannel | None = None
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._on_step: Callable[[str], None] = _ignore
        self._ended: asyncio.Event = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._exit_reason: str | None = None
        self._on_exit: Callable[[str], None] | None = None
        self._closing = False
        self._scheduler: Scheduler | None = None

    # -- loading -------------------------------------------------------------------------------------------------------

    async def load(self, batching: BatchingParameters | None, on_step: Callable[[str], None]) -> None:
        """Fork a worker and wait until it has loaded and warmed up.

        Raises
        ------
        ServingError
            With the reason. Whatever happens, cancellation included, nothing is left behind.
        """
        try:
            await self._load(batching, on_step)
        except BaseException:
            await self.close()
            raise

    async def _load(self, batching: BatchingParameters | None, on_step: Callable[[str], None]) -> None:
        self._on_step = on_step
        self._load_began = time.monotonic_ns()
        self._scheduler = scheduler = Scheduler(
            batching, self.statistics, self._idle.set, unbatched=self._options.lanes, version=self.version
        )
        for _ in range(self._lanes_for(batching)):
            scheduler.add_lane()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control = LineChannel(ours, self._on_message, self._on_control_closed)
        on_step("fork")
        session = self._session_config(batching)
        self.session = settings_of(session)
        spec = {
            "model": self.model,
            "version": self.version,
            "path": str(self.path),
            "tags": list(self._options.tags),
            "tflite": self._options.prefer_tflite,
            "op_libraries": list(self._options.op_libraries),
            "session": base64.b64encode(session).decode(),
            "warmup": self._options.warmup,
            "warmup_iterations": self._options.warmup_iterations,
            "check_method_names": self._options.check_method_names,
            "freeze": self._options.freeze,
        }
        try:
            fds = [theirs.fileno()]
            for lane in scheduler.lanes:
                fds += lane.worker_fds()
            pid = await self._forkserver.fork(spec, fds)
        finally:
            theirs.close()
            for lane in scheduler.lanes:
                lane.handed_over()
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already; its sockets tell
            self._process = psutil.Process(pid)
        self._forkserver.on_exit(pid, self._exited)
        await self._loaded

    def _lanes_for(self, batching: BatchingParameters | None) -> int:
        return min(_MAX_LANES, max(self._options.lanes, batching.num_batch_threads if batching is not None else 0))

    def _session_config(self, batching: BatchingParameters | None) -> bytes:
        # Without batching nobody has said how much runs at once; a lone request may use all processors.
        if batching is None:
            return self._options.session
        return share_processors(self._options.session, batching.num_batch_threads, os.cpu_count() or 1)

    def _on_message(self, message: Message) -> None:
        event = message["event"]
        if event == "step":
            self._next_step(message["step"])
        elif event == "ready":
            self._count_warmup(StatusCode.OK, message["warmup_records"])
            self._note_startup(message)
            self.frozen = tuple(message["frozen"])
            self.signature_defs = SignatureDefMap.FromString(base64.b64decode(message["signatures"]))
            try:
                self.signatures = parse_signatures(self.signature_defs.signature_def)
            except ValueError as error:
                self._fail_load(InternalError(f"cannot read the signatures of {self.path}: {error}"))
            else:
                if not self._loaded.done():
                    self._loaded.set_result(None)
        elif event == "profiled":
            self.profiles.told(message)
        elif event == "failed":
            self._fail_load(ServingError(message["message"], StatusCode(message["code"])))

    def _note_startup(self, message: Message) -> None:
        told = message["startup"]
        self.startup = {
            "steps": [
                ("fork", told["began_ns"] - self._load_began),
                *map(tuple, told["laps"]),
                ("answer", time.monotonic_ns() - told["ended_ns"]),
            ],
            "variable_bytes": message["variable_bytes"],
            "warmup_records": message["warmup_records"],
        }

    @property
    def first_run_ns(self) -> int | None:
        """How long its first run of requests took in the graph; None before it."""
        return None if self._scheduler is None else self._scheduler.first_run_ns

    @property
    def later_runs(self) -> tuple[int, int]:
        """Runs of requests after the first one, and their time in the graph in ns."""
        if self._scheduler is None or self._scheduler.first_run_ns is None:
            return 0, 0
        # The counters go on over restarts of the worker; the scheduler does not.
        runs, run_ns = self._scheduler.counted_before
        stages = self.statistics.stages
        return sum(stages.reasons) - runs - 1, stages.run - run_ns - self._scheduler.first_run_ns

    def _tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        assert self._control is not None, "not loaded"
        self._control.send(message, fds)

    def _next_step(self, step: str) -> None:
        if step == "warmup":
            self._loads.loaded(str(self.path), time.monotonic() - self._step_since)
        self._step = step
        self._step_since = time.monotonic()
        self._on_step(step)

    def _count_warmup(self, code: StatusCode, records: int) -> None:
        if records:
            self._loads.warmed(str(self.path), code.name, time.monotonic() - self._step_since, records)

    def _fail_load(self, error: ServingError) -> None:
        if not self._loaded.done():
            if self._step == "warmup":
                self._count_warmup(error.code, 1)  # the one that failed
            else:
                self._loads.failed(str(self.path))
            self._loaded.set_exception(error)

    # -- requests ------------------------------------------------------------------------------------------------------

    def submit(self, task: Task) -> Callable[[], None]:
        """Take a request and return what cancels it (see `Scheduler.submit` for the errors)."""
        scheduler = self._scheduler
        assert scheduler is not None
        scheduler.submit(task)
        self._idle.clear()
        return lambda: scheduler.cancel(task)

    def run_aside(self, task: Task) -> asyncio.Future[Timing] | None:
        """Run a task only to measure it (see `Scheduler.run_aside`)."""
        assert self._scheduler is not None
        return self._scheduler.run_aside(task)

    @property
    def batching(self) -> BatchingParameters | None:
        """The batching parameters in force; None when off. May be set while requests run."""
        return None if self._scheduler is None else self._scheduler.parameters

    @batching.setter
    def batching(self, value: BatchingParameters | None) -> None:
        if self._scheduler is None or self._control is None:
            return
        self.provide_lanes(self._lanes_for(value))
        self._scheduler.parameters = value

    def provide_lanes(self, count: int) -> None:
        """See to it that there are lanes for so many runs at once, `_MAX_LANES` at most.

        How many batches run at once is up to the batching parameters all the same.

        Raises
        ------
        ResourceExhaustedError
        """
        if self._scheduler is None or self._control is None:
            return
        for _ in range(min(_MAX_LANES, count) - len(self._scheduler.lanes)):
            # One by one: a lane that the scheduler knows and the worker does not would swallow requests.
            try:
                lane = self._scheduler.add_lane()
            except OSError as error:
                msg = f"no more batch threads for model '{self.model}' version {self.version}: {error.strerror}"
                raise ResourceExhaustedError(msg) from error
            self._control.send({"op": "lanes"}, lane.worker_fds())
            lane.handed_over()

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return self.pending - self.running

    @property
    def running(self) -> int:
        """Requests being run."""
        return 0 if self._scheduler is None else self._scheduler.running

    def trim(self) -> None:
        """Give back shared memory that a burst has left behind."""
        if self._scheduler is not None:
            self._scheduler.trim()

    # -- what the lifecycle asks for -----------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None before the fork and after its end."""
        return None if self._process is None or self._ended.is_set() else self._process.pid

    @property
    def pending(self) -> int:
        """Requests waiting or running."""
        return 0 if self._scheduler is None else self._scheduler.pending

    async def drain(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - a drain cut short has a result
        """Wait until no request is pending; False when `timeout` seconds passed first."""
        while self.pending:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                return self.pending == 0
            if self.pending:  # another request came in between
                self._idle.clear()
        return True

    def on_exit(self, callback: Callable[[str], None]) -> None:
        """Call back on the loop, with the reason, if the worker ends by itself."""
        self._on_exit = callback
        if self._exit_reason is not None:
            self._loop.call_soon(callback, self._exit_reason)

    def _on_control_closed(self) -> None:
        # The forkserver's word on why comes by another socket, often a moment later.
        if self._exit_reason is None and not self._closing:
            self._loop.call_later(_REASON_SECONDS, self._exited, "ended for an unknown reason")

    def _exited(self, reason: str) -> None:
        self._ended.set()
        if self._exit_reason is not None or self._closing:
            return
        self._exit_reason = reason
        error = UnavailableError(
            f"the worker of model '{self.model}' version {self.version} {_was(reason)}; the request may be retried"
        )
        self.profiles.fail(error)
        self._fail_load(UnavailableError(f"the worker was lost while loading {self.path}: it {_was(reason)}"))
        if self._scheduler is not None:
            self._scheduler.fail(error)
        if self._on_exit is not None:
            self._on_exit(reason)

    async def close(self) -> None:
        """End the worker and free what it holds. Idempotent."""
        self._closing = True
        self.profiles.fail(UnavailableError(f"model '{self.model}' version {self.version} was unloaded"))
        self.resolved.clear()  # it refers to this object
        if self._scheduler is not None:
            # Nothing is pending after a drain; what a cut-short drain left is answered here.
            self._scheduler.fail(
                UnavailableError(f"model '{self.model}' version {self.version} was unloaded while this request ran")
            )
        if self._control is not None:
            self._control.close()
        if self._process is not None and not self._ended.is_set():
            try:
                await asyncio.wait_for(self._gone(), _END_SECONDS)
            except TimeoutError:
                log.warning("worker %d of %s/%d did not end; killing it", self._process.pid, self.model, self.version)
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._process.send_signal(signal.SIGKILL)  # psutil checks the create time: never a reused pid
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone(), _END_SECONDS)
        if self._scheduler is not None:
            self._scheduler.close()
        if self._loaded.done() and not self._loaded.cancelled():
            self._loaded.exception()  # retrieved, so that asyncio does not log it a second time

    async def _gone(self) -> None:
        """Wait for the forkserver's word; if it is gone itself, look at the process table."""
        assert self._process is not None
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 0.25)
            if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
                self._ended.set()


def _was(reason: str) -> str:
    return f"was {reason}" if reason.startswith("killed") else reason


def _ignore(step: str) -> None:
    """Stand in until someone listens to the steps of a load."""
