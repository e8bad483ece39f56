"""Load by wrk, a second external generator for REST: what it finds should agree with what h2load does."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.bench.rounds import Round

__all__ = ["available", "run"]

#: Latencies and the duration are in us.
_SCRIPT: Final = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open(os.getenv("WRK_BODY"), "rb")
wrk.body = file:read("*a")
file:close()

function done(summary, latency, requests)
  local e = summary.errors
  local format = '\\n{"requests": %d, "us": %d, "bytes": %d, "failed": %d, "p50": %d, "p99": %d, "max": %d}\\n'
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format(format, summary.requests, summary.duration, summary.bytes, failed,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def available() -> bool:
    """Whether wrk is installed (Debian: wrk)."""
    return shutil.which("wrk") is not None


def run(url: str, body: bytes, *, connections: int, seconds: float) -> Round:
    """Send one REST request over and over, one in flight on each connection, for whole seconds."""
    with tempfile.TemporaryDirectory(prefix="wrk-") as name:
        data, script = Path(name) / "body", Path(name) / "post.lua"
        data.write_bytes(body)
        script.write_text(_SCRIPT)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"-s{script}", url]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            env=os.environ | {"WRK_BODY": str(data)},
        ).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(output.strip().splitlines()[-1])
    answered = found["requests"] - found["failed"]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(
        requests=answered,
        rate=answered / found["us"] * 1e6,
        p50_ms=found["p50"] / 1e3,
        p99_ms=found["p99"] / 1e3,
        max_ms=found["max"] / 1e3,
        failed=found["failed"],
        bytes_per_answer=found["bytes"] / max(1, answered),  # with their headers
        client_cpu_us=used / max(1, answered) * 1e6,
    )
