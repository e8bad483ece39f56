"""Load by h2load (nghttp2), the external generator of the data-plane benchmark: gRPC on HTTP/2, REST on HTTP/1.1.

h2load repeats one request and does not look at gRPC trailers, so a round counts only if every answer had the size of a
right one (an error has no message).
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

__all__ = ["Round", "available", "run"]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round: requests answered, per second, latency quantiles (ms), failures, and DATA bytes per answer."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    failed: int
    bytes_per_answer: float


def available() -> bool:
    """Whether h2load is installed (Debian: nghttp2-client)."""
    return shutil.which("h2load") is not None


def run(
    url: str, body: bytes, *, connections: int, streams: int, seconds: float | None, count: int = 0, grpc: bool
) -> Round:
    """Send one request over and over.

    Parameters
    ----------
    url : str
    body : bytes
        gRPC: with its 5-byte prefix.
    connections, streams : int
        Requests in flight: their product.
    seconds : float or None
        How long; None: `count` requests.
    grpc : bool
        HTTP/2 with gRPC's headers, else HTTP/1.1 with JSON.
    """
    with tempfile.TemporaryDirectory(prefix="h2load-") as name:
        data, log = Path(name) / "body", Path(name) / "log"
        data.write_bytes(body)
        amount = [f"-D{seconds * 1000:.0f}ms"] if seconds is not None else [f"-n{count}"]
        if grpc:
            headers = ["-Hcontent-type: application/grpc", "-Hte: trailers"]
        else:
            headers = ["--h1", "-Hcontent-type: application/json"]
        command = [
            *("h2load", "-t1", f"-c{connections}", f"-m{streams}", *amount, *headers),
            # Wide windows, so that a 1 MB message is not measured as a matter of window updates.
            *("-w24", "-W24", f"-d{data}", f"--log-file={log}", url),
        ]
        limit = (seconds or 60) + 60
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit).stdout
        times = [int(line.split("\t")[2]) for line in log.read_text().splitlines() if line.split("\t")[1] == "200"]
    rate = float(_find(r"finished in .*?, ([\d.]+) req/s", output))
    succeeded, failed = (int(_find(rf"(\d+) {word}", output)) for word in ("succeeded", "failed"))
    size = int(_find(r"\((\d+)\) data", output))
    times.sort()
    return Round(
        succeeded,
        rate,
        statistics.median(times) / 1000 if times else float("nan"),
        times[min(len(times) - 1, int(len(times) * 0.99))] / 1000 if times else float("nan"),
        failed,
        size / max(1, succeeded),
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"h2load printed something unexpected:\n{text}")
    return match.group(1)
