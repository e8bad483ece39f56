"""Owns the process that sends: starts it, looks at its ledger meanwhile, stops it, takes what it found."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from serving_workbench.errors import LoadError
from serving_workbench.load.job import Job
from serving_workbench.load.ledger import Ledger
from serving_workbench.load.records import UNANSWERED, UNSENT, Client, Records

__all__ = ["LiveView", "Sender"]

#: Seconds: for the process to start and to warm the server up; to end after it was told to; to say goodbye.
_READY: Final = 120.0
_STOP: Final = 1.2
_GOODBYE: Final = 5.0
_LIVE_SECONDS: Final = 1.0


class LiveView(NamedTuple):
    """A run while it goes on, or at its end; rates and percentiles are those of about the last second.

    Attributes
    ----------
    seconds : float
        Since its beginning; 0 while it warms up.
    sent, answered, in_flight : int
    rate : float
        Answers per second.
    p50, p99 : float
        Seconds, of good answers, from the scheduled time where there is one; not a number when there were none.
    errors : int
        Bad answers, of the last second.
    client_cpu : float
        CPU of the sender, 1 is a whole core.
    """

    seconds: float
    sent: int
    answered: int
    in_flight: int
    rate: float
    p50: float
    p99: float
    errors: int
    client_cpu: float


class Sender:
    """One run of `child`, from its start to its end. `close` it, whatever happens.

    Parameters
    ----------
    make_job : callable
        ``make_job(ledger_fd)`` returns the `Job`.
    capacity, max_ticks : int
        Of the ledger.
    times : numpy.ndarray of float64 or None
        Scheduled times of an open loop.
    what : str
        Whom it asks, for messages.
    """

    def __init__(
        self,
        make_job: Callable[[int], Job],
        capacity: int,
        max_ticks: int,
        times: NDArray[np.float64] | None,
        what: str,
    ) -> None:
        self._times = times
        self._what = what
        self._said: dict[str, dict[str, Any]] = {}
        self._pending = b""
        self._killed = False  # by `stop`
        self._ledger = Ledger.create(capacity, max_ticks)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._machine = psutil.cpu_times()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving_workbench.load.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=(self._ledger.fd,),
                start_new_session=True,  # a terminal's Ctrl-C is for its owner
                # The notebook's folder may hold a module that shadows one of ours.
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            os.set_blocking(self.process.stdout.fileno(), False)
            try:
                make_job(self._ledger.fd).write(self.process.stdin)  # type: ignore[arg-type]
            except BrokenPipeError:
                self.process.wait(_GOODBYE)
                raise self._crashed() from None
        except BaseException:
            self.close()
            raise

    # -- what it says --------------------------------------------------------------------------------------------------

    def _listen(self, seconds: float) -> None:
        """Take what the process says within this time; notes its end as the event ``gone``."""
        process = self.process
        if process is None or "gone" in self._said:
            return
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        if not ready:
            return
        data = process.stdout.read()
        if data == b"":
            self._said["gone"] = {}
            return
        *lines, self._pending = (self._pending + (data or b"")).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self._said[said.pop("event")] = said

    def poll(self, seconds: float) -> bool:
        """Wait for news, up to so many seconds; return whether the run has ended.

        Raises
        ------
        LoadError
            It could not begin, or its process crashed before it began.
        """
        deadline = time.monotonic() + seconds
        while not self.ended:
            self._listen(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                break
        self._check_began()
        return self.ended

    def wait_ready(self) -> None:
        """Wait until the server is warm and the first request goes out.

        Raises
        ------
        LoadError
        """
        deadline = time.monotonic() + _READY
        while "ready" not in self._said and not self.ended:
            self._listen(0.25)
            if time.monotonic() > deadline:
                raise LoadError(f"{self._what} did not answer the warm-up within {_READY:g} s.", code="UNAVAILABLE")
        self._check_began()

    @property
    def began(self) -> bool:
        """Whether the first request of the run was sent."""
        return "ready" in self._said

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return "ended" in self._said or "failed" in self._said or "gone" in self._said

    @property
    def crashed(self) -> bool:
        """Whether its process ended without a word."""
        return "gone" in self._said and not ("ended" in self._said or "failed" in self._said)

    def _check_began(self) -> None:
        failed = self._said.get("failed")
        if failed is not None:
            raise LoadError(
                f"{self._what} does not answer the first request: {failed['code']}: {failed['message']}",
                code=failed["code"],
                hint="Nothing was measured.",
            )
        if self.crashed and "ready" not in self._said:
            raise self._crashed()

    def _crashed(self) -> LoadError:
        self._stderr.seek(0)
        text = self._stderr.read().decode("utf-8", "replace").strip()
        assert self.process is not None
        return LoadError(
            f"The load generator's process ended by itself ({self.process.poll()}):\n{text[-2000:]}", code="INTERNAL"
        )

    # -- what it finds -------------------------------------------------------------------------------------------------

    def live(self) -> LiveView:
        """Return how it goes, from the ledger."""
        ledger = self._ledger
        rows, answers, ticks = ledger.begun, ledger.answers, ledger.tick_count
        if not ticks:
            return LiveView(0.0, 0, 0, 0, 0.0, np.nan, np.nan, 0, 0.0)
        lately = np.array(ledger.ticks[3 * max(0, ticks - 21) : 3 * ticks]).reshape(-1, 3)
        now = float(lately[-1, 0])
        # Answers of the last second belong to the last requests; those of a long stall may be further back.
        first = max(0, min(rows - 1, int(rows - 4 * (rows - answers) - 200_000)))
        answered = np.array(ledger.answered[first:rows])
        recent = np.flatnonzero(answered > now - _LIVE_SECONDS)
        status = np.array(ledger.status[first:rows])[recent]
        begun = self._times[first:rows] if self._times is not None else np.array(ledger.sent[first:rows])
        good = (status == 0) | (status == 200)
        latency = (answered - begun)[recent][good]
        p50, p99 = np.percentile(latency, (50, 99)) if len(latency) else (np.nan, np.nan)
        span = float(now - lately[0, 0])
        cpu = float(lately[-1, 1] - lately[0, 1]) / span if span > 0 else 0.0
        seconds = min(_LIVE_SECONDS, now) or 1.0
        bad = int((~good).sum())
        return LiveView(now, rows, answers, rows - answers, len(recent) / seconds, p50, p99, bad, cpu)

    def records(self) -> Records:
        """Return copies of the columns, as far as they were written.

        Requests that were due and not even sent are in it, with NaN.
        """
        ledger = self._ledger
        rows = ledger.begun
        if self.crashed:
            process = self.process
            if process is not None:
                process.wait(_GOODBYE)
            rows = _written(ledger)
        ended = self._said.get("ended", {})
        ticks = np.array(ledger.ticks[: 3 * ledger.tick_count]).reshape(-1, 3)
        span = float(ticks[-1, 0]) if len(ticks) else 0.0
        reason = ended.get("reason", "crashed" if self.crashed and not self._killed else "stopped")
        scheduled = self._times
        total = rows
        if scheduled is not None:
            # A run that ended early has nothing to do with what was due later.
            total = max(rows, int(np.searchsorted(scheduled, span))) if reason else len(scheduled)
            scheduled = scheduled[:total].copy()
        sent, answered = np.full(total, np.nan), np.full(total, np.nan)
        sent[:rows] = ledger.sent[:rows]
        answered[:rows] = ledger.answered[:rows]
        status = np.full(total, UNSENT, np.uint16)
        status[:rows] = ledger.status[:rows]
        waited = np.zeros(total, np.bool_)
        waited[:rows] = np.array(ledger.waited[:rows]) != 0
        missing = np.flatnonzero(answered[:rows] == 0)
        answered[missing] = np.nan
        status[missing] = UNANSWERED
        return Records(
            scheduled=sent if scheduled is None else scheduled,
            sent=sent,
            answered=answered,
            status=status,
            waited=waited,
            ticks=ticks,
            texts={int(code): str(text) for code, text in ended.get("texts", {}).items()},
            reason=reason,
            client=self._client(ticks),
            began_unix=float(self._said.get("ready", {}).get("unix", 0.0)),
            began=float(ended.get("began", np.nan)),
        )

    def _client(self, ticks: NDArray[np.float64]) -> Client:
        cpu = float(ticks[-1, 1] - ticks[0, 1]) if len(ticks) > 1 else 0.0
        seconds = float(ticks[-1, 0] - ticks[0, 0]) if len(ticks) > 1 else 0.0
        before, after = self._machine, psutil.cpu_times()
        idle = after.idle - before.idle + getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0)
        total = sum(after) - sum(before) - (getattr(after, "guest", 0.0) - getattr(before, "guest", 0.0))
        stolen = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
        return Client(
            cpu_seconds=cpu,
            seconds=seconds,
            machine_busy=1 - idle / total if total > 0 else float("nan"),
            stolen=stolen / total if total > 0 else float("nan"),
            cores=os.cpu_count() or 1,
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the run now; answers on their way get half a second. What was found is kept. Idempotent."""
        process = self.process
        if process is None or self.ended:
            return
        assert process.stdin is not None
        if self.began:
            with contextlib.suppress(OSError):  # it may be ending by itself
                process.stdin.write(b"s")
                process.stdin.flush()
            deadline = time.monotonic() + _STOP
            while not self.ended and time.monotonic() < deadline:
                self._listen(0.05)
        if not self.ended:
            process.kill()
            self._killed = True
            self._said["gone"] = {}

    def close(self) -> None:
        """End the process, if it has not ended, and let go of everything; idempotent."""
        process, self.process = self.process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not flushed is of no use to it any more
                        pipe.close()  # the end of its input ends it
            try:
                process.wait(_GOODBYE if self.ended else 0.5)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait(_GOODBYE)
        self._ledger.close()
        self._stderr.close()


def _written(ledger: Ledger) -> int:
    """Return how many rows a sender that crashed has begun with; its last note may be older."""
    rows = ledger.begun
    step = 1024
    while rows < ledger.capacity:
        more = np.array(ledger.sent[rows : rows + step])
        found = int(np.count_nonzero(more))
        rows += found
        if found < len(more):
            break
    return rows
