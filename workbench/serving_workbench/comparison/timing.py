"""The latency part of a comparison: lone requests in pairs, or blocks under load, as metrics and checks."""

from __future__ import annotations

import math
import os
import time
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_workbench.comparison.arms import Arm
from serving_workbench.comparison.blocks import Blocks, measure_blocks
from serving_workbench.comparison.evidence import Check, Estimate, Metric, Role
from serving_workbench.comparison.latency import block_pairs, paired_rows
from serving_workbench.comparison.result import Evidence
from serving_workbench.comparison.sending import Answers, lone_pairs
from serving_workbench.errors import WorkbenchError
from serving_workbench.tuning.stepping import Steps

__all__ = ["LATENCY", "LATENCY_P99", "measure_latency"]

Array = NDArray[Any]

LATENCY: Final = "latency"
LATENCY_P99: Final = "latency p99"
#: Seconds that lone requests take at most, and the pairs.
_LONE_SECONDS: Final = 4.0
_LONE_PAIRS: Final = 1000
#: Requests of a block from which on its p99 is looked at.
_P99: Final = 100


def measure_latency(
    a: Arm,
    b: Arm,
    signature: Signature,
    inputs: dict[str, Array],
    answers: Answers,
    rate: float | None,
    pairs: int,
    timeout: float,
    seed: int,
    steps: Steps,
) -> tuple[Evidence, list[Metric], list[Check]]:
    """Time both arms on rows that both answer; see `serving_workbench.compare` for `rate` and `pairs`.

    Raises
    ------
    WorkbenchError
        A rate is given, and the arms are different servers.
    """
    machine = _Machine()
    if rate is None:
        found = lone_pairs(
            a,
            b,
            signature,
            inputs,
            answers.answered,
            count=_LONE_PAIRS,
            seconds=_LONE_SECONDS,
            timeout=timeout,
            seed=seed,
            tick=steps.tick,
        )
        ratio = paired_rows(found.a, found.b)
        metrics = [_latency_metric(LATENCY, 1e3 * _median(found.a), 1e3 * _median(found.b), ratio)]
        return Evidence(found.a, found.b), metrics, [machine.check()]
    if a.client.endpoint != b.client.endpoint:
        raise WorkbenchError(
            f"{a.text} and {b.text} are different servers, which cannot be loaded in turns by one run.",
            hint="Leave rate= out: lone requests in pairs are compared then.",
        )
    blocks = measure_blocks(
        a, b, signature, inputs, answers.answered, rate=rate, pairs=pairs, seed=seed, tick=steps.tick
    )
    evidence = Evidence(blocks_a=blocks.a, blocks_b=blocks.b, rate=rate, what=f"requests at {rate:g}/s")
    metrics, noticed = _of_blocks(blocks)
    return evidence, metrics, [*blocks.checks, *noticed, machine.check()]


def _of_blocks(blocks: Blocks) -> tuple[list[Metric], list[Check]]:
    middle = block_pairs(blocks.a, blocks.b, 50)
    metrics = [_latency_metric(LATENCY, 1e3 * middle.a, 1e3 * middle.b, middle.ratio)]
    if min((len(block) for block in [*blocks.a, *blocks.b]), default=0) >= _P99:
        tail = block_pairs(blocks.a, blocks.b, 99)
        shown = _latency_metric(LATENCY_P99, 1e3 * tail.a, 1e3 * tail.b, tail.ratio)
        metrics.append(shown)
    if not math.isfinite(middle.detectable):
        return metrics, []
    text = f"{len(blocks.a)} pairs of blocks would notice a slowdown of {100 * middle.detectable:.2g} %."
    return metrics, [Check("power", True, text, fatal=False)]


def _latency_metric(name: str, a: float, b: float, ratio: Estimate) -> Metric:
    role: Role = "guardrail" if name == LATENCY else "shown"
    return Metric(name, a, b, ratio, relative=True, higher_is_better=False, role=role, unit="ms")


def _median(values: Any) -> float:
    return float(np.median(values)) if len(values) else math.nan


class _Machine:
    """Whether other virtual machines took processors away while it was measured."""

    #: Share of all processors' time beyond which pairs are too disturbed to be believed.
    _STOLEN = 0.10

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = _stolen()

    def check(self) -> Check:
        spent = max(1e-3, time.monotonic() - self._began) * (os.cpu_count() or 1)
        share = max(0.0, _stolen() - self._before) / spent
        if share > self._STOLEN:
            text = f"Other virtual machines took {100 * share:.0f} % of the processors: latencies are of that, too."
            return Check("machine", False, text, fatal=False)
        return Check("machine", True, f"{100 * share:.1f} % of the processors' time was taken by other machines.")


def _stolen() -> float:
    return float(getattr(psutil.cpu_times(), "steal", 0.0))
