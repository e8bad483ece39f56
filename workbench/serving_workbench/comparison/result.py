"""What a comparison found: the verdict, the evidence, and the rows."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.evidence import Check, Head, Metric, Slice
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.verdict import Verdict, decide, difference_text
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from serving_workbench.comparison.tab.finished import ResultTab

__all__ = ["CompareResult", "Evidence", "Rows"]

Floats = NDArray[np.float64]

_METRICS: Final = ("metric", "A", "B", "difference", "interval", "margin", "decides")
_HEADS: Final = ("output", "kind", "rows", "differ", "measures", "drift")
_TELLING: Final = (
    *("agreement", "top-5 overlap", "Jensen-Shannon distance", "max abs difference", "rms difference", "correlation"),
    *("cosine", "rows of another length"),
)
_SLICES: Final = ("slice", "rows", "A", "B", "difference", "p (adjusted)", "worse")


@dataclasses.dataclass
class Rows:
    """The rows themselves, for who wants to look at them.

    Attributes
    ----------
    inputs : dict of str to array
        Of all rows.
    ids : list
        What the rows are called: the index of a DataFrame, else their numbers.
    labels : numpy.ndarray or None
    answered : numpy.ndarray of int64
        Row numbers that `a` and `b` are of.
    a, b : dict of str to array or list
    failed_a, failed_b : dict of int to str
        What an arm said instead of an answer, by row number.
    """

    inputs: dict[str, Any]
    ids: list[Any]
    labels: Any
    answered: NDArray[np.int64]
    a: dict[str, Any]
    b: dict[str, Any]
    failed_a: dict[int, str]
    failed_b: dict[int, str]


@dataclasses.dataclass
class Evidence:
    """Latencies as they were measured, seconds.

    Attributes
    ----------
    lone_a, lone_b : numpy.ndarray of float64
        Of lone requests, in pairs.
    blocks_a, blocks_b : list of numpy.ndarray
        Of blocks under load, in pairs.
    rate : float or None
        Requests per second of the blocks.
    what : str
        In words, for the plots: what these latencies are of.
    """

    lone_a: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    lone_b: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    blocks_a: list[Floats] = dataclasses.field(default_factory=list)
    blocks_b: list[Floats] = dataclasses.field(default_factory=list)
    rate: float | None = None
    what: str = "lone requests"

    @property
    def a(self) -> Floats:
        """All of A's latencies: those under load, where there are some."""
        return np.concatenate(self.blocks_a) if self.blocks_a else self.lone_a

    @property
    def b(self) -> Floats:
        """All of B's."""
        return np.concatenate(self.blocks_b) if self.blocks_b else self.lone_b


