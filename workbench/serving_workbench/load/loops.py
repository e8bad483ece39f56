"""The two ways to load a server: so many requests in flight (closed loop), or requests at given times (open loop).

Both note what happens in the ledger; what is common to them is in `Loop`. A callback per request, no task, no future.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from typing import Any, Final

from serving_server.errors import StatusCode
from serving_workbench.load.alarm import Alarm
from serving_workbench.load.job import Job
from serving_workbench.load.lanes import Lanes
from serving_workbench.load.ledger import Ledger

__all__ = ["CAP", "ClosedLoop", "Loop", "OpenLoop", "warm_up"]

#: Seconds between two ticks, on average: regular ones could always meet the same moment of a regular load, so they are
#: spread by the golden ratio.
TICK: Final = 0.05
_GOLDEN: Final = (5**0.5 - 1) / 2
#: Seconds without a usable connection after which a run ends.
_GONE: Final = 2.0
#: An open loop sends what is due at most so often, so that at high rates a write carries several: waking up is what
#: requests cost. At 5000/s this is worth a quarter of the CPU, for 60 us of lag. Seconds.
_SHORTEST_NAP: Final = 250e-6
#: Statuses of which the first text is kept.
_MAX_TEXTS: Final = 20
_GOOD: Final = (0, 200)
#: Why a run ended before its time.
CAP: Final = "backlog"
FULL: Final = "full"
GONE: Final = "gone"

_clock = time.perf_counter


class Loop:
    """One run.

    Attributes
    ----------
    reason : str
        Why it ended before its time; empty if it did not: `CAP`, `FULL`, `GONE`, or what `stop` was given.
    texts : dict of int to str
        What the first answer of each bad status said.
    began : float
        On the clock `time.perf_counter`.
    ended : asyncio.Event
        Every request has its answer, or will get none.
    """

    def __init__(self, lanes: Lanes, job: Job, ledger: Ledger) -> None:
        self.lanes = lanes
        self.job = job
        self.ledger = ledger
        self.reason = ""
        self.texts: dict[int, str] = {}
        self.began = 0.0
        self.ended = asyncio.Event()
        self.begun = 0
        self.answers = 0
        self.sending = True
        self.closed = False  # what closing the connections answers is no answer
        self._sent = ledger.sent
        self._answered = ledger.answered
        self._status = ledger.status
        self._timers: list[asyncio.TimerHandle] = []
        self._unusable_since: float | None = None
        self._ticker = Alarm(self._tick)
        self._phase = 0.0

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return self.begun - self.answers

    async def run(self) -> None:
        """Send until the end of the window, then wait for the last answers.

        What is there before is not looked at by the garbage collector during the run, whose pauses would be latencies.
        """
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        self.began = _clock()
        self._tick()
        self.start()
        window = loop.call_later(self.job.seconds, self.finish)
        try:
            await self.ended.wait()
        finally:
            self.sending = False
            self.closed = True
            window.cancel()
            for timer in self._timers:
                timer.cancel()
            self.close()
            self.ledger.note(self.begun, self.answers)
            self.ledger.tick(_clock() - self.began, time.process_time(), self.in_flight)

    def start(self) -> None:
        """Send the first requests."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of timers."""
        self._ticker.close()

    def finish(self) -> None:
        """Begin nothing more that is not due; the last answers get `Job.drain` seconds."""
        self.sending = False
        self._drain(self.job.drain)

    def stop(self, reason: str, drain: float) -> None:
        """End the run early; answers that are on their way get a moment."""
        if not self.reason:
            self.reason = reason
        self.sending = False
        self._drain(drain)

    def _drain(self, seconds: float) -> None:
        if not self.in_flight:
            self.ended.set()
        else:
            self._timers.append(asyncio.get_running_loop().call_later(seconds, self.ended.set))

    def bad(self, status: int, details: str) -> None:
        """Note an answer that is none."""
        if status not in self.texts and len(self.texts) < _MAX_TEXTS:
            self.texts[int(status)] = details
        if status == StatusCode.UNAVAILABLE:
            self.look()

    def look(self) -> bool:
        """Return whether requests can be sent; when none could for too long, end the run."""
        if self.lanes.usable():
            self._unusable_since = None
            return True
        now = _clock()
        if self._unusable_since is None:
            self._unusable_since = now
        elif now - self._unusable_since > _GONE and self.sending:
            self.stop(GONE, 0.0)
        return False

    def _tick(self) -> None:
        now = _clock()
        self._phase = (self._phase + _GOLDEN) % 1
        self._ticker.set(now + (0.5 + self._phase) * TICK)
        self.ledger.note(self.begun, self.answers)
        self.ledger.tick(now - self.began, time.process_time(), self.in_flight)
        self.on_tick(self.look())

    def on_tick(self, usable: bool) -> None:
        """Do what is to be done now and then."""


