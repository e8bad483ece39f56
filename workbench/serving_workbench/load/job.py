"""What the sending process is told, on its standard input: a line of JSON, then arrival times and bodies."""

from __future__ import annotations

import array
import dataclasses
import json
from collections.abc import Sequence
from typing import BinaryIO, Final

__all__ = ["GRPC", "REST", "Job", "Request", "request_id"]

GRPC: Final = "grpc"
REST: Final = "rest"

#: Path, and message or JSON.
Request = tuple[str, bytes]


@dataclasses.dataclass
class Job:
    """One run.

    Attributes
    ----------
    protocol : str
        `GRPC` or `REST`.
    address : str
        ``host:port`` or, for gRPC, ``unix:/path``.
    tls : str or None
        PEM text of certificates to trust; "" for the system's; None: no TLS.
    metadata : list of (name, value)
        Sent with each request: gRPC metadata, HTTP headers.
    seconds : float
        Length of the window in which requests begin.
    concurrency : int
        Requests in flight of a closed loop; 0: an open loop, by `times`.
    connections : int
    max_in_flight : int
        Of an open loop: beyond it, requests that are due wait.
    max_backlog : int
        Of an open loop: with more requests that are due and not answered, the run ends; it tells nothing more.
    drain : float
        Seconds for the last answers.
    warmup : list of int
        Sizes of the bursts before the run.
    ledger_fd, capacity, max_ticks : int
        See `ledger.Ledger`.
    times : array of float64
        See `schedule.Schedule`.
    requests : list of Request
        Sent in turn, from the first again after the last.
    stamped : int
        Of so many requests one has an id of its own, `request_id`; 0: none.
    stamp : str
        How these ids begin.
    """

    protocol: str
    address: str
    tls: str | None
    metadata: list[tuple[str, str]]
    seconds: float
    concurrency: int
    connections: int
    max_in_flight: int
    max_backlog: int
    drain: float
    warmup: list[int]
    ledger_fd: int
    capacity: int
    max_ticks: int
    times: array.array[float]
    requests: Sequence[Request]
    stamped: int = 0
    stamp: str = ""

    def write(self, file: BinaryIO) -> None:
        """Write it to a pipe."""
        paths = sorted({path for path, _ in self.requests})
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del plain["times"], plain["requests"]
        plain["paths"] = paths
        plain["count"] = len(self.times)
        # A comparison names the same few requests again and again, in an order of its own.
        places: dict[tuple[str, int], int] = {}
        plain["order"] = [places.setdefault((path, id(body)), len(places)) for path, body in self.requests]
        different = list({(path, id(body)): (path, body) for path, body in self.requests}.values())
        plain["bodies"] = [[paths.index(path), len(body)] for path, body in different]
        file.write(json.dumps(plain).encode() + b"\n")
        file.write(self.times.tobytes())
        file.writelines(body for _, body in different)
        file.flush()

    @classmethod
    def read(cls, file: BinaryIO) -> Job:
        """Read it.

        Raises
        ------
        EOFError
            The writer has ended in the middle.
        """
        line = file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        plain = json.loads(line)
        paths = plain.pop("paths")
        times = array.array("d", _exactly(file, 8 * plain.pop("count")))
        different = [(paths[path], _exactly(file, size)) for path, size in plain.pop("bodies")]
        requests = [different[place] for place in plain.pop("order")]
        plain["metadata"] = [(name, value) for name, value in plain["metadata"]]
        return cls(times=times, requests=requests, **plain)


def request_id(stamp: str, number: int) -> str:
    """Return the ``x-request-id`` of a request that has one."""
    return f"{stamp}-{number}"


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
