"""The process that sends: ``python -m serving_workbench.load.child``, started by `running` and by nobody else.

It reads a `Job` from its standard input and writes lines of JSON to its standard output: ``ready`` before the run,
``failed`` instead of it, ``ended`` after it. A byte on the input ends the run; the end of the input ends the process,
so that it cannot outlive its owner, however that ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from serving_server.errors import ServingError, StatusCode
from serving_workbench.load.grpc_lanes import GrpcLanes
from serving_workbench.load.job import GRPC, Job
from serving_workbench.load.lanes import Lanes
from serving_workbench.load.ledger import Ledger
from serving_workbench.load.loops import ClosedLoop, Loop, OpenLoop, warm_up
from serving_workbench.load.rest_lanes import RestLanes

__all__ = ["main"]

#: Seconds for answers that are on their way when a run is stopped.
_STOPPED_DRAIN: Final = 0.5
#: Seconds for each burst of the warm-up.
_WARMUP: Final = 60.0
#: Objects between two looks of the garbage collector: calls come and go without cycles.
_GC_THRESHOLD: Final = 100_000


def _say(event: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


def _tls(job: Job) -> ssl.SSLContext | None:
    return None if job.tls is None else ssl.create_default_context(cadata=job.tls or None)


class _Owner:
    """Watches the standard input: a byte stops the run, its end ends the process at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = sys.stdin.fileno()
        self.run: Loop | None = None
        self.stopped = False
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 64)
        except BlockingIOError:
            return
        if not data:
            os._exit(1)  # nobody is left to be told anything
        self.stopped = True
        if self.run is not None:
            self.run.stop("stopped", _STOPPED_DRAIN)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)


async def _run(job: Job, ledger: Ledger) -> None:
    owner = _Owner()
    lanes: Lanes = (GrpcLanes if job.protocol == GRPC else RestLanes)(job, _tls(job))
    try:
        await lanes.open()
        status, details = await warm_up(lanes, job.warmup, _WARMUP)
        if status:
            _say("failed", code=_name(status), message=details)
            return
        lanes.stamp(job.stamped, job.stamp)  # not before: numbers of the warm-up come again
        run: Loop = (ClosedLoop if job.concurrency else OpenLoop)(lanes, job, ledger)
        owner.run = run
        if owner.stopped:
            run.stop("stopped", 0.0)
        _say("ready", unix=time.time())
        await run.run()
        _say(
            "ended",
            reason=run.reason,
            began=run.began,
            texts={str(code): text for code, text in run.texts.items()},
        )
    except ServingError as error:
        _say("failed", code=error.code.name, message=error.message)
    finally:
        owner.close()
        await lanes.close()


def _name(status: int) -> str:
    if status < 0:
        return StatusCode.DEADLINE_EXCEEDED.name
    return StatusCode(status).name if status < 100 else "UNKNOWN"


def main() -> int:
    """Do what the standard input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the owner's business
    gc.set_threshold(_GC_THRESHOLD)
    try:
        job = Job.read(sys.stdin.buffer)
    except EOFError:
        return 1
    ledger = Ledger(job.ledger_fd, job.capacity, job.max_ticks)
    factory: Callable[[], asyncio.AbstractEventLoop]
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:  # Windows has none
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_run(job, ledger))
    return 0


if __name__ == "__main__":
    sys.exit(main())
