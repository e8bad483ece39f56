"""Configurations under real load: those that look best once each, then the best of these again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning import blackbox
from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.decision import Evidence, sustained
from serving_workbench.tuning.guided import predicted, shortlist
from serving_workbench.tuning.ladder import LEAST_REQUESTS, Ladder, around, meeting
from serving_workbench.tuning.measuring import Climb, Measurer
from serving_workbench.tuning.result import Candidate, TuneResult
from serving_workbench.tuning.simulator import Simulator, unbatched
from serving_workbench.tuning.space import Point
from serving_workbench.tuning.stepping import Steps
from serving_workbench.tuning.trials import Trials
from serving_workbench.tuning.verdict import short
from serving_workbench.tuning.workload import Workload

__all__ = ["SHORTLIST", "Plan", "Verifier"]

Floats = NDArray[np.float64]

#: Names of the configurations that are measured whatever the predictions say.
CURRENT: Final = "current"
OFF: Final = "batching off"
RECIPE: Final = "TF Serving's recipe"

#: Rates of the ladders, as parts of the predicted and of the screened rate.
_SCREEN: Final = (0.45, 0.65, 0.85, 1.05, 1.3)
_FINAL: Final = (0.4, 0.6, 0.8, 1.0, 1.2)
#: Configurations that are screened on the word of the predictions.
SHORTLIST: Final = 7
#: Seconds that a load test takes beside its requests, as its process has to start: until it was seen.
_OVERHEAD: Final = 0.9
#: Parts of the time: after the first no more configurations are screened but those that all are compared with, after
#: the second none but the current one, after the third no rounds are added.
_SCREENED: Final = 0.5
_KNOWN: Final = 0.8
_ADDED: Final = 0.85
#: Rounds of repeats that may be added when something else used the processors in some.
_MORE_ROUNDS: Final = 3
#: Rounds of repeats that are made in any case, and the part of the time after which no other one begins.
_LEAST_ROUNDS: Final = 2
_LATE: Final = 1.15
#: Steps of the fit to what was measured, at most, and the logarithm of the ratio at which it ends.
_FITTED: Final = 6
_AGREED: Final = 0.02
#: The lowest rungs of `_FINAL`, which are left out where time is short.
_SKIPPED: Final = 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search was asked for.

    Attributes
    ----------
    slo, percent : float
        Seconds, and of which percentile.
    rate : float or None
        Requests per second; None: the highest.
    rows : int
        Of a request.
    seconds : float
        For all of it.
    repeats, seed : int
    """

    slo: float
    percent: float
    rate: float | None
    rows: int
    seconds: float
    repeats: int
    seed: int

    @property
    def cores(self) -> int:
        """Processors of the machine."""
        return os.cpu_count() or 1


