"""A bar for a search: which step it is at, and how far."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from serving_workbench.progress import make_bar

__all__ = ["Steps", "moving"]

#: Seconds between two looks at the clock.
_EVERY: Final = 0.5


class Steps:
    """Shows progress in seconds against the plan, and keeps what each step took.

    Parameters
    ----------
    title : str
    plan : float
        Seconds that it may take.
    enabled : bool
        Whether anything is shown.
    """

    def __init__(self, title: str, plan: float, *, enabled: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._plan = plan
        self._began = time.monotonic()
        self._step = ""
        self._step_began = self._began
        self._bar: Any = make_bar(title, 100, "{desc}: {bar:16} {postfix} {elapsed}") if enabled else None

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def step(self, name: str, detail: str = "") -> None:
        """Begin a step, or go on with it; `detail` is shown beside its name."""
        now = time.monotonic()
        if name != self._step:
            self._note(now)
            self._step, self._step_began = name, now
        if self._bar is not None:
            self._bar.set_postfix_str(f"{name} {detail}".strip(), refresh=False)
        self.tick()

    def tick(self) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.n = min(99, int(100 * self.spent / self._plan))
            self._bar.refresh()

    def close(self) -> None:
        """End it; idempotent."""
        self._note(time.monotonic())
        self._step = ""
        if self._bar is not None:
            self._bar.n = 100
            self._bar.set_postfix_str("done", refresh=False)
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def _note(self, now: float) -> None:
        if self._step:
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._step_began


@contextmanager
def moving(steps: Steps) -> Iterator[Steps]:
    """Move a bar on while this thread waits for one long answer, and close it at the end."""
    ended = threading.Event()

    def move() -> None:
        while not ended.wait(_EVERY):
            steps.tick()

    mover = threading.Thread(target=move, name="serving-workbench bar", daemon=True)
    mover.start()
    try:
        yield steps
    finally:
        ended.set()
        mover.join()
        steps.close()
