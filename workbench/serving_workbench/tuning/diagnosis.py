"""One sentence on what batching is doing right now, and what to turn: a pure function of counters.

The regimes are looked for in the order of `_REGIMES`; the first that fits is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from serving_server.batching.parameters import BatchingParameters
from serving_workbench.tuning.window import Window

__all__ = ["Diagnosis", "diagnose"]

#: Fewer requests say nothing.
_LEAST: Final = 20
#: Batches of so many requests on average are single requests.
_SINGLE: Final = 1.1
#: Parts of the whole, 0 to 1, from which on something is worth telling.
_PADDED: Final = 0.15
_BUSY: Final = 0.85
_IDLE: Final = 0.7
_WAITING: Final = 0.4
_CODEC: Final = 0.6
_REFUSED: Final = 0.001
#: Batches that are this full on average are full.
_FULL: Final = 0.9


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What regime it is.

    Attributes
    ----------
    regime : str
        ``idle``, ``refusing``, ``off``, ``one at a time``, ``waiting``, ``padding``, ``full``, ``busy``, ``codec``,
        ``balanced``.
    sentence : str
    """

    regime: str
    sentence: str


def diagnose(window: Window, parameters: BatchingParameters | None) -> Diagnosis:
    """Name the regime.

    Parameters
    ----------
    window : Window
        A few seconds of counters.
    parameters : BatchingParameters or None
        In force; None: batching is off.
    """
    for regime, look in _REGIMES.items():
        sentence = look(window, parameters)
        if sentence:
            return Diagnosis(regime, sentence)
    raise AssertionError("the last regime always fits")


def _idle(window: Window, _: BatchingParameters | None) -> str:
    if window.requests + sum(window.errors.values()) >= _LEAST:
        return ""
    if not window.requests:
        return "No requests come."
    return f"Only {window.requests} requests in {window.seconds:.0f} s: too few to say anything."


def _refusing(window: Window, parameters: BatchingParameters | None) -> str:
    refused = window.errors.get("UNAVAILABLE", 0)
    total = window.requests + sum(window.errors.values())
    if refused <= _REFUSED * total:
        return ""
    if parameters is None:
        return f"{_percent(refused / total)} of the requests are refused: too many wait. Turn batching on."
    room = parameters.max_enqueued_batches * parameters.batch_limit
    return (
        f"{_percent(refused / total)} of the requests are refused, as {parameters.max_enqueued_batches} batches wait "
        f"already ({room} rows): more come than can be run. Raise max_enqueued_batches for bursts, or "
        "max_batch_size for more throughput."
    )


def _off(window: Window, parameters: BatchingParameters | None) -> str:
    if parameters is not None:
        return ""
    # Little's law: what waits or runs at the same time could have been one batch.
    together = window.rate * sum(window.stages.values())
    if together < 1.5:
        return f"Batching is off, and {together:.1f} requests are in the server at a time: it could not help."
    return f"Batching is off, though {together:.0f} requests are in the server at a time: they could share runs."


def _one_at_a_time(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    if window.requests_per_batch >= _SINGLE:
        return ""
    if parameters.batch_limit <= 1:
        return "max_batch_size is 1: every request is a batch. Raise it."
    if window.share("full") > 0.5:
        return (
            f"Each request fills a batch of {parameters.batch_limit} rows by itself: raise max_batch_size, or batching "
            "cannot help."
        )
    start = "One request at a time arrives: batching cannot help."
    if parameters.batch_timeout_micros and window.share("timeout") > 0.5:
        wait = window.stages["queue"] * 1e3
        return f"{start} Each waits {wait:.1f} ms for others that do not come: set batch_timeout_micros to 0."
    return start


def _waiting(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    busy = window.busy(parameters.num_batch_threads)
    total = sum(window.stages.values())
    waiting = window.stages["queue"] / total if total else 0.0
    if window.share("timeout") < 0.5 or busy > _IDLE or waiting < _WAITING:
        return ""
    return (
        f"Threads are idle {_percent(1 - busy)} of the time while batches wait for the timeout: a request waits "
        f"{window.stages['queue'] * 1e3:.1f} of its {total * 1e3:.1f} ms, for batches of {window.mean_rows:.1f} rows. "
        f"Lower batch_timeout_micros ({parameters.batch_timeout_micros})."
    )


def _padding(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    if window.padding < _PADDED:
        return ""
    size, left = _missing_size(window.batches, parameters.allowed_batch_sizes)
    if size is None:
        return f"{_percent(window.padding)} of the rows that run are padding."
    return (
        f"{_percent(window.padding)} of the rows that run are padding: add {size} to allowed_batch_sizes, and "
        f"{_percent(left)} are."
    )


def _missing_size(batches: Mapping[tuple[int, int], int], allowed: tuple[int, ...]) -> tuple[int | None, float]:
    """Return the size that would save most padding, and the part of the rows that would be padding then."""
    best: tuple[int, int | None] = (_ran(batches, allowed), None)
    real = sum(rows * count for (rows, _), count in batches.items())
    for size in sorted({rows for rows, _ in batches} - set(allowed)):
        best = min(best, (_ran(batches, tuple(sorted((*allowed, size)))), size), key=lambda pair: pair[0])
    ran, chosen = best
    return chosen, 1 - real / ran if ran else 0.0


def _ran(batches: Mapping[tuple[int, int], int], allowed: tuple[int, ...]) -> int:
    """Return the rows that would be run, padding included."""
    return sum(
        count * next((size for size in allowed if size >= rows), rows + padding)
        for (rows, padding), count in batches.items()
    )


def _full(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    busy = window.busy(parameters.num_batch_threads)
    if busy < _BUSY or window.mean_rows < _FULL * parameters.batch_limit:
        return ""
    return (
        f"Batches are full ({window.mean_rows:.1f} of {parameters.batch_limit} rows) and threads are busy "
        f"{_percent(busy)} of the time: raise max_batch_size."
    )


def _busy(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    busy = window.busy(parameters.num_batch_threads)
    if busy < _BUSY:
        return ""
    return (
        f"Threads are busy {_percent(busy)} of the time with batches of {window.mean_rows:.1f} rows (limit "
        f"{parameters.batch_limit}): the graph is the limit, {window.stages['run'] * 1e3:.1f} ms a run. A timeout lets "
        "batches fill up; more threads help where processors are free."
    )


def _codec(window: Window, _: BatchingParameters | None) -> str:
    total = sum(window.stages.values())
    part = window.stages["codec"] / total if total else 0.0
    if part < _CODEC:
        return ""
    return (
        f"Reading and writing messages takes {_percent(part)} of a request's {total * 1e3:.1f} ms in the server: "
        "batching has little left to gain. gRPC costs less than REST, and fewer larger requests less than many."
    )


def _balanced(window: Window, parameters: BatchingParameters | None) -> str:
    assert parameters is not None
    busy = _percent(window.busy(parameters.num_batch_threads))
    return (
        f"Batches of {window.mean_rows:.1f} rows, threads busy {busy} of the time, {_percent(window.padding)} padding: "
        "nothing stands out."
    )


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


_REGIMES: Final[Mapping[str, Callable[[Window, BatchingParameters | None], str]]] = {
    "idle": _idle,
    "refusing": _refusing,
    "off": _off,
    "one at a time": _one_at_a_time,
    "waiting": _waiting,
    "padding": _padding,
    "full": _full,
    "busy": _busy,
    "codec": _codec,
    "balanced": _balanced,
}
