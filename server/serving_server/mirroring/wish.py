"""What an operator asks for: which version sees copies of how many requests, within which bounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from serving_server.errors import InvalidArgumentError

__all__ = ["Wish"]

_MAX_SECONDS: Final = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """A mirror that is asked for.

    Attributes
    ----------
    version : int
        The shadow.
    fraction : float
        Of the requests, above 0 and at most 1.
    queue : int
        Copies that may wait; more are dropped.
    at_once : int
        Copies that the shadow gets together, so that they can share a batch.
    busy : float
        Share of the time, above 0 and at most 1, for which the shadow may have copies.
    pairs : int
        Pairs of answers that are remembered.
    timeout : float
        Seconds that the shadow has for an answer.
    seconds : float
        How long the shadow may take to load when it is not.
    """

    version: int
    fraction: float = 1.0
    queue: int = 64
    at_once: int = 16
    busy: float = 0.05
    pairs: int = 1000
    timeout: float = 10.0
    seconds: float = 60.0

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Wish:
        """Read ``{"version": 2, "fraction": 0.1}`` and the other attributes.

        Raises
        ------
        InvalidArgumentError
            Naming what is wrong.
        """
        version = fields.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**63:
            raise InvalidArgumentError(f"version must be a version number, of the shadow; got {version!r}")
        given = {name: value for name, value in fields.items() if name != "version"}
        for name, value in given.items():
            least, most, whole = _BOUNDS[name]
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right or not math.isfinite(value) or not least <= value <= most:
                kind = "whole number" if whole else "number"
                raise InvalidArgumentError(f"{name} must be a {kind} from {least:g} to {most:g}; got {value!r}")
        return cls(version, **given)


#: Least, most, and whether it is a whole number.
_BOUNDS: Final[dict[str, tuple[float, float, bool]]] = {
    "fraction": (1e-6, 1, False),
    "queue": (1, 10_000, True),
    "at_once": (1, 256, True),
    "busy": (1e-4, 1, False),
    "pairs": (1, 100_000, True),
    "timeout": (0.001, _MAX_SECONDS, False),
    "seconds": (0, _MAX_SECONDS, False),
}
