"""States of a version, as on the wire, and the policies that choose which versions of a model are wanted."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from serving_server.errors import InvalidArgumentError, StatusCode
from serving_server.place import Place

__all__ = ["All", "Latest", "Policy", "Specific", "State", "VersionView", "choose"]

_MAX_VERSION = 2**63 - 1  # ModelSpec.version is an int64
_MAX_NUM_VERSIONS = 2**32 - 1  # FileSystemStoragePathSourceConfig: num_versions is a uint32


class State(enum.IntEnum):
    """Life of a version, numbered as ``ModelVersionStatus.State`` in get_model_status.proto."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionView:
    """What the server says about one version at one moment.

    ``step`` is "queued", "fork", "load" or "warmup" while the state is START or LOADING, else None. ``error_code``
    and ``error_message`` hold the final failure in END, and the last failed try or the crash in LOADING.
    ``load_seconds`` is the duration of the last successful load, ``pending`` counts requests that are queued or
    running.
    """

    version: int
    state: State
    held: bool
    error_code: StatusCode
    error_message: str
    step: str | None
    load_seconds: float | None
    restarts: int
    pending: int
    worker_pid: int | None
    path: Place


class Policy(ABC):
    """Which of the versions on disk are wanted: TF Serving's ServableVersionPolicy."""

    __slots__ = ()

    @abstractmethod
    def select(self, versions: Collection[int]) -> frozenset[int]:
        """Return the wanted ones among `versions`."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Return the JSON form, e.g. ``{"latest": {"num_versions": 1}}``; as text it is ``latest {1}``."""

    @staticmethod
    def from_json(data: object) -> Policy:
        """Read ``{"latest": {"num_versions": n}}``, ``{"specific": {"versions": [..]}}`` or ``{"all": {}}``.

        Raises
        ------
        InvalidArgumentError
            Anything else; the message names the part that is wrong.
        """
        if not isinstance(data, dict) or len(data) != 1:
            raise InvalidArgumentError(f"A version policy has exactly one of 'latest', 'specific', 'all'; got {data!r}")
        ((kind, body),) = data.items()
        fields = {"latest": "num_versions", "specific": "versions", "all": None}
        if kind not in fields:
            raise InvalidArgumentError(f"Unknown version policy {kind!r}; choose 'latest', 'specific' or 'all'")
        if not isinstance(body, dict):
            raise InvalidArgumentError(f"Version policy {kind!r} must hold an object; got {body!r}")
        field = fields[kind]
        unknown = [key for key in body if key != field]
        if unknown:
            allowed = f"only {field!r}" if field else "nothing"
            raise InvalidArgumentError(f"Version policy {kind!r} takes {allowed}; got {unknown[0]!r}")
        if kind == "latest":
            return Latest(body.get("num_versions", 1))
        if kind == "specific":
            versions = body.get("versions", [])
            if not isinstance(versions, list):
                raise InvalidArgumentError(f"specific.versions must be a list of version numbers; got {versions!r}")
            return Specific(versions)
        return All()


@dataclass(frozen=True, slots=True)
class Latest(Policy):
    """The `num_versions` highest versions. 0 means 1, as in TF Serving, where 0 is an unset field."""

    num_versions: int = 1

    def __post_init__(self) -> None:
        number: object = self.num_versions
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MAX_NUM_VERSIONS:
            raise InvalidArgumentError(f"latest.num_versions must be a whole number, 1 or more; got {number!r}")
        object.__setattr__(self, "num_versions", max(1, number))

    def select(self, versions: Collection[int]) -> frozenset[int]:
        return frozenset(sorted(versions)[-self.num_versions :])

    def to_json(self) -> dict[str, object]:
        return {"latest": {"num_versions": self.num_versions}}

    def __str__(self) -> str:
        return f"latest {{{self.num_versions}}}"


@dataclass(frozen=True, slots=True, init=False)
class Specific(Policy):
    """Exactly these versions, where they exist. An empty list wants nothing."""

    versions: tuple[int, ...]

    def __init__(self, versions: Iterable[int] = ()) -> None:
        numbers = list(versions)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MAX_VERSION:
                raise InvalidArgumentError(f"specific.versions must hold version numbers, 0 or more; got {number!r}")
        object.__setattr__(self, "versions", tuple(sorted(set(numbers))))

    def select(self, versions: Collection[int]) -> frozenset[int]:
        return frozenset(self.versions).intersection(versions)

    def to_json(self) -> dict[str, object]:
        return {"specific": {"versions": list(self.versions)}}

    def __str__(self) -> str:
        return f"specific {{{', '.join(map(str, self.versions))}}}"


@dataclass(frozen=True, slots=True)
class All(Policy):
    """Every version on disk."""

    def select(self, versions: Collection[int]) -> frozenset[int]:
        return frozenset(versions)

    def to_json(self) -> dict[str, object]:
        return {"all": {}}

    def __str__(self) -> str:
        return "all {}"


def choose(
    versions: Collection[int], policy: Policy, held: Collection[int] = ()
) -> tuple[frozenset[int], frozenset[int]]:
    """Choose the wanted versions among those on disk.

    The policy chooses as if held versions did not exist, so that a held version 2 does not displace version 1 under
    ``latest {1}``; held versions come in addition.

    Returns
    -------
    ordinary, held : frozenset of int
        Disjoint; their union is what must be loaded.
    """
    return (
        policy.select([version for version in versions if version not in held]),
        frozenset(held).intersection(versions),
    )
