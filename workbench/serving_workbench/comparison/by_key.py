"""What users of a split by key have seen: one observation per key, however many requests it sends.

A split by key assigns keys. Requests of one key have one user, one kind of input and one version, so they are alike:
taken for independent, they would be sure of differences that are not there. Here a key's requests are averaged, and the
averages are the observations, each with the same weight: of a key that sends a thousand requests as of one with two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving_server.sequential import Sums

__all__ = ["MAX_KEYS", "KeyCounts", "KeyTotals"]

#: Keys of both versions that are followed at once.
MAX_KEYS: Final = 100_000

#: Sums over the requests of a key.
_ANSWERED, _FAILED, _MISSED, _RUNS, _LOG_RUN, _LOG_TOTAL = range(6)
_GIVEN_UP: Final = "CANCELLED"

Floats = npt.NDArray[np.float64]


class KeyCounts(NamedTuple):
    """What the keys of one version have seen; the fields that `live.ArmCounts` has too, over keys.

    Attributes
    ----------
    given : int
        Distinct keys, of those that are followed.
    requests, answered : int
        Keys with a request that has ended, and with one that was answered.
    errors, misses : float
        Sums over these of the share of a key's requests that failed, and of its answers that came too late.
    run, total : Sums
        Of each key's mean logarithm of seconds in the graph, and from taking a request to its answer.
    """

    given: int
    requests: int
    answered: int
    errors: float
    misses: float
    run: Sums
    total: Sums


class KeyTotals:
    """Follows the keys of two versions through pages of exposures.

    Memory is bounded: 56 bytes for each of `MAX_KEYS` keys of both versions together. When there are more, every other
    one is let go of, by a hash of its point, with all that it has seen and will see; so those that stay are a fair
    sample of all keys, not the first or the busiest ones. Points are numbers of 32 bits, so among 100,000 keys one pair
    or so has one point and counts as one key. A key that has moved to the other version, as when its own was down,
    counts in both.

    Parameters
    ----------
    a, b : int
        Versions.
    since : float
        Requests that came earlier do not count (seconds since 1970).
    objective : float or None
        Milliseconds, beyond which an answer is a miss.
    max_keys : int

    Attributes
    ----------
    last : int
        Sequence number of the last request read.
    requests : int
        Requests of both versions read, those without a key too.
    keyless : int
        Requests without a key: they were drawn, so they are no observations here.
    level : int
        One of 2**level keys is followed.
    """

    def __init__(
        self, a: int, b: int, *, since: float = 0.0, objective: float | None = None, max_keys: int = MAX_KEYS
    ) -> None:
        self._versions = (a, b)
        self._since = since
        self._objective = np.inf if objective is None else objective
        self._max_keys = max_keys
        self.last = 0
        self.requests = 0
        self.keyless = 0
        self.level = 0
        self._ids: npt.NDArray[np.int64] = np.empty(0, np.int64)  # twice the point, plus one for B
        self._sums: Floats = np.empty((0, 6))

    def add(self, page: Mapping[str, Any]) -> None:
        """Take a page of exposures, later ones than before (see `serving_workbench.exposures`)."""
        self.last = page["sequence"][-1]
        version, status = np.array(page["version"]), np.array(page["status"])
        ours = np.isin(version, self._versions) & (np.array(page["time"]) >= self._since)
        keyed = np.array(page["keyed"], bool)
        ended = status != _GIVEN_UP
        self.requests += int(np.count_nonzero(ours & ended))
        self.keyless += int(np.count_nonzero(ours & ended & ~keyed))
        point = np.array(page["point"], np.int64)
        mine = ours & keyed & self._followed(point)
        answered, failed = status == "OK", ended & (status != "OK")
        total, run = np.array(page["total_ms"], float), np.array(page["run_ms"], float)  # None becomes not a number
        counts = answered & (run > 0) & ~np.array(page["shared"], bool)
        # A batch has one measurement: it counts for one of its requests, so that keys do not have it in common.
        values = np.stack(
            [
                answered,
                failed,
                answered & (total > self._objective),
                counts,
                np.where(counts, np.log(np.where(counts, run, 1.0) * 1e-3), 0.0),
                np.where(answered, np.log(np.maximum(total, 1e-6) * 1e-3), 0.0),
            ],
            axis=1,
        ).astype(float)
        self._merge((2 * point + (version == self._versions[1]))[mine], values[mine])
        while len(self._ids) > self._max_keys:
            self.level += 1
            kept = self._followed(self._ids >> 1)
            self._ids, self._sums = self._ids[kept], self._sums[kept]

    def _merge(self, ids: npt.NDArray[np.int64], values: Floats) -> None:
        everything = np.concatenate([self._ids, ids])
        unique, places = np.unique(everything, return_inverse=True)
        columns = np.concatenate([self._sums, values]).T
        sums = [np.bincount(places, weights=column, minlength=len(unique)) for column in columns]
        self._ids, self._sums = unique, np.stack(sums, axis=1)

    def _followed(self, point: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return _mixed(point) < (1 << (32 - self.level))

    def counts(self) -> tuple[KeyCounts, KeyCounts]:
        """Return what is known of the keys of A and of B."""
        return self._counts(0), self._counts(1)

    def _counts(self, arm: int) -> KeyCounts:
        sums = self._sums[self._ids & 1 == arm]
        answered, failed = sums[:, _ANSWERED], sums[:, _FAILED]
        ended, any_answered = answered + failed > 0, answered > 0
        return KeyCounts(
            len(sums),
            int(np.count_nonzero(ended)),
            int(np.count_nonzero(any_answered)),
            float((failed[ended] / (answered + failed)[ended]).sum()),
            float((sums[any_answered, _MISSED] / answered[any_answered]).sum()),
            _means(sums[:, _LOG_RUN], sums[:, _RUNS]),
            _means(sums[:, _LOG_TOTAL], answered),
        )

    def version_of(self, point: int) -> int | None:
        """Return the version that a key has, by its point; None: of neither, of both, or not followed."""
        places = np.searchsorted(self._ids, (2 * point, 2 * point + 1, 2 * point + 2))
        of_a, of_b = places[1] > places[0], places[2] > places[1]
        return None if of_a == of_b else self._versions[bool(of_b)]


def _means(sums: Floats, counts: Floats) -> Sums:
    known = counts > 0
    means = sums[known] / counts[known]
    return Sums(len(means), float(means.sum()), float(np.dot(means, means)))


def _mixed(point: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return another number of 32 bits for each point, which says nothing of its version (MurmurHash3's finalizer)."""
    mixed = point.astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed
