"""Load by h2load (nghttp2), the external generator of the data-plane benchmark: gRPC on HTTP/2, REST on HTTP/1.1.

h2load repeats one request and does not look at gRPC trailers, so a round counts only if every answer had the size of a
right one (an error has no message).
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.bench.rounds import Round, quantile

__all__ = ["available", "run"]


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
        The message, or JSON.
    connections, streams : int
        Requests in flight: their product.
    seconds : float or None
        How long; None: `count` requests.
    grpc : bool
        HTTP/2 with gRPC's headers, else HTTP/1.1 with JSON.
    """
    with tempfile.TemporaryDirectory(prefix="h2load-") as name:
        data, log = Path(name) / "body", Path(name) / "log"
        data.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body if grpc else body)
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
        limit = (seconds or 60) + 20
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit).stdout
        except subprocess.TimeoutExpired:
            # It waits for ever for a connection that was not accepted before the time was up, so once more.
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [int(line.split("\t")[2]) for line in log.read_text().splitlines() if line.split("\t")[1] == "200"]
    rate = float(_find(r"finished in .*?, ([\d.]+) req/s", output))
    succeeded, failed = (int(_find(rf"(\d+) {word}", output)) for word in ("succeeded", "failed"))
    size = int(_find(r"\((\d+)\) data", output))
    ordered = sorted(micros / 1000 for micros in times)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(
        requests=succeeded,
        rate=rate,
        p50_ms=quantile(ordered, 0.5),
        p99_ms=quantile(ordered, 0.99),
        max_ms=quantile(ordered, 1.0),
        failed=failed,
        bytes_per_answer=size / max(1, succeeded),
        client_cpu_us=used / max(1, succeeded) * 1e6,
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"h2load printed something unexpected:\n{text}")
    return match.group(1)
