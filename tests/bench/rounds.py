"""What a load generator tells of one round."""

from __future__ import annotations

import dataclasses

__all__ = ["Round", "quantile"]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of load.

    Attributes
    ----------
    requests : int
        Answered, and rightly as far as the generator looks.
    rate : float
        Of those per second.
    p50_ms, p99_ms, max_ms : float
        Latency. Of a closed loop from when the request was sent; of an open one from when it was meant to be.
    failed : int
        Not answered, or with an error, or wrong.
    bytes_per_answer : float
        What came as DATA or body.
    client_cpu_us : float
        User and system time of the generator per request.
    late_p99_ms : float
        Open loop: by how much the generator itself was late to send; part of the latency.
    error : str
        The first failure.
    """

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    bytes_per_answer: float
    client_cpu_us: float
    late_p99_ms: float = 0.0
    error: str = ""


def quantile(ordered: list[float], part: float) -> float:
    """Return a quantile of sorted values; not a number when there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")
