"""How long a version's runs take, by rows and by how many go on at once: measured in its own worker, on request.

Requests go on meanwhile: a run that is measured takes a free lane, and gives it back at once. Sizes come in random
order, so that a drift of the machine's speed does not look like an effect of the size.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from serving_server.batching.aside import Timing
from serving_server.batching.batch import rows_to_batch
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.task import Task
from serving_server.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServingError,
)
from serving_server.inputs import check_dtypes, check_inputs, signature_of
from serving_server.servable import ServedVersion
from serving_server.signatures import Signature
from serving_server.tensors import Array, TensorParsingError, to_array
from serving_server.wire.messages import PredictRequest

__all__ = ["MAX_AT_ONCE", "MAX_ROWS", "MAX_SECONDS", "Wish", "measure"]

#: Of one measurement: seconds, rows of a run, runs at once, runs of each kind.
MAX_SECONDS: Final = 120.0
MAX_ROWS: Final = 65_536
MAX_AT_ONCE: Final = 64
MAX_RUNS: Final = 10_000

#: Runs of each kind that are made whatever the time, after one that warms up.
_LEAST_RUNS: Final = 3

#: Bytes of a run's inputs: they are put together on the loop that answers requests too.
MAX_BYTES: Final = 256 * 1024 * 1024

#: How long a run waits before it looks again for a free lane, and how long in all. Seconds.
_LANE_SECONDS: Final = 0.001
_LANES_BUSY_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What to measure.

    Attributes
    ----------
    request : PredictRequest
        Its model_spec names the signature and perhaps the version; its inputs, of one row or more, are repeated.
    sizes : tuple of int
        Rows of a run, ascending.
    at_once : tuple of int
        Runs at the same time.
    runs : int
        Of each kind, at most.
    seconds : float
        For all of it; at least three runs of each kind are made whatever that takes.
    seed : int
        Of the order.
    """

    request: Any
    sizes: tuple[int, ...]
    at_once: tuple[int, ...] = (1,)
    runs: int = 30
    seconds: float = 10.0
    seed: int = 0

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Wish:
        """Return the wish of a request's fields; ``request`` is a serialized PredictRequest in base64.

        Raises
        ------
        InvalidArgumentError
            Naming the field that is wrong.
        """
        try:
            request = PredictRequest.FromString(base64.b64decode(fields["request"], validate=True))
        except (KeyError, TypeError, ValueError, DecodeError):
            raise InvalidArgumentError("request must be a serialized PredictRequest in base64") from None
        sizes = _numbers(fields, "sizes", MAX_ROWS)
        at_once = _numbers(fields, "at_once", MAX_AT_ONCE) if "at_once" in fields else (1,)
        runs, seconds, seed = fields.get("runs", 30), fields.get("seconds", 10.0), fields.get("seed", 0)
        if type(runs) is not int or not _LEAST_RUNS <= runs <= MAX_RUNS:
            raise InvalidArgumentError(f"runs is {runs!r}; it must be a whole number from {_LEAST_RUNS} to {MAX_RUNS}")
        if type(seconds) not in (int, float) or not 0 < seconds <= MAX_SECONDS:
            raise InvalidArgumentError(f"seconds is {seconds!r}; it must be more than 0 and at most {MAX_SECONDS:g}")
        if type(seed) is not int:
            raise InvalidArgumentError(f"seed is {seed!r}; it must be a whole number")
        return cls(request, sizes, at_once, runs, float(seconds), seed)


def _numbers(fields: dict[str, Any], name: str, most: int) -> tuple[int, ...]:
    values = fields.get(name)
    if not isinstance(values, list) or not values or not all(type(v) is int and 1 <= v <= most for v in values):
        raise InvalidArgumentError(f"{name} must be a list of whole numbers from 1 to {most}")
    return tuple(sorted(set(values)))


