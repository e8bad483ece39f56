"""What a search for batching parameters found: the verdict, the evidence, and what follows from both."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning import verdict
from serving_workbench.tuning.capacity import Capacity, capacity
from serving_workbench.tuning.decision import Decision, Evidence, Gain, decide, gain
from serving_workbench.tuning.parameters_text import as_text, difference, is_ours
from serving_workbench.tuning.service_curve import ServiceCurve
from serving_workbench.tuning.simulator import Crowding, RequestPath, Simulator, unbatched
from serving_workbench.tuning.space import Point, Space
from serving_workbench.tuning.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from serving_workbench.handle import ServedModel
    from serving_workbench.tuning.what_if import WhatIf

__all__ = ["Candidate", "TuneResult"]


@dataclasses.dataclass
class Candidate:
    """One configuration and what is known of it.

    Attributes
    ----------
    label : str
        ``current``, ``batching off``, ``TF Serving's recipe``, or its sizes in short.
    parameters : BatchingParameters or None
        None: batching off.
    predicted : float
        Requests per second by the simulator, as it was before the last measurements.
    evidence : Evidence or None
        Repeated measurements; None when it was not looked at so closely.
    screened : float or None
        Requests per second by one short measurement.
    """

    label: str
    parameters: BatchingParameters | None
    predicted: float
    evidence: Evidence | None = None
    screened: float | None = None


@dataclasses.dataclass
class TuneResult:
    """The result of `serving_workbench.tune`.

    Attributes
    ----------
    model, version, digest : str, int, str
        What was tuned; `digest` is of its graph.
    slo, percent : float
        The objective in seconds, and of which percentile.
    rate : float or None
        The rate that was asked about; None: the highest one was looked for.
    date : str
        ISO 8601, UTC.
    current : BatchingParameters or None
        In force when it began; None: batching was off.
    lanes : int
        Runs at once without batching.
    curve : ServiceCurve
    path : RequestPath
    factor, crowded_at : float
        How many times slower everything is at so many requests per second, as the processors are shared with the
        load generator and the server's other processes (see `simulator.Crowding`).
    space : Space
    predictions : dict of Point to float
        Requests per second.
    candidates : list of Candidate
        All that were measured.
    floor : float
        The percentile of lone requests in seconds: what no configuration gets below.
    notes : list of str
        What to know before trusting it.
    seconds : dict of str to float
        What each step took.
    complete : bool
        False: it was ended early; what had been found is here.
    feasible : bool
        False: the objective is below `floor`.
    """

    model: str
    version: int
    digest: str
    slo: float
    percent: float
    rate: float | None
    date: str
    current: BatchingParameters | None
    lanes: int
    curve: ServiceCurve
    path: RequestPath
    factor: float
    crowded_at: float
    space: Space
    predictions: dict[Point, float]
    candidates: list[Candidate]
    floor: float
    notes: list[str]
    seconds: dict[str, float]
    complete: bool = True
    feasible: bool = True
    served: ServedModel | None = dataclasses.field(default=None, repr=False, compare=False)

    # -- the verdict ---------------------------------------------------------------------------------------------------

    @property
    def measured(self) -> list[Candidate]:
        """Candidates with repeated measurements."""
        return [each for each in self.candidates if each.evidence is not None]

    @functools.cached_property
    def decision(self) -> Decision:
        """Which of `measured` wins."""
        measured = self.measured
        if self.rate is None:
            return decide([each.evidence for each in measured if each.evidence is not None], self.slo)
        return verdict.at_rate(measured, self.slo, self.rate)

    @property
    def best(self) -> Candidate | None:
        """The winner; None when nothing keeps the objective."""
        index = self.decision.best if self.measured else None
        return None if index is None else self.measured[index]

    @property
    def parameters(self) -> BatchingParameters | None:
        """The parameters to use.

        Raises
        ------
        WorkbenchError
            Nothing keeps the objective.
        """
        best = self.best
        if best is None:
            raise WorkbenchError(
                f"No batching parameters keep the objective for '{self.model}'.", hint=str(self.verdict)
            )
        return best.parameters

    @property
    def sustained(self) -> float:
        """Requests per second that the winner surely sustains (the upper bound of p99 is within the objective)."""
        index = self.decision.best if self.measured else None
        return 0.0 if index is None else self.decision.sustained[index].sure

    def gain(self, over: str = "current") -> Gain | None:
        """Return how many times the rate of the candidate labelled `over` the winner sustains; None: not known."""
        labels = [each.label for each in self.measured]
        best = self.decision.best if self.measured else None
        if best is None or over not in labels:
            return None
        found = self.decision.sustained
        return gain(found[best], found[labels.index(over)])

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        return verdict.sentence(self)

    # -- from the model, without measuring -----------------------------------------------------------------------------

    @functools.cached_property
    def simulator(self) -> Simulator:
        """The simulator, with the contention that was seen under load."""
        return self.simulate()

    def simulate(self, workload: Workload | None = None) -> Simulator:
        """Return a simulator for other requests than the usual ones."""
        return Simulator(self.curve, self.path, workload, Crowding(self.factor, self.crowded_at))

    def predict(self, parameters: BatchingParameters | None, slo: float | None = None) -> Capacity:
        """Return what the simulator says that a configuration can do."""
        wanted = unbatched(self.lanes) if parameters is None else parameters
        return capacity(self.simulator, wanted, slo or self.slo, quantile=self.percent / 100)

    def what_if(self, slo: float | str | None = None, rate: float | None = None) -> WhatIf:
        """Ask about another objective or rate; answered from the model of the server, nothing is measured.

        Parameters
        ----------
        slo : float or str, optional
            Seconds, or text as ``"p99 20ms"``; by default the objective that was tuned for.
        rate : float, optional
            Requests per second: which configuration has the lowest latency there? By default: which one sustains the
            highest rate?
        """
        from serving_workbench.tuning.what_if import ask

        return ask(self, slo, rate)

    # -- tables --------------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Return the candidates: parameters, predicted and measured rates, interval, gain over the current one."""
        import pandas as pd

        return pd.DataFrame(verdict.rows(self))

    def predictions_frame(self) -> pd.DataFrame:
        """Return all predicted configurations, the best first."""
        import pandas as pd

        rows = []
        for point, rate in sorted(self.predictions.items(), key=lambda item: -item[1]):
            parameters = self.space.parameters(point)
            rows.append(
                {
                    "max_batch_size": parameters.max_batch_size,
                    "batch_timeout_micros": parameters.batch_timeout_micros,
                    "num_batch_threads": parameters.num_batch_threads,
                    "padding": self.space.paddings[point.padding],
                    "predicted": rate,
                }
            )
        return pd.DataFrame(rows)

    def evidence_frame(self) -> pd.DataFrame:
        """Return every measured percentile: one row per candidate, repeat and rate; latency in seconds."""
        import pandas as pd

        rows = [
            {"label": each.label, "repeat": repeat, "rate": float(rate), "latency": float(latency)}
            for each in self.measured
            if each.evidence is not None
            for repeat, line in enumerate(np.atleast_2d(each.evidence.latencies))
            for rate, latency in zip(each.evidence.rates, line, strict=True)
        ]
        return pd.DataFrame(rows)

    # -- use -----------------------------------------------------------------------------------------------------------

    def apply(self, model: ServedModel | None = None) -> dict[str, Any] | None:
        """Put the winner into force on the running server at once; return the parameters in force (None: off)."""
        target = model or self.served
        if target is None:
            raise WorkbenchError(
                "This result was loaded from a file and belongs to no running server.",
                hint="Pass a handle: result.apply(sw.connect(name)).",
            )
        parameters = self.parameters
        return target.server.control.patch_batching(self.model, None if parameters is None else parameters.to_json())

    def text(self, *, of_version: bool = False) -> str:
        """Return the winner as a `batching_parameters_file` with the evidence in comments."""
        parameters = self.parameters
        if parameters is None:
            raise WorkbenchError(
                f"'{self.model}' answers best without batching, so there is nothing to write.",
                hint="Start the server without --enable_batching, or apply() it here.",
            )
        return as_text(parameters, verdict.comments(self), of_version=of_version)

    def export(self, path: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write the file for ``--batching_parameters_file``, and ``batching_params.pbtxt`` beside it.

        The second is the form for a version's own folder (``--enable_per_model_batching_parameters``). Files of an
        earlier search are replaced.

        Parameters
        ----------
        path : str or Path
            Of the file, or a folder.
        overwrite : bool
            Whether to replace files that no search has written, such as one that somebody tuned by hand.

        Returns
        -------
        list of Path

        Raises
        ------
        WorkbenchError
            There is such a file, or it cannot be written; then none is.
        """
        target = Path(path).expanduser()
        if target.is_dir():
            target /= "batching_parameters.pbtxt"
        texts = {target: self.text()}
        texts.setdefault(target.parent / "batching_params.pbtxt", self.text(of_version=True))
        try:
            others = [] if overwrite else [file for file in texts if file.exists() and not is_ours(file.read_text())]
            if others:
                raise WorkbenchError(
                    f"'{others[0]}' was written by somebody else, and would be lost.",
                    hint="Export to another folder, or pass overwrite=True.",
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            for file, text in texts.items():
                file.write_text(text)
        except OSError as error:
            raise WorkbenchError(f"'{target}' cannot be written: {error.strerror}.") from error
        return list(texts)

    def diff(self) -> str:
        """Return what the winner changes against the parameters that were in force."""
        parameters = self.parameters
        return "" if parameters is None else difference(self.current, parameters)

    def save(self, path: str | Path) -> Path:
        """Write everything to a JSON file, for `load`."""
        from serving_workbench.tuning.saving import save

        return save(self, Path(path).expanduser())

    @classmethod
    def load(cls, path: str | Path) -> TuneResult:
        """Read a file of `save`.

        Raises
        ------
        WorkbenchError
            It is none.
        """
        from serving_workbench.tuning.saving import load

        return load(Path(path).expanduser())

    def compare(self, other: TuneResult) -> pd.DataFrame:
        """Return this run and another side by side: winner, rate, objective, curve."""
        import pandas as pd

        return pd.DataFrame({"this": verdict.facts(self), "other": verdict.facts(other)})

    # -- show ----------------------------------------------------------------------------------------------------------

    def plot(self) -> Figure:
        """Return the pictures as a matplotlib `Figure`."""
        from serving_workbench.tuning.figures import draw

        return draw(self)

    def __str__(self) -> str:
        return verdict.text(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        from serving_workbench.tuning.showing import bundle

        return bundle(self)
