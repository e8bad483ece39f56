"""Answers to other questions than the one that was measured for: from the model of the server alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.load.objective import Objective
from serving_workbench.tuning import verdict
from serving_workbench.tuning.capacity import capacity, floor_latency
from serving_workbench.tuning.guided import predicted
from serving_workbench.tuning.simulator import unbatched
from serving_workbench.tuning.space import Point

if TYPE_CHECKING:
    from serving_workbench.tuning.result import TuneResult

__all__ = ["WhatIf", "ask"]

#: Lone requests that take so many times the objective are beyond it however they are batched.
_HOPELESS: Final = 2.0


@dataclasses.dataclass(frozen=True)
class WhatIf:
    """An answer of `TuneResult.what_if`.

    Attributes
    ----------
    slo, percent : float
        Seconds, and of which percentile.
    asked : float or None
        The rate that was asked about.
    parameters : BatchingParameters or None
        None: no configuration does.
    rate : float
        Requests per second.
    latency : float
        The percentile at that rate, seconds; without parameters: the lowest there is.
    floor : float
        What no configuration gets below, seconds.
    """

    slo: float
    percent: float
    asked: float | None
    parameters: BatchingParameters | None
    rate: float
    latency: float
    floor: float

    def __repr__(self) -> str:
        objective = f"p{self.percent:g} <= {self.slo * 1e3:.3g} ms"
        if self.parameters is None:
            at = "any rate" if self.asked is None else f"{self.asked:,.0f} requests/s"
            return f"Predicted: nothing keeps {objective} at {at}; lone requests take {self.floor * 1e3:.3g} ms."
        kept = "" if self.latency <= self.slo * 1.001 else f", which is beyond {self.slo * 1e3:.3g} ms"
        return (
            f"Predicted, not measured: {verdict.short(self.parameters)} answers {self.rate:,.0f} requests/s with "
            f"p{self.percent:g} {self.latency * 1e3:.3g} ms{kept}."
        )


def ask(result: TuneResult, slo: float | str | None, rate: float | None) -> WhatIf:
    """Answer `TuneResult.what_if`."""
    wanted = Objective.parse(slo)
    seconds = result.slo if wanted is None else wanted.seconds
    percent = result.percent if wanted is None else wanted.percent
    simulator, space = result.simulator, result.space
    floor = floor_latency(simulator, unbatched(result.lanes), quantile=percent / 100)
    if floor > _HOPELESS * seconds and rate is None:
        return WhatIf(seconds, percent, rate, None, 0.0, floor, floor)  # soon, where a search of the grid takes longest
    if rate is None:

        def score(point: Point, hopeless: float) -> float:
            found = capacity(simulator, space.parameters(point), seconds, quantile=percent / 100, hopeless=hopeless)
            return found.rate

    else:

        def score(point: Point, hopeless: float) -> float:  # noqa: ARG001 - as above
            parameters = space.parameters(point)
            if rate > 0.97 * simulator.saturated(parameters):
                return 0.0
            return 1.0 / simulator.run(parameters, rate).quantile(percent / 100)

    found = predicted(space, score)
    best = max(found, key=lambda point: (found[point], tuple(-place for place in point)))
    parameters = space.parameters(best)
    if found[best] <= 0:
        return WhatIf(seconds, percent, rate, None, 0.0, floor, floor)
    reached = found[best] if rate is None else rate
    latency = simulator.run(parameters, reached).quantile(percent / 100)
    return WhatIf(seconds, percent, rate, parameters, reached, latency, result.floor)