async def measure(servable: ServedVersion, wish: Wish) -> dict[str, Any]:
    """Measure and return a JSON object.

    Returns
    -------
    dict
        ``version``, ``signature``, ``seconds``, ``requests`` (those that clients had answered meanwhile), ``failed``
        (rows and message of the smallest size that failed; larger ones are left out; or None) and ``times``: one object
        per kind with ``rows``, ``at_once`` and lists of ns: ``run``, ``lane``, ``assembly``.

    Raises
    ------
    ServingError
        The request does not fit the signature, the signature cannot be batched, the worker has ended, other requests
        leave no lane free for long.
    """
    signature = signature_of(servable.signatures, wish.request.model_spec.signature_name)
    inputs = _inputs(signature, wish.request)
    began = time.monotonic()
    before = servable.statistics.stages.requests
    servable.provide_lanes(max(wish.at_once))
    usable, failed = await _warm(servable, signature, inputs, wish.sizes)
    kinds = [(rows, at_once) for rows in usable for at_once in wish.at_once]
    found: dict[tuple[int, int], list[Timing]] = {kind: [] for kind in kinds}
    order = random.Random(wish.seed)  # noqa: S311 - no secret
    while True:
        left = [kind for kind in kinds if len(found[kind]) < wish.runs]
        if time.monotonic() - began > wish.seconds:
            left = [kind for kind in left if len(found[kind]) < _LEAST_RUNS]
        if not left:
            break
        order.shuffle(left)
        for rows, at_once in left:
            late = time.monotonic() - began > wish.seconds
            if late and len(found[rows, at_once]) >= _LEAST_RUNS:
                continue
            feeds = _repeated(inputs, rows)
            runs = [_run(servable, signature, feeds, rows) for _ in range(at_once)]
            found[rows, at_once] += await asyncio.gather(*runs)
    return {
        "version": servable.version,
        "signature": signature.name,
        "seconds": time.monotonic() - began,
        "requests": servable.statistics.stages.requests - before,
        "failed": failed,
        "times": [
            {
                "rows": rows,
                "at_once": at_once,
                "run": [timing.run for timing in timings],
                "lane": [timing.lane for timing in timings],
                "assembly": [timing.assembly for timing in timings],
            }
            for (rows, at_once), timings in sorted(found.items())
        ],
    }


def _inputs(signature: Signature, request: Any) -> dict[str, Array]:
    check_inputs(signature, request.inputs.keys())
    try:
        given = {alias: to_array(tensor) for alias, tensor in request.inputs.items()}
    except TensorParsingError as error:
        raise InvalidArgumentError(str(error)) from error
    inputs = {alias: given.get(alias, signature.defaults.get(alias)) for alias in signature.inputs}
    arrays = {alias: array for alias, array in inputs.items() if array is not None}
    check_dtypes(signature, arrays)
    probe = Task(signature, arrays, tuple(signature.outputs), 0.0, None, _nobody)
    if rows_to_batch(probe, BatchingParameters(max_batch_size=MAX_ROWS)) == 0:
        raise InvalidArgumentError("the inputs of request have no row to repeat")
    return arrays


def _repeated(inputs: dict[str, Array], rows: int) -> dict[str, Array]:
    size = sum(array[:1].nbytes for array in inputs.values()) * rows
    if size > MAX_BYTES:
        raise ResourceExhaustedError(
            f"{rows} rows take {size} bytes; the limit of a run that is measured is {MAX_BYTES}"
        )
    return {alias: np.take(array, np.arange(rows) % array.shape[0], axis=0) for alias, array in inputs.items()}


async def _warm(
    servable: ServedVersion, signature: Signature, inputs: dict[str, Array], sizes: Sequence[int]
) -> tuple[list[int], dict[str, Any] | None]:
    """Run every size once, and return those that work and the first that does not."""
    for position, rows in enumerate(sizes):
        try:
            await _run(servable, signature, _repeated(inputs, rows), rows)
        except FailedPreconditionError:
            raise  # the outputs have no rows: no size will do
        except ServingError as error:
            if position == 0:
                raise
            return list(sizes[:position]), {"rows": rows, "message": error.message}
    return list(sizes), None


async def _run(servable: ServedVersion, signature: Signature, feeds: dict[str, Array], rows: int) -> Timing:
    task = Task(signature, feeds, tuple(signature.outputs), 0.0, None, _nobody)
    task.rows = rows
    late = time.monotonic() + _LANES_BUSY_SECONDS
    while (future := servable.run_aside(task)) is None:  # no event: the hot path would have to set it
        if time.monotonic() > late:
            msg = f"other requests have left no lane free for {_LANES_BUSY_SECONDS:g} s; measure when there are fewer"
            raise ResourceExhaustedError(msg)
        await asyncio.sleep(_LANE_SECONDS)
    return await future


def _nobody(_outputs: dict[str, Array] | None, _error: ServingError | None) -> None:
    """Nobody waits for the answer of a run that is only measured."""
