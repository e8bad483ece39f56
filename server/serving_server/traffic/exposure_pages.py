"""Exposures in pages of JSON, written piece by piece: requests are answered in between, however large a page is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import orjson

from serving_server.errors import InvalidArgumentError, StatusCode
from serving_server.traffic.exposures import Exposures
from serving_server.traffic.outcomes import GIVEN_UP
from serving_server.traffic.wish import EXPOSURES

__all__ = ["MAX_PAGE", "asked", "written"]

#: Requests of a page, when nobody says; at most.
PAGE: Final = EXPOSURES
MAX_PAGE: Final = 100_000

#: Requests of which one column is written in a turn of the loop: under a millisecond.
_PIECE: Final = 5000

#: By name in the answer: what is written of requests. Times are rounded to what a clock tells apart.
_COLUMNS: Final[dict[str, Callable[[Exposures], Any]]] = {
    "sequence": lambda part: part.sequence,
    "time": lambda part: np.round(part.time, 6),
    "version": lambda part: part.version,
    "point": lambda part: part.point,
    "keyed": lambda part: part.keyed,
    "status": lambda part: [_STATUS[code] for code in part.status.tolist()],
    "total_ms": lambda part: np.round(1e3 * part.total_s, 6),
    "run_ms": lambda part: np.where(part.run_ns == 0, np.nan, np.abs(part.run_ns) * 1e-6),  # null
    "shared": lambda part: part.run_ns < 0,
}
_STATUS: Final[dict[int, str]] = {int(code): code.name for code in StatusCode} | {GIVEN_UP: StatusCode.CANCELLED.name}


def asked(query: Mapping[str, str]) -> tuple[int, int]:
    """Read ``after`` (a sequence number, 0) and ``limit`` (from 1 to `MAX_PAGE`, `PAGE`) of a query.

    Raises
    ------
    InvalidArgumentError
        Naming what is wrong.
    """
    unknown = sorted(query.keys() - {"after", "limit"})
    if unknown:
        raise InvalidArgumentError(f"unknown parameter {unknown[0]!r}; known: after, limit")
    return _number(query, "after", 0, 0, 2**62), _number(query, "limit", PAGE, 1, MAX_PAGE)


def _number(query: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    text = query.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidArgumentError(f"{name} must be a whole number from {least} to {most}; got {text!r}")
    return int(text)


async def written(page: Exposures, last: int) -> bytes:
    """Return a page as a JSON object of columns.

    Parameters
    ----------
    page : Exposures
    last : int
        Sequence number of the latest of all, ``last`` in the answer: who has it has read all of them.
    """
    pieces = [b'{"last":%d' % last]
    for name, column in _COLUMNS.items():
        pieces.append(b',"%s":[' % name.encode())
        for start in range(0, len(page.sequence), _PIECE):
            found = column(page.part(start, start + _PIECE))
            found = np.ascontiguousarray(found) if isinstance(found, np.ndarray) else found
            if start:
                pieces.append(b",")
            pieces.append(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
            await asyncio.sleep(0)
        pieces.append(b"]")
    return b"".join([*pieces, b"}"])  # once: megabytes take milliseconds to copy
