"""What a small display of all servers shows, such as JupyterLab's status bar: read when somebody asks, only then."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from serving_jupyter.extension.instance import Instance, State
from serving_jupyter.extension.supervisor import Supervisor
from serving_workbench.errors import WorkbenchError
from serving_workbench.manage.snapshot import RATE_SECONDS, Line, Reader, Snapshot

__all__ = ["Summaries"]

#: Seconds for which an answer is given again: however many pages are open, the servers are asked once.
_FRESH_SECONDS: Final = 1.0


class Summaries:
    """Reads the summary of all servers of a supervisor, on its event loop."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._readers: dict[str, tuple[str, Reader]] = {}  # by name, with the id of the process that is read
        self._turn = asyncio.Lock()
        self._last: list[dict[str, Any]] = []
        self._read_at = -1e9

    async def read(self) -> list[dict[str, Any]]:
        """Return one JSON object per instance that has not been stopped, by name.

        ``rate`` (requests per second of the last seconds) and ``memory`` (bytes, of all processes of the server, or of
        a version's own) are None while they are not known.
        """
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now - self._read_at > _FRESH_SECONDS:
                if now - self._read_at > 2 * RATE_SECONDS:
                    self._readers.clear()  # a rate since then would be an average of long ago
                self._read_at = now  # before it is read: what changes meanwhile outdates it
                shown = [each for each in self._supervisor.instances() if each.state is not State.STOPPED]
                self._readers = {each.name: self._reader(each) for each in shown}
                self._last = await asyncio.gather(*(self._summary(each) for each in shown))
            return self._last

    def outdate(self) -> None:
        """Have the next answer read anew: something was changed."""
        self._read_at = min(self._read_at, asyncio.get_running_loop().time() - _FRESH_SECONDS - 1e-3)

    def _reader(self, instance: Instance) -> tuple[str, Reader]:
        process = "" if instance.record is None else instance.record.instance_id
        known = self._readers.get(instance.name)
        return known if known is not None and known[0] == process else (process, Reader(instance.name))

    async def _summary(self, instance: Instance) -> dict[str, Any]:
        described = instance.describe()
        summary: dict[str, Any] = {
            **{name: described.get(name) for name in ("name", "state", "error", "restarts", "owner", "pid")},
            "memory": None,
            "rate": None,
            "models": [],
        }
        if instance.state is not State.RUNNING:
            return summary
        try:
            snapshot = await self._supervisor.threads.run(self._readers[instance.name][1].read)
        except (WorkbenchError, LookupError, TypeError) as error:  # about to end, hanging, or of another version
            return {**summary, "error": instance.error or f"It does not answer: {error}"}
        models = [_model(name, snapshot) for name in snapshot.models()]
        return {
            **summary,
            "error": " ".join([instance.error or "", *snapshot.problems]).strip() or None,
            "memory": snapshot.memory + sum(line.memory or 0 for line in snapshot.lines),
            "rate": _sum(model["rate"] for model in models),
            "models": models,
        }


def _model(name: str, snapshot: Snapshot) -> dict[str, Any]:
    lines = snapshot.of(name)
    answering = [line.version for line in lines if line.answers]
    below = min(answering, default=None)
    older = [line.version for line in lines if line.state != "REJECTED" and (below is None or line.version < below)]
    return {
        "name": name,
        "answers": sorted(answering),
        "rollback_to": max(older, default=None),
        "rate": _sum(line.rate for line in lines),
        "versions": [_version(line) for line in lines],
    }


def _version(line: Line) -> dict[str, Any]:
    names = ("version", "state", "answers", "share", "rate", "failing", "memory", "trouble")
    return {**{name: getattr(line, name) for name in names}, "labels": list(line.labels)}


def _sum(rates: Any) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None