@dataclasses.dataclass
class CompareResult:
    """The result of `serving_workbench.compare` and of its relatives.

    Attributes
    ----------
    model : str
    a, b : str
        The arms: ``digits@1``.
    source : str
        Where the data come from: ``10000 rows sent to both``, ``mirrored requests``, ``live split``.
    date : str
        ISO 8601, UTC.
    metrics : list of Metric
        With the margins that were declared; the primary one first.
    heads : list of Head
        One per output.
    slices : list of Slice
        Of the primary metric, worst first.
    checks : list of Check
    margins : Margins
        As declared.
    rows : Rows or None
    latency : Evidence
    seconds : dict of str to float
        What each step took.
    complete : bool
        False: it was ended early; what had been found is here.
    """

    model: str
    a: str
    b: str
    source: str
    date: str
    metrics: list[Metric]
    heads: list[Head]
    slices: list[Slice]
    checks: list[Check]
    margins: Margins
    rows: Rows | None = None
    latency: Evidence = dataclasses.field(default_factory=Evidence)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    complete: bool = True
    sequence: dict[str, Any] = dataclasses.field(default_factory=dict)

    # -- the verdict ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def decision(self) -> Verdict:
        """The verdict with its reasons."""
        return decide(self.metrics, self.heads, self.checks)

    @property
    def verdict(self) -> str:
        """``SHIP``, ``REJECT``, ``INCONCLUSIVE`` or ``UNHEALTHY``."""
        return self.decision.kind

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences with the numbers; the first ones caused the verdict."""
        return self.decision.reasons

    @property
    def primary(self) -> Metric | None:
        """What the comparison is about."""
        return next((each for each in self.metrics if each.role == "primary"), None)

    def metric(self, name: str) -> Metric:
        """Return a metric by name.

        Raises
        ------
        KeyError
            There is none; the message lists those that there are.
        """
        for each in self.metrics:
            if each.name == name:
                return each
        raise KeyError(f"There is no metric '{name}'; there are {', '.join(each.name for each in self.metrics)}.")

    def what_if(self, margins: object) -> CompareResult:
        """Return the same evidence judged by other margins; nothing is measured.

        Margins that are chosen after the numbers were seen prove nothing: the result says that they were.
        """
        given = Margins.parse(margins)
        merged = Margins({**self.margins.declared, **given.declared})
        note = Check("margins", False, "The margins were changed after the comparison was seen.", fatal=False)
        return dataclasses.replace(
            self, metrics=merged.applied(self.metrics), margins=merged, checks=[*self.checks, note]
        )

    # -- tables --------------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """Return a `pandas.DataFrame` with a row for each metric, drift and slice.

        Columns: ``metric``, ``slice``, ``a``, ``b``, ``difference``, ``low``, ``high``, ``relative``, ``margin``,
        ``role``, ``n``, ``p_value``, ``method``.
        """
        import pandas as pd  # only for those who ask

        rows = [_record(each, "") for each in self.metrics]
        rows += [_record(head.drift, "") for head in self.heads if head.drift is not None]
        rows += [_record(each.metric, f"{each.column} = {each.value}") for each in self.slices]
        return pd.DataFrame(rows)

    def table(self) -> Table:
        """Return the metrics as a table."""
        return Table([_shown(each) for each in self.metrics], _METRICS, f"{self.a} (A) against {self.b} (B)", self)

    def outputs_table(self) -> Table:
        """Return the outputs' differences as a table."""
        rows = [
            {
                "output": head.name,
                "kind": head.kind,
                "rows": f"{head.rows:,}",
                "differ": f"{len(head.differing):,}",
                "measures": _measures(head),
                "drift": None if head.drift is None else _drift(head.drift),
            }
            for head in self.heads
        ]
        return Table(rows, _HEADS, "Outputs", self.heads)

    def slices_table(self) -> Table:
        """Return the slices as a table, worst first."""
        rows = [
            {
                "slice": f"{each.column} = {each.value}",
                "rows": f"{each.rows:,}",
                "A": f"{each.metric.a:.4g}",
                "B": f"{each.metric.b:.4g}",
                "difference": difference_text(each.metric),
                "p (adjusted)": None if each.adjusted is None else f"{each.adjusted:.2g}",
                "worse": "yes" if each.worse else "",
            }
            for each in self.slices
        ]
        name = self.primary.name if self.primary is not None else "primary metric"
        return Table(rows, _SLICES, f"Slices: {name}, worst first", self.slices)

    def disagreements(self, output: str | None = None, n: int | None = 20) -> pd.DataFrame:
        """Return the rows where the arms differ, with their inputs, both answers and the label.

        Parameters
        ----------
        output : str, optional
            Rows that differ in this output; by default in any.
        n : int, optional
            The first so many; None: all.

        Returns
        -------
        DataFrame
            Indexed as the data were; columns ``input.<name>``, ``A.<output>``, ``B.<output>``, ``label`` where there
            are labels, and ``error`` where an arm failed.

        Raises
        ------
        KeyError
            There is no such output.
        """
        from serving_workbench.comparison.looking import disagreements

        return disagreements(self, output, n)

    # -- other forms ---------------------------------------------------------------------------------------------------

    def plot(self) -> Figure:
        """Return the pictures: forest plot, latencies, outputs."""
        from serving_workbench.comparison.figures import draw  # matplotlib takes half a second

        return draw(self)

    def tab(self) -> ResultTab:
        """Return it as widgets to look through, with the rows that differ one by one; for a notebook's cell."""
        from serving_workbench.comparison.tab.finished import ResultTab  # ipywidgets, only for those who look

        return ResultTab(self)

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML file: verdict, pictures, tables, rows that differ, methods.

        Raises
        ------
        WorkbenchError
            It cannot be written.
        """
        from serving_workbench.comparison.report import write

        return write(self, Path(path))

    def save(self, path: str | Path) -> Path:
        """Write all of it to a file for `load`; an existing one is replaced whole."""
        from serving_workbench.comparison.saving import save

        return save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> CompareResult:
        """Read a file of `save`.

        Raises
        ------
        WorkbenchError
            It is none.
        """
        from serving_workbench.comparison.saving import load

        return load(Path(path))

    # -- show ----------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return all of it as text."""
        lines = [f"{self.decision.kind}: {self.a} (A) against {self.b} (B); {self.source}."]
        lines += [f"- {reason}" for reason in self.reasons]
        if not self.complete:
            lines.append("- It was ended early: this is what had been found.")
        lines += ["", repr(self.table())]
        if self.heads:
            lines += ["", repr(self.outputs_table())]
        if self.slices:
            lines += ["", repr(self.slices_table())]
        lines += ["", *(f"{'ok' if each.ok else 'NOT OK':<6} {each.name}: {each.text}" for each in self.checks)]
        took = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        if took:
            lines.append(f"Took {sum(self.seconds.values()):.1f} s ({took}).")
        return "\n".join(lines).rstrip()

    def __repr__(self) -> str:
        return self.summary()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        from serving_workbench.comparison.showing import bundle

        return bundle(self)


