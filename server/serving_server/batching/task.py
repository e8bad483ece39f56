"""One request on its way through a version: its arrays, what it wants back, and whom to tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter

from serving_server.errors import ServingError
from serving_server.signatures import Signature
from serving_server.stamps.asked import Asked
from serving_server.tensors import Array
from serving_server.traffic.outcomes import Outcomes

__all__ = ["OnDone", "Task"]

log = logging.getLogger(__name__)

#: Called once on the loop with the outputs by alias, or with an error. The arrays are views of shared memory that the
#: next batch overwrites: whoever wants to keep them copies them inside the call.
OnDone = Callable[[dict[str, Array] | None, ServingError | None], None]


class Task:
    """A request.

    Attributes
    ----------
    signature : Signature
    inputs : dict of str to numpy.ndarray
        By alias, in feed order; dtypes already checked.
    outputs : tuple of str
        Aliases to compute.
    rows : int
        Size of the 0th dimension when batched; 1 otherwise.
    deadline : float or None
        On the loop's clock, seconds.
    whole : Task or None
        The larger request that it is a part of; only that one counts in the statistics and has a deadline to watch.
    created : float
        When it came, on the loop's clock, which uvloop keeps to milliseconds; batches wait by it.
    arrived : float
        The same by `time.perf_counter`; statistics count by it.
    received : float
        When its transport had it, by the same clock; 0.0 for requests that came by no transport.
    asked : Asked or None
        What its client wants to be told beside the answer.
    api : str
        ``Predict``, ``Classify``, ``Regress`` or ``MultiInference``, whichever way it came.
    pieces : sequence of Task
        What it was cut into, when it is larger than a batch (see `serving_server.batching.splitting`).
    batch : object or None
        The waiting batch that holds it; None before and after.
    outcomes : Outcomes or None
        Where it counts in addition, as a request of a split.
    point : int
        What it is known by there; set together with `outcomes`, as all others do without.
    """

    point: int

    __slots__ = (
        "_on_done",
        "api",
        "arrived",
        "asked",
        "batch",
        "created",
        "deadline",
        "inputs",
        "outcomes",
        "outputs",
        "pieces",
        "point",
        "received",
        "rows",
        "signature",
        "whole",
    )

    def __init__(
        self,
        signature: Signature,
        inputs: dict[str, Array],
        outputs: tuple[str, ...],
        created: float,
        deadline: float | None,
        on_done: OnDone,
        api: str = "Predict",
        received: float = 0.0,
        asked: Asked | None = None,
    ) -> None:
        self.signature = signature
        self.inputs = inputs
        self.outputs = outputs
        self.rows = 1
        self.whole: Task | None = None
        self.batch: object | None = None
        self.pieces: Sequence[Task] = ()
        self.outcomes: Outcomes | None = None
        self.created = created
        self.deadline = deadline
        self.api = api
        self.received = received
        self.asked = asked
        self.arrived = perf_counter()
        self._on_done: OnDone | None = on_done

    @property
    def done(self) -> bool:
        """Whether it was answered or cancelled."""
        return self._on_done is None

    def finish(self, outputs: dict[str, Array] | None, error: ServingError | None) -> bool:
        """Answer it, unless that has happened; says whether this call did."""
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return False
        try:
            on_done(outputs, error)
        except Exception:  # of the transport's; the other requests of the batch must not suffer
            log.exception("handing over an answer failed")
        return True

    def cancel(self) -> bool:
        """Forget whom to tell; says whether it was still open."""
        was_open = self._on_done is not None
        self._on_done = None
        return was_open
