"""What an operator asks for: weights by version, the header that makes keys sticky, how long to wait."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Final

from serving_server.errors import InvalidArgumentError

__all__ = ["EXPOSURES", "MAX_SECONDS", "Wish"]

#: Versions of one split.
MAX_VERSIONS: Final = 16
MAX_WEIGHT: Final = 1e9

#: How long versions may take to load that are not. Seconds.
SECONDS: Final = 60.0
MAX_SECONDS: Final = 600.0

#: Exposures that are remembered when nobody says; at most.
EXPOSURES: Final = 10_000
MAX_EXPOSURES: Final = 1_000_000

_VERSION: Final = re.compile(r"\d{1,19}", re.ASCII)
#: Names of headers and of gRPC metadata alike, but for those that gRPC has taken, and for binary metadata: it travels
#: in base64, so that one client's key would be another value over REST than over gRPC.
_NAME: Final = re.compile(r"(?!grpc-)[a-z0-9_.-]{1,64}(?<!-bin)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """A split that is asked for.

    Attributes
    ----------
    weights : dict of int to float
        By version, in order; one at least is above 0.
    key : bytes or None
        Name of the header whose values are sticky; None: no request is.
    keeps_key : bool
        The key is as before, whatever `key` says.
    seconds : float
        How long versions may take to load that are not.
    exposures : int or None
        How many are remembered; None: as before.
    objective : float or None
        Seconds beyond which an answer counts as a miss; None: none does.
    keeps_objective : bool
        It is as before while there is a split, whatever `objective` says.
    """

    weights: dict[int, float]
    key: bytes | None
    keeps_key: bool
    seconds: float
    exposures: int | None
    objective: float | None = None
    keeps_objective: bool = False

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Wish:
        """Read ``{"weights": {"1": 90, "2": 10}, "key": "x-user", "seconds": 60, "exposures": 10000, "slo_ms": 20}``.

        Raises
        ------
        InvalidArgumentError
            Naming what is wrong.
        """
        return cls(
            _weights(fields.get("weights")),
            None if fields.get("key") is None else _key(fields["key"]),
            "key" not in fields,
            _number(fields.get("seconds", SECONDS), "seconds", MAX_SECONDS),
            None if fields.get("exposures") is None else _exposures(fields["exposures"]),
            None if fields.get("slo_ms") is None else _number(fields["slo_ms"], "slo_ms", 1e6) / 1e3,
            "slo_ms" not in fields,
        )


def _weights(given: object) -> dict[int, float]:
    if not isinstance(given, dict) or not given:
        raise InvalidArgumentError(f'weights must be an object such as {{"1": 90, "2": 10}}; got {given!r}')
    if len(given) > MAX_VERSIONS:
        raise InvalidArgumentError(f"weights of {len(given)} versions; a split has at most {MAX_VERSIONS}")
    found: dict[int, float] = {}
    for name, weight in given.items():
        if not _VERSION.fullmatch(name):
            raise InvalidArgumentError(f"weights are by version number; got {name!r}")
        if int(name) in found:
            raise InvalidArgumentError(f"version {int(name)} has two weights")
        found[int(name)] = _number(weight, f"the weight of version {name}", MAX_WEIGHT)
    if not sum(found.values()):
        raise InvalidArgumentError("the weights are all 0: no version would answer. To end a split, delete it")
    return dict(sorted(found.items()))


def _number(value: object, what: str, most: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= most:  # type: ignore[operator]
        raise InvalidArgumentError(f"{what} must be a number from 0 to {most:.0f}; got {value!r}")
    return float(value)  # type: ignore[arg-type]


def _exposures(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_EXPOSURES:
        raise InvalidArgumentError(f"exposures must be a whole number from 0 to {MAX_EXPOSURES}; got {value!r}")
    return value


def _key(value: object) -> bytes:
    name = value.lower() if isinstance(value, str) else ""
    if not _NAME.fullmatch(name):
        msg = (
            f"key must be the name of a header, such as 'x-serving-key': 1 to 64 ASCII letters, digits, '-', '_' or "
            f"'.', not beginning with 'grpc-' or ending in '-bin'; got {value!r}"
        )
        raise InvalidArgumentError(msg)
    return name.encode()
