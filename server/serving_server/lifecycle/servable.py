"""What the lifecycle needs from a loaded version and from whatever loads it; the data plane implements both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serving_server.place import Place

__all__ = ["Loader", "Servable"]


class Servable(Protocol):
    """One loaded version: in production a worker process with its queues. All calls come from the event loop."""

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None when it has none."""

    @property
    def pending(self) -> int:
        """Number of requests that are queued or running."""

    async def drain(self, timeout: float | None) -> bool:  # noqa: ASYNC109 - a drain cut short has a result
        """Wait until `pending` is 0; return False when `timeout` seconds passed first. May be cancelled."""

    async def close(self) -> None:
        """End the worker and free what it holds, also after a crash. Idempotent."""

    def on_exit(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(reason)`` on the loop if the worker ends by itself.

        Called once by the manager, right after the load. A worker that has ended by then must be reported too, at
        once or in a later turn of the loop.
        """


class Loader(Protocol):
    """Makes servables."""

    async def load(self, model: str, version: int, path: Place, on_step: Callable[[str], None]) -> Servable:
        """Load one version and warm it up.

        ``on_step`` receives "fork", "load" and "warmup" as each begins. Raises ServingError. A cancelled load
        leaves nothing behind: no process, no shared memory.
        """
