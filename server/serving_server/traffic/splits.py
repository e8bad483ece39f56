"""The splits of all models: set as a transaction, ended when an operator or a deploy says who answers.

The versions of a split are loaded in addition to what the version policy chooses, as held ones are; so
``{1: 90, 2: 10}`` works under ``latest {1}`` too, and the end of a split gives the policy its word back. Weights come
into force at once, when those of their versions that had no share before are AVAILABLE; until then, and when one cannot
be loaded, requests go where they went before. A held version may be one of them: who gives it a weight has named it.

A split ends by itself when the operator sets a policy, as a rollback does, and when a version that was not there when
it was set goes into service, as a deploy does. Either takes effect once there is a version that the policy wants and
that can answer: a rollback to a version that is still to be loaded does not give all requests to the newest meanwhile.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from serving_server.lifecycle.manager import Manager
from serving_server.lifecycle.states import Policy
from serving_server.metrics.exposition import Family
from serving_server.traffic.exposures import ExposureLog
from serving_server.traffic.loading import find_on_disk, wait_loaded
from serving_server.traffic.router import Router
from serving_server.traffic.wish import EXPOSURES, Wish

__all__ = ["Splits"]

log = logging.getLogger(__name__)

_PREFIX: Final = "serving_workbench_traffic_"
_PURPOSE: Final = "split"


class _Split:
    """What the end of a split is decided by."""

    def __init__(self, policy: Policy, above: int) -> None:
        self.policy = policy  # when it was set
        self.above = above  # a higher version that serves is one of a deploy
        self.ending: str | None = None  # the reason, while no version that the policy wants can answer


class _Entry:
    """What is known of one model, also after its split."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.split: _Split | None = None
        self.attempt = 0
        self.since: float | None = None
        self.ended: dict[str, Any] | None = None


