"""The load of the dashboard: one open loop after another, until somebody stops it or nobody looks any more."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel

if TYPE_CHECKING:
    from serving_workbench.load.running import LiveView as LoadView
    from serving_workbench.load.testing import LoadRun

__all__ = ["LoadControl"]

#: Seconds of one run: an end that comes by itself when the kernel is busy or the dashboard is not shown any more.
_RUN_SECONDS: Final = 120.0


class LoadControl:
    """Starts and stops load for one model. Any thread may call.

    Parameters
    ----------
    model : ServedModel
    options : dict
        Of `serving_workbench.load.testing.start`: ``data``, ``rows``, ``signature``.
    """

    def __init__(self, model: ServedModel, options: dict[str, Any]) -> None:
        self._model = model
        self._options = options
        self._lock = threading.Lock()
        self._run: LoadRun | None = None
        self._rate: float | None = None

    @property
    def rate(self) -> float | None:
        """Requests per second that are wanted; None: no load."""
        return self._rate

    def start(self, rate: float) -> None:
        """Send so many requests per second from now on, in place of those before.

        Raises
        ------
        LoadError
        """
        with self._lock:
            self._end()
            self._begin(rate)
            self._rate = rate

    def stop(self) -> None:
        """Send no more. Idempotent."""
        with self._lock:
            self._rate = None
            self._end()

    def look(self) -> LoadView | None:
        """Return how it goes; begins the next run when one has ended. None: no load."""
        if not self._lock.acquire(blocking=False):
            return None  # it is being started or stopped
        try:
            run = self._run
            if run is None or self._rate is None:
                return None
            if run.poll():
                self._end()
                self._begin(self._rate)
                return None
            return run.live()
        except WorkbenchError:
            self._rate = None
            self._end()
            raise
        finally:
            self._lock.release()

    def _begin(self, rate: float) -> None:
        from serving_workbench.load.testing import start

        self._run = start(self._model, rate=rate, seconds=_RUN_SECONDS, warmup=0.0, drain=1.0, **self._options)

    def _end(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            try:
                run.stop()
            finally:
                run.close()
