"""The highest rate at which a configuration keeps a latency objective, by the simulator."""

from __future__ import annotations

import dataclasses
from typing import Final

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.simulator import Simulation, Simulator

__all__ = ["Capacity", "capacity", "floor_latency"]

#: A queue that is fed faster than this part of what its threads can do grows without end, in the long run.
_STABLE: Final = 0.97

#: The search for a rate that works ends here, as a part of the saturated rate.
_LOWEST: Final = 0.005

#: Refused requests are failures; so many of them are chance.
_MAX_REFUSED: Final = 0.001


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What a configuration can do under an objective.

    Attributes
    ----------
    rate : float
        Requests per second; 0 when no rate keeps the objective.
    at : Simulation or None
        The run at that rate.
    runs : int
        Simulations that it took.
    """

    rate: float
    at: Simulation | None
    runs: int


def capacity(
    simulator: Simulator,
    parameters: BatchingParameters,
    slo: float,
    *,
    quantile: float = 0.99,
    precision: float = 0.01,
    hopeless: float = 0.0,
) -> Capacity:
    """Find the highest rate at which a quantile of the latency is within the objective.

    Parameters
    ----------
    simulator : Simulator
    parameters : BatchingParameters
    slo : float
        Seconds.
    quantile : float
    precision : float
        Relative, of the rate.
    hopeless : float
        A configuration that fails at this rate is not looked at more closely: its rate is told as 0.

    Returns
    -------
    Capacity
    """
    runs = 0
    best: Simulation | None = None

    def keeps(rate: float) -> bool:
        nonlocal runs, best
        runs += 1
        found = simulator.run(parameters, rate)
        kept = found.quantile(quantile) <= slo and found.refused <= _MAX_REFUSED * simulator.workload.requests
        if kept and (best is None or rate > best.rate):
            best = found
        return kept

    if simulator.workload.rows > parameters.batch_limit:
        return Capacity(0.0, None, 0)
    high = _STABLE * simulator.saturated(parameters)
    if high < hopeless:
        return Capacity(0.0, None, 0)
    if keeps(high):
        return Capacity(high, best, runs)
    low = hopeless
    if hopeless > 0:
        if not keeps(hopeless):
            return Capacity(0.0, None, runs)
    else:
        # From above: at low rates a batch waits for its whole timeout, so latency may be worse there than higher up.
        low = 0.8 * high
        while not keeps(low):
            high, low = low, 0.75 * low
            if low < _LOWEST * simulator.saturated(parameters):
                return Capacity(0.0, None, runs)
    while high / low > 1 + precision:
        middle = (high * low) ** 0.5
        if keeps(middle):
            low = middle
        else:
            high = middle
    return Capacity(low, best, runs)


def floor_latency(simulator: Simulator, parameters: BatchingParameters, *, quantile: float = 0.99) -> float:
    """Return the quantile of the latency of lone requests in seconds: no objective below it can be kept.

    The rate is so low that no two requests meet.
    """
    lone = 0.002 / simulator.curve.median(max(1, simulator.workload.rows))
    return simulator.run(parameters, lone).quantile(quantile)
