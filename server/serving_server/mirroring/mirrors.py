"""The mirrors of all models: begun once the shadow is loaded, ended by an operator or by the shadow's own failing."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

from serving_server.errors import FailedPreconditionError
from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import State
from serving_server.metrics.exposition import Family
from serving_server.mirroring.mirror import Mirror
from serving_server.mirroring.wish import Wish
from serving_server.servable import ServedVersion
from serving_server.traffic.loading import find_on_disk, wait_loaded

__all__ = ["Mirrors"]

log = logging.getLogger(__name__)

_PURPOSE: Final = "mirror"
_METRIC: Final = "serving_workbench_mirror_requests_total"


class _Entry:
    """What is known of one model, also after its mirror."""

    def __init__(self) -> None:
        self.attempt = 0
        self.coming: int | None = None  # the version that a change waits for
        self.mirror: Mirror | None = None  # the present one, or the last
        self.ended: dict[str, Any] | None = None
        self.before: Counter[tuple[int, str]] = Counter()  # of mirrors before that one, by shadow and result


class Mirrors:
    """Begins and ends mirrors. All calls on the loop.

    Parameters
    ----------
    manager : Manager
    poll : callable
        Looks for a model's versions on disk, now.
    rng : random.Random, optional
        What requests are chosen by.

    Attributes
    ----------
    by_model : dict of str to Mirror
        Those at work; empty on most servers, which is what makes it cheap to ask.
    """

    def __init__(
        self, manager: Manager, poll: Callable[[str], Awaitable[None]], rng: random.Random | None = None
    ) -> None:
        self._manager = manager
        self._poll = poll
        self._rng = rng or random.Random()  # noqa: S311 - no secret
        self._entries: dict[str, _Entry] = {}
        self.by_model: dict[str, Mirror] = {}
        manager.subscribe(self._on_state)
        manager.on_rerouted.append(self._on_rerouted)

    async def put(self, model: str, wish: Wish) -> None:
        """Copy a model's requests to a version from now on, once it is AVAILABLE; in place of a mirror before.

        Raises
        ------
        NotFoundError
            The version is not on disk. Whatever is raised, a mirror that there was goes on.
        FailedPreconditionError
            It cannot be loaded, or answers unversioned requests itself.
        DeadlineExceededError
            It was not loaded in time.
        AbortedError
            Another mirror, or none, was asked for meanwhile.
        UnavailableError
            The server is shutting down.
        """
        manager, version = self._manager, wish.version
        await find_on_disk(manager, self._poll, model, [version])
        entry = self._entries.setdefault(model, _Entry())
        attempt = self._supersede(entry)
        entry.coming = version
        self._keep(model, entry)
        manager.retry(model, version)
        try:
            await wait_loaded(manager, model, [version], wish.seconds, lambda: entry.attempt != attempt)
            if manager.serving_version(model) == version:
                msg = (
                    f"version {version} of model {model} answers the requests that name no version: there is nothing "
                    "to mirror to it. Name another version"
                )
                raise FailedPreconditionError(msg)
        except BaseException:
            if entry.attempt == attempt and manager.has(model):
                entry.coming = None
                self._keep(model, entry)
            raise
        self._close(entry)
        shadow = cast("ServedVersion", manager.resolve(model, version))
        entry.mirror = Mirror(shadow, wish, self._rng, partial(self._stop, model, entry))
        entry.coming = entry.ended = None
        self.by_model[model] = entry.mirror
        self._keep(model, entry)
        log.info("Model %s: %g %% of the requests are copied to version %d", model, 100 * wish.fraction, version)

    def end(self, model: str, reason: str = "it was taken back") -> bool:
        """Copy no more requests of a model; return whether there was a mirror. Idempotent. Its pairs stay."""
        entry = self._entries.get(model)
        if entry is None:
            return False
        self._supersede(entry)
        entry.coming = None
        return self._stop(model, entry, reason)

    def _stop(self, model: str, entry: _Entry, reason: str) -> bool:
        """End the mirror at work, not another one that is still to come."""
        mirror = self.by_model.pop(model, None)
        if mirror is not None:
            mirror.close()
            entry.ended = {"at": time.time(), "reason": reason}
            log.info("Model %s: the mirror to version %d has ended: %s", model, mirror.wish.version, reason)
        self._keep(model, entry)
        return mirror is not None

    def _keep(self, model: str, entry: _Entry) -> None:
        mirror = self.by_model.get(model)
        versions = {None if mirror is None else mirror.wish.version, entry.coming} - {None}
        if self._manager.has(model):  # not at the end of the server
            self._manager.keep(model, cast("set[int]", versions), _PURPOSE)

    def forget(self, model: str) -> None:
        """Drop what is known of a model that is removed."""
        entry = self._entries.pop(model, None)
        if entry is not None:
            self._supersede(entry)
            self._close(entry)
        self.by_model.pop(model, None)

    def _supersede(self, entry: _Entry) -> int:
        entry.attempt += 1
        self._manager.wake()
        return entry.attempt

    @staticmethod
    def _close(entry: _Entry) -> None:
        if entry.mirror is not None:
            entry.mirror.close()
            for result, count in entry.mirror.counts.items():
                entry.before[entry.mirror.wish.version, result] += count

    def _on_state(self, model: str, version: int, _old: State, new: State) -> None:
        mirror = self.by_model.get(model)
        if mirror is not None and mirror.wish.version == version and new is not State.AVAILABLE:
            self._stop(model, self._entries[model], f"version {version} is not available any more: {new.name}")

    def _on_rerouted(self, model: str) -> None:
        """End a mirror whose shadow was promoted: it would see copies of nothing, and yet be kept loaded by it."""
        mirror = self.by_model.get(model)
        if mirror is not None and self._manager.chosen_version(model) == mirror.wish.version:
            reason = f"version {mirror.wish.version} answers the requests that name no version itself now"
            self._stop(model, self._entries[model], reason)

    # -- what is told --------------------------------------------------------------------------------------------------

    def to_json(self, model: str) -> dict[str, Any] | None:
        """Return settings, counts and the end of a model's mirror, the last one too; None when there never was one."""
        entry = self._entries.get(model)
        if entry is None or entry.mirror is None:
            return None
        return {**entry.mirror.to_json(), "active": model in self.by_model, "ended": entry.ended}

    def page(self, model: str, after: int) -> dict[str, Any]:
        """Return the pairs with numbers above `after`, as many as go into one answer, and the number of the latest."""
        self._manager.policy(model)
        entry = self._entries.get(model)
        if entry is None or entry.mirror is None:
            return {"pairs": [], "last": 0}
        pairs = entry.mirror.pairs
        return {"pairs": [pair.to_json() for pair in pairs.page(after)], "last": pairs.last}

    def families(self) -> list[Family]:
        """Return the metrics."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for model, entry in self._entries.items():
            for (version, result), count in entry.before.items():
                counts[model, str(version), result] += count
            if entry.mirror is not None:
                for result, count in entry.mirror.counts.items():
                    counts[model, str(entry.mirror.wish.version), result] += count
        labels = ("model_name", "version", "result")
        what = "Requests that a mirror has seen, chosen and dropped, and how its version answered the copies."
        return [Family(_METRIC, "counter", labels, dict(sorted(counts.items())), help=what)] if counts else []
