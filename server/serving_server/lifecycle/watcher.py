"""Tells within milliseconds that something changed directly inside one of a set of folders."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

# The generator `watchfiles.watch` cannot say when watching has begun, which is when one last scan closes the gap.
# This class is its documented basis (https://watchfiles.helpmanual.io/api/rust_backend/).
from watchfiles._rust_notify import RustNotify

__all__ = ["FolderWatcher"]

logger = logging.getLogger(__name__)

# A change is reported after two steps at most; each step is one short wake-up of the watching thread.
_STEP_MS = 10
_DEBOUNCE_MS = 20


class FolderWatcher:
    """Watches folders, not their subfolders, with inotify or FSEvents in one thread.

    Parameters
    ----------
    on_ready : callable
        Called on the loop when a new set of folders is being watched: what changed before was not seen.
    on_change : callable
        ``on_change(paths)`` on the loop with the paths that appeared, changed or vanished.

    A failure is logged once, until watching has worked again; the caller goes on without events.
    """

    def __init__(self, on_ready: Callable[[], None], on_change: Callable[[set[str]], None]) -> None:
        self._on_ready = on_ready
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failing = False

    def watch(self, folders: Collection[Path]) -> None:
        """Watch these folders instead of those before."""
        self._stop.set()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._stop = threading.Event()
        if not folders:
            return
        paths = [str(folder) for folder in folders]
        # A daemon, so that a server that dies without `close` is not kept alive by it.
        thread = threading.Thread(target=self._run, args=(paths, self._stop), name="folder-watcher", daemon=True)
        self._threads.append(thread)
        thread.start()

    async def close(self) -> None:
        """Stop watching and wait for the thread's end. Idempotent."""
        self._stop.set()
        threads, self._threads = self._threads, []
        for thread in threads:
            await asyncio.to_thread(thread.join, 5.0)

    def _run(self, paths: list[str], stop: threading.Event) -> None:
        try:
            with RustNotify(
                paths,
                debug=False,
                force_polling=False,
                poll_delay_ms=300,
                recursive=False,
                ignore_permission_denied=True,
            ) as notify:
                self._call(stop, self._ready)
                while True:
                    changes = notify.watch(_DEBOUNCE_MS, _STEP_MS, 0, stop)
                    if isinstance(changes, str):  # "stop", or "signal", which only the main thread can get
                        return
                    self._call(stop, self._on_change, {path for _, path in changes})
        except Exception as error:  # noqa: BLE001 - whatever it is, polling goes on
            self._call(stop, self._failed, error)

    def _call(self, stop: threading.Event, callback: Callable[..., None], *args: object) -> None:
        def deliver() -> None:
            if not stop.is_set():
                callback(*args)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            # The loop was closed without `close`: nobody is left to tell.
            stop.set()

    def _ready(self) -> None:
        self._failing = False
        self._on_ready()

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("File events are not available (%s); new versions are found by polling only", error)
        self._failing = True
