"""Give memory that a burst has left behind back to the system: what the C library keeps in its heap."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["give_back"]


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    # glibc only: other C libraries have no such function, or give memory back by themselves.
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim


def give_back() -> bool:
    """Return free pages of the C library's heap to the system; says whether there were any.

    Takes in the order of a millisecond, and the next burst has to fault the pages in again: to be called while idle.
    Buffers of sockets and all else above 512 bytes come from there. Python's own objects do not: their arenas of 1 MiB
    go back as soon as the last object in one has gone, which after a burst takes as long as any of them lives.

    Availability: glibc (elsewhere it does nothing).
    """
    trim = _malloc_trim()
    return trim is not None and trim(0) == 1