class ClosedLoop(Loop):
    """Keeps `Job.concurrency` requests in flight: each answer is followed by a request, on the same lane."""

    def __init__(self, lanes: Lanes, job: Job, ledger: Ledger) -> None:
        super().__init__(lanes, job, ledger)
        #: Lanes whose connection is lost: they would only fail, as fast as they can.
        self._resting: list[int] = []

    def start(self) -> None:
        for lane in range(self.job.concurrency):
            self._begin(lane)

    def _begin(self, lane: int) -> None:
        number = self.begun
        if number >= self.ledger.capacity:
            self.stop(FULL, self.job.drain)
            return
        self.begun = number + 1
        self._sent[number] = _clock() - self.began
        self.lanes.send(lane, number, functools.partial(self._done, lane, number))

    def _done(self, lane: int, number: int, message: Any, status: int, details: str) -> None:
        if self.closed:
            return
        self._answered[number] = _clock() - self.began
        self._status[number] = status
        self.answers += 1
        if status not in _GOOD:
            self.bad(status, details)
            if status == StatusCode.UNAVAILABLE and self.sending and not self.lanes.usable():
                self._resting.append(lane)
                return
        if self.sending:
            self._begin(lane)
        elif self.answers == self.begun:
            self.ended.set()

    def on_tick(self, usable: bool) -> None:
        if usable and self.sending:
            resting, self._resting = self._resting, []
            for lane in resting:
                self._begin(lane)


class OpenLoop(Loop):
    """Sends at the scheduled times, whatever the server does, as long as no more are in flight than may be."""

    def __init__(self, lanes: Lanes, job: Job, ledger: Ledger) -> None:
        super().__init__(lanes, job, ledger)
        self._times = job.times
        self._count = len(job.times)
        self._blocked = False
        self._over = False
        self._turn = 0
        self._alarm = Alarm(self._shoot)

    def start(self) -> None:
        self._alarm.set(self.began)

    def close(self) -> None:
        super().close()
        self._alarm.close()

    def finish(self) -> None:
        # All that is scheduled is due by now, and is sent if the cap allows it before the last answers are in.
        self._over = True
        self._shoot()
        self._timers.append(asyncio.get_running_loop().call_later(self.job.drain, self.ended.set))

    def stop(self, reason: str, drain: float) -> None:
        super().stop(reason, drain)
        self._alarm.silence()

    def _shoot(self) -> None:
        began, times, count = self.began, self._times, self._count
        now = _clock() - began
        number = self.begun
        self._turn += 1  # what is due together goes out in one write
        most = self.answers + self.job.max_in_flight
        if self.sending:
            while number < count and times[number] <= now and number < most:
                self.begun = number + 1
                if self._blocked:
                    self.ledger.waited[number] = 1
                self._sent[number] = now
                self.lanes.send(self._turn, number, functools.partial(self._done, number))
                number += 1
                now = _clock() - began
        self._blocked = number < count and times[number] <= now
        if not self.sending or number >= count or self._blocked:
            self._alarm.silence()
            if self.answers == self.begun and not self._blocked:
                self._rest()
        else:
            self._alarm.set(began + max(times[number], now + _SHORTEST_NAP))

    def _done(self, number: int, message: Any, status: int, details: str) -> None:
        if self.closed:
            return
        self._answered[number] = _clock() - self.began
        self._status[number] = status
        self.answers += 1
        if status not in _GOOD:
            self.bad(status, details)
        if self._blocked and self.sending:
            self._shoot()
        elif self.answers == self.begun and (not self.sending or self.begun == self._count):
            self._rest()

    def _rest(self) -> None:
        """All that was sent is answered: the run is over, unless its window is not."""
        if not self.sending or (self.begun == self._count and self._over):
            self.ended.set()

    def on_tick(self, usable: bool) -> None:
        # Arrivals are in order, so one of them tells whether more than so many are due and not answered.
        first = self.answers + self.job.max_backlog
        if self.sending and first < self._count and self._times[first] <= _clock() - self.began:
            self.stop(CAP, min(1.0, self.job.drain))


async def warm_up(lanes: Lanes, sizes: list[int], seconds: float) -> tuple[int, str]:
    """Send bursts of these sizes, one after the other, so that a batching server runs batches of about each.

    Returns
    -------
    (int, str)
        Status and text of the first bad answer; a status of -1 when a burst took longer than `seconds`.
    """
    number = 0
    for size in sizes:
        burst = _Burst(size)
        for _ in range(size):
            lanes.send(size, number, burst.done)
            number += 1
        try:
            await asyncio.wait_for(burst.ended.wait(), seconds)
        except TimeoutError:
            return -1, f"no answer within {seconds:g} s"
        if burst.bad is not None:
            return burst.bad
    return 0, ""


class _Burst:
    def __init__(self, size: int) -> None:
        self._left = size
        self.bad: tuple[int, str] | None = None
        self.ended = asyncio.Event()

    def done(self, message: Any, status: int, details: str) -> None:
        self._left -= 1
        if status not in _GOOD and self.bad is None:
            self.bad = (int(status), details)
        if not self._left:
            self.ended.set()
