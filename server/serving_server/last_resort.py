"""The end of a process in which a thread hangs."""

from __future__ import annotations

import logging
import os
import threading
from typing import Final

__all__ = ["LastResort"]

log = logging.getLogger(__name__)

#: What Python may take for the end of its loop and threads, when all else has ended. Seconds.
_LEAVE_SECONDS: Final = 3.0


class LastResort:
    """Ends this process though a thread hangs, as in a read of a network file system that does not answer.

    Python waits for such threads without a limit, when the loop closes and again at the end of the process. By then all
    is in order: requests answered, workers ended, the record gone.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self, code: int) -> None:
        """Give the rest of the end a few seconds, then exit with `code`."""
        self._timer = threading.Timer(_LEAVE_SECONDS, self._leave, (code,))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Nothing hangs. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    @staticmethod
    def _leave(code: int) -> None:
        log.error("a file system does not answer; leaving all the same")
        logging.shutdown()
        os._exit(code)
