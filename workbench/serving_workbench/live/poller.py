"""One daemon thread that reads something now and then and shows it, until it is stopped."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["DEFAULT_INTERVAL", "MAX_BACKOFF", "MIN_INTERVAL", "Poller"]

T = TypeVar("T")

#: Seconds between two readings: by default, and at least.
DEFAULT_INTERVAL: Final = 0.5
MIN_INTERVAL: Final = 0.25

#: Seconds between two tries at most, while reading fails.
MAX_BACKOFF: Final = 10.0

#: Seconds that `stop` waits for a reading that is under way.
_STOP_SECONDS: Final = 2.0

_all: weakref.WeakSet[Poller[object]] = weakref.WeakSet()


class Poller(Generic[T]):
    """Calls ``show(read())`` again and again, both in a daemon thread of its own.

    Parameters
    ----------
    read : callable
        Asks for what is to be shown; should be bounded in time.
    show : callable
        Takes what `read` returned.
    on_error : callable
        Takes the exception of either of them; the next try comes later each time, until one succeeds.
    interval : float
        Seconds from the end of one reading to the next: never more often than every `MIN_INTERVAL`.
    name : str
        Of the thread.

    Notes
    -----
    All methods may be called from any thread, the poller's own included, at any time, and repeatedly. At the end of the
    process the thread is told to stop.
    """

    def __init__(
        self,
        read: Callable[[], T],
        show: Callable[[T], None],
        *,
        on_error: Callable[[Exception], None],
        interval: float = DEFAULT_INTERVAL,
        name: str = "serving-workbench live",
    ) -> None:
        self.interval = max(interval, MIN_INTERVAL)
        self._read = read
        self._show = show
        self._on_error = on_error
        self._name = name
        self._lock = threading.Lock()
        self._showing = threading.Lock()
        self._run: _Run | None = None
        _all.add(self)  # type: ignore[arg-type]  # only stopped from there

    @property
    def is_running(self) -> bool:
        """Whether its thread lives and was not told to stop."""
        run = self._run
        return run is not None and run.thread.is_alive() and not run.stop.is_set()

    def start(self) -> None:
        """Begin, with a reading at once; nothing when it runs already."""
        with self._lock:
            if self.is_running:
                return
            # Each start has its own thread and flags: one that hangs in a reading is not revived by the next start.
            run = self._run = _Run()
            run.thread = threading.Thread(target=self._loop, args=(run,), name=self._name, daemon=True)
            run.thread.start()

    def poke(self) -> None:
        """Read soon instead of at the next turn, though never more often than every `MIN_INTERVAL`."""
        run = self._run
        if run is not None:
            run.wake.set()

    def stop(self, *, wait: bool = True) -> bool:
        """End; return whether the thread has ended.

        Parameters
        ----------
        wait : bool
            Wait for a reading under way, two seconds at most. Callbacks of widgets pass False: they must not wait.
        """
        with self._lock:
            run, self._run = self._run, None
        if run is None:
            return True
        run.stop.set()
        run.wake.set()
        if wait and run.thread is not threading.current_thread():
            run.thread.join(_STOP_SECONDS)
        return not run.thread.is_alive()

    def _loop(self, run: _Run) -> None:
        pause = self.interval
        while not run.stop.is_set():
            began = time.monotonic()
            try:
                found = self._read()
                if run.stop.is_set():
                    return
                with self._showing:  # one after the other, also when a thread that was stopped is not through yet
                    self._show(found)
                pause = self.interval
            except Exception as error:  # noqa: BLE001 - a dashboard outlives whatever it looks at
                if run.stop.is_set():
                    return
                pause = min(pause * 2, MAX_BACKOFF)
                self._on_error(error)
            run.wake.wait(pause)
            run.wake.clear()
            # A poke comes at once, unless the last reading has only just begun.
            run.stop.wait(max(0.0, began + MIN_INTERVAL - time.monotonic()))


class _Run:
    """A thread and what it is told."""

    def __init__(self) -> None:
        self.thread: threading.Thread
        self.stop = threading.Event()
        self.wake = threading.Event()


@atexit.register
def _stop_all() -> None:
    """Let no thread assign traits while the interpreter is taken down."""
    for poller in list(_all):
        poller.stop(wait=False)
