"""What the loops need of a protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Done", "Lanes"]

#: ``done(message, status, details)``, called once, never from within `Lanes.send`. The status is gRPC's, or HTTP's (100
#: and more); 0 and 200 are good.
Done = Callable[[Any, int, str], None]


class Lanes(Protocol):
    """Connections to one server. All calls on the loop."""

    async def open(self) -> None:
        """Connect; raises a ServingError."""

    def send(self, lane: int, number: int, done: Done) -> None:
        """Send request `number` of the run.

        Parameters
        ----------
        lane : int
            Requests of one lane share a connection, and those of one turn of the loop a write.
        number : int
        done : callable
        """

    def stamp(self, every: int, stamp: str) -> None:
        """From now on, send of so many requests one with an id of its own (see `job.request_id`)."""

    def usable(self) -> bool:
        """Whether a request could be sent now. Connections found lost are replaced, from now on."""

    async def close(self) -> None:
        """Close all, whatever is in flight."""