class Verifier:
    """Predicts, measures, and writes what it finds into a result.

    Parameters
    ----------
    plan : Plan
    measurer : Measurer
    result : TuneResult
        Its `predictions`, `candidates`, `factor` and `notes` grow.
    steps : Steps

    Attributes
    ----------
    most : float
        Requests per second that the load generator can send beside the server.
    flags : dict of str to int
        Runs by what flags them.
    """

    def __init__(self, plan: Plan, measurer: Measurer, result: TuneResult, steps: Steps) -> None:
        self._plan = plan
        self._measurer = measurer
        self._result = result
        self._steps = steps
        self._overheads = [_OVERHEAD]
        self.most = math.inf
        self.flags: dict[str, int] = {}

    def _simulator(self) -> Simulator:
        return self._result.simulate(Workload(4000, seed=self._plan.seed, rows=self._plan.rows))

    def predict(self) -> None:
        simulator, space, quantile = self._simulator(), self._result.space, self._plan.percent / 100

        def score(point: Point, hopeless: float) -> float:
            self._steps.tick()
            found = capacity(
                simulator, space.parameters(point), self._plan.slo, quantile=quantile, precision=0.02, hopeless=hopeless
            )
            return found.rate

        self._result.predictions = predicted(space, score)

    def _known(self) -> dict[str, BatchingParameters | None]:
        """Return the configurations that everybody wants to be compared with."""
        known: dict[str, BatchingParameters | None] = {CURRENT: self._result.current, OFF: None}
        if self._result.current is None:
            del known[OFF]
        known[RECIPE] = BatchingParameters(max_batch_size=1000, num_batch_threads=self._plan.cores)
        if known[RECIPE] == self._result.current:
            del known[RECIPE]
        return known

    def _candidate(self, label: str, parameters: BatchingParameters | None) -> Candidate:
        simulator = self._simulator()
        wanted = unbatched(self._result.lanes) if parameters is None else parameters
        found = capacity(simulator, wanted, self._plan.slo, quantile=self._plan.percent / 100, precision=0.02)
        return Candidate(label, parameters, found.rate)

    @property
    def _overhead(self) -> float:
        return float(np.mean(self._overheads[-5:]))

    def screen(self, count: int) -> None:
        """Measure the most promising configurations once each, and those that all are compared with."""
        chosen = [self._result.space.parameters(point) for point in self._shortlist(count)]
        known = self._known()
        named = {short(each): each for each in chosen if each not in known.values()}
        self._result.candidates += [self._candidate(label, each) for label, each in (known | named).items()]
        order = list(range(len(self._result.candidates)))
        random.Random(self._plan.seed).shuffle(order)  # noqa: S311 - no secret
        budget = 0.3 * self._plan.seconds
        each = max(0.2, (budget / max(1, len(order)) - self._overhead) / len(_SCREEN))
        for number, index in enumerate(order):
            candidate = self._result.candidates[index]
            part = _SCREENED if candidate.label not in known else 0.0 if candidate.label == CURRENT else _KNOWN
            if part and self._steps.spent > part * self._plan.seconds:
                continue
            self._steps.step("screen", f"{number + 1} of {len(order)}: {candidate.label}")
            candidate.screened = self._once(candidate, each)
        self._refit()

    def _shortlist(self, count: int) -> list[Point]:
        if self._plan.rate is None:
            return shortlist(self._result.predictions, count)
        simulator = self._simulator()
        scores = {}
        for point, capable in self._result.predictions.items():
            if capable >= self._plan.rate:
                latency = simulator.run(self._result.space.parameters(point), self._plan.rate).quantile(
                    self._plan.percent / 100
                )
                scores[point] = 1.0 / latency
        # None can do it by the model: then those that come closest.
        return shortlist(scores or self._result.predictions, count)

    def _once(self, candidate: Candidate, seconds: float) -> float:
        """Return the rate that a configuration sustains in one short run, or two where the first missed it."""
        guess = candidate.predicted or self._slowest()
        for attempt in range(2):
            guess = min(guess, self.most / _SCREEN[-1])
            rung = self._rung(guess, seconds)
            # A slow service takes long for the requests of one rung: those in the middle tell most.
            rungs = _SCREEN if rung * len(_SCREEN) <= max(2.5 * seconds * len(_SCREEN), 2.0) else _SCREEN[1:4]
            ladder = around(guess, rungs, rung, self._plan.seed)
            latencies = self._climb(candidate.parameters, ladder).latencies
            found = sustained(
                Evidence(candidate.parameters, np.array(ladder.rates), latencies[None]), self._plan.slo
            ).rate
            if found >= 0.999 * ladder.rates[-1]:
                if guess * _SCREEN[-1] >= 0.99 * self.most:
                    return found
                if attempt == 0 and self._steps.spent > _SCREENED * self._plan.seconds:
                    return found  # no time for a second look
                guess *= 1.8
            elif found <= 0:
                guess *= 0.4
            else:
                return found
        return found

    def _slowest(self) -> float:
        return min((each.predicted for each in self._result.candidates if each.predicted > 0), default=50.0)

    def _rung(self, rate: float, seconds: float) -> float:
        """Return the length of a rung: an overload must have time to show."""
        return max(seconds, min(15 * self._plan.slo, 3.0, 2 * seconds), 100 / rate)

    def _climb(self, parameters: BatchingParameters | None, ladder: Ladder) -> Climb:
        began = self._steps.spent
        climbed = self._measurer.climb(parameters, ladder, self._plan.slo)
        self._overheads.append(max(0.2, self._steps.spent - began - ladder.duration))
        for flag in climbed.flags:
            self.flags[flag] = self.flags.get(flag, 0) + 1
        return climbed

    def _refit(self) -> None:
        """Let the model agree with what was screened, in the mean; then predict again."""
        seen = [(candidate, candidate.screened) for candidate in self._result.candidates if candidate.screened]
        if self._fit(seen):
            for candidate in self._result.candidates:
                candidate.predicted = self._candidate(candidate.label, candidate.parameters).predicted

    def learn(self) -> None:
        """Let the model agree with the repeats, for `what_if`; the candidates keep what was predicted before them."""
        seen = []
        for candidate in self._result.measured:
            assert candidate.evidence is not None
            found = sustained(candidate.evidence, self._plan.slo)
            if math.isfinite(found.high) and found.rate > 0:  # where the ladder ended first, only a bound is known
                seen.append((candidate, found.rate))
        self._fit(seen)

    def _fit(self, seen: list[tuple[Candidate, float]]) -> bool:
        """Choose the factor with which predictions agree with what was seen; whether there was anything to see."""
        # Those far below the most that the machine can do say little of how it is then.
        seen = [pair for pair in seen if pair[1] > 0.3 * self._result.crowded_at] or seen
        if not seen:
            return False
        for _ in range(_FITTED):
            self._steps.tick()
            ratios = [
                self._candidate(candidate.label, candidate.parameters).predicted / rate for candidate, rate in seen
            ]
            ratio = math.exp(float(np.median([math.log(each) for each in ratios if each > 0] or [0.0])))
            if abs(math.log(ratio)) < _AGREED:
                break
            # What a rate responds with to the factor is less than in proportion: it takes some steps.
            self._result.factor = min(10.0, max(1.0, self._result.factor * ratio))
        self.predict()
        return True

    def black_box(self, method: str, trials: int | None) -> None:
        """Search without the predictions; they only say around which rate to look."""
        each = 0.3
        parameters = {point: self._result.space.parameters(point) for point in self._result.space}
        made: dict[Point, Candidate] = {}

        def measure(point: Point) -> float:
            self._steps.step("search", f"{len(made) + 1}: {short(parameters[point])}")
            candidate = made[point] = Candidate(
                short(parameters[point]), parameters[point], self._result.predictions.get(point, 0.0)
            )
            self._result.candidates.append(candidate)
            candidate.screened = self._once(candidate, each)
            return candidate.screened

        affordable = int(0.45 * self._plan.seconds / (_OVERHEAD + len(_SCREEN) * each))
        budget = trials or max(6, min(affordable, len(self._result.space) // 5))
        blackbox.search(
            self._result.space,
            Trials(measure),
            budget,
            method,
            self._plan.seed,
            enough=lambda: bool(made) and self._steps.spent > _SCREENED * self._plan.seconds,
        )
        for label, known in self._known().items():
            candidate = self._candidate(label, known)
            self._steps.step("search", label)
            candidate.screened = self._once(candidate, each)
            self._result.candidates.append(candidate)
        self._refit()

    def repeat(self) -> None:
        """Measure the best two and the current one again and again, taking turns, with the same arrivals."""

        # One run is noisy, and the best of many was lucky as well: the prediction counts as much.
        def promise(candidate: Candidate) -> float:
            seen = candidate.screened or 0.0
            return seen * max(candidate.predicted, 0.1 * seen)

        ranked = sorted(self._result.candidates, key=promise, reverse=True)
        finalists = ranked[:2]
        finalists += [each for each in self._result.candidates if each.label == CURRENT and each not in finalists]
        left = self._plan.seconds - self._steps.spent - 2.0
        once = left / (len(finalists) * self._plan.repeats) - self._overhead
        plans = meeting([self._rates(each, once) for each in finalists], max(0.2, once / len(_FINAL)))
        each = max(0.2, once / max(map(len, plans)))
        order = random.Random(self._plan.seed + 1)  # noqa: S311 - no secret
        found: list[list[Climb]] = [[] for _ in finalists]
        with contextlib.ExitStack() as stack:
            stack.callback(self._keep, finalists, plans, found)
            for repeat in range(self._plan.repeats + _MORE_ROUNDS):
                calm = min(sum(not climb.disturbed for climb in climbs) for climbs in found)
                if repeat >= self._plan.repeats and (
                    calm >= self._plan.repeats or self._steps.spent > _ADDED * self._plan.seconds
                ):
                    break
                if repeat >= _LEAST_ROUNDS and self._steps.spent > _LATE * self._plan.seconds:
                    self._result.notes.append(
                        f"Time was enough for {repeat} of {self._plan.repeats} repeats: intervals are wider for it. "
                        "Give it more with seconds=."
                    )
                    break
                turns = list(range(len(finalists)))
                order.shuffle(turns)
                for index in turns:
                    candidate = finalists[index]
                    self._steps.step("repeat", f"{repeat + 1} of {self._plan.repeats}: {candidate.label}")
                    ladder = Ladder(plans[index], self._rung(plans[index][-1], each), self._plan.seed + 100 + repeat)
                    found[index].append(self._climb(candidate.parameters, ladder))
        self._tell_limits(finalists, plans)

    def _tell_limits(self, finalists: list[Candidate], plans: list[tuple[float, ...]]) -> None:
        capped = [
            candidate.label
            for candidate, plan in zip(finalists, plans, strict=True)
            if plan[-1] >= 0.99 * self.most and candidate.predicted > plan[-1]
        ]
        if capped:
            self._result.notes.append(
                f"The load generator sends at most {self.most:,.0f} requests/s beside the server on this machine, so "
                f"more was not measured for: {'; '.join(capped)}. Larger requests (rows=) need less of it."
            )

    def _rates(self, candidate: Candidate, seconds: float) -> tuple[float, ...]:
        """Return the rates of a ladder for which there are so many seconds: a slow service has no time for many."""
        if self._plan.rate is not None:
            return tuple(self._plan.rate * part for part in (0.85, 1.0, 1.15))
        middle = min(candidate.screened or candidate.predicted or self._slowest(), self.most / _FINAL[-1])
        rates = tuple(middle * part for part in _FINAL)
        return rates if sum(LEAST_REQUESTS / rate for rate in rates) <= max(1.0, seconds) else rates[_SKIPPED:]

    def _keep(self, finalists: list[Candidate], plans: list[tuple[float, ...]], found: list[list[Climb]]) -> None:
        """Keep what was measured, also when it ended early; all with the same number of repeats."""
        complete = min(map(len, found))
        if complete < 2:
            return
        for candidate, rates, climbs in zip(finalists, plans, found, strict=True):
            latencies = np.array([climb.latencies for climb in climbs[:complete]])
            disturbed = tuple(climb.disturbed for climb in climbs[:complete])
            candidate.evidence = Evidence(candidate.parameters, np.array(rates), latencies, disturbed)
