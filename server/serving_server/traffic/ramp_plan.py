"""How a new version shall take over: steps, how long each lasts, and what makes it go back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

from serving_server.errors import InvalidArgumentError
from serving_server.traffic.wish import MAX_SECONDS, SECONDS, Wish

__all__ = ["GUARDRAILS", "Guardrails", "RampPlan"]

MAX_STEPS: Final = 20
MAX_HOLD: Final = 30 * 86_400.0
FINISHES: Final = ("promote", "hold")
#: By name: what they are of, for messages.
GUARDRAILS: Final = {
    "errors": "share of requests that fail",
    "run_time": "time in the graph, relative",
    "slo_misses": "share of answers that are later than the objective",
}


@dataclasses.dataclass(frozen=True)
class Guardrails:
    """By how much the candidate may surely be worse before it is taken back; None: it is not looked at.

    Attributes
    ----------
    errors : float or None
        Difference of the shares of requests that fail: 0.01 is one point in a hundred.
    run_time : float or None
        Relative: 1 is twice as long in the graph. A version with a small share runs longer than one with a large share
        by itself, as its caches are colder: a fifth to two fifths were seen, so smaller guardrails go back for nothing.
    slo_misses : float or None
        Difference of the shares of answers later than the objective.
    """

    errors: float | None = 0.01
    run_time: float | None = 1.0
    slo_misses: float | None = None

    @property
    def count(self) -> int:
        """How many are looked at."""
        return sum(value is not None for value in (self.errors, self.run_time, self.slo_misses))


@dataclasses.dataclass(frozen=True)
class RampPlan:
    """A ramp that is asked for.

    Attributes
    ----------
    baseline, candidate : int
        Versions; the baseline answers now.
    steps : tuple of float
        Percent of the requests that the candidate gets, ascending.
    hold : float
        Seconds that each step lasts at least.
    min_requests : int
        Requests that the candidate has to answer in each step at least.
    guardrails : Guardrails
    objective : float or None
        Seconds; see `outcomes.Outcomes`.
    key : bytes or None
        Name of the header whose values are sticky.
    finish : str
        ``promote``: after the last step the candidate alone answers. ``hold``: the last step goes on.
    seconds : float
        How long the candidate may take to load.
    """

    baseline: int
    candidate: int
    steps: tuple[float, ...]
    hold: float
    min_requests: int
    guardrails: Guardrails
    objective: float | None
    key: bytes | None
    finish: str
    seconds: float

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RampPlan:
        """Read what the control channel was given.

        ``{"from": 1, "to": 2, "steps": [1, 10, 50], "hold_seconds": 60, "min_requests": 200, "guardrails": {"errors":
        0.01, "run_time": 1, "slo_misses": 0.02}, "slo_ms": 20, "key": "x-user", "finish": "promote"}``; all but the
        versions may be left out.

        Raises
        ------
        InvalidArgumentError
            Naming what is wrong.
        """
        baseline, candidate = (_version(fields.get(name), name) for name in ("from", "to"))
        if baseline == candidate:
            raise InvalidArgumentError(f"a ramp goes from one version to another; got {baseline} twice")
        finish = fields.get("finish", "promote")
        if finish not in FINISHES:
            raise InvalidArgumentError(f"finish must be one of {', '.join(FINISHES)}; got {finish!r}")
        objective = fields.get("slo_ms")
        guardrails = _guardrails(fields.get("guardrails", {}))
        if guardrails.slo_misses is not None and objective is None:
            raise InvalidArgumentError("the guardrail slo_misses needs an objective: slo_ms")
        # The rules of a split's key are those of a ramp's.
        wish = Wish.from_json({"weights": {"1": 1}, "key": fields.get("key")})
        return cls(
            baseline,
            candidate,
            _steps(fields.get("steps", [1, 10, 50])),
            _number(fields.get("hold_seconds", 60.0), "hold_seconds", MAX_HOLD),
            _whole(fields.get("min_requests", 200), "min_requests"),
            guardrails,
            None if objective is None else _number(objective, "slo_ms", 1e6) / 1e3,
            wish.key,
            finish,
            _number(fields.get("seconds", SECONDS), "seconds", MAX_SECONDS),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as it is read."""
        return {
            "from": self.baseline,
            "to": self.candidate,
            "steps": list(self.steps),
            "hold_seconds": self.hold,
            "min_requests": self.min_requests,
            "guardrails": dataclasses.asdict(self.guardrails),
            "slo_ms": None if self.objective is None else 1e3 * self.objective,
            "key": None if self.key is None else self.key.decode(),
            "finish": self.finish,
        }

    def wish(self, step: int) -> Wish:
        """Return the split of a step."""
        percent = self.steps[step]
        weights = dict(sorted({self.baseline: 100 - percent, self.candidate: percent}.items()))
        return Wish(weights, self.key, keeps_key=False, seconds=self.seconds, exposures=None, objective=self.objective)


def _version(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgumentError(f"{name} must be a version number; got {value!r}")
    return value


def _steps(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_STEPS:
        raise InvalidArgumentError(f"steps must be 1 to {MAX_STEPS} percentages such as [1, 10, 50]; got {value!r}")
    found = tuple(_number(each, "a step", 100.0) for each in value)
    if any(later <= earlier for earlier, later in zip((0.0, *found), found, strict=False)):
        raise InvalidArgumentError(f"steps must rise, from above 0; got {value!r}")
    if found[-1] >= 100:
        raise InvalidArgumentError(
            f"a step of 100 leaves no request to compare with; end below it, and the version takes over; got {value!r}"
        )
    return found


def _guardrails(value: object) -> Guardrails:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"guardrails must be an object; got {value!r}")
    for name in value:
        if name not in GUARDRAILS:
            raise InvalidArgumentError(f"there is no guardrail {name!r}; there are {', '.join(GUARDRAILS)}")
    read = {name: None if each is None else _number(each, f"the guardrail {name}", 1e3) for name, each in value.items()}
    return Guardrails(**read)


def _number(value: object, what: str, most: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= most:  # type: ignore[operator]
        raise InvalidArgumentError(f"{what} must be a number from 0 to {most:.0f}; got {value!r}")
    return float(value)  # type: ignore[arg-type]


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**9:
        raise InvalidArgumentError(f"{what} must be a whole number, 0 or more; got {value!r}")
    return value
