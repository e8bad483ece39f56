"""The worker's own call of a model, in a process without any server, asked round by round: the rest is serving.

    with InProcess({"mlp": path}) as limit:
        rate, p50_ms = limit.measure("mlp", rows=64, seconds=1.0)

So its rounds stand beside a server's, and drift of the machine hits both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["InProcess"]

ROOT: Final = Path(__file__).parent.parent.parent


class InProcess:
    """Models in a process of their own.

    Parameters
    ----------
    versions : mapping of str to Path
        Version folders by name; each is loaded when first asked for.
    """

    def __init__(self, versions: Mapping[str, Path]) -> None:
        self._versions = versions

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.in_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def measure(self, model: str, rows: int, seconds: float) -> tuple[float, float]:
        """Call the model with batches of `rows`; rows/s and the median of a call in ms."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(self._versions[model]), rows, seconds]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process with the model {model} has ended")
        rate, p50_ms = json.loads(line)
        return rate, p50_ms


def _load(path: Path) -> tuple[Any, Any]:
    """Return the signature and the call as a worker runs it: frozen where it may be."""
    from serving_server.session_options import SessionFlags, decide
    from serving_server.signatures import parse_signatures
    from serving_server.worker.freeze import freeze
    from serving_server.worker.model import Model

    model = Model(path, ["serve"], decide(SessionFlags()).config)
    signatures = parse_signatures(model.signature_defs().signature_def)
    signature = signatures["serving_default"]
    twin = freeze(model.session, model.config, {"serving_default": signature}, {})
    if twin.session is not None:
        model.adopt(twin, signatures)
    feeds = [spec.tensor_name for spec in signature.inputs.values()]
    fetches = [spec.tensor_name for spec in signature.outputs.values()]
    return signature, model.runnable(feeds, fetches)[0]


def main() -> None:
    """Answer one line of JSON with another, until the input ends."""
    from serving_server.worker.freeze import draw_sample

    loaded: dict[str, tuple[Any, Any]] = {}
    for line in sys.stdin:
        path, rows, seconds = json.loads(line)
        if path not in loaded:
            loaded[path] = _load(Path(path))
        signature, call = loaded[path]
        arrays = list(draw_sample(signature, rows).values())
        call(*arrays)
        times = []
        started = now = time.perf_counter()
        while now - started < seconds:
            call(*arrays)
            before, now = now, time.perf_counter()
            times.append(now - before)
        times.sort()
        print(json.dumps([len(times) * rows / (now - started), times[len(times) // 2] * 1e3]), flush=True)


if __name__ == "__main__":
    main()
