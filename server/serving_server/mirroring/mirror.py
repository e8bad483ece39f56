"""One mirror: which requests are copied, when the copies run, what is counted, when it ends by itself.

The primary comes first: its answer has been handed to the transport before anything is copied, and a copy waits in a
bounded queue until a later turn of the loop. Copies run in bursts, which share batches, with pauses in between: the
shadow is busy for a small share of the time, so that few of the primary's requests meet it on the processors. What
finds no room meanwhile is dropped and counted. An error of the shadow reaches nobody but the record.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from serving_server.batching.task import OnDone, Task
from serving_server.errors import InternalError, ServingError
from serving_server.examples import INPUTS
from serving_server.inputs import check_dtypes, check_inputs, select_outputs, signature_of
from serving_server.mirroring.pairs import Answer, Pair, Pairs, copied, size_of
from serving_server.mirroring.wish import Wish
from serving_server.multi_inference import Plan
from serving_server.signatures import Signature
from serving_server.tensors import Array

if TYPE_CHECKING:
    from serving_server.inference import Resolved
    from serving_server.servable import ServedVersion

__all__ = ["API", "Mirror", "Union"]

log = logging.getLogger(__name__)

#: What the run time of copies counts for in the shadow's metrics.
API: Final = "Mirror"

#: Bytes of arrays that wait or run.
MAX_BYTES: Final = 64 * 1024 * 1024

#: The shadow is unhealthy when half of its last so many answers were errors; not judged before so many.
RECENT: Final = 40
JUDGED: Final = 20

#: Targets whose marked forms are remembered: signatures of the versions that answer.
_MAX_MARKED: Final = 256


@dataclasses.dataclass(slots=True, eq=False)
class _Copy:
    """A request that the primary has answered."""

    time: float
    api: str
    signature: str
    output_filter: tuple[str, ...]
    inputs: dict[str, Array]
    primary: Answer
    size: int
    since: float
    union: Union | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Union:
    """What a MultiInference request wants, whose tensors have other names in each version.

    Attributes
    ----------
    plan : Plan
        Of the primary.
    plan_of : callable
        From a version to its target and its plan of the same tasks; may raise a `ServingError`.
    """

    plan: Plan
    plan_of: Callable[[ServedVersion], tuple[Resolved, Plan]]


class Mirror:
    """Sends copies of a model's requests to one version. All calls on the loop.

    Parameters
    ----------
    shadow : ServedVersion
    wish : Wish
    rng : random.Random
    on_unhealthy : callable
        Called with the reason when this mirror should end.
    clock : callable
        Seconds, for times of answers and pauses.

    Attributes
    ----------
    counts : Counter of str
        ``seen`` requests that could be copied; ``chosen`` by lot and answered by the primary, of which ``dropped`` for
        want of room, ``answered`` and ``failed`` by the shadow, ``discarded`` at the end; what is left waits or runs.
    pairs : Pairs
    since : float
        Seconds since 1970.
    """

    def __init__(
        self,
        shadow: ServedVersion,
        wish: Wish,
        rng: random.Random,
        on_unhealthy: Callable[[str], object],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.shadow = shadow
        self.wish = wish
        self.since = time.time()
        self.counts: Counter[str] = Counter()
        self.pairs = Pairs(wish.pairs)
        self._lot = rng.random
        self._on_unhealthy = on_unhealthy
        self._loop = asyncio.get_running_loop()
        self._marked: dict[int, tuple[Resolved, Resolved]] = {}
        self._targets: dict[str, Signature] = {}
        self._waiting: deque[_Copy] = deque()
        self._running: dict[_Copy, Callable[[], None]] = {}
        self._bytes = 0
        self._clock = clock
        self._burst_began = 0.0
        self._free_at = 0.0  # when the pause after the last burst ends
        self._next: asyncio.Handle | None = None  # the burst that is due
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._ended = False

    @property
    def waiting(self) -> int:
        """Copies that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Copies that the shadow has."""
        return len(self._running)

    @property
    def lag(self) -> float:
        """Seconds since the primary answered the oldest request whose copy still waits or runs; 0 with none."""
        oldest = min((copy.since for copy in (*self._running, *islice(self._waiting, 1))), default=None)
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    # -- requests of the primary ---------------------------------------------------------------------------------------

    def marked(self, resolved: Resolved) -> Resolved:
        """Decide about a request: return its target with this mirror in it, or as it is."""
        if resolved.servable is self.shadow:
            return resolved
        self.counts["seen"] += 1
        if self.wish.fraction < 1 and self._lot() >= self.wish.fraction:
            return resolved
        known = self._marked.get(id(resolved))
        if known is not None and known[0] is resolved:
            return known[1]
        if len(self._marked) >= _MAX_MARKED:
            self._marked.clear()
        found = dataclasses.replace(resolved, mirror=self)
        self._marked[id(resolved)] = resolved, found
        return found

    def watched(
        self,
        resolved: Resolved,
        inputs: dict[str, Array],
        outputs: tuple[str, ...],
        api: str,
        on_done: OnDone,
        union: Union | None = None,
    ) -> OnDone:
        """Return what hands a request's answer over and then copies the request.

        Parameters
        ----------
        resolved : Resolved
        inputs : dict of str to numpy.ndarray
            By alias; they are kept, not copied.
        outputs : tuple of str
            Aliases that the primary runs.
        api : str
        on_done : callable
            Takes the answer.
        union : Union, optional
            Of a MultiInference request.
        """
        clock = self._clock
        began = clock()

        def hand_over_and_copy(answer: dict[str, Array] | None, error: ServingError | None) -> None:
            seconds = clock() - began
            on_done(answer, error)
            if answer is None or self._ended:
                return
            self.counts["chosen"] += 1
            if len(self._waiting) >= self.wish.queue:
                self.counts["dropped"] += 1
                return
            size = size_of(inputs) + size_of(answer)
            if self._bytes + size > MAX_BYTES:
                self.counts["dropped"] += 1
                return
            if union is not None:
                answer, name = union.plan.named(answer), union.plan.name
                sent = {INPUTS: next(iter(inputs.values()))}
            else:
                name, sent = resolved.signature.name, _without_defaults(inputs, resolved.signature)
            primary = Answer(resolved.version, seconds, copied(answer))
            output_filter = () if outputs == resolved.outputs else outputs
            self._bytes += size
            self._waiting.append(_Copy(time.time(), api, name, output_filter, sent, primary, size, clock(), union))
            self._burst_later()

        return hand_over_and_copy

    # -- copies --------------------------------------------------------------------------------------------------------

    def _burst_later(self) -> None:
        """Have the next burst begin after the pause, in a later turn, so that the answers of this one leave first."""
        if self._next is None and self._waiting and not self._running and not self._ended:
            self._next = self._loop.call_later(max(0.0, self._free_at - self._clock()), self._burst)

    def _burst(self) -> None:
        self._next = None
        self._burst_began = self._clock()
        for _ in range(min(self.wish.at_once, len(self._waiting))):
            self._run(self._waiting.popleft())
            if self._ended:
                return
        if not self._running:  # all were refused
            self._pause()

    def _pause(self) -> None:
        """Keep the next burst waiting until this one was a small enough share of the time."""
        now = self._clock()
        self._free_at = now + (now - self._burst_began) * (1 / self.wish.busy - 1)
        self._burst_later()

    def _run(self, copy: _Copy) -> None:
        began = self._clock()
        waited = began - copy.since

        def done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            self._running.pop(copy, None)
            if outputs is not None and plan is not None:
                outputs = plan.named(outputs)
            found = None if outputs is None else copied(outputs)
            error = None if found is not None else error or InternalError("no outputs and no error")
            self._finished(copy, Answer(self.shadow.version, self._clock() - began, found, error), waited)
            if not self._running:
                self._pause()

        plan: Plan | None = None
        try:
            if copy.union is None:
                task = self._task(copy, done)
            else:
                target, plan = copy.union.plan_of(self.shadow)
                task = self._union_task(copy, target, done)
            cancel = self.shadow.submit(task)
        except ServingError as error:
            self._finished(copy, Answer(self.shadow.version, self._clock() - began, None, error), waited)
        else:
            self._running[copy] = cancel

    def _task(self, copy: _Copy, done: OnDone) -> Task:
        # As a client's request: what the shadow would refuse then, it refuses here.
        signature = self._targets.get(copy.signature)
        if signature is None:
            signature = self._targets[copy.signature] = signature_of(self.shadow.signatures, copy.signature)
        given = copy.inputs
        check_inputs(signature, given.keys())
        inputs = {alias: given[alias] if alias in given else signature.defaults[alias] for alias in signature.inputs}
        check_dtypes(signature, inputs)
        outputs = select_outputs(signature, copy.output_filter)
        now = self._loop.time()
        return Task(signature, inputs, outputs, now, now + self.wish.timeout, done, API)

    def _union_task(self, copy: _Copy, target: Resolved, done: OnDone) -> Task:
        signature = target.signature
        inputs = dict.fromkeys(signature.inputs, copy.inputs[INPUTS])
        check_dtypes(signature, inputs)
        now = self._loop.time()
        return Task(signature, inputs, target.outputs, now, now + self.wish.timeout, done, API)

    def _finished(self, copy: _Copy, shadow: Answer, waited: float) -> None:
        self._bytes -= copy.size
        right = shadow.error is None
        self.counts["answered" if right else "failed"] += 1
        number, size = self.pairs.last + 1, copy.size + size_of(shadow.outputs or {})
        pair = Pair(number, copy.time, copy.api, copy.signature, copy.inputs, copy.primary, shadow, waited)
        self.pairs.add(pair, size)
        self._recent.append(right)
        if shadow.error is None or len(self._recent) < JUDGED:
            return
        wrong = len(self._recent) - sum(self._recent)
        if 2 * wrong >= len(self._recent):
            last = f"{shadow.error.code.name}: {shadow.error.message}"
            self._on_unhealthy(f"{wrong} of the last {len(self._recent)} copies failed; last: {last}")

    def close(self) -> None:
        """Copy no more and discard what waits or runs. Idempotent."""
        self._ended = True
        if self._next is not None:
            self._next.cancel()
        running, self._running = self._running, {}
        for cancel in running.values():
            cancel()
        self.counts["discarded"] += len(self._waiting) + len(running)
        self._waiting.clear()
        self._bytes = 0
        self._marked.clear()

    def to_json(self) -> dict[str, Any]:
        """Return settings and counts as a JSON object."""
        counts = self.counts
        done = counts["answered"] + counts["failed"]
        names = ("seen", "chosen", "answered", "failed", "dropped", "discarded")
        return {
            "version": self.wish.version,
            **{name: getattr(self.wish, name) for name in ("fraction", "busy", "queue", "at_once", "timeout")},
            "since": self.since,
            **{name: counts[name] for name in names},
            "waiting": self.waiting,
            "running": self.running,
            "lag_seconds": self.lag,
            "coverage": done / counts["seen"] if counts["seen"] else None,
            "pairs": {"remembered": len(self.pairs), "capacity": self.wish.pairs, "last": self.pairs.last},
        }


def _without_defaults(inputs: dict[str, Array], signature: Signature) -> dict[str, Array]:
    """Return what the client has sent: the shadow has defaults of its own."""
    defaults = signature.defaults
    return {a: array for a, array in inputs.items() if array is not defaults.get(a)} if defaults else inputs
