"""Blocks in which one version answers everything: what a version can do alone, on the machine as it is now.

A split has both versions on the same processors, so it cannot tell which of them would take more load. Here A and B
take turns with all requests, in pairs of blocks in random order, and pairs of blocks are compared: drift that is slower
than a pair falls out.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from serving_server.sequential import difference_of_shares
from serving_workbench.comparison.evidence import Check, Estimate, Metric, Role
from serving_workbench.comparison.latency import MIN_BLOCKS, block_pairs
from serving_workbench.comparison.margins import Margins
from serving_workbench.comparison.result import CompareResult
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel, connect
from serving_workbench.load.testing import start
from serving_workbench.tuning.stepping import Steps

__all__ = ["switchback"]

LATENCY: Final = "latency"
LATENCY_P99: Final = "latency p99"
ERRORS: Final = "error rate"
#: Why a period begins that a block asked for, as the server says.
WEIGHTS_SET: Final = "the weights were set"
#: Requests below which a block says nothing.
_LEAST: Final = 20


def switchback(
    model: ServedModel | str,
    a: int,
    b: int,
    *,
    blocks: int = 24,
    seconds: float = 1.0,
    rate: float | None = None,
    data: Any = None,
    margins: Any = None,
    seed: int = 0,
    instance: str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Let two versions take turns with all requests, and compare block by block.

    Parameters
    ----------
    model : ServedModel or str
    a, b : int
        Versions.
    blocks : int
        Pairs of them; 20 are needed for a verdict.
    seconds : float
        Of a block.
    rate : float, optional
        Requests per second that the load generator sends; by default the requests that come are what counts.
    data : array_like, dict, DataFrame or Series, optional
        What it sends.
    margins : dict, str or sequence of str, optional
        For ``latency`` (relative; 0.1 by default), ``latency p99`` and ``error rate``.
    seed : int
        Of the order.
    instance : str, optional
    progress : bool

    Returns
    -------
    CompareResult
        After Ctrl-C of the blocks until then.

    Raises
    ------
    WorkbenchError
        Requests are split already, or an argument is wrong.
    """
    wanted = Margins.parse(margins)
    wanted.check([LATENCY, LATENCY_P99, ERRORS])
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not MIN_BLOCKS <= blocks <= 200:
        raise WorkbenchError(f"blocks={blocks!r}: a verdict needs {MIN_BLOCKS} to 200 pairs of blocks.")
    if not 0 < seconds <= 3600:
        raise WorkbenchError(f"seconds={seconds!r} is not the length of a block.")
    if a == b:
        raise WorkbenchError(f"Two versions take turns; {a} is given twice.")
    found = model if isinstance(model, ServedModel) else connect(model, instance)
    assert isinstance(found, ServedModel)
    control = found.server.control
    if control.traffic(found.name)["weights"]:
        raise WorkbenchError(
            f"Requests of '{found.name}' are split already.", hint=f"End that first: {found.name}.traffic({{}})."
        )
    order = np.random.default_rng(seed)
    steps = Steps("switchback", 2 * blocks * seconds, enabled=progress)
    turns: list[tuple[int, int]] = []
    complete = True
    began = time.time()
    try:
        # Both loaded before the first block, so that no block has a load in it.
        control.put_traffic(found.name, {str(a): 1.0, str(b): 1.0}, seconds=60.0)
        with contextlib.ExitStack() as stack:
            wait: Callable[[float], object] = time.sleep
            if rate is not None:
                whole = 2 * blocks * seconds + 30
                run = stack.enter_context(start(found, data=data, rate=rate, seconds=whole, warmup=0.0))
                while not run.began and not run.poll(0.05):
                    continue
                wait = run.poll
            for pair in range(blocks):
                for version in order.permutation([a, b]).tolist():
                    weights = {str(each): float(each == version) for each in (a, b)}
                    turns.append((pair, version))
                    control.put_traffic(found.name, weights, seconds=60.0)
                    steps.step("blocks", f"{len(turns)} of {2 * blocks}: version {version}")
                    _pass(wait, seconds)
    except KeyboardInterrupt:
        complete = False
    finally:
        traffic = _told(control, found.name)
        with contextlib.suppress(WorkbenchError):  # the server has ended, and its split with it
            control.delete_traffic(found.name)
        steps.close()
    # Another cause is a version that was away for a while: what came then is of no block.
    set_by_us = [each for each in traffic["periods"] if each["since"] >= began and each["cause"] == WEIGHTS_SET]
    periods = set_by_us[1:]
    result = _judged(found.name, a, b, turns, periods, wanted)
    result.complete = complete
    result.seconds = dict(steps.seconds)
    return result


