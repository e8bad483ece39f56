"""The same rows to both arms, back to back, in random order; every row stays with its pair."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_server.signatures import Signature
from serving_workbench import sampling
from serving_workbench.comparison.arms import Arm
from serving_workbench.errors import PredictError, WorkbenchError

__all__ = ["Answers", "LonePairs", "ask_both", "lone_pairs"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: Codes that say something of the rows; others say that the arm is gone, which ends the comparison.
_OF_ROWS: Final = frozenset(
    {"INVALID_ARGUMENT", "OUT_OF_RANGE", "INTERNAL", "FAILED_PRECONDITION", "UNIMPLEMENTED", "UNKNOWN", "DATA_LOSS"}
)
#: Requests that are sent to each arm before anything is measured.
_WARM: Final = 3


@dataclasses.dataclass
class Answers:
    """What both arms answered.

    Attributes
    ----------
    rows : int
        That were asked; the first so many, when it ended early.
    a, b : dict of str to array or list
        Outputs, aligned, of the rows in `answered`; a list of rows where their lengths differ.
    answered : numpy.ndarray of int64
        Row numbers that both arms answered.
    failed_a, failed_b : dict of int to str
        What else was said, by row number.
    complete : bool
    """

    rows: int
    a: dict[str, Any]
    b: dict[str, Any]
    answered: NDArray[np.int64]
    failed_a: dict[int, str]
    failed_b: dict[int, str]
    complete: bool = True


def ask_both(
    a: Arm,
    b: Arm,
    signature: Signature,
    inputs: Mapping[str, Array],
    *,
    chunk: int = 32,
    timeout: float = 30.0,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Answers:
    """Send all rows to both arms.

    Parameters
    ----------
    inputs : mapping of str to array
        First axis: rows. Without a batch dimension in the signature, all of it is one row.
    chunk : int
        Rows per request, the same rows for both arms. A request that an arm refuses is sent again row by row, so that
        one bad row does not cost its neighbors.
    tick : callable
        Called now and then.

    Raises
    ------
    PredictError
        An arm is gone, or does not answer within `timeout` seconds.
    """
    batched = sampling.batch_axis(signature)
    count = len(next(iter(inputs.values()))) if batched else 1
    order = np.random.default_rng(seed)
    parts: tuple[list[Any], list[Any]] = ([], [])
    answered: list[int] = []
    failed: tuple[dict[int, str], dict[int, str]] = ({}, {})
    done = 0
    complete = True

    def ask(rows: list[int]) -> None:
        given = {name: array[rows[0] : rows[-1] + 1] for name, array in inputs.items()} if batched else dict(inputs)
        found: list[dict[str, Any] | None] = [None, None]
        for index in order.permutation(2).tolist():
            arm = (a, b)[index]
            try:
                found[index] = _checked(arm.answer(given, signature.name, timeout), rows, batched, arm)
            except PredictError as error:
                if error.code not in _OF_ROWS:
                    raise PredictError(f"{arm.text}: {error.message}", code=error.code, hint=error.hint) from None
                if len(rows) > 1:
                    for row in rows:
                        ask([row])
                    return
                failed[index][rows[0]] = error.message
        if found[0] is not None and found[1] is not None:
            answered.extend(rows)
            parts[0].append(found[0])
            parts[1].append(found[1])

    try:
        while done < count:
            rows = list(range(done, min(done + max(1, chunk), count)))
            ask(rows)
            done += len(rows)
            tick()
    except KeyboardInterrupt:
        if not answered:
            raise
        complete = False
    if not answered:
        arm, words = (a, failed[0]) if failed[0] else (b, failed[1])
        raise WorkbenchError(
            f"{arm.text} answered none of {count} rows; to the first it said: {next(iter(words.values()))}"
        )
    kept = np.array(answered, np.int64)
    return Answers(done, _joined(parts[0], batched), _joined(parts[1], batched), kept, *failed, complete=complete)


def _checked(outputs: dict[str, Any], rows: list[int], batched: bool, arm: Arm) -> dict[str, Any]:
    for name, array in outputs.items():
        if batched and (np.ndim(array) == 0 or len(array) != len(rows)):
            raise WorkbenchError(
                f"Output '{name}' of {arm.text} has shape {list(np.shape(array))} for {len(rows)} rows: its rows "
                "cannot be told apart.",
                hint="Compare by a signature whose outputs have a row for each row of the input.",
            )
    return outputs


def _joined(parts: list[dict[str, Any]], batched: bool) -> dict[str, Any]:
    names = list(dict.fromkeys(name for part in parts for name in part))
    found: dict[str, Any] = {}
    for name in names:
        pieces = [part[name] for part in parts if name in part]
        if not batched:
            found[name] = np.asarray(pieces[0])[np.newaxis]
        elif len({piece.shape[1:] for piece in pieces}) == 1:
            found[name] = np.concatenate(pieces)
        else:
            found[name] = [row for piece in pieces for row in piece]
    return found


@dataclasses.dataclass
class LonePairs:
    """Times of lone requests of a row, sent to both arms back to back: seconds, float64 [n]; row numbers, int64 [n]."""

    a: Floats
    b: Floats
    rows: NDArray[np.int64]


def lone_pairs(
    a: Arm,
    b: Arm,
    signature: Signature,
    inputs: Mapping[str, Array],
    rows: NDArray[np.int64],
    *,
    count: int = 1000,
    seconds: float = 4.0,
    timeout: float = 30.0,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> LonePairs:
    """Time single rows, one request at a time, at most so many pairs and seconds.

    Parameters
    ----------
    rows : numpy.ndarray of int64
        Row numbers that both arms answer; drawn from, with repetitions where there are few.
    """
    batched = sampling.batch_axis(signature)
    draw = np.random.default_rng(seed)
    chosen = draw.choice(rows, count, replace=len(rows) < count)
    times: tuple[list[float], list[float]] = ([], [])
    kept: list[int] = []

    def ask(arm: Arm, row: int) -> float:
        given = {name: array[row : row + 1] for name, array in inputs.items()} if batched else dict(inputs)
        began = time.perf_counter()
        arm.answer(given, signature.name, timeout)
        return time.perf_counter() - began

    for _ in range(_WARM):
        ask(a, int(chosen[0]))
        ask(b, int(chosen[0]))
    ends = time.monotonic() + seconds
    for row in chosen.tolist():
        if time.monotonic() > ends:
            break
        try:
            found = [0.0, 0.0]
            for index in draw.permutation(2).tolist():
                found[index] = ask((a, b)[index], row)
        except PredictError as error:
            # It was answered before; that it is not now is told of by the pairs that are missing.
            if error.code not in _OF_ROWS:
                raise
            continue
        times[0].append(found[0])
        times[1].append(found[1])
        kept.append(row)
        tick()
    return LonePairs(np.array(times[0]), np.array(times[1]), np.array(kept, np.int64))
