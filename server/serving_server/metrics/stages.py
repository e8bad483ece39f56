"""Where the time of batches goes, and why they ran when they did: a few additions per batch."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ALONE", "FULL", "IMMEDIATE", "REASONS", "TIMEOUT", "Stages"]

#: Why a batch ran: it took no more requests; it was as old as the timeout; there was nothing to wait for (the timeout
#: is 0, or is skipped as nothing runs); the request runs by itself (batching is off, or its batch failed).
FULL: Final = 0
TIMEOUT: Final = 1
IMMEDIATE: Final = 2
ALONE: Final = 3
#: Their names.
REASONS: Final = ("full", "timeout", "immediate", "alone")


class Stages:
    """Sums over the batches that were answered, in nanoseconds.

    Attributes
    ----------
    reasons : list of int
        Batches by why they ran: `FULL`, `TIMEOUT`, `IMMEDIATE`, `ALONE`.
    requests : int
        Requests in these batches.
    assembly, lane, run : int
        Putting the batch together; from the hand-over to the worker until its answer is here; of that, in the graph.
    by_request : list of int
        The same three, each batch counted once for each of its requests: what these waited for.
    """

    __slots__ = ("assembly", "by_request", "lane", "reasons", "requests", "run")

    def __init__(self) -> None:
        self.reasons = [0, 0, 0, 0]
        self.requests = 0
        self.assembly = 0
        self.lane = 0
        self.run = 0
        self.by_request = [0, 0, 0]

    def add(self, reason: int, requests: int, assembly: int, lane: int, run: int) -> None:
        """Count a batch of so many requests; times in nanoseconds."""
        self.reasons[reason] += 1
        self.requests += requests
        self.assembly += assembly
        self.lane += lane
        self.run += run
        whole = self.by_request
        whole[0] += assembly * requests
        whole[1] += lane * requests
        whole[2] += run * requests

    def merge(self, other: Stages) -> None:
        """Add what another one has counted."""
        self.reasons = [mine + theirs for mine, theirs in zip(self.reasons, other.reasons, strict=True)]
        self.requests += other.requests
        self.assembly += other.assembly
        self.lane += other.lane
        self.run += other.run
        self.by_request = [mine + theirs for mine, theirs in zip(self.by_request, other.by_request, strict=True)]

    def counts(self) -> dict[str, int]:
        """Return the batches by the name of the reason."""
        return dict(zip(REASONS, self.reasons, strict=True))

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as a JSON object, times in microseconds."""
        assembly, lane, run = (value / 1000 for value in self.by_request)
        return {
            "reasons": self.counts(),
            "requests": self.requests,
            "batch_us": {"assembly": self.assembly / 1000, "lane": self.lane / 1000, "run": self.run / 1000},
            "request_us": {"assembly": assembly, "lane": lane, "run": run},
        }
