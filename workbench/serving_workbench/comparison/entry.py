"""`compare`: what users call."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_workbench.comparison.arms import Arm, opened, same_signature
from serving_workbench.comparison.evidence import Check, Head, Metric, Slice
from serving_workbench.comparison.given import Given
from serving_workbench.comparison.intervals import paired_bca_of_means, proportion
from serving_workbench.comparison.latency import MIN_BLOCKS
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.outputs import ATOL, RTOL, compare_outputs
from serving_workbench.comparison.quality import PER_ROW, Scorer, quality, scorer
from serving_workbench.comparison.result import CompareResult, Evidence, Rows
from serving_workbench.comparison.sending import Answers, ask_both
from serving_workbench.comparison.slices import compare_slices
from serving_workbench.comparison.timing import LATENCY, LATENCY_P99, measure_latency
from serving_workbench.errors import WorkbenchError
from serving_workbench.load.arguments import check_whole
from serving_workbench.load_settings import different_settings
from serving_workbench.tuning.stepping import Steps

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["compare", "found_heads", "rows_that_differ"]

Array = NDArray[Any]

#: Names that margins may have beside the quality metric.
DIFFER: Final = "rows that differ"
FAILED: Final = "failed rows"


def compare(
    model: ServedModel | str | None,
    a: Any,
    b: Any,
    *,
    data: Any,
    labels: Any = None,
    metric: str | Callable[[Any, Any], float] | None = None,
    higher_is_better: bool | None = None,
    margins: Any = None,
    slices: Any = None,
    output: str | None = None,
    kinds: Mapping[str, str] | None = None,
    latency: bool = True,
    rate: float | None = None,
    pairs: int = 24,
    signature: str | None = None,
    chunk: int = 32,
    atol: float = ATOL,
    rtol: float = RTOL,
    timeout: float = 30.0,
    seed: int = 0,
    instance: str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Compare two versions, models or servers on the same rows, and tell whether B may replace A.

    Rows go to both arms back to back, in random order. Outputs are compared one by one; with labels, quality with a
    paired interval decides, without them the share of rows that differ; latency by requests in pairs, or by interleaved
    blocks under load. What may be worse by how much is declared by `margins` before anything is measured.

    Parameters
    ----------
    model : ServedModel, str or None
        Whose versions `a` and `b` are.
    a, b : int, str or ServedModel
        Arm A, in service, and arm B, the candidate: a version (``2``), a label (``"canary"``), another model
        (``"small"``, ``"small@3"``), or any server with TensorFlow Serving's gRPC (``"host:8500/digits@3"``). Versions
        that are not loaded are loaded beside for as long as it takes.
    data : array_like, dict, DataFrame, Series or path
        Rows, as `ServedModel.predict` takes them; or request logs (files, or a folder of ``*.tfrecord``).
    labels : array_like, Series or str, optional
        One per row; the name of a column of `data`, when that is a DataFrame.
    metric : str or callable, optional
        ``accuracy``, ``top5``, ``log_loss``, ``mae``, ``mse``, ``rmse``, or ``metric(y, predicted)``. By default
        accuracy for classes, else ``mae``.
    higher_is_better : bool, optional
        Of a callable.
    margins : dict, str or sequence of str, optional
        ``{"accuracy": 0.01, "latency": "10%"}`` or ``"accuracy=0.01"``: by how much B may be worse. By default 0.01 for
        accuracy, 10 % for latency, 1 % of rows that differ (without labels).
    slices : DataFrame, dict, Series or list of str, optional
        Columns to look at the metric in parts of the rows; names of columns when `data` is a DataFrame.
    output : str, optional
        The output that the metric is about; by default the one that fits the labels.
    kinds : mapping of str to str, optional
        What outputs are where their looks deceive, such as ``{"scores": "float"}``.
    latency : bool
        Whether to measure it.
    rate : float, optional
        Requests per second: latency by blocks under load, A and B in turns. By default by lone requests in pairs.
    pairs : int
        Of blocks.
    signature : str, optional
    chunk : int
        Rows per request when outputs are compared.
    atol, rtol : float
        Floats differ beyond ``atol + rtol * abs(a)``.
    timeout : float
        Seconds for a request.
    seed : int
        Of all that is drawn.
    instance : str, optional
        Where models are looked for.
    progress : bool
        Show a bar.

    Returns
    -------
    CompareResult
        After Ctrl-C a partial one, when rows had been answered.

    Raises
    ------
    WorkbenchError
        An arm is none, the arms take different inputs, or an argument is wrong.
    PredictError
        The data do not fit the signature, or an arm is gone.
    """
    check_whole(seed=seed)
    for name, value in (("pairs", pairs), ("chunk", chunk)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
            raise WorkbenchError(f"{name}={value!r} is not a whole number from 1 to 10000.")
    wanted = Margins.parse(margins)
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise WorkbenchError(f"rate={rate!r} is no number of requests per second.")
    if rate is not None and pairs < MIN_BLOCKS:
        raise WorkbenchError(f"pairs={pairs} blocks are too few for a latency verdict: at least {MIN_BLOCKS}.")
    steps = Steps("compare", 30, enabled=progress)
    try:
        with opened(model, a, b, instance) as (first, second):
            signed = same_signature(first, second, signature)
            given = Given.read(data, labels, slices, signed, first.model)
            judge = _scorer(metric, higher_is_better, given.labels)
            _check_margins(wanted, judge, latency, rate)
            steps.step("outputs", f"{given.count:,} rows")
            answers = ask_both(
                first,
                second,
                signed,
                given.inputs,
                chunk=chunk,
                timeout=timeout,
                seed=seed,
                tick=steps.tick,
            )
            evidence, timed, checks = Evidence(), list[Metric](), list[Check]()
            complete = answers.complete
            if latency and complete:
                steps.step("latency", "requests in pairs" if rate is None else f"{pairs} pairs of blocks")
                try:
                    evidence, timed, checks = measure_latency(
                        first, second, signed, given.inputs, answers, rate, pairs, timeout, seed, steps
                    )
                except KeyboardInterrupt:
                    complete = False
            steps.step("statistics")
            heads = found_heads(answers.a, answers.b, answers.answered, atol=atol, rtol=rtol, kinds=kinds, seed=seed)
            metrics, parts = _quality(judge, given, answers, heads, output, seed)
            metrics += [rows_that_differ(heads, len(answers.answered), primary=judge is None)]
            metrics += _failed(answers)
            result = CompareResult(
                model=first.model,
                a=first.text,
                b=second.text,
                source=f"{given.what} sent to both",
                date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                metrics=wanted.applied(metrics + timed),
                heads=heads,
                slices=parts,
                checks=[_pairs(answers, given.count), *_settings(first, second), *checks],
                margins=wanted,
                rows=Rows(
                    given.inputs,
                    given.ids,
                    given.labels,
                    answers.answered,
                    answers.a,
                    answers.b,
                    answers.failed_a,
                    answers.failed_b,
                ),
                latency=evidence,
                complete=complete,
            )
    finally:
        steps.close()
    result.seconds = dict(steps.seconds)
    return result


def _settings(first: Arm, second: Arm) -> list[Check]:
    """Return a warning when the arms are versions of one server that were loaded under different settings."""
    if first.served is None or second.served is None or first.served.server.name != second.served.server.name:
        return []
    if first.model != second.model or not isinstance(first.version, int) or not isinstance(second.version, int):
        return []
    model = first.served.server.control.model(first.model)
    differing = different_settings(model, first.version, second.version)
    return [] if differing is None else [Check("settings", False, differing, fatal=False)]


def _scorer(metric: Any, higher_is_better: bool | None, labels: Any) -> Scorer | None:
    if metric is not None:
        found = scorer(metric, higher_is_better)
        if labels is None:
            raise WorkbenchError(f"Metric '{found.name}' needs labels.", hint="Pass labels=, one per row.")
        return found
    if labels is None:
        return None
    return scorer("accuracy" if labels.dtype.kind in "iubOSU" and labels.ndim == 1 else "mae")


def _check_margins(margins: Margins, judge: Scorer | None, latency: bool, rate: float | None) -> None:
    names = [DIFFER, FAILED, *([] if judge is None else [judge.name])]
    if latency:
        names += [LATENCY] if rate is None else [LATENCY, LATENCY_P99]
    margins.check(names)


def _quality(
    judge: Scorer | None, given: Given, answers: Answers, heads: list[Head], output: str | None, seed: int
) -> tuple[list[Metric], list[Slice]]:
    if judge is None:
        if given.slices:
            raise WorkbenchError("Slices are of a metric, which needs labels.", hint="Pass labels=, one per row.")
        return [], []
    y = given.labels[answers.answered]
    name = output or _output_for(judge, y, heads)
    if name not in answers.a or name not in answers.b:
        raise WorkbenchError(f"There is no output '{name}'; there are {', '.join(answers.a)}.")
    first, second = np.asarray(answers.a[name]), np.asarray(answers.b[name])
    whole = quality(judge, y, first, second, seed=seed)
    columns = {column: values[answers.answered] for column, values in given.slices.items()}
    if columns and judge.by_row is None:
        raise WorkbenchError(
            f"Slices need a metric that is a mean over rows ({', '.join(PER_ROW)}); '{judge.name}' is none."
        )
    parts = compare_slices(
        columns,
        lambda rows: quality(judge, y[rows], first[rows], second[rows], seed=seed, resamples=1000),
        judge.higher_is_better,
    )
    return [whole], parts


def _output_for(judge: Scorer, y: Array, heads: list[Head]) -> str:
    """Return the output that the labels are of, by kinds."""
    if len(heads) == 1:
        return heads[0].name
    text = y.dtype.kind in "OSU"
    order = ["string"] if text else ["scores", "integer", "boolean", "float"]
    if judge.name in ("mae", "mse", "rmse"):
        order = ["float", "integer", "embedding"]
    for kind in order:
        fits = [head.name for head in heads if head.kind == kind]
        if len(fits) == 1:
            return fits[0]
        if fits:
            break
    names = ", ".join(f"'{head.name}' ({head.kind})" for head in heads)
    raise WorkbenchError(f"Which output are the labels of? There are {names}.", hint="Name it with output=.")


def found_heads(a: Mapping[str, Any], b: Mapping[str, Any], answered: Any, **options: Any) -> list[Head]:
    """Return the differences of all outputs.

    Raises
    ------
    WorkbenchError
        There are no outputs.
    """
    if not len(answered) or not (a or b):
        raise WorkbenchError("There is nothing that both arms answered.")
    return compare_outputs(a, b, **options)


def rows_that_differ(heads: list[Head], rows: int, *, primary: bool) -> Metric:
    """Return the share of rows that differ in any output, as a metric; the exact interval of a share."""
    differing = len({row for head in heads for row in head.differing})
    share = proportion(differing, rows)
    return Metric(
        DIFFER,
        0.0,
        share.value,
        share,
        higher_is_better=False,
        role="primary" if primary else "shown",
        unit="%",
    )


def _failed(answers: Answers) -> list[Metric]:
    """Return how many more rows fail in B, where any does."""
    if not answers.failed_a and not answers.failed_b:
        return []
    rows = np.arange(answers.rows)
    first, second = (np.isin(rows, list(failed)).astype(float) for failed in (answers.failed_a, answers.failed_b))
    return [
        Metric(
            FAILED,
            float(first.mean()),
            float(second.mean()),
            paired_bca_of_means(second - first),
            higher_is_better=False,
            role="guardrail",
            unit="%",
        )
    ]


def _pairs(answers: Answers, count: int) -> Check:
    missing = answers.rows - len(answers.answered)
    text = f"{len(answers.answered):,} of {answers.rows:,} rows were answered by both arms."
    if missing:
        failed = answers.failed_b or answers.failed_a
        row, said = next(iter(failed.items()))
        text += f" Row {row}: {said[:200]}"
    if answers.rows < count:
        text += f" {count - answers.rows:,} were not asked."
    return Check("pairs", not missing, text, fatal=missing > 0.5 * answers.rows)
