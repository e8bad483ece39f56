"""A search's result made of numbers: what one would look like on a machine without noise."""

from __future__ import annotations

import functools

import numpy as np

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.decision import Evidence
from serving_workbench.tuning.guided import predicted
from serving_workbench.tuning.result import Candidate, TuneResult
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.simulator import RequestPath, Simulator, unbatched
from serving_workbench.tuning.space import Point, Space
from serving_workbench.tuning.workload import Workload

__all__ = ["made_up"]

SLO = 0.020


def _curve() -> ServiceCurve:
    draw = np.random.default_rng(5)
    return ServiceCurve(
        {
            (at_once, rows): (0.001 + 0.0001 * rows) * (0.6 + 0.4 * at_once) * draw.lognormal(0, 0.05, 30)
            for at_once in (1, 2)
            for rows in (1, 2, 4, 8, 16, 32, 64)
        }
    )


def _rate(simulator: Simulator, space: Space, point: Point, hopeless: float) -> float:
    return capacity(simulator, space.parameters(point), SLO, precision=0.02, hopeless=hopeless).rate


@functools.cache
def _parts() -> tuple[Simulator, Space, dict[Point, float]]:
    simulator = Simulator(_curve(), RequestPath(0.0005, 1e-5, 1e-4, 1e-6, 1e-3), Workload(2000))
    space = Space((1, 4, 16, 64), (0, 1000, 5000), (1, 2), waiting=500)
    return simulator, space, predicted(space, functools.partial(_rate, simulator, space))


def made_up(*, spoiled: int = 0, repeats: int = 5, rate: float | None = None) -> TuneResult:
    """Return a result whose measurements are the simulator's word, with little noise but in `spoiled` repeats."""
    simulator, space, predictions = _parts()
    draw = np.random.default_rng(9)
    current = BatchingParameters(max_batch_size=4, num_batch_threads=2)
    best = space.parameters(max(predictions, key=predictions.__getitem__))
    candidates = []
    for label, parameters in (("current", current), ("batching off", None), ("best", best)):
        wanted = unbatched(2) if parameters is None else parameters
        found = capacity(simulator, wanted, SLO).rate
        rates = np.array([0.5, 0.8, 0.95, 1.05, 1.3]) * found
        latencies = SLO * (rates / found) ** 2 * np.exp(draw.normal(0, 0.02, (repeats, len(rates))))
        latencies[:spoiled] = np.inf
        latencies[:, -1] = np.inf
        candidates.append(Candidate(label, parameters, found, Evidence(parameters, rates, latencies), found * 1.02))
    return TuneResult(
        model="digits",
        version=3,
        digest="sha256 0123456789ab",
        slo=SLO,
        percent=99.0,
        rate=rate,
        date="2026-11-25T00:00:00+00:00",
        current=current,
        lanes=2,
        curve=simulator.curve,
        path=simulator.path,
        factor=1.0,
        crowded_at=0.0,
        space=space,
        predictions=predictions,
        candidates=candidates,
        floor=0.0018,
        notes=["A note."],
        seconds={"profile": 1.0, "repeat": 2.0},
    )
