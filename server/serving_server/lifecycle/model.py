"""One model: decides which of its versions are loaded and which one answers.

This is TF Serving's AspiredVersionsManager, driven by events instead of a tick: whenever something happened (the
folder, the policy, a hold, or a version changed) what is wanted is compared with what there is. A switch preserves
availability: a new version serves before the old one is drained, so both are in memory for a while. When told to
preserve resources instead, it unloads the old one first (TF Serving's ResourcePreservingPolicy).
"""

from __future__ import annotations

import logging
from typing import Final

from serving_server.lifecycle.servable import Servable
from serving_server.lifecycle.states import Policy, Specific, State, choose
from serving_server.lifecycle.version import Settings, Version
from serving_server.place import Place

__all__ = ["Model"]

logger = logging.getLogger(__name__)

#: Ended versions that a model remembers. TF Serving remembers all for the life of the process.
MAX_ENDED: Final = 1000


class Model:
    """What is known of one model, and the table that requests are resolved with."""

    def __init__(self, name: str, policy: Policy, settings: Settings) -> None:
        self.name = name
        self.policy = policy
        self.removed = False
        self.found: dict[int, Place] = {}
        self.looked = False  # whether `found` is what was on disk, not just nothing yet
        self.held: set[int] = set()
        self.extra: frozenset[int] = frozenset()  # loaded in addition to what the policy chooses; the sum of these:
        self.kept: dict[str, frozenset[int]] = {}
        self.versions: dict[int, Version] = {}
        self.serving: int | None = None
        self.chosen: int | None = None  # the same, but None where the policy wants no version that is AVAILABLE
        # Requests look up their version here; None is the unversioned request.
        self.routes: dict[int | None, Servable] = {}
        self._settings = settings
        self._missing: tuple[int, ...] = ()  # named by the policy, not on disk: warned about once
        self._busy = False
        self._again = False

    def reroute(self) -> None:
        """Rebuild the table after a change of states or holds."""
        routes: dict[int | None, Servable] = {}
        for number, version in self.versions.items():
            if version.state is State.AVAILABLE and version.servable is not None:
                routes[number] = version.servable
        ready = [number for number in routes if number is not None and number not in self.held]
        chosen = serving = max(ready, default=None)
        if serving in self.extra:
            # Extra versions answer unversioned requests only when there is nobody else.
            guests = self.extra - self.wanted()[0]
            chosen = max((number for number in ready if number not in guests), default=None)
            serving = serving if chosen is None else chosen
        if serving is not None:
            routes[None] = routes[serving]
        # One assignment each: whoever reads between two turns of the loop sees all or nothing of a switch.
        self.routes, self.serving, self.chosen = routes, serving, chosen

    def wanted(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return the ordinary versions that should be loaded, and the held and extra ones."""
        if self.removed:
            return frozenset(), frozenset()
        ordinary, held = choose(self.found, self.policy, self.held)
        return ordinary, held | self.extra.intersection(self.found) if self.extra else held

    def reconcile(self) -> None:
        """Take every step towards what is wanted that is allowed now."""
        if self._busy:  # a step below, or a listener, changed something: the loop below goes round again
            self._again = True
            return
        self._busy = True
        try:
            self._again = True
            while self._again:
                self._again = False
                self._step()
        finally:
            self._busy = False

    def _step(self) -> None:
        ordinary, others = self.wanted()
        wanted = ordinary | others
        self._warn_missing()
        if self._settings.resource_preserving:
            self._unload(ordinary, wanted)
            if not any(version.stopping for version in self.versions.values()):  # its end asks again
                self._load(wanted)
        else:
            self._load(wanted)
            self._unload(ordinary, wanted)
        self._forget(wanted)

    def _load(self, wanted: frozenset[int]) -> None:
        for number in sorted(wanted, reverse=True):
            version = self.versions.get(number)
            if version is None:
                version = self.versions[number] = Version(self.name, number, self.found[number], self._settings)
            moved, version.offered_path = version.offered_path != self.found[number], self.found[number]
            if moved:
                version.retry()  # what failed elsewhere, as under a base path that has been corrected
            ended = version.state is State.END and (not version.failed or version.lapsed)
            if version.state is State.UNKNOWN or ended:
                version.begin()

    def _unload(self, ordinary: frozenset[int], wanted: frozenset[int]) -> None:
        kept: list[Version] = []
        for version in list(self.versions.values()):
            if version.number not in wanted:
                version.lapsed = True
                serves = version.state is State.AVAILABLE or (version.restarting and not version.stopping)
                # A held version answers no unversioned request: keeping it would preserve nothing.
                if serves and version.number not in self.held:
                    kept.append(version)
                else:
                    version.stop()
        if not kept:
            return
        # A policy that names only versions which are not on disk wants something, so it is no reason to stop serving.
        nothing_wanted = not ordinary and (not self.found or self.policy == Specific(()))
        if self._settings.resource_preserving:
            replaced = bool(ordinary)
        else:
            replaced = any(self.versions[number].state is State.AVAILABLE for number in ordinary)
        kept.sort(key=lambda version: (version.state is State.AVAILABLE, version.number))
        for version in kept if replaced or nothing_wanted else kept[:-1]:
            version.stop()

    def _forget(self, wanted: frozenset[int]) -> None:
        """Drop the lowest of very many ended versions: a server that gets one every minute runs for years."""
        if len(self.versions) <= MAX_ENDED:
            return
        ended = [n for n, v in self.versions.items() if v.state is State.END and n not in wanted and not v.tasks()]
        for number in sorted(ended)[:-MAX_ENDED]:
            del self.versions[number]

    def _warn_missing(self) -> None:
        if not isinstance(self.policy, Specific) or self.removed or not self.looked:
            self._missing = ()
            return
        missing = tuple(number for number in self.policy.versions if number not in self.found)
        if missing and missing != self._missing:
            logger.warning(
                "Model %s: version %s of its 'specific' policy is not on disk",
                self.name,
                ", ".join(map(str, missing)),
            )
        self._missing = missing
