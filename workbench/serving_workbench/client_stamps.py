"""When requests of this process passed which point of the client: the last ones, for `ServedModel.requests` to join.

Times are of `time.perf_counter`, CLOCK_MONOTONIC on Linux: the clock of a server on the same machine. The request's
``x-request-id`` joins them with the server's stamps.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections import deque
from typing import Final, NamedTuple

from serving_workbench.errors import PredictError

__all__ = ["CAPACITY", "HEADER", "ClientStamp", "checked_id", "fresh_id", "keep", "kept"]

HEADER: Final = "x-request-id"

#: Requests that are remembered, as many as a server remembers of a model; each takes about 300 bytes.
CAPACITY: Final = 10_000

#: What a server keeps (`serving_server.stamps.asked`).
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")

_PROCESS: Final = secrets.token_hex(4)
_numbers = itertools.count(1)


class ClientStamp(NamedTuple):
    """One answered request.

    Attributes
    ----------
    request_id : str
    begun, sent, answered, decoded : float
        Seconds: its making began, it was handed to the library that sends it, its answer was there, and was read.
    """

    request_id: str
    begun: float
    sent: float
    answered: float
    decoded: float


_stamps: Final[deque[ClientStamp]] = deque(maxlen=CAPACITY)


def fresh_id() -> str:
    """Return an id that no other request has, of no other process either."""
    return f"sw-{_PROCESS}-{os.getpid()}-{next(_numbers)}"  # a fork has the same draw, and another number


def checked_id(given: str | bool | None) -> str | None:
    """Return a user's id, a fresh one for True, and None where none is wanted.

    Raises
    ------
    PredictError
        A server would not keep it.
    """
    if given is None or given is False:
        return None
    if given is True:
        return fresh_id()
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise PredictError(
            f"INVALID_ARGUMENT: request_id={given!r} is no text of 1 to 128 printable ASCII characters without spaces.",
            code="INVALID_ARGUMENT",
        )
    return given


def keep(stamp: ClientStamp) -> None:
    """Remember a request; the oldest is forgotten for it."""
    _stamps.append(stamp)


def kept() -> list[ClientStamp]:
    """Return the requests that are remembered, oldest first."""
    return list(_stamps)
