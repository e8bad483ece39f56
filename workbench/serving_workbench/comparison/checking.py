"""A/A: a version compared with itself, again and again, to see how often the machinery cries wolf here and now."""

from __future__ import annotations

import dataclasses
import html
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_workbench.comparison.arms import opened, same_signature
from serving_workbench.comparison.blocks import measure_blocks
from serving_workbench.comparison.entry import compare
from serving_workbench.comparison.latency import MIN_BLOCKS, detectable
from serving_workbench.comparison.sending import ask_both
from serving_workbench.errors import WorkbenchError
from serving_workbench.inputs import as_inputs
from serving_workbench.tuning.stepping import Steps

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult
    from serving_workbench.handle import ServedModel

__all__ = ["AAResult", "aa"]

#: False alarms that are meant: one minus the confidence of the intervals.
LEVEL: Final = 0.05


@dataclasses.dataclass
class AAResult:
    """How often a difference was claimed where there is none.

    Attributes
    ----------
    arm : str
    runs : int
    rejected : int
        Runs whose verdict was REJECT.
    alarms : int
        Runs that were rejected, or whose latency interval lay wholly on one side of zero, as 5 % of intervals of 95 %
        do where there is no difference.
    verdicts : dict of str to int
    expected : int
        The most alarms that are to be expected of intervals of 95 % (binomial, 99 %).
    detectable : float
        The smallest slowdown that 24 pairs of blocks would notice in 80 % of the cases on this machine now, relative;
        not a number when no rate was given.
    results : list of CompareResult
    """

    arm: str
    runs: int
    rejected: int
    alarms: int
    verdicts: dict[str, int]
    expected: int
    detectable: float
    results: list[CompareResult]

    @property
    def ok(self) -> bool:
        """Whether there were no more false alarms than the intervals promise."""
        return self.alarms <= self.expected

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{kind} {count}" for kind, count in self.verdicts.items())
        said = (
            f"{self.rejected} were rejected; intervals of latency lay beside zero in {self.alarms}, of 95 % at most "
            f"{self.expected} are expected to"
        )
        honest = "The machinery is honest on this machine now."
        wolf = "That is too often: do not trust verdicts on latency now. Is the machine busy with something else?"
        lines = [f"A/A of {self.arm}, {self.runs} times: {said}. {verdicts}.", honest if self.ok else wolf]
        if np.isfinite(self.detectable):
            lines.append(f"Of latency under load, a slowdown of {100 * self.detectable:.2g} % would be noticed.")
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": f"<pre>{html.escape(repr(self))}</pre>"}


def aa(
    model: ServedModel | str,
    version: Any = None,
    *,
    data: Any,
    runs: int = 20,
    rate: float | None = None,
    seed: int = 0,
    instance: str | None = None,
    signature: str | None = None,
    progress: bool = True,
) -> AAResult:
    """Compare a version with itself, to see on this machine, today, how often a difference would be claimed.

    Parameters
    ----------
    model : ServedModel or str
    version : int or str, optional
        By default the one that answers.
    data : array_like, dict, DataFrame or Series
        Rows to send.
    runs : int
        Comparisons, by lone requests in pairs.
    rate : float, optional
        Requests per second, to find what latency difference blocks under load would notice.
    seed : int
    instance, signature : str, optional
    progress : bool

    Raises
    ------
    WorkbenchError, PredictError
        As `serving_workbench.compare`.
    """
    if isinstance(runs, bool) or not isinstance(runs, int) or not 1 <= runs <= 1000:
        raise WorkbenchError(f"runs={runs!r} is not a whole number from 1 to 1000.")
    from scipy.stats import binom

    steps = Steps("A/A", 2.5 * runs, enabled=progress)
    results: list[CompareResult] = []
    smallest = float("nan")
    try:
        same = _arm(model, version)
        with opened(model, same, same, instance) as (first, second):
            arm = first.text
            for number in range(runs):
                steps.step("compare", f"{number + 1} of {runs}")
                results.append(
                    compare(
                        model,
                        same,
                        same,
                        data=data,
                        seed=seed + number,
                        instance=instance,
                        signature=signature,
                        progress=False,
                    )
                )
            if rate is not None:
                steps.step("blocks", f"{MIN_BLOCKS + 4} pairs at {rate:g}/s")
                signed = same_signature(first, second, signature)
                inputs = as_inputs(data, signed)
                answered = ask_both(first, second, signed, inputs, seed=seed).answered
                blocks = measure_blocks(first, second, signed, inputs, answered, rate=rate, seed=seed, tick=steps.tick)
                logs = [np.log(np.median(b)) - np.log(np.median(a)) for a, b in zip(blocks.a, blocks.b, strict=True)]
                smallest = detectable(float(np.std(logs, ddof=1)), len(logs))
    finally:
        steps.close()
    alarms = sum(_alarm(each) for each in results)
    verdicts = dict(Counter(each.verdict for each in results))
    rejected = verdicts.get("REJECT", 0)
    return AAResult(arm, runs, rejected, alarms, verdicts, int(binom.ppf(0.99, runs, LEVEL)), smallest, results)


def _arm(model: ServedModel | str, version: Any) -> Any:
    if version is not None:
        return version
    return model if isinstance(model, str) else model.name


def _alarm(result: CompareResult) -> bool:
    found = result.metric("latency").difference
    return result.verdict == "REJECT" or found.low > 0 or found.high < 0
