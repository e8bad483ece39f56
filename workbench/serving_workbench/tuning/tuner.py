"""The search itself: profile, probe, predict, screen, repeat, decide. `tune` is what users call."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from serving_server.batching.parameters import BatchingParameters
from serving_server.signatures import Signature
from serving_workbench import sampling
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.inputs import as_inputs
from serving_workbench.load.job import GRPC
from serving_workbench.load.objective import Objective
from serving_workbench.load.payload import Payload, from_data, from_signature
from serving_workbench.load.target import resolve
from serving_workbench.savedmodel import default_signature_name
from serving_workbench.tuning import blackbox
from serving_workbench.tuning.capacity import capacity
from serving_workbench.tuning.decision import Evidence, sustained
from serving_workbench.tuning.guided import predicted, shortlist
from serving_workbench.tuning.ladder import Ladder, around
from serving_workbench.tuning.measuring import Climb, Measurer
from serving_workbench.tuning.profiling import Profile, profile
from serving_workbench.tuning.result import Candidate, TuneResult
from serving_workbench.tuning.simulator import RequestPath, Simulator, unbatched
from serving_workbench.tuning.space import NO_PADDING, POWERS_OF_TWO, Point, Space, powers_of_two
from serving_workbench.tuning.stepping import Steps
from serving_workbench.tuning.trials import Trials
from serving_workbench.tuning.verdict import short
from serving_workbench.tuning.workload import Workload

__all__ = ["GUIDED", "search"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

GUIDED: Final = "guided"
#: Names of the configurations that are measured whatever the predictions say.
CURRENT: Final = "current"
OFF: Final = "batching off"
RECIPE: Final = "TF Serving's recipe"

#: Largest batch that is tried unless told otherwise.
MAX_BATCH: Final = 128
#: Step of the clock by which the server's loop keeps timeouts (uvloop). Seconds.
_CLOCK: Final = 1e-3
#: Waits that are tried, as parts of the objective.
_WAITS: Final = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
#: Rates of the ladders, as parts of the predicted and of the screened rate.
_SCREEN: Final = (0.45, 0.65, 0.85, 1.05, 1.3)
_FINAL: Final = (0.35, 0.55, 0.75, 0.9, 1.05)
#: Configurations that are screened on the word of the predictions.
_SHORTLIST: Final = 7
#: Seconds that a load test takes beside its requests, as its process has to start: until it was seen.
_OVERHEAD: Final = 0.9
#: Parts of the time: after the first no more configurations are screened but those that all are compared with, after
#: the second no rounds are added.
_SCREENED: Final = 0.5
_ADDED: Final = 0.85
#: Rounds of repeats that may be added when something else used the processors in some.
_MORE_ROUNDS: Final = 3
#: Part of a processor that the load generator may use: beyond, it would measure itself.
_CLIENT: Final = 0.75
#: Of the machine's processors, busy before anything began, beyond which it is said.
_BUSY: Final = 0.25


def search(
    model: ServedModel | str,
    slo: Objective | str | float,
    *,
    rate: float | None = None,
    data: object = None,
    rows: int = 1,
    signature: str | None = None,
    instance: str = "default",
    seconds: float = 110.0,
    repeats: int = 5,
    method: str = GUIDED,
    trials: int | None = None,
    sizes: Sequence[int] | None = None,
    timeouts: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    padding: bool | None = None,
    seed: int = 0,
    apply: bool = False,
    progress: bool = True,
) -> TuneResult:
    """Find the best batching parameters; see `serving_workbench.tune`."""
    objective = Objective.parse(slo)
    assert objective is not None
    if method != GUIDED and method not in blackbox.METHODS:
        known = ", ".join((GUIDED, *blackbox.METHODS))
        raise WorkbenchError(f"There is no search method '{method}'.", hint=f"There are {known}.")
    if rate is not None and not 0 < rate < math.inf:
        raise WorkbenchError(f"rate={rate!r} is no number of requests per second.")
    if repeats < 2:
        raise WorkbenchError(f"repeats={repeats!r}: an interval needs at least 2 repeats.")
    if isinstance(model, str):
        found = connect(model, instance)
        assert isinstance(found, ServedModel)
        model = found
    steps = Steps(f"tune {model.name}", seconds, enabled=progress)
    try:
        tuner = _Tuner(model, objective, rate, data, rows, signature, seconds, repeats, seed, steps)
        tuner.space_options(sizes, timeouts, threads, padding)
        result = tuner.run(method, trials)
    finally:
        steps.close()
    result.seconds = dict(steps.seconds)
    if apply and result.best is not None:
        result.apply()
        result.notes.append("The winner is in force on the running server.")
    return result


class _Tuner:
    def __init__(
        self,
        model: ServedModel,
        objective: Objective,
        rate: float | None,
        data: object,
        rows: int,
        signature: str | None,
        seconds: float,
        repeats: int,
        seed: int,
        steps: Steps,
    ) -> None:
        self._model = model
        self._slo = objective.seconds
        self._percent = objective.percent
        self._rate = rate
        self._rows = rows
        self._seconds = seconds
        self._repeats = repeats
        self._seed = seed
        self._steps = steps
        self._cores = os.cpu_count() or 1
        self._overheads = [_OVERHEAD]
        self._most = math.inf  # requests per second that the load generator can send
        self._notes: list[str] = []
        self._flags: dict[str, int] = {}
        self._candidates: list[Candidate] = []
        self._signature = _signature(model, signature)
        if not sampling.batch_axis(self._signature):
            raise WorkbenchError(
                f"Signature '{self._signature.name}' of '{model.name}' has no batch dimension: its inputs are of fixed "
                "size in the first one, so requests cannot be joined.",
                hint="There is nothing to tune: serve it without batching.",
            )
        whom = resolve(model, model=None, protocol=GRPC, version=None, instance="default", tls=None)
        self._payload: Payload = (
            from_signature(whom, self._signature, rows)
            if data is None
            else from_data(whom, self._signature, data, rows)
        )
        self._inputs: dict[str, Array] = (
            sampling.draw(self._signature, rows) if data is None else _first(as_inputs(data, self._signature))
        )

    def space_options(
        self,
        sizes: Sequence[int] | None,
        timeouts: Sequence[int] | None,
        threads: Sequence[int] | None,
        padding: bool | None,
    ) -> None:
        """Take the axes of the grid; what is None is chosen later."""
        largest = max(MAX_BATCH, self._rows)
        self._sizes = tuple(sorted(set(sizes))) if sizes else powers_of_two(largest)
        self._sizes = tuple(size for size in self._sizes if size >= self._rows)
        if not self._sizes:
            raise WorkbenchError(f"No batch size in sizes= holds a request of {self._rows} rows.")
        wait = self._slo * 1e6
        steps = {0, 1000, *(round(part * wait / 1000) * 1000 for part in _WAITS)}
        self._timeouts = (
            tuple(sorted(set(timeouts))) if timeouts else tuple(sorted(t for t in steps if t < wait or not t))
        )
        cores = self._cores
        self._threads = (
            tuple(sorted(set(threads))) if threads else tuple(sorted({1, max(1, cores // 2), cores, 2 * cores}))
        )
        self._padding = padding

    # -- the steps -----------------------------------------------------------------------------------------------------

    def run(self, method: str, trials: int | None) -> TuneResult:
        """Do all of it. After the profile, whatever ends it early leaves a partial result."""
        steps = self._steps
        steps.step("look")
        self._machine()
        with Measurer(self._model, self._payload, self._percent, steps.tick) as measurer:
            before = measurer.before
            current = None if before is None else BatchingParameters.from_json(before)
            self._foreign(measurer)
            steps.step("profile", "run times by batch size")
            profiled = self._profile(measurer)
            result = self._empty(profiled, current)
            try:
                self._measure(measurer, profiled, result, method, trials)
            except KeyboardInterrupt:
                result.complete = False
                result.notes.append("Interrupted: what was found until then is here.")
            except (WorkbenchError, psutil.NoSuchProcess) as error:
                result.complete = False
                result.notes.append(f"Ended early: {error}")
        for flag, count in sorted(self._flags.items()):
            result.notes.append(f"In {count} runs {flag}.")
        return result

    def _measure(
        self, measurer: Measurer, profiled: Profile, result: TuneResult, method: str, trials: int | None
    ) -> None:
        steps = self._steps
        steps.step("probe", "lone requests")
        self._probe(measurer, profiled, result)
        if not result.feasible:
            return
        steps.step("range", "as many requests as it can answer")
        self._range(measurer, result)
        steps.step("predict", f"{len(result.space)} configurations")
        self._predict(result)
        if method == GUIDED:
            steps.step("screen")
            self._screen(measurer, result, trials or _SHORTLIST)
        else:
            steps.step("search", method)
            self._black_box(measurer, result, method, trials)
        steps.step("repeat")
        self._repeat(measurer, result)

    def _machine(self) -> None:
        busy = psutil.cpu_percent(0.3) / 100
        if busy > _BUSY:
            self._notes.append(
                f"The machine was busy before anything began ({busy:.0%} of its processors): rates are those of a "
                "shared machine."
            )

    def _foreign(self, measurer: Measurer) -> None:
        before = measurer.answered()
        psutil.cpu_percent(0.4)
        others = (measurer.answered() - before) / 0.4
        if others > 5:
            self._notes.append(
                f"The server is under other load ({others:.0f} requests/s): what is measured is what is left of it."
            )

    def _profile(self, measurer: Measurer) -> Profile:
        sizes = sorted({*powers_of_two(self._sizes[-1]), *self._sizes})
        at_once = [count for count in self._threads if count <= 2 * self._cores]
        found = profile(
            self._model, self._signature, self._inputs, sizes, at_once, seconds=0.05 * self._seconds, seed=self._seed
        )
        if found.limit:
            self._notes.append(f"Batches stay below that: {found.limit}.")
            self._sizes = tuple(size for size in self._sizes if size <= found.curve.sizes[-1])
        return found

    def _empty(self, profiled: Profile, current: BatchingParameters | None) -> TuneResult:
        base = current or BatchingParameters()
        padded = bool(base.allowed_batch_sizes) if self._padding is None else self._padding
        paddings = (NO_PADDING, POWERS_OF_TWO) if padded else (NO_PADDING,)
        # Where one run alone breaks the objective, no batch of that size is of use.
        slo = self._slo
        sizes = tuple(size for size in self._sizes if profiled.curve.median(size) <= slo) or self._sizes[:1]
        fastest = max(size / profiled.curve.median(size) for size in sizes) / self._rows
        waiting = math.ceil(2 * slo * fastest * self._cores)
        return TuneResult(
            model=self._model.name,
            version=profiled.version,
            digest=_digest(self._model, profiled.version),
            slo=slo,
            percent=self._percent,
            rate=self._rate,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            current=current,
            lanes=max(self._cores, current.num_batch_threads if current is not None else 0),
            curve=profiled.curve,
            path=RequestPath(0.0, 0.0, profiled.per_batch, profiled.per_row, _CLOCK),
            factor=1.0,
            space=Space(sizes, self._timeouts, self._threads, paddings, base, waiting),
            predictions={},
            candidates=self._candidates,
            floor=profiled.curve.median(self._rows),
            notes=self._notes,
            seconds={},
            served=self._model,
        )

    def _probe(self, measurer: Measurer, profiled: Profile, result: TuneResult) -> None:
        """Find what a request takes beside its batch, and whether the objective is possible at all."""
        lone = profiled.curve.median(self._rows) + profiled.per_batch
        rate = min(200.0, 0.1 / lone)
        measurer.use(None)
        latencies = measurer.lone(rate, max(0.02 * self._seconds, 60 / rate), self._seed)
        if not len(latencies):
            raise WorkbenchError(f"'{self._model.name}' answered no request of the probe.")
        extra = np.sort(np.maximum(0.0, latencies - lone))
        fixed = float(np.quantile(extra, 0.05))
        # The slowest of a few hundred says little of a p99, so it must not decide every simulation.
        rest = np.minimum(extra, np.quantile(extra, 0.995)) - fixed
        result.path = RequestPath(
            fixed, 0.0, profiled.per_batch, profiled.per_row, _CLOCK, tuple(np.maximum(0.0, rest).tolist())
        )
        result.floor = float(np.quantile(latencies, self._percent / 100))
        # The median of lone requests is beyond the objective: no percentile above it can be within.
        result.feasible = float(np.median(latencies)) <= self._slo

    def _range(self, measurer: Measurer, result: TuneResult) -> None:
        """Find the most that it can answer, and from that how much slower everything is under load."""
        largest = result.space.sizes[-1]
        in_flight = max(4, min(256, 2 * self._cores * largest // self._rows))
        limit = max(self._rows, min(largest, in_flight * self._rows // self._cores))
        parameters = BatchingParameters(
            max_batch_size=limit, num_batch_threads=self._cores, max_enqueued_batches=max(10, 4 * in_flight)
        )
        measurer.use(parameters)
        closed = measurer.closed(in_flight, 0.02 * self._seconds)
        path = result.path
        result.path = RequestPath(path.fixed, closed.front_cpu, path.per_batch, path.per_row, path.clock, path.extra)
        self._most = _CLIENT / closed.client_cpu
        alone = Simulator(result.curve, result.path, Workload(rows=self._rows)).saturated(parameters)
        result.factor = max(0.8, alone / closed.rate)

    def _simulator(self, result: TuneResult) -> Simulator:
        return Simulator(
            result.curve.scaled(result.factor),
            result.path.scaled(result.factor),
            Workload(4000, seed=self._seed, rows=self._rows),
        )

    def _predict(self, result: TuneResult) -> None:
        simulator, space, quantile = self._simulator(result), result.space, self._percent / 100

        def score(point: Point, hopeless: float) -> float:
            self._steps.tick()
            found = capacity(
                simulator, space.parameters(point), self._slo, quantile=quantile, precision=0.02, hopeless=hopeless
            )
            return found.rate

        result.predictions = predicted(space, score)

    def _known(self, result: TuneResult) -> dict[str, BatchingParameters | None]:
        """Return the configurations that everybody wants to be compared with."""
        known: dict[str, BatchingParameters | None] = {CURRENT: result.current, OFF: None}
        if result.current is None:
            del known[OFF]
        known[RECIPE] = BatchingParameters(max_batch_size=1000, num_batch_threads=self._cores)
        if known[RECIPE] == result.current:
            del known[RECIPE]
        return known

    def _candidate(self, label: str, parameters: BatchingParameters | None, result: TuneResult) -> Candidate:
        simulator = self._simulator(result)
        wanted = unbatched(result.lanes) if parameters is None else parameters
        found = capacity(simulator, wanted, self._slo, quantile=self._percent / 100, precision=0.02)
        return Candidate(label, parameters, found.rate)

    @property
    def _overhead(self) -> float:
        return float(np.mean(self._overheads[-5:]))

    def _screen(self, measurer: Measurer, result: TuneResult, count: int) -> None:
        """Measure the most promising configurations once each, and those that all are compared with."""
        chosen = [result.space.parameters(point) for point in self._shortlist(result, count)]
        known = self._known(result)
        named = {short(each): each for each in chosen if each not in known.values()}
        self._candidates += [self._candidate(label, each, result) for label, each in (known | named).items()]
        order = list(range(len(self._candidates)))
        random.Random(self._seed).shuffle(order)  # noqa: S311 - no secret
        budget = 0.3 * self._seconds
        each = max(0.2, (budget / max(1, len(order)) - self._overhead) / len(_SCREEN))
        for number, index in enumerate(order):
            candidate = self._candidates[index]
            if candidate.label not in known and self._steps.spent > _SCREENED * self._seconds:
                continue
            self._steps.step("screen", f"{number + 1} of {len(order)}: {candidate.label}")
            candidate.screened = self._once(measurer, candidate, each)
        self._refit(result)

    def _shortlist(self, result: TuneResult, count: int) -> list[Point]:
        if self._rate is None:
            return shortlist(result.predictions, count)
        simulator = self._simulator(result)
        scores = {}
        for point, capable in result.predictions.items():
            if capable >= self._rate:
                latency = simulator.run(result.space.parameters(point), self._rate).quantile(self._percent / 100)
                scores[point] = 1.0 / latency
        # None can do it by the model: then those that come closest.
        return shortlist(scores or result.predictions, count)

    def _once(self, measurer: Measurer, candidate: Candidate, seconds: float) -> float:
        """Return the rate that a configuration sustains in one short run, or two where the first missed it."""
        guess = candidate.predicted or self._slowest()
        for attempt in range(2):
            guess = min(guess, self._most / _SCREEN[-1])
            ladder = around(guess, _SCREEN, self._rung(guess, seconds), self._seed)
            latencies = self._climb(measurer, candidate.parameters, ladder).latencies
            found = sustained(Evidence(candidate.parameters, np.array(ladder.rates), latencies[None]), self._slo).rate
            if found >= ladder.rates[-1]:
                if guess * _SCREEN[-1] >= 0.99 * self._most:
                    return found
                if attempt == 0 and self._steps.spent > _SCREENED * self._seconds:
                    return found  # no time for a second look
                guess *= 1.8
            elif found <= 0:
                guess *= 0.4
            else:
                return found
        return found

    def _slowest(self) -> float:
        return min((each.predicted for each in self._candidates if each.predicted > 0), default=50.0)

    def _rung(self, rate: float, seconds: float) -> float:
        """Return the length of a rung: an overload must have time to show."""
        return max(seconds, min(15 * self._slo, 3.0, 2 * seconds), 100 / rate)

    def _climb(self, measurer: Measurer, parameters: BatchingParameters | None, ladder: Ladder) -> Climb:
        began = self._steps.spent
        climbed = measurer.climb(parameters, ladder, self._slo)
        self._overheads.append(max(0.2, self._steps.spent - began - ladder.duration))
        for flag in climbed.flags:
            self._flags[flag] = self._flags.get(flag, 0) + 1
        return climbed

    def _refit(self, result: TuneResult) -> None:
        """Let the model agree with what was measured, in the mean; then predict again."""
        pairs = [
            (candidate.predicted, candidate.screened)
            for candidate in self._candidates
            if candidate.predicted > 0 and candidate.screened
        ]
        if not pairs:
            return
        ratio = math.exp(float(np.median([math.log(expected / seen) for expected, seen in pairs])))
        result.factor = min(10.0, max(0.5, result.factor * ratio))
        self._predict(result)
        for candidate in self._candidates:
            candidate.predicted = self._candidate(candidate.label, candidate.parameters, result).predicted

    def _black_box(self, measurer: Measurer, result: TuneResult, method: str, trials: int | None) -> None:
        """Search without the predictions; they only say around which rate to look."""
        each = 0.3
        parameters = {point: result.space.parameters(point) for point in result.space}
        made: dict[Point, Candidate] = {}

        def measure(point: Point) -> float:
            self._steps.step("search", f"{len(made) + 1}: {short(parameters[point])}")
            candidate = made[point] = Candidate(
                short(parameters[point]), parameters[point], result.predictions.get(point, 0.0)
            )
            candidate.screened = self._once(measurer, candidate, each)
            return candidate.screened

        affordable = int(0.45 * self._seconds / (_OVERHEAD + len(_SCREEN) * each))
        budget = trials or max(6, min(affordable, len(result.space) // 5))
        blackbox.search(result.space, Trials(measure), budget, method, self._seed)
        for label, known in self._known(result).items():
            candidate = self._candidate(label, known, result)
            self._steps.step("search", label)
            candidate.screened = self._once(measurer, candidate, each)
            self._candidates.append(candidate)
        self._candidates += made.values()
        self._refit(result)

    def _repeat(self, measurer: Measurer, result: TuneResult) -> None:
        """Measure the best two and the current one again and again, taking turns, with the same arrivals."""
        # One run is noisy, and the best of many was lucky as well: the prediction counts as much.
        ranked = sorted(self._candidates, key=lambda each: -(each.screened or 0.0) * each.predicted)
        finalists = ranked[:2]
        finalists += [each for each in self._candidates if each.label == CURRENT and each not in finalists]
        plans = [self._rates(each) for each in finalists]
        left = self._seconds - self._steps.spent - 2.0
        each = max(0.2, (left / (len(finalists) * self._repeats) - self._overhead) / len(plans[0]))
        order = random.Random(self._seed + 1)  # noqa: S311 - no secret
        found: list[list[Climb]] = [[] for _ in finalists]
        with contextlib.ExitStack() as stack:
            stack.callback(self._keep, finalists, plans, found)
            for repeat in range(self._repeats + _MORE_ROUNDS):
                calm = min(sum(not climb.disturbed for climb in climbs) for climbs in found)
                if repeat >= self._repeats and (calm >= self._repeats or self._steps.spent > _ADDED * self._seconds):
                    break
                turns = list(range(len(finalists)))
                order.shuffle(turns)
                for index in turns:
                    candidate = finalists[index]
                    self._steps.step("repeat", f"{repeat + 1} of {self._repeats}: {candidate.label}")
                    ladder = Ladder(plans[index], self._rung(plans[index][-1], each), self._seed + 100 + repeat)
                    found[index].append(self._climb(measurer, candidate.parameters, ladder))
        self._tell_limits(finalists, plans)

    def _tell_limits(self, finalists: list[Candidate], plans: list[tuple[float, ...]]) -> None:
        capped = [
            candidate.label
            for candidate, plan in zip(finalists, plans, strict=True)
            if plan[-1] >= 0.99 * self._most and candidate.predicted > plan[-1]
        ]
        if capped:
            self._notes.append(
                f"The load generator sends at most {self._most:,.0f} requests/s beside the server on this machine, so "
                f"more was not measured for: {'; '.join(capped)}. Larger requests (rows=) need less of it."
            )

    def _rates(self, candidate: Candidate) -> tuple[float, ...]:
        if self._rate is not None:
            return tuple(self._rate * part for part in (0.85, 1.0, 1.15))
        middle = min(candidate.screened or candidate.predicted or self._slowest(), self._most / _FINAL[-1])
        return tuple(middle * part for part in _FINAL)

    def _keep(self, finalists: list[Candidate], plans: list[tuple[float, ...]], found: list[list[Climb]]) -> None:
        """Keep what was measured, also when it ended early; all with the same number of repeats."""
        complete = min(map(len, found))
        if complete < 2:
            return
        for candidate, rates, climbs in zip(finalists, plans, found, strict=True):
            latencies = np.array([climb.latencies for climb in climbs[:complete]])
            disturbed = tuple(climb.disturbed for climb in climbs[:complete])
            candidate.evidence = Evidence(candidate.parameters, np.array(rates), latencies, disturbed)


def _signature(model: ServedModel, wanted: str | None) -> Signature:
    found = model.signatures()
    name = wanted or default_signature_name(found)
    if name not in found:
        known = ", ".join(f"'{each}'" for each in found) or "none"
        raise WorkbenchError(f"'{model.name}' has no signature '{name}'; it has {known}.")
    return found[name]


def _first(arrays: dict[str, Array], most: int = 64) -> dict[str, Array]:
    return {name: array[:most] for name, array in arrays.items()}


def _digest(model: ServedModel, version: int) -> str:
    """Return a digest of the version's graph, to tell models apart in files that are looked at years later."""
    paths = {each["version"]: each["path"] for each in model.describe()["versions"]}
    graph = Path(paths.get(version, "")) / "saved_model.pb"
    try:
        return f"sha256 {hashlib.sha256(graph.read_bytes()).hexdigest()[:12]}"
    except OSError:
        return "digest unknown"
