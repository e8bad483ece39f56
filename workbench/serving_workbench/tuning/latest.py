"""Does what was wanted last: a slider that is moved asks for more than anybody needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["Latest"]

T = TypeVar("T")

_NOTHING: Final = object()


class Latest(Generic[T]):
    """Calls ``do(wanted)`` in a thread, one at a time; of what is wanted meanwhile only the last is done.

    Parameters
    ----------
    do : callable
        Should be bounded in time.
    on_error : callable
        Takes its exception.
    """

    def __init__(self, do: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        self._do = do
        self._on_error = on_error
        self._lock = threading.Lock()
        self._wanted: object = _NOTHING
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._thread is not None

    def want(self, what: T) -> None:
        """Have it done soon; returns at once."""
        with self._lock:
            if self._closed:
                return
            self._wanted = what
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="serving-workbench apply", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to be done; return whether that is so. Not for callbacks."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return not self.busy

    def close(self) -> None:
        """Do nothing more; idempotent."""
        with self._lock:
            self._closed = True
            self._wanted = _NOTHING

    def _work(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, _NOTHING
                if wanted is _NOTHING:
                    self._thread = None
                    return
            try:
                self._do(wanted)  # type: ignore[arg-type]  # what `want` was given
            except Exception as error:  # noqa: BLE001 - the dashboard shows whatever it was
                self._on_error(error)
