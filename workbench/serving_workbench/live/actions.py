"""What the buttons of a dashboard do: in a thread, one at a time, with a word on how it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal

from serving_workbench.errors import WorkbenchError

__all__ = ["PATIENCE", "Actions", "Tone", "one_line"]

#: Seconds that an action is waited for; then it goes on alone, and the next one may begin.
PATIENCE: Final = 90.0

#: Seconds between two words on an action that takes long.
_WORD_SECONDS: Final = 1.0

#: How an action stands: under way, done, failed.
Tone = Literal["running", "done", "failed"]


class Actions:
    """Runs calls in daemon threads, so that the callback of a button returns at once.

    Parameters
    ----------
    tell : callable
        ``tell(text, tone)`` shows one line; called from the threads.
    patience : float
        Seconds to wait for a call.

    Notes
    -----
    A thread cannot be ended from outside: the calls themselves must be bounded in time, as those of `Server` are.
    """

    def __init__(self, tell: Callable[[str, Tone], None], patience: float = PATIENCE) -> None:
        self._tell = tell
        self._patience = patience
        self._lock = threading.Lock()
        self._closed = False
        self._current: tuple[str, threading.Thread] | None = None

    @property
    def running(self) -> str | None:
        """What is being done; None when nothing is."""
        current = self._current
        return current[0] if current is not None else None

    def run(self, what: str, call: Callable[[], str | None]) -> bool:
        """Begin an action; return whether it began: not while another one is under way, nor after `close`.

        Parameters
        ----------
        what : str
            For the line that is shown: "Rolling back 'digits'".
        call : callable
            Returns the line that tells the result; None for ``what`` and "done". A `WorkbenchError`, or any other
            exception, becomes a line that tells it.
        """
        with self._lock:
            if self._closed:
                return False
            if self._current is not None:
                self._tell(f"{self._current[0]} is still under way: {what} has to wait.", "failed")
                return False
            watch = threading.Thread(
                target=self._watch, args=(what, call), name=f"serving-workbench {what}", daemon=True
            )
            self._current = (what, watch)
            self._tell(f"{what} ...", "running")
            watch.start()
            return True

    def wait(self, seconds: float) -> bool:
        """Wait for the action under way; return whether none is left. Not for callbacks."""
        current = self._current
        if current is not None:
            current[1].join(seconds)
        return self._current is None

    def close(self) -> None:
        """Begin no more actions and tell nothing more. Idempotent."""
        self._closed = True

    def _watch(self, what: str, call: Callable[[], str | None]) -> None:
        result: list[tuple[str, Tone]] = []

        def work() -> None:
            try:
                result.append((call() or f"{what}: done.", "done"))
            except Exception as error:  # noqa: BLE001 - whatever it was, the user is told
                result.append((one_line(error), "failed"))

        worker = threading.Thread(target=work, name=f"serving-workbench {what} (work)", daemon=True)
        began = time.monotonic()
        worker.start()
        while worker.is_alive() and (left := began + self._patience - time.monotonic()) > 0:
            worker.join(min(_WORD_SECONDS, left))
            if worker.is_alive():
                self._say(f"{what} ... {time.monotonic() - began:.0f} s", "running")
        with self._lock:
            self._current = None
        if result:
            self._say(*result[0])
        else:
            self._say(f"{what} has not ended after {self._patience:g} s; it goes on. The log may say why.", "failed")

    def _say(self, text: str, tone: Tone) -> None:
        if not self._closed:
            self._tell(text, tone)


def one_line(error: BaseException) -> str:
    """Return an error as one line: the step, what happened, what to try, what else is known."""
    if isinstance(error, WorkbenchError):
        text = f"{error.step}: {error}" if error.step else str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join([*text.split(), *(word for note in getattr(error, "__notes__", ()) for word in note.split())])
