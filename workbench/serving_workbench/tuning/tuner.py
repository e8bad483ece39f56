"""The search itself: profile, probe, predict, screen, repeat, decide. `tune` is what users call."""

from __future__ import annotations

import datetime
import hashlib
import math
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
from serving_workbench.tuning.arguments import check_numbers, whole_numbers
from serving_workbench.tuning.measuring import Measurer
from serving_workbench.tuning.profiling import Profile, profile
from serving_workbench.tuning.result import TuneResult
from serving_workbench.tuning.simulator import RequestPath, Simulator
from serving_workbench.tuning.space import NO_PADDING, POWERS_OF_TWO, Space, powers_of_two
from serving_workbench.tuning.stepping import Steps
from serving_workbench.tuning.verifying import SHORTLIST, Plan, Verifier
from serving_workbench.tuning.workload import Workload

__all__ = ["GUIDED", "search"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

GUIDED: Final = "guided"
#: Largest batch that is tried unless told otherwise.
MAX_BATCH: Final = 128
#: Part of the objective that is left to lone requests where their tail alone exceeds it.
_CALM: Final = 0.8
#: Step of the clock by which the server's loop keeps timeouts (uvloop). Seconds.
_CLOCK: Final = 1e-3
#: Waits that are tried, as parts of the objective.
_WAITS: Final = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
#: Part of a processor that the load generator may use: beyond, it would measure itself.
_CLIENT: Final = 0.75
#: Seconds of the profile at most.
_PROFILE: Final = 60.0
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
    instance: str | None = None,
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
    check_numbers(rate=rate, seconds=seconds, rows=rows, repeats=repeats, trials=trials, seed=seed)
    axes = whole_numbers("sizes", sizes), whole_numbers("timeouts", timeouts), whole_numbers("threads", threads)
    if isinstance(model, str):
        found = connect(model, instance)
        assert isinstance(found, ServedModel)
        model = found
    steps = Steps(f"tune {model.name}", seconds, enabled=progress)
    try:
        plan = Plan(objective.seconds, objective.percent, rate, rows, seconds, repeats, seed)
        tuner = _Tuner(model, plan, data, signature, steps)
        tuner.space_options(*axes, padding)
        result = tuner.run(method, trials)
    finally:
        steps.close()
    result.seconds = dict(steps.seconds)
    if apply and result.best is not None:
        result.apply()
        result.notes.append("The winner is in force on the running server.")
    return result


class _Tuner:
    def __init__(self, model: ServedModel, plan: Plan, data: object, signature: str | None, steps: Steps) -> None:
        self._model = model
        self._plan = plan
        self._steps = steps
        self._notes: list[str] = []
        rows = plan.rows
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
        sizes: tuple[int, ...] | None,
        timeouts: tuple[int, ...] | None,
        threads: tuple[int, ...] | None,
        padding: bool | None,
    ) -> None:
        """Take the axes of the grid; what is None is chosen later."""
        largest = max(MAX_BATCH, self._plan.rows)
        self._sizes = sizes or powers_of_two(largest)
        self._sizes = tuple(size for size in self._sizes if size >= self._plan.rows)
        if not self._sizes:
            raise WorkbenchError(f"No batch size in sizes= holds a request of {self._plan.rows} rows.")
        wait = self._plan.slo * 1e6
        steps = {0, 1000, *(round(part * wait / 1000) * 1000 for part in _WAITS)}
        self._timeouts = timeouts or tuple(sorted(t for t in steps if t < wait or not t))
        cores = self._plan.cores
        self._threads = threads or tuple(sorted({1, max(1, cores // 2), cores, 2 * cores}))
        self._padding = padding

    # -- the steps -----------------------------------------------------------------------------------------------------

    def run(self, method: str, trials: int | None) -> TuneResult:
        """Do all of it. After the profile, whatever ends it early leaves a partial result."""
        steps = self._steps
        steps.step("look")
        self._machine()
        with Measurer(self._model, self._payload, self._plan.percent, steps.tick) as measurer:
            before = measurer.before
            current = None if before is None else BatchingParameters.from_json(before)
            self._foreign(measurer)
            self._split()
            steps.step("profile", "run times by batch size")
            profiled = self._profile(measurer)
            result = self._empty(profiled, current)
            verifier = Verifier(self._plan, measurer, result, steps)
            try:
                self._measure(measurer, verifier, profiled, result, method, trials)
            except KeyboardInterrupt:
                result.complete = False
                result.notes.append("Interrupted: what was found until then is here.")
            except (WorkbenchError, psutil.NoSuchProcess) as error:
                result.complete = False
                result.notes.append(f"Ended early: {error}")
        for flag, count in sorted(verifier.flags.items()):
            result.notes.append(f"In {count} run{'' if count == 1 else 's'} {flag}.")
        return result

    def _measure(
        self,
        measurer: Measurer,
        verifier: Verifier,
        profiled: Profile,
        result: TuneResult,
        method: str,
        trials: int | None,
    ) -> None:
        steps = self._steps
        steps.step("probe", "lone requests")
        self._probe(measurer, profiled, result)
        if not result.feasible:
            return
        steps.step("range", "as many requests as it can answer")
        verifier.most = self._range(measurer, result)
        steps.step("predict", f"{len(result.space)} configurations")
        verifier.predict()
        if method == GUIDED:
            steps.step("screen")
            verifier.screen(trials or SHORTLIST)
        else:
            steps.step("search", method)
            verifier.black_box(method, trials)
        steps.step("repeat")
        verifier.repeat()
        verifier.learn()

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

    def _split(self) -> None:
        if (self._model.describe().get("traffic") or {}).get("weights"):
            self._notes.append(
                "Requests are split over several versions: the load met all of them, the run times are those of one."
            )

    def _profile(self, measurer: Measurer) -> Profile:
        sizes = sorted({*powers_of_two(self._sizes[-1]), *self._sizes})
        at_once = [count for count in self._threads if count <= 2 * self._plan.cores] or [1]
        found = profile(
            self._model,
            self._signature,
            self._inputs,
            sizes,
            at_once,
            seconds=min(_PROFILE, 0.05 * self._plan.seconds),
            seed=self._plan.seed,
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
        slo = self._plan.slo
        sizes = tuple(size for size in self._sizes if profiled.curve.median(size) <= slo) or self._sizes[:1]
        fastest = max(size / profiled.curve.median(size) for size in sizes) / self._plan.rows
        waiting = math.ceil(2 * slo * fastest * self._plan.cores)
        return TuneResult(
            model=self._model.name,
            version=profiled.version,
            digest=_digest(self._model, profiled.version),
            slo=slo,
            percent=self._plan.percent,
            rate=self._plan.rate,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            current=current,
            lanes=self._plan.cores,
            curve=profiled.curve,
            path=RequestPath(0.0, 0.0, profiled.per_batch, profiled.per_row, _CLOCK),
            factor=1.0,
            crowded_at=0.0,
            space=Space(sizes, self._timeouts, self._threads, paddings, base, waiting),
            predictions={},
            candidates=[],
            floor=profiled.curve.median(self._plan.rows),
            notes=self._notes,
            seconds={},
            served=self._model,
        )

    def _probe(self, measurer: Measurer, profiled: Profile, result: TuneResult) -> None:
        """Find what a request takes beside its batch, and whether the objective is possible at all."""
        lone = profiled.curve.median(self._plan.rows) + profiled.per_batch
        rate = min(200.0, 0.1 / lone)
        measurer.use(None)
        latencies = measurer.lone(rate, max(0.02 * self._plan.seconds, 60 / rate), self._plan.seed)
        if not len(latencies):
            raise WorkbenchError(f"'{self._model.name}' answered no request of the probe.")
        extra = np.sort(np.maximum(0.0, latencies - lone))
        fixed = float(np.quantile(extra, 0.05))
        # The slowest of a few hundred says little of a p99, so it must not decide every simulation.
        rest = np.minimum(extra, np.quantile(extra, 0.995)) - fixed
        result.floor = float(np.quantile(latencies, self._plan.percent / 100))
        # The median of lone requests is beyond the objective: no percentile above it can be within.
        result.feasible = float(np.median(latencies)) <= self._plan.slo
        if result.feasible and result.floor > self._plan.slo:
            # With such a tail no configuration would be predicted to keep the objective at any rate, and none be tried.
            rest = np.minimum(rest, max(0.0, _CALM * self._plan.slo - lone - fixed))
            self._notes.append(
                f"p{self._plan.percent:g} of lone requests was {1e3 * result.floor:.3g} ms, more than the objective; "
                "their median keeps it: the predictions are those of a calmer machine, the measurements are not."
            )
        result.path = RequestPath(
            fixed, 0.0, profiled.per_batch, profiled.per_row, _CLOCK, tuple(np.maximum(0.0, rest).tolist())
        )

    def _range(self, measurer: Measurer, result: TuneResult) -> float:
        """Find the most that it can answer, and from that how much slower everything is under load.

        Returns what the load generator can send, in requests per second.
        """
        largest = result.space.sizes[-1]
        in_flight = max(4, min(256, 2 * self._plan.cores * largest // self._plan.rows))
        limit = max(self._plan.rows, min(largest, in_flight * self._plan.rows // self._plan.cores))
        parameters = BatchingParameters(
            max_batch_size=limit, num_batch_threads=self._plan.cores, max_enqueued_batches=max(10, 4 * in_flight)
        )
        measurer.use(parameters)
        closed = measurer.closed(in_flight, 0.02 * self._plan.seconds)
        path = result.path
        result.path = RequestPath(path.fixed, closed.front_cpu, path.per_batch, path.per_row, path.clock, path.extra)
        alone = Simulator(result.curve, result.path, Workload(rows=self._plan.rows)).saturated(parameters)
        result.factor = max(1.0, alone / closed.rate)
        result.crowded_at = closed.rate
        return _CLIENT / closed.client_cpu


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