def _pass(wait: Callable[[float], object], seconds: float) -> None:
    """Wait so many seconds, whatever comes in between."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        wait(left)


def _told(control: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = control.traffic(name)
    return found


def _judged(
    name: str, a: int, b: int, turns: list[tuple[int, int]], periods: list[Mapping[str, Any]], margins: Margins
) -> CompareResult:
    seen: dict[int, dict[int, Mapping[str, Any]]] = {}
    for (pair, version), period in zip(turns, periods, strict=False):
        outcome = period["outcomes"].get(str(version))
        if outcome is not None:
            seen.setdefault(pair, {})[version] = outcome
    whole = [each for each in seen.values() if len(each) == 2]
    pairs = [each for each in whole if all(_requests(outcome) >= _LEAST for outcome in each.values())]
    metrics = []
    roles: tuple[tuple[str, float, Role], ...] = ((LATENCY, 50.0, "primary"), (LATENCY_P99, 99.0, "shown"))
    for title, percent, role in roles:
        blocks = [[np.array([_percentile(each[version], percent)]) for each in pairs] for version in (a, b)]
        compared = block_pairs(blocks[0], blocks[1], 50)
        metrics.append(
            Metric(
                title,
                1e3 * compared.a,
                1e3 * compared.b,
                compared.ratio,
                relative=True,
                higher_is_better=False,
                role=role,
                unit="ms",
            )
        )
    if pairs:
        errors, asked = (
            [sum(int(count(each[version])) for each in pairs) for version in (a, b)] for count in (_errors, _requests)
        )
        value, low, high = difference_of_shares(errors[0], asked[0], errors[1], asked[1])
        difference = Estimate(value, low, high, sum(asked), "exact intervals of both shares")
        mean_a, mean_b = errors[0] / asked[0], errors[1] / asked[1]
        metrics.append(Metric(ERRORS, mean_a, mean_b, difference, higher_is_better=False, unit="%"))
    few = len(whole) - len(pairs)
    text = f"{len(pairs)} of {len(turns) // 2} pairs of blocks had at least {_LEAST} requests in both blocks."
    requests = sum(_requests(outcome) for each in pairs for outcome in each.values())
    return CompareResult(
        model=name,
        a=f"{name}@{a}",
        b=f"{name}@{b}",
        source=f"{len(pairs)} pairs of blocks, {requests:,} requests",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metrics=margins.applied(metrics),
        heads=[],
        slices=[],
        checks=[Check("blocks", not few, text, fatal=few > len(whole) / 2)],
        margins=margins,
    )


def _errors(outcome: Mapping[str, Any]) -> int:
    return int(sum(outcome["errors"].values()))


def _requests(outcome: Mapping[str, Any]) -> int:
    return int(outcome["answered"] + sum(outcome["errors"].values()))


def _percentile(outcome: Mapping[str, Any], percent: float) -> float:
    """Return a percentile in seconds of the server's fine histogram: the middle, in logarithms, of its bucket."""
    fine = outcome["latency_fine"]
    counts = fine["counts"]
    total = sum(count for _, count in counts)
    reached = 0
    for index, count in counts:
        reached += count
        if reached >= percent / 100 * total:
            return float(fine["scale_us"] * fine["growth"] ** (index - 0.5) / 1e6)
    return float("nan")