class Splits:
    """Sets, follows and ends the splits. All calls on the loop.

    Parameters
    ----------
    manager : Manager
        What is loaded; its `on_policy` is taken.
    poll : callable
        Looks for a model's versions on disk, now.
    rng : random.Random, optional
        What requests without a key are drawn with.

    Attributes
    ----------
    routers : dict of str to Router
        By model, only of those whose requests are split; empty on most servers, which is what makes it cheap to ask.
    """

    def __init__(
        self, manager: Manager, poll: Callable[[str], Awaitable[None]], rng: random.Random | None = None
    ) -> None:
        self._manager = manager
        self._poll = poll
        self._rng = rng or random.Random()  # noqa: S311 - no secret
        self._entries: dict[str, _Entry] = {}
        self.routers: dict[str, Router] = {}
        manager.on_rerouted.append(self._on_rerouted)
        manager.on_policy = self._on_policy

    # -- changes -------------------------------------------------------------------------------------------------------

    async def put(self, model: str, wish: Wish) -> None:
        """Split a model's requests by weights, once all of the versions are AVAILABLE.

        Raises
        ------
        NotFoundError
            A version is not on disk. Whatever is raised, requests go where they went before.
        FailedPreconditionError
            A version cannot be loaded.
        DeadlineExceededError
            A version was not loaded in time.
        AbortedError
            Something else has meanwhile been decided about who answers.
        UnavailableError
            The server is shutting down.
        """
        manager = self._manager
        await find_on_disk(manager, self._poll, model, wish.weights)
        entry = self._entries.get(model)
        if entry is None:
            entry = self._entries[model] = _Entry(Router(model, self._rng, EXPOSURES))
        attempt = self._supersede(entry)
        before = self._split_versions(entry)
        # Those that have a share already may be down: what takes it from them must not wait for them.
        new = [version for version, weight in wish.weights.items() if weight and version not in before]
        manager.keep(model, wish.weights.keys() | before, _PURPOSE)
        for version in wish.weights:
            manager.retry(model, version)
        try:
            await wait_loaded(manager, model, new, wish.seconds, lambda: entry.attempt != attempt)
        except BaseException:
            if entry.attempt == attempt and manager.has(model):
                manager.keep(model, self._split_versions(entry), _PURPOSE)
            raise
        self._begin(model, entry, wish)

    def _begin(self, model: str, entry: _Entry, wish: Wish) -> None:
        manager, router = self._manager, entry.router
        if wish.exposures is not None:
            router.resize(wish.exposures)
        key = router.key if wish.keeps_key else wish.key
        goes_on = entry.split is not None
        above = max(*wish.weights, manager.serving_version(model) or 0)
        entry.split = _Split(manager.policy(model), above)
        entry.since, entry.ended = time.time(), None
        if not (wish.keeps_objective and goes_on):
            router.objective = wish.objective
        router.change(wish.weights, key, manager.answering(model))
        self.routers[model] = router
        log.info("Model %s: requests are split by %s", model, _text(router))
        manager.keep(model, wish.weights.keys(), _PURPOSE)

    def end(self, model: str, reason: str = "it was taken back") -> bool:
        """Let the version policy alone decide again; return whether there was a split. Idempotent."""
        entry = self._entries.get(model)
        if entry is None:
            return False
        self._supersede(entry)
        if entry.split is None:
            self._manager.keep(model, (), _PURPOSE)
            return False
        router = self.routers.pop(model)
        entry.split = None
        entry.since = time.time()
        entry.ended = {"at": entry.since, "reason": reason, "weights": _weights(router)}
        log.info("Model %s: the split of requests by %s has ended: %s", model, _text(router), reason)
        router.change({}, None, {})
        self._manager.keep(model, (), _PURPOSE)
        return True

    def forget(self, model: str) -> None:
        """Drop what is known of a model that is removed."""
        self.routers.pop(model, None)
        entry = self._entries.pop(model, None)
        if entry is not None:
            self._supersede(entry)

    # -- what becomes of a change that waits ---------------------------------------------------------------------------

    def _supersede(self, entry: _Entry) -> int:
        """Have earlier changes that still wait give up; return the number of the present one."""
        entry.attempt += 1
        self._manager.wake()
        return entry.attempt

    @staticmethod
    def _split_versions(entry: _Entry) -> frozenset[int]:
        return frozenset(entry.router.weights if entry.split is not None else ())

    # -- what the lifecycle tells --------------------------------------------------------------------------------------

    def _on_rerouted(self, model: str) -> None:
        entry = self._entries.get(model)
        if entry is None or entry.split is None:
            return
        chosen = self._manager.chosen_version(model)
        if chosen is not None and entry.split.ending is not None:
            self.end(model, entry.split.ending)
        elif chosen is not None and chosen > entry.split.above:
            self.end(model, f"version {chosen} went into service")
        else:
            entry.router.update(self._manager.answering(model))

    def _on_policy(self, model: str, before: Policy) -> None:
        entry = self._entries.get(model)
        if entry is None:
            return
        self._supersede(entry)
        policy = self._manager.policy(model)
        if entry.split is not None:
            taken_back = entry.split.ending is not None and policy == entry.split.policy != before
            reason = f"the version policy was set to {policy}"
            entry.split.ending = None if taken_back else reason  # taken back by a rollback that has failed
        # What was to be loaded for a change that waited is not wanted any more.
        self._manager.keep(model, self._split_versions(entry), _PURPOSE)

    def keys(self) -> list[str]:
        """Return the names of the headers that decide about requests now, of all models."""
        return sorted({router.key.decode() for router in self.routers.values() if router.key is not None})

    # -- what is told --------------------------------------------------------------------------------------------------

    def summary(self, model: str) -> dict[str, Any] | None:
        """Return what a model's state tells of its split; None when there never was one.

        ``weights`` is None when it has ended; ``ended`` then has the time, the reason and the weights.
        """
        entry = self._entries.get(model)
        if entry is None or entry.since is None:
            return None
        router = entry.router
        return {
            "weights": _weights(router) or None,
            "shares": {str(v): share for v, share in self._shares(entry).items()},
            "key": None if router.key is None else router.key.decode(),
            "since": entry.since,
            "ended": entry.ended,
        }

    def to_json(self, model: str) -> dict[str, Any]:
        """Return everything about a model's split but the single exposures."""
        self._manager.policy(model)
        entry = self._entries.get(model)
        summary = self.summary(model)
        if entry is None or summary is None:
            return {"weights": None, "shares": {}, "key": None, "since": None, "ended": None, "versions": []} | {
                "unrouted": 0,
                "periods": [],
                "exposures": {"remembered": 0, "capacity": EXPOSURES},
            }
        router, shares, counts = entry.router, self._shares(entry), entry.router.counts()
        numbers = sorted({*router.weights, *(version for version, _ in counts)})
        return {
            **summary,
            "versions": [
                {
                    "version": number,
                    "weight": router.weights.get(number),
                    "share": shares.get(number, 0.0),
                    "requests": counts[number, False] + counts[number, True],
                    "keyed": counts[number, True],
                }
                for number in numbers
            ],
            "unrouted": router.unrouted,
            "periods": [period.to_json() for period in router.periods],
            "exposures": {"remembered": len(router.exposures), "capacity": router.exposures.capacity},
        }

    def exposures(self, model: str) -> ExposureLog:
        """Return the latest requests that have ended; an empty log when nothing was ever split."""
        self._manager.policy(model)
        entry = self._entries.get(model)
        return ExposureLog(0) if entry is None else entry.router.exposures

    def families(self) -> list[Family]:
        """Return the metrics."""
        shares, weights, requests, unrouted = {}, {}, {}, {}
        for model, entry in self._entries.items():
            for version, weight in entry.router.weights.items():
                weights[model, str(version)] = weight
                shares[model, str(version)] = self._shares(entry).get(version, 0.0)
            for (version, keyed), count in sorted(entry.router.counts().items()):
                requests[model, str(version), "key" if keyed else "lot"] = count
            unrouted[model,] = entry.router.unrouted
        return list(_families(weights, shares, requests, unrouted)) if self._entries else []

    @staticmethod
    def _shares(entry: _Entry) -> dict[int, float]:
        return entry.router.periods[-1].shares if entry.split is not None else {}


def _families(weights: Any, shares: Any, requests: Any, unrouted: Any) -> Iterator[Family]:
    version = ("model_name", "version")
    yield Family(_PREFIX + "weight", "gauge", version, weights, help="Weight of a version in a split of requests.")
    what = "Share of the requests that a version gets: its weight among those available."
    yield Family(_PREFIX + "share", "gauge", version, shares, help=what)
    what = "Requests that a split gave to a version, by lot or by their key."
    yield Family(_PREFIX + "requests_total", "counter", (*version, "by"), requests, help=what)
    what = "Requests of a split that found none of its versions available."
    yield Family(_PREFIX + "unrouted_total", "counter", ("model_name",), unrouted, help=what)


def _weights(router: Router) -> dict[str, float]:
    return {str(version): weight for version, weight in router.weights.items()}


def _text(router: Router) -> str:
    """Return the weights as ``1: 90 %, 2: 10 %``."""
    whole = sum(router.weights.values())
    return ", ".join(f"{version}: {100 * weight / whole:.3g} %" for version, weight in router.weights.items())
