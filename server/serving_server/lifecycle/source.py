"""Finds the versions of models on disk: TF Serving's FileSystemStoragePathSource, with file events besides polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from serving_server.errors import NotFoundError
from serving_server.lifecycle.scan import Fingerprint, Scan, parse_version, scan
from serving_server.lifecycle.watcher import FolderWatcher
from serving_server.place import Place, RemotePath, to_place

__all__ = ["VersionSource"]

logger = logging.getLogger(__name__)

# File systems stamp files with a clock that is a timer tick or two behind `time.time()`; object stores have their own.
_CLOCK_SLACK_S = 0.05
_REMOTE_CLOCK_SLACK_S = 5.0


@dataclass(slots=True)
class _Failed:
    """A version that failed to load, watched for a change of its folder."""

    path: Place
    since: float | None
    baseline: str | None = None  # the digest that failed; "" if the folder may have changed during the load
    last: str | None = None


@dataclass(slots=True, eq=False)
class _Watched:
    """One model."""

    model: str
    base_path: Place
    patient_until: float = 0.0  # on the loop's clock: until then it is no news that there are no versions
    problem: str | None = None
    told: str | None = None  # the problem that was logged last
    identity: tuple[int, int] | None = None
    duplicates: tuple[str, ...] = ()
    failed: dict[int, _Failed] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None  # the scan that is running
    again: bool = False  # something happened during it, so it may have missed that
    removed: bool = False
    retries: dict[int, int] = field(default_factory=dict)  # how often a failed version was seen to change


class VersionSource:
    """Watches the base paths of any number of models.

    Parameters
    ----------
    on_aspired : callable
        ``on_aspired(model, {version: path})`` on the loop after each scan, with every version on disk.
    on_changed : callable, optional
        ``on_changed(model, version)`` when the folder of a failed version (`watch_failed`) has changed and come to
        rest, as at the end of a copy.
    poll_wait_seconds : float
        Pause between scans. 0: each base path is scanned once; negative: only on `poll_now`. File events are used
        when it is positive.
    unload_on_empty : bool
        What a base path without versions means: TF Serving unloads everything (True); here what is loaded stays.
        A base path that does not exist or cannot be read never unloads anything.
    settle_seconds : float
        How long the folder of a failed version must stay unchanged before it is tried again.
    watch_events : bool
        False leaves everything to polling, as for network file systems that report no events.
    on_problem : callable, optional
        ``on_problem(model)`` when `problem` has changed.
    look : callable, optional
        ``look(base_path, failed)`` is `serving_server.lifecycle.scan.scan` for base paths that are URIs; asked by
        polling only.
    """

    def __init__(
        self,
        on_aspired: Callable[[str, Mapping[int, Place]], None],
        *,
        on_changed: Callable[[str, int], object] | None = None,
        poll_wait_seconds: float = 1.0,
        unload_on_empty: bool = False,
        settle_seconds: float = 0.2,
        watch_events: bool = True,
        on_problem: Callable[[str], None] | None = None,
        look: Callable[[RemotePath, Mapping[int, Place]], Awaitable[Scan]] | None = None,
    ) -> None:
        self._on_aspired = on_aspired
        self._on_changed = on_changed
        self._on_problem = on_problem
        self._look = look
        self._poll_wait = poll_wait_seconds
        self._unload_on_empty = unload_on_empty
        self._settle = settle_seconds
        self._watch_events = watch_events and poll_wait_seconds > 0
        self._models: dict[str, _Watched] = {}
        self._watcher: FolderWatcher | None = None
        self._watching: frozenset[tuple[Path, tuple[int, int]]] = frozenset()
        self._timers: set[asyncio.TimerHandle] = set()
        self._scans: set[asyncio.Task[None]] = set()
        self._refresh: asyncio.TimerHandle | None = None
        self._poller: asyncio.Task[None] | None = None
        self._started = False
        self._closed = False

    # -- which models ----------------------------------------------------------------------------------------------

    def add(self, model: str, base_path: Place | str, *, patience: float = 0.0) -> None:
        """Watch a model from now on, or from `start`. With another base path, a known model moves to it.

        Versions that are missing within the first `patience` seconds are not worth a warning: they are about to come.
        """
        if isinstance(base_path, str):
            base_path = to_place(base_path)
        known = self._models.get(model)
        if known is not None:
            if known.base_path == base_path:
                return
            self.remove(model)
        watched = self._models[model] = _Watched(model, base_path)
        if patience > 0 and self._poll_wait > 0:
            watched.patient_until = asyncio.get_running_loop().time() + patience
        if self._started and self._poll_wait >= 0:
            self._kick(watched)

    def remove(self, model: str) -> None:
        """Stop watching a model; no callback for it comes after this. Unknown models are ignored."""
        watched = self._models.pop(model, None)
        if watched is not None:
            watched.removed = True
            self._refresh_soon()

    def base_path(self, model: str) -> Place | None:
        """Return where the versions of a model are looked for, None for a model that is not watched."""
        watched = self._models.get(model)
        return None if watched is None else watched.base_path

    def problem(self, model: str) -> str | None:
        """Return what is wrong with the base path of a model, None if nothing is known to be."""
        watched = self._models.get(model)
        return None if watched is None else watched.problem

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to poll and to watch."""
        if self._started or self._closed:
            return
        self._started = True
        if self._watch_events:
            self._watcher = FolderWatcher(self._kick_all, self._on_events)
        if self._poll_wait > 0:
            self._poller = asyncio.create_task(self._poll(), name="poll base paths")
        elif self._poll_wait == 0:
            self._kick_all()

    async def close(self) -> None:
        """Stop everything, the watcher's thread included. Idempotent. No callback comes after this."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        tasks = list(self._scans)
        if self._poller is not None:
            tasks.append(self._poller)
        for task in tasks:
            task.cancel()  # a scan of a dead network mount may never return; its thread is left behind
        if tasks:
            await asyncio.wait(tasks)
        if self._watcher is not None:
            await self._watcher.close()

    async def poll_now(self, model: str) -> None:
        """Scan the base path of a model; return after the callback. Works with every `poll_wait_seconds`.

        Raises
        ------
        NotFoundError
            The model is not watched.
        """
        watched = self._models.get(model)
        if watched is None:
            raise NotFoundError(f"Model {model} has no base path that could be polled")
        self._kick(watched)
        if watched.task is not None:
            await asyncio.wait([watched.task])

    def watch_failed(self, model: str, version: int, path: Place, since: float | None = None) -> None:
        """Call `on_changed` once, when the folder of a version that failed to load has changed.

        Parameters
        ----------
        since : float, optional
            `time.time()` when the load began. A folder that was modified after that counts as changed, for what it
            held at the time is not known.
        """
        watched = self._models.get(model)
        if watched is not None and self._poll_wait > 0:
            watched.failed[version] = _Failed(path, since)
            self._kick(watched)

    # -- scans -------------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            for watched in list(self._models.values()):
                if watched.task is None:  # a slow file system is not asked twice at once
                    self._kick(watched)
            await asyncio.sleep(self._poll_wait)

    def _kick_all(self) -> None:
        for watched in list(self._models.values()):
            self._kick(watched)

    def _kick(self, watched: _Watched) -> None:
        """Have a scan that begins after this call."""
        if self._closed or watched.removed:
            return
        if watched.task is None:
            watched.task = asyncio.create_task(self._scan(watched), name=f"scan {watched.base_path}")
            self._scans.add(watched.task)
            watched.task.add_done_callback(self._scans.discard)
        else:
            watched.again = True

    async def _scan(self, watched: _Watched) -> None:
        try:
            while True:
                watched.again = False
                failed = dict(watched.failed)
                paths = {version: entry.path for version, entry in failed.items()}
                found = await self._scan_once(watched.base_path, paths)
                if watched.removed or self._closed:
                    return
                self._apply(watched, found, failed)
                if not watched.again:
                    return
        except Exception:  # one bad scan or callback must not end the watching of this model
            logger.exception("Scanning %s for model %s failed", watched.base_path, watched.model)
        finally:
            watched.task = None

    async def _scan_once(self, base_path: Place, failed: Mapping[int, Place]) -> Scan:
        if isinstance(base_path, RemotePath):
            if self._look is None:
                return Scan({}, f"base path {base_path} is not a folder of this machine", None)
            return await self._look(base_path, failed)
        return await asyncio.to_thread(scan, base_path, failed)

    def _apply(self, watched: _Watched, found: Scan, failed: dict[int, _Failed]) -> None:
        identity, watched.identity = watched.identity, found.identity
        if identity != found.identity:
            self._refresh_soon()
        problem = found.problem
        if problem is None and not found.versions:
            problem = (
                f"No versions of servable {watched.model} found under base path {watched.base_path}. Did you forget to "
                "name your leaf directory as a number (eg. '/1/')?"
            )
        changed, watched.problem = problem != watched.problem, problem
        self._tell(watched, problem, found)
        if changed and self._on_problem is not None:
            self._on_problem(watched.model)
        if found.duplicates and found.duplicates != watched.duplicates:
            logger.warning(
                "Model %s: several folders under %s name the same version; ignored: %s",
                watched.model,
                watched.base_path,
                ", ".join(found.duplicates),
            )
        watched.duplicates = found.duplicates
        if found.problem is None and (found.versions or self._unload_on_empty):
            self._on_aspired(watched.model, found.versions)
            self._compare(watched, found, failed)

    def _tell(self, watched: _Watched, problem: str | None, found: Scan) -> None:
        if problem == watched.told:
            return
        if problem is not None and asyncio.get_running_loop().time() < watched.patient_until:
            return
        if problem is None:
            logger.info("Model %s: base path %s has versions now", watched.model, watched.base_path)
        elif found.problem is None:
            logger.warning("%s", problem)  # TF Serving's line, for which people search their logs
        else:
            # TF Serving's line, too.
            where = (watched.base_path, watched.model, problem)
            logger.warning("Could not find base path %s for servable %s with error %s", *where)
        watched.told = problem

    def _compare(self, watched: _Watched, found: Scan, failed: dict[int, _Failed]) -> None:
        slack = _REMOTE_CLOCK_SLACK_S if isinstance(watched.base_path, RemotePath) else _CLOCK_SLACK_S
        for version, entry in failed.items():
            if watched.failed.get(version) is not entry:
                continue  # replaced or dropped during the scan or by the callback
            if version not in found.versions:
                del watched.failed[version]
                watched.retries.pop(version, None)
                continue
            seen: Fingerprint | None = found.fingerprints.get(version)
            if seen is None:  # it failed under a URI that was the base path when its load began
                del watched.failed[version]
                continue
            if entry.baseline is None:
                young = entry.since is not None and seen.newest >= entry.since - slack
                entry.baseline = "" if young else seen.digest
            if seen.digest != entry.baseline and seen.digest == entry.last:
                del watched.failed[version]
                watched.retries[version] = watched.retries.get(version, 0) + 1
                if self._on_changed is not None:
                    self._on_changed(watched.model, version)
            elif seen.digest != entry.baseline:
                entry.last = seen.digest
                # Longer each time: a copy that stalls, or a load that writes into its own folder, must not
                # become a storm of loads.
                settle = self._settle * 2.0 ** min(watched.retries.get(version, 0), 7)
                self._later(settle, partial(self._kick, watched))

    def _later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        def run() -> None:
            self._timers.discard(timer)
            callback()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)
        return timer

    # -- file events -------------------------------------------------------------------------------------------------

    def _on_events(self, paths: set[str]) -> None:
        bases = {str(watched.base_path) for watched in self._models.values()}
        touched = {str(Path(path).parent) for path in paths if parse_version(Path(path).name) is not None}
        gone = paths & bases
        if gone:
            # The watch dies with the folder, and a new folder of that name may even get the same inode.
            self._watching = frozenset(entry for entry in self._watching if str(entry[0]) not in gone)
            self._refresh_soon()
        for watched in list(self._models.values()):
            # FSEvents reports a path with its links resolved, which may match none of ours: then all are asked.
            if touched - bases or str(watched.base_path) in touched | gone:
                self._kick(watched)

    def _refresh_soon(self) -> None:
        """Renew the set of watched folders shortly, once for many changes."""
        if self._watcher is not None and self._refresh is None and not self._closed:
            self._refresh = self._later(0.02, self._refresh_watch)

    def _refresh_watch(self) -> None:
        self._refresh = None
        wanted = frozenset(
            (watched.base_path, watched.identity)
            for watched in self._models.values()
            if watched.identity is not None and isinstance(watched.base_path, Path)
        )
        if wanted != self._watching and self._watcher is not None:
            self._watching = wanted
            self._watcher.watch({path for path, _ in wanted})
