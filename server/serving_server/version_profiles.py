"""Profiles of one version on request: what may be asked for, and what the answer holds.

The worker of that version makes them, on a thread beside its lanes (`serving_server.worker.op_profile`). Its requests
go on, and the processors are left to others for most of the time (``busy``).
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any, Final

from google.protobuf.message import DecodeError

from serving_server.available_memory import available_bytes
from serving_server.errors import InvalidArgumentError
from serving_server.servable import ServedVersion
from serving_server.wire.messages import PredictRequest

__all__ = ["MAX_LIVE_SECONDS", "MAX_SECONDS", "MemoryWish", "OpWish", "profile_memory", "profile_ops", "startup"]

#: Of one profile: batches, rows of a batch, sizes of batches (twice the rows together), seconds; seconds of live
#: traffic, all of whose ops are traced.
MAX_BATCHES: Final = 10_000
MAX_ROWS: Final = 65_536
MAX_SIZES: Final = 32
MAX_SECONDS: Final = 120.0
MAX_LIVE_SECONDS: Final = 30.0

_LEAST_BATCHES: Final = 3

#: Unless asked for otherwise.
_SECONDS: Final = 20.0
_LIVE_SECONDS: Final = 2.0
_LEAST_BUSY: Final = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class OpWish:
    """What to profile.

    Attributes
    ----------
    batches : int
        Runs to trace; as many are timed without tracing.
    batch_size : int or None
        Rows of these; by default the largest of `sizes`, else 1.
    sizes : tuple of int
        Rows whose run time is measured, without tracing.
    runs : int
        Of each of these.
    signature : str
        Empty for ``serving_default``.
    request : str or None
        A serialized PredictRequest in base64, whose inputs, of one row or more, are repeated. By default the version's
        first warmup record of that signature, else values that fit the signature.
    seconds : float
        For all of it: a quarter for the sizes, half for traced runs (5 at most, as requests of this version are traced
        meanwhile), a quarter for those without tracing; three runs of each kind are made whatever that takes. How long
        to watch, when `live`.
    busy : float
        Part of the time in which the profile's own runs may go on.
    live : bool
        Watch the runs of live requests instead of making own ones.
    trace : bool
        Return TensorFlow's trace too.
    """

    batches: int = 50
    batch_size: int | None = None
    sizes: tuple[int, ...] = ()
    runs: int = 10
    signature: str = ""
    request: str | None = None
    seconds: float = _SECONDS
    busy: float = 0.05
    live: bool = False
    trace: bool = False

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> OpWish:
        """Return the wish of a request's fields.

        Raises
        ------
        InvalidArgumentError
            Naming the field that is wrong.
        """
        for name, least, most in (
            ("batches", _LEAST_BATCHES, MAX_BATCHES),
            ("batch_size", 1, MAX_ROWS),
            ("runs", _LEAST_BATCHES, MAX_BATCHES),
        ):
            if name in fields and not (type(fields[name]) is int and least <= fields[name] <= most):
                raise InvalidArgumentError(
                    f"{name} is {fields[name]!r}; it must be a whole number from {least} to {most}"
                )
        sizes = _sizes(fields)
        for name in ("live", "trace"):
            if not isinstance(fields.get(name, False), bool):
                raise InvalidArgumentError(f"{name} is {fields[name]!r}; it must be true or false")
        live = fields.get("live", False)
        if live:
            own = sorted(fields.keys() & {"batches", "batch_size", "sizes", "runs", "signature", "request", "busy"})
            if own:
                raise InvalidArgumentError(f"{own[0]} is of runs that the profile makes; live traffic is only watched")
        _check_number(fields, "seconds", 0, MAX_LIVE_SECONDS if live else MAX_SECONDS)
        _check_number(fields, "busy", _LEAST_BUSY, 1.0)
        _check_rows(fields)
        seconds = float(fields.get("seconds", _LIVE_SECONDS if live else _SECONDS))
        return cls(**{**fields, "sizes": sizes, "seconds": seconds})


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryWish:
    """What memory to measure: `sizes`, `signature`, `request` and `busy` as in `OpWish`."""

    sizes: tuple[int, ...] = (1, 8, 32)
    signature: str = ""
    request: str | None = None
    busy: float = 0.05

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> MemoryWish:
        """Return the wish of a request's fields.

        Raises
        ------
        InvalidArgumentError
            Naming the field that is wrong.
        """
        _check_number(fields, "busy", _LEAST_BUSY, 1.0)
        _check_rows(fields)
        return cls(**{**fields, "sizes": _sizes(fields) or (1, 8, 32)})


def _sizes(fields: dict[str, Any]) -> tuple[int, ...]:
    sizes = fields.get("sizes", [])
    if isinstance(sizes, list) and len(sizes) > MAX_SIZES:
        raise InvalidArgumentError(f"sizes must be {MAX_SIZES} at most; there are {len(sizes)}")
    if not isinstance(sizes, list) or not all(type(each) is int and 1 <= each <= MAX_ROWS for each in sizes):
        raise InvalidArgumentError(f"sizes must be a list of whole numbers from 1 to {MAX_ROWS}")
    if sum(sizes) > 2 * MAX_ROWS:
        raise InvalidArgumentError(f"sizes must be {2 * MAX_ROWS} rows together at most; they are {sum(sizes)}")
    return tuple(sizes)


def _check_rows(fields: dict[str, Any]) -> None:
    if not isinstance(fields.get("signature", ""), str):
        raise InvalidArgumentError(f"signature is {fields['signature']!r}; it must be a name")
    if "request" in fields:
        try:
            PredictRequest.FromString(base64.b64decode(fields["request"], validate=True))
        except (TypeError, ValueError, DecodeError):
            raise InvalidArgumentError("request must be a serialized PredictRequest in base64") from None


def _check_number(fields: dict[str, Any], name: str, least: float, most: float) -> None:
    value = fields.get(name, most)
    if type(value) not in (int, float) or not (least <= value <= most and value > 0):
        raise InvalidArgumentError(f"{name} is {value!r}; it must be more than {least:g} and at most {most:g}")


async def profile_ops(served: ServedVersion, wish: OpWish) -> bytes:
    """Profile a version's ops and return JSON.

    Returns
    -------
    bytes
        An object with ``model``, ``version``, ``requests`` (those that clients had answered meanwhile) and ``profile``:

        - ``source`` of the rows (``given``, ``warmup record``, ``drawn``, ``live``), ``signature``, ``batched``,
          ``frozen``, ``rows`` of a batch;
        - ``plain_ns``, ``profiled_ns``: run times without and with tracing, as the caller's clock sees them;
        - ``sizes``: objects with ``rows`` and ``run_ns``; ``failed``: ``rows`` and ``message`` of the smallest size
          that failed, or null;
        - ``asked``: traced runs that were wished for, ``traced_seconds`` that they could take; not of live requests;
        - ``batches``, ``run_ns``: traced runs, and their time by TensorFlow's clock;
        - ``ops``: objects with ``name``, ``type``, ``calls``, ``total_ns``, ``self_ns`` (without ops inside of it),
          ``bytes`` (asked of the allocator);
        - ``tracks``: names of threads; ``runs``: lists of run, track, start, duration; ``events``: lists of op,
          run, track, start, duration, the first 20,000 calls (``events_left_out``); ns of CLOCK_MONOTONIC;
        - ``began_ns``: for each of the runs, the ``run_began_ns`` of its batch (`serving_server.stamps.rows`); null of
          runs that are no batch of requests;
        - ``trace``: TensorFlow's XSpace, compressed by zlib, in base64; null when not asked for, or over 24 MiB;
        - ``table_seconds``: from the last traced run to the answer, without the runs between; not of live requests;
          ``threads``, ``processors``, ``tensorflow``.

    Raises
    ------
    ServingError
        The runs fail, another profile is running (ALREADY_EXISTS), the worker has ended.
    """
    before = served.statistics.stages.requests
    profile = await served.profiles.ask("profile_ops", dataclasses.asdict(wish))
    head = {"model": served.model, "version": served.version, "requests": served.statistics.stages.requests - before}
    return json.dumps(head).encode()[:-1] + b', "profile": ' + profile + b"}"


async def profile_memory(served: ServedVersion, wish: MemoryWish) -> bytes:
    """Find out what a version's weights and runs take of the memory, and return JSON.

    Returns
    -------
    bytes
        An object with ``model``, ``version``, ``available_bytes`` (of the machine, or what a control group leaves),
        ``batching`` (parameters in force, or null) and ``profile``:

        - ``source``, ``signature``, ``batched``, ``frozen``, ``failed`` as of `profile_ops`;
        - ``resident_bytes`` of the worker before;
        - ``weights``: objects with ``name``, ``kind`` (``variable``, ``constant``), ``dtype``, ``shape``, ``bytes``,
          ``used`` (by any signature);
        - ``sizes``: objects with ``rows``, ``peak_bytes`` (the most that the ops of a run held at once, outputs
          included), ``input_bytes``, ``output_bytes``;
        - ``ops``: objects with ``name``, ``type``, ``total_bytes``, ``peak_bytes`` that an op asked for in a run of the
          largest size.

    Raises
    ------
    ServingError
        As of `profile_ops`.
    """
    available = available_bytes()
    profile = await served.profiles.ask("profile_memory", dataclasses.asdict(wish))
    head = {
        "model": served.model,
        "version": served.version,
        "available_bytes": available,
        "batching": None if served.batching is None else served.batching.to_json(),
    }
    return json.dumps(head).encode()[:-1] + b', "profile": ' + profile + b"}"


def startup(served: ServedVersion) -> dict[str, Any]:
    """Return where the time of a version's load went, and what its first requests paid.

    Returns
    -------
    dict
        ``model``, ``version``; ``steps``: pairs of name and ns, in order, which add up to the whole load;
        ``variable_bytes`` on disk (null of a remote place), ``warmup_records``; ``first_run_ns``: in the graph, of the
        first run of requests, null before it; ``later_run_ns``: mean of later ones, null without any.
    """
    assert served.startup is not None, "not loaded"
    runs, run_ns = served.later_runs
    return {
        "model": served.model,
        "version": served.version,
        **served.startup,
        "first_run_ns": served.first_run_ns,
        "later_run_ns": run_ns / runs if runs > 0 else None,
    }
