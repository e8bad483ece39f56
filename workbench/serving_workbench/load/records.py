"""The raw arrays of a run: 27 bytes a request."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_server.errors import StatusCode

__all__ = ["UNANSWERED", "UNSENT", "Client", "Records", "status_name"]

#: Statuses of requests without an answer, beside gRPC's (0 to 16) and HTTP's (100 to 599).
UNANSWERED: Final = 65535
UNSENT: Final = 65534

Floats = NDArray[np.float64]


def status_name(status: int) -> str:
    """Return ``OK``, ``UNAVAILABLE``, ``HTTP 404``, ``unanswered``..."""
    if status in (UNANSWERED, UNSENT):
        return "unanswered" if status == UNANSWERED else "unsent"
    if status == 200:
        return StatusCode.OK.name
    if status >= 100:
        return f"HTTP {status}"
    return StatusCode(status).name if status in StatusCode._value2member_map_ else f"status {status}"


@dataclasses.dataclass(frozen=True)
class Client:
    """The sending process, and the machine under it, during a run.

    Attributes
    ----------
    cpu_seconds : float
        User and system time.
    seconds : float
        Over which it was taken.
    machine_busy, stolen : float
        Share of all cores' time that anybody used, and that other virtual machines took.
    cores : int
    """

    cpu_seconds: float
    seconds: float
    machine_busy: float
    stolen: float
    cores: int

    @property
    def cpu_share(self) -> float:
        """CPU of the sender, 1 is a whole core; it uses no more than one."""
        return self.cpu_seconds / self.seconds if self.seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class Records:
    """What happened to each request, in the order of their numbers; times in seconds from the beginning of the run.

    Attributes
    ----------
    scheduled : numpy.ndarray of float64, [n]
        When it was due; in a closed loop when it was sent.
    sent, answered : numpy.ndarray of float64, [n]
        NaN: never.
    status : numpy.ndarray of uint16, [n]
        See `status_name`.
    waited : numpy.ndarray of bool, [n]
        It was due while as many requests were in flight as may be.
    ticks : numpy.ndarray of float64, [ticks, 3]
        Every 50 ms: seconds, CPU seconds of the sender, requests in flight.
    texts : dict of int to str
        What the first answer of each bad status said.
    reason : str
        Why it ended early; empty when it did not.
    client : Client
    began_unix : float
        Seconds since 1970.
    began : float
        On CLOCK_MONOTONIC, which all processes of a machine share.
    """

    scheduled: Floats
    sent: Floats
    answered: Floats
    status: NDArray[np.uint16]
    waited: NDArray[np.bool_]
    ticks: Floats
    texts: dict[int, str]
    reason: str
    client: Client
    began_unix: float
    began: float

    def __len__(self) -> int:
        return len(self.scheduled)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Requests with a good answer."""
        found: NDArray[np.bool_] = (self.status == 0) | (self.status == 200)
        return found

    @property
    def latency(self) -> Floats:
        """Seconds from the scheduled time to the answer, good or bad: what a user waits (no coordinated omission)."""
        return self.answered - self.scheduled

    @property
    def send_latency(self) -> Floats:
        """Seconds from sending to the answer: how the server sees it, and what most tools show."""
        return self.answered - self.sent

    @property
    def lag(self) -> Floats:
        """Seconds from the scheduled time to sending."""
        return self.sent - self.scheduled

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        fields: list[Any] = [self.sent, self.answered, self.status, self.waited, self.ticks]
        if self.scheduled is not self.sent:
            fields.append(self.scheduled)
        return sum(int(array.nbytes) for array in fields)