def _measures(head: Head) -> str:
    """Return what tells most of an output's difference; all of it is in `Head.measures`."""
    if head.failures:
        return "; ".join(head.failures)
    if head.measures.get("max abs difference", 1.0) == 0 or head.measures.get("agreement") == 1:
        return "the same"
    return "; ".join(f"{name} {head.measures[name]:.4g}" for name in _TELLING if name in head.measures)


def _record(metric: Metric, part: str) -> dict[str, Any]:
    found = metric.difference
    return {
        "metric": metric.name,
        "slice": part,
        "a": metric.a,
        "b": metric.b,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "relative": metric.relative,
        "margin": metric.margin,
        "role": metric.role,
        "n": found.n,
        "p_value": metric.p_value,
        "method": found.method,
    }


def _shown(metric: Metric) -> dict[str, Any]:
    def level(value: float) -> str | None:
        if not np.isfinite(value):
            return None
        return (
            f"{100 * value:.4g} %" if metric.unit == "%" else f"{value:.4g}{f' {metric.unit}' if metric.unit else ''}"
        )

    text = difference_text(metric)
    value, _, interval = text.partition(" [")
    percent = metric.relative or metric.unit == "%"
    margin = None
    if metric.margin is not None:
        margin = f"{100 * metric.margin:.3g} %" if percent else f"{metric.margin:.3g}"
    return {
        "metric": metric.name,
        "A": level(metric.a),
        "B": level(metric.b),
        "difference": value,
        "interval": f"[{interval}" if metric.difference.known else None,
        "margin": margin,
        "decides": {"primary": "yes, primary", "guardrail": "yes"}.get(metric.role, "no"),
    }


def _drift(metric: Metric) -> str:
    found = metric.difference
    unit = f" {metric.unit}" if metric.unit else ""
    mark = ", DRIFT" if metric.margin is not None and found.low > metric.margin else ""
    return f"{found.value:.3g}{unit} [{found.low:.3g}, {found.high:.3g}]{mark}"
