"""Services that exist only as numbers: the truth that a search is judged by. Seeded, without a clock."""

from __future__ import annotations

import numpy as np

from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.simulator import RequestPath, Simulator
from serving_workbench.tuning.space import Point, Space
from serving_workbench.tuning.workload import Workload

__all__ = ["NOISE", "SIZES", "SPACE", "SyntheticService"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SPACE = Space(SIZES, (0, 500, 1000, 2000, 4000, 8000, 15_000, 30_000), (1, 2, 4), waiting=2000)

#: Of every measurement: standard deviation of its logarithm.
NOISE = 0.04


class SyntheticService:
    """One service: its true curve, costs of the path, objective, and what measuring it would tell."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng([seed, 77])
        fixed = float(np.exp(draw.uniform(np.log(2e-4), np.log(8e-3))))
        per_row = fixed * float(np.exp(draw.uniform(np.log(0.01), np.log(0.6))))
        bend = int(draw.choice([16, 32, 64, 10_000]))
        steeper = draw.uniform(1.2, 3.0)
        crowding = {1: 1.0, 2: draw.uniform(1.0, 1.9), 4: draw.uniform(1.9, 3.9)}
        tail = draw.uniform(0.03, 0.25)
        samples = {}
        for at_once, factor in crowding.items():
            for rows in SIZES:
                seconds = fixed + per_row * (min(rows, bend) + steeper * max(0, rows - bend))
                samples[at_once, rows] = seconds * factor * draw.lognormal(0, tail, 200)
        self._curve = ServiceCurve(samples)
        self._path = RequestPath(5e-4, 1e-5, 8e-5, 2e-6, 1e-3)
        self._draw = draw
        self.slo = float(self._curve.median(8, 2) * draw.uniform(3, 8) + 2e-3)
        self._truth = Simulator(self._curve, self._path, Workload(3000, seed=1000 + seed))
        self._rates: dict[Point, float] = {}

    def rate(self, point: Point) -> float:
        """Return the rate that a configuration truly sustains."""
        if point not in self._rates:
            self._rates[point] = capacity(self._truth, SPACE.parameters(point), self.slo).rate
        return self._rates[point]

    def measure(self, point: Point) -> float:
        """Return what one real measurement would say."""
        return self.rate(point) * float(self._draw.lognormal(0, NOISE))

    def best(self) -> float:
        """Return the rate of the best configuration of all."""
        best = 0.0
        for point in SPACE:
            found = capacity(self._truth, SPACE.parameters(point), self.slo, precision=0.005, hopeless=1.001 * best)
            best = max(best, found.rate)
        return best

    def model(self) -> Simulator:
        """Return the simulator that a profile of this service would give: few noisy runs, and costs a little off."""
        samples = {}
        for (at_once, rows), values in self._curve.samples.items():
            off = self._draw.lognormal(0, NOISE)
            samples[at_once, rows] = self._draw.choice(values, 30) * off
        off = float(self._draw.uniform(0.8, 1.2))
        costs = (self._path.fixed, self._path.per_request, self._path.per_batch, self._path.per_row)
        guess = RequestPath(*(cost * off for cost in costs), self._path.clock)
        return Simulator(ServiceCurve(samples), guess, Workload(3000, seed=int(self._draw.integers(1 << 30))))
