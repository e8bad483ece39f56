"""Latency of both arms under load: one run of the load generator whose requests go to A and B in turns, in blocks.

One run, so that no start of a process and no pause lies between the blocks; each pair in random order, so that drift of
the machine falls out when they are analyzed in pairs (`latency.block_pairs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_workbench import sampling
from serving_workbench.comparison.arms import Arm
from serving_workbench.comparison.evidence import Check
from serving_workbench.load.job import GRPC, Request
from serving_workbench.load.payload import Payload, from_data
from serving_workbench.load.target import Target
from serving_workbench.load.testing import start

__all__ = ["Blocks", "measure_blocks"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: Requests of a block that are left out, as part: answers of the block before may still be running.
_SETTLING: Final = 0.1
#: Different rows that are sent.
_ROWS: Final = 64
#: Requests that a percentile of a block rests on at least.
MIN_REQUESTS: Final = 50
_LOOK: Final = 0.1
#: Share of a core beyond which the sender was the limit.
_MAX_CPU: Final = 0.85


@dataclasses.dataclass
class Blocks:
    """What was measured.

    Attributes
    ----------
    a, b : list of numpy.ndarray of float64
        Latencies of the answered requests of each block, seconds; the i-th of both are a pair. They count from sending:
        how late the sender was is the same for both arms, and would only hide their difference.
    rate : float
        Requests per second, of either arm while its block runs.
    errors_a, errors_b : int
        Requests without a good answer.
    checks : list of Check
    """

    a: list[Floats]
    b: list[Floats]
    rate: float
    errors_a: int
    errors_b: int
    checks: list[Check]


def measure_blocks(
    a: Arm,
    b: Arm,
    signature: Signature,
    inputs: Mapping[str, Array],
    rows: NDArray[np.int64],
    *,
    rate: float,
    pairs: int = 24,
    seconds: float = 0.4,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Blocks:
    """Load both arms in turns.

    Parameters
    ----------
    a, b : Arm
        Of one server; between servers, one run cannot alternate.
    rows : numpy.ndarray of int64
        Row numbers that both arms answer.
    rate : float
        Requests per second, at even times.
    pairs : int
        Of blocks; 20 are needed for a verdict.
    seconds : float
        Of a block; longer where `rate` is so low that it would hold fewer than 50 requests.
    """
    each = max(MIN_REQUESTS, round(rate * seconds))
    order = np.random.default_rng(seed)
    chosen = rows[:_ROWS]
    batched = sampling.batch_axis(signature)
    given = {name: array[chosen] for name, array in inputs.items()} if batched else dict(inputs)
    requests = tuple(_requests(arm, signature, given) for arm in (a, b))
    turns: list[int] = []
    sent: list[Request] = []
    for _ in range(pairs):
        for arm in order.permutation(2).tolist():
            turns.append(arm)
            known = requests[arm]
            sent += [known[number % len(known)] for number in range(each)]
    payload = Payload(sent, 1.0, f"{pairs} pairs of blocks of {each} requests")
    with start(
        a.client.endpoint,
        model=a.model,
        data=payload,
        rate=rate,
        arrivals="constant",
        seconds=len(sent) / rate,
        warmup=0.0,
        seed=seed,
    ) as run:
        while not run.poll(_LOOK):
            tick()
        result = run.wait()
    records = result.records
    skipped = int(_SETTLING * each)
    blocks: tuple[list[Floats], list[Floats]] = ([], [])
    errors = [0, 0]
    for number, arm in enumerate(turns):
        part = slice(number * each + skipped, (number + 1) * each)
        good = records.good[part]
        blocks[arm].append(records.send_latency[part][good])
        errors[arm] += int((~good).sum())
    limited = records.client.cpu_share > _MAX_CPU
    checks = [
        Check(
            "client",
            not limited,
            f"The load generator used {100 * records.client.cpu_share:.0f} % of a core: latencies are its own."
            if limited
            else f"The load generator used {100 * records.client.cpu_share:.0f} % of a core.",
        ),
        Check(
            "saturation",
            not result.saturated,
            f"At {rate:g} requests/s an arm did not keep up: latencies are those of its queue."
            if result.saturated
            else f"Both arms kept up with {rate:g} requests/s.",
        ),
    ]
    return Blocks(*blocks, rate, errors[0], errors[1], checks)


def _requests(arm: Arm, signature: Signature, inputs: Mapping[str, Array]) -> list[Request]:
    version = arm.version if isinstance(arm.version, int) else None
    target = Target(GRPC, arm.client.endpoint, arm.model, version, None)
    return from_data(target, signature, dict(inputs), 1).requests
