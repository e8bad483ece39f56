"""A deploy asked for over REST: `serving_workbench.serve` of a SavedModel's folder, in a process of its own.

A deploy copies files, holds tensors and uses gRPC's threads; none of that belongs into the Jupyter server, whose memory
and forks serve all notebooks. The process reads one JSON object from standard input and writes one to standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving_workbench.errors import WorkbenchError

__all__ = ["Deploy", "DeployRefusedError", "deploy"]

#: Seconds on top of a deploy's own time limit, for imports, the copy of its files and its withdrawal.
_EXTRA_SECONDS: Final = 120.0
_WITHDRAW_SECONDS: Final = 2.0
_TAIL_BYTES: Final = 2000


@dataclass(frozen=True)
class Deploy:
    """What to deploy; see `serving_workbench.serve` for all but `path`, the folder of a SavedModel."""

    path: str
    name: str
    instance: str
    root: str
    version: int | None = None
    warmup: str | None = None
    timeout: float = 120.0


class DeployRefusedError(Exception):
    """A deploy failed for one of the workbench's reasons; what served before still does.

    Attributes
    ----------
    kind : str
        Name of the workbench's error class.
    code : str or None
        Of a `ControlError`.
    """

    def __init__(self, message: str, kind: str, code: str | None) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code


async def deploy(wish: Deploy) -> dict[str, Any]:
    """Run a deploy; return ``name``, ``version``, ``instance_id``, ``seconds`` by step, and ``messages``.

    Raises
    ------
    DeployRefusedError
    RuntimeError
        The process failed in a way of its own.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(wish.timeout + _EXTRA_SECONDS):
            output, errors = await process.communicate(json.dumps(vars(wish)).encode())
    except TimeoutError:
        raise RuntimeError(f"The deploy of '{wish.name}' hung and was ended.") from None
    finally:
        if process.returncode is None:
            await _end(process)
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        tail = errors[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        raise RuntimeError(f"The deploy of '{wish.name}' ended with code {process.returncode}: {tail}") from None
    if "error" in answer:
        raise DeployRefusedError(answer["error"], answer["kind"], answer["code"])
    return answer


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a deploy under way: interrupted it withdraws what it has begun; SIGKILL when that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), _WITHDRAW_SECONDS)
        except TimeoutError:
            process.kill()
    await process.wait()


def _main() -> None:
    from serving_workbench.deploy import serve  # only here: the Jupyter server shall not have it

    wish = Deploy(**json.load(sys.stdin))
    try:
        served = serve(
            wish.path,
            wish.name,
            root=Path(wish.root) if wish.root else None,
            version=wish.version,
            instance=wish.instance,
            warmup=wish.warmup,
            progress=False,
            timeout=wish.timeout,
        )
    except WorkbenchError as error:
        answer = {"error": str(error), "kind": type(error).__name__, "code": getattr(error, "code", None)}
    else:
        answer = {
            "name": served.name,
            "version": served.version,
            "instance_id": served.server.instance_id,
            "seconds": served.seconds,
            "messages": served.messages,
        }
        served.server.close()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
