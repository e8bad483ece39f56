"""The version of one request of a split: the part that each request runs through, and what is noted of it."""

from __future__ import annotations

import hashlib
import random
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, Literal, Protocol

from serving_server.errors import StatusCode
from serving_server.lifecycle.servable import Servable
from serving_server.traffic.exposures import ExposureLog
from serving_server.traffic.outcomes import KEYED, Outcomes
from serving_server.traffic.shares import POINTS, Piece, rebalance

__all__ = ["Arm", "Caller", "Period", "Router", "point_of"]

#: Periods of unchanging shares that a router remembers.
MAX_PERIODS: Final = 500

#: Keys whose points are remembered, which is a third cheaper than to hash them anew, and their length at most.
MAX_POINTS: Final = 20_000
MAX_KEY: Final = 256

_BITS: Final = POINTS.bit_length() - 1


class Caller(Protocol):
    """Who sends a request."""

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header or of gRPC metadata, None when there is none; `name` is in lower case."""


class Arm:
    """A version while the shares do not change.

    Attributes
    ----------
    version : int
    servable : Servable
    drawn, keyed : int
        Requests that it was given by lot, and by their key.
    point : int
        Of the request that it was given last, plus `KEYED` when its key decided: who takes the request from here keeps
        it for the outcome, in the same turn of the loop.
    outcomes : Outcomes
        What became of them.
    resolved : dict of str to object
        Targets of requests that it was given, which `serving_server.inference` keeps here by signature, and
        `serving_server.example_inference` by method and signature.
    """

    __slots__ = ("drawn", "keyed", "outcomes", "point", "resolved", "servable", "version")

    def __init__(self, version: int, servable: Servable, outcomes: Outcomes) -> None:
        self.version = version
        self.servable = servable
        self.drawn = 0
        self.keyed = 0
        self.point = 0
        self.outcomes = outcomes
        self.resolved: dict[Any, Any] = {}

    def failed(self, code: StatusCode) -> None:
        """Count the request that it was given last, which fails at once."""
        self.outcomes.failed(code, perf_counter(), self.point)


class Period:
    """A time of unchanging shares.

    Attributes
    ----------
    since : float
        Seconds since 1970.
    cause : str
        Why it began.
    shares : dict of int to float
        In force: of the versions that are available.
    arms : list of Arm
        With what they were given.
    """

    __slots__ = ("arms", "cause", "shares", "since")

    def __init__(self, cause: str, shares: dict[int, float], arms: list[Arm]) -> None:
        self.since = time.time()
        self.cause = cause
        self.shares = shares
        self.arms = arms

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "since": self.since,
            "cause": self.cause,
            "shares": {str(version): share for version, share in self.shares.items()},
            "requests": {str(arm.version): arm.drawn + arm.keyed for arm in self.arms},
            "keyed": {str(arm.version): arm.keyed for arm in self.arms},
            "outcomes": {str(arm.version): arm.outcomes.to_json() for arm in self.arms},
        }


def _hash_of(model: str) -> Any:
    return hashlib.blake2b(model.encode() + b"\0", digest_size=4)


def point_of(model: str, key: bytes) -> int:
    """Return the point of a key: BLAKE2b of four bytes, over the model's name, a zero byte and the key.

    With the model's name in it, who gets the new version of one model is independent of who gets that of another.
    """
    hashed = _hash_of(model)
    hashed.update(key)
    return int.from_bytes(hashed.digest(), "big")


class Router:
    """Gives requests of one model to versions. All calls on the loop.

    Parameters
    ----------
    model : str
    rng : random.Random
        What requests without a key are drawn with.
    capacity : int
        Exposures that are remembered; 0: none.

    Attributes
    ----------
    weights : dict of int to float
        By version; empty while nothing is split.
    key : bytes or None
        Name of the header whose values are sticky.
    objective : float or None
        Seconds; see `Outcomes`.
    requests : Counter of (int, bool)
        Requests of finished periods, by version and whether by key; see `counts`.
    unrouted : int
        Requests that found none of the versions available.
    periods : deque of Period
        The last is the present one.
    exposures : ExposureLog
    """

    def __init__(self, model: str, rng: random.Random, capacity: int) -> None:
        self.model = model
        self.weights: dict[int, float] = {}
        self.key: bytes | None = None
        self.objective: float | None = None
        self.requests: Counter[tuple[int, bool]] = Counter()
        self.unrouted = 0
        self.periods: deque[Period] = deque(maxlen=MAX_PERIODS)
        self.exposures = ExposureLog(capacity)
        self._rng = rng
        self._draw = rng.getrandbits
        self._pieces: list[Piece] = []  # as the weights say, whoever is available
        self._hash = _hash_of(model).copy
        self._points: dict[bytes, int] = {}  # of keys seen lately: those who come come again
        #: One object, so that a request sees all or nothing of a change: where the pieces begin, and whose they are.
        self._table: tuple[Sequence[int], Sequence[Arm]] = ((), ())

    # -- requests ------------------------------------------------------------------------------------------------------

    def pick(
        self,
        caller: Caller,
        from_bytes: Callable[[bytes, Literal["big"]], int] = int.from_bytes,
    ) -> Arm | None:
        """Return the arm that answers a request; None when none of the versions is available."""
        starts, owners = self._table
        if not starts:
            self.unrouted += 1
            return None
        if self.key is not None and (key := caller.header(self.key)):
            point = self._points.get(key)
            if point is None:
                hashed = self._hash()  # as `point_of`, but half of it is done
                hashed.update(key)
                point = from_bytes(hashed.digest(), "big")
                if len(self._points) >= MAX_POINTS:
                    self._points.clear()
                if len(key) <= MAX_KEY:
                    self._points[key] = point
            arm = owners[bisect_right(starts, point) - 1]
            arm.keyed += 1
            arm.point = point + KEYED
        else:
            point = self._draw(_BITS)
            arm = owners[bisect_right(starts, point) - 1]
            arm.drawn += 1
            arm.point = point
        return arm

    # -- changes -------------------------------------------------------------------------------------------------------

    def change(self, weights: Mapping[int, float], key: bytes | None, answering: Mapping[int | None, Servable]) -> None:
        """Split by other weights from now on; none at all: not.

        Parameters
        ----------
        weights : mapping of int to float
            As for `shares.rebalance`.
        key : bytes or None
        answering : mapping
            What is available; see `Manager.answering`.
        """
        self.key = key
        self.weights = dict(weights)
        self._pieces = rebalance(self._pieces, weights) if weights else []
        self._begin("the weights were set" if weights else "the split ended", answering)

    def resize(self, capacity: int) -> None:
        """Remember so many exposures from now on; the latest are kept."""
        self.exposures.resize(capacity)

    def update(self, answering: Mapping[int | None, Servable]) -> None:
        """Follow what is available: the share of a version that is not goes to the others, by their weights."""
        if not self.weights:
            return
        before = {arm.version: arm.servable for arm in self.periods[-1].arms}
        present = {version: answering[version] for version in self.weights if version in answering}
        if present == before:
            return
        gone, come = sorted(before.keys() - present), sorted(present.keys() - before)
        causes = [f"version {version} is not available" for version in gone]
        causes += [f"version {version} is available" for version in come]
        self._begin("; ".join(causes) or "a worker was replaced", answering)

    def _begin(self, cause: str, answering: Mapping[int | None, Servable]) -> None:
        self._settle()
        arms = {
            version: Arm(version, answering[version], self.exposures.open(version, self.objective))
            for version in sorted(self.weights)
            if version in answering
        }
        weights = {version: self.weights[version] for version in arms}
        whole = sum(weights.values())
        pieces = rebalance(self._pieces, weights) if whole else []
        shares = {version: weight / whole if whole else 0.0 for version, weight in weights.items()}
        if len(self.periods) == MAX_PERIODS:
            for arm in self.periods[0].arms:
                self.exposures.forget(arm.outcomes)
        self.periods.append(Period(cause, shares, list(arms.values())))
        self._table = ([piece.start for piece in pieces], [arms[piece.version] for piece in pieces])

    def _settle(self) -> None:
        for arm in self.periods[-1].arms if self.periods else ():
            self.requests[arm.version, False] += arm.drawn
            self.requests[arm.version, True] += arm.keyed
            del arm.servable  # of a finished period only the counts are of interest
            arm.resolved = {}

    def counts(self) -> Counter[tuple[int, bool]]:
        """Return all requests since the first split, by version and whether by key."""
        found = Counter(self.requests)
        for arm in self.periods[-1].arms if self.periods else ():
            found[arm.version, False] += arm.drawn
            found[arm.version, True] += arm.keyed
        return found
