"""What became of each request, in memory that the sending process writes and its owner reads, also while it runs.

So the owner sees a run live at no cost for the sender, and keeps what is there when the sender dies. The memory has no
name; pages that nobody wrote do not exist.

=========  =======  =========================================================================
column     type     meaning
=========  =======  =========================================================================
sent       float64  seconds from the beginning; 0: not sent
answered   float64  seconds from the beginning; 0: not answered
status     uint16   gRPC's code, or HTTP's (100 and more); of an answer
waited     uint8    1: it was due while as many requests were in flight as may be
ticks      float64  triples: seconds from the beginning, CPU seconds of the process, in flight
=========  =======  =========================================================================
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any, Final

__all__ = ["Ledger"]

_HEADER: Final = 4096
_TICK: Final = 3
#: Slots of the header, int64 each.
_BEGUN, _ANSWERED, _TICKS = range(3)


class Ledger:
    """Columns in shared memory; `create` it in one process, `open` it by its descriptor in another.

    Attributes
    ----------
    fd : int
    capacity, max_ticks : int
        Rows that fit.
    sent, answered, status, waited, ticks : memoryview
        The columns; `ticks` is flat, three values a row.
    """

    def __init__(self, fd: int, capacity: int, max_ticks: int) -> None:
        self.fd = fd
        self.capacity = capacity
        self.max_ticks = max_ticks
        self._map = mmap.mmap(fd, self.size(capacity, max_ticks))
        whole = memoryview(self._map)
        self._views = [whole]
        start = _HEADER
        self.sent = self._column(whole, start, 8 * capacity, "d")
        start += 8 * capacity
        self.answered = self._column(whole, start, 8 * capacity, "d")
        start += 8 * capacity
        self.ticks = self._column(whole, start, 8 * _TICK * max_ticks, "d")
        start += 8 * _TICK * max_ticks
        self.status = self._column(whole, start, 2 * capacity, "H")
        start += 2 * capacity
        self.waited = self._column(whole, start, capacity, "B")
        self._header = self._column(whole, 0, _HEADER, "q")

    def _column(self, whole: memoryview, start: int, size: int, kind: str) -> Any:
        part = whole[start : start + size]
        view = part.cast(kind)  # type: ignore[call-overload]  # one of struct's letters
        self._views += [part, view]
        return view

    @staticmethod
    def size(capacity: int, max_ticks: int) -> int:
        """Bytes of a ledger."""
        return _HEADER + capacity * 19 + max_ticks * 8 * _TICK

    @classmethod
    def create(cls, capacity: int, max_ticks: int) -> Ledger:
        """Make the memory, zeroed."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("serving-load", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:  # macOS
                fd = os.dup(file.fileno())
        try:
            os.ftruncate(fd, cls.size(capacity, max_ticks))
            return cls(fd, capacity, max_ticks)
        except BaseException:
            os.close(fd)
            raise

    @property
    def begun(self) -> int:
        """Requests that were sent, or at least numbered."""
        return int(self._header[_BEGUN])

    @property
    def answers(self) -> int:
        """Requests that were answered."""
        return int(self._header[_ANSWERED])

    @property
    def tick_count(self) -> int:
        """Rows of `ticks` that were written."""
        return int(self._header[_TICKS])

    def note(self, begun: int, answers: int) -> None:
        """Publish how far the run is."""
        self._header[_BEGUN] = begun
        self._header[_ANSWERED] = answers

    def tick(self, seconds: float, cpu: float, in_flight: int) -> None:
        """Add a row to `ticks`; one that does not fit is left out."""
        count = self._header[_TICKS]
        if count < self.max_ticks:
            self.ticks[_TICK * count] = seconds
            self.ticks[_TICK * count + 1] = cpu
            self.ticks[_TICK * count + 2] = in_flight
            self._header[_TICKS] = count + 1

    def close(self) -> None:
        """Let go of the memory; idempotent. Arrays made of the columns must be copies."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        views, self._views = self._views, []
        for view in reversed(views):
            view.release()
        self._map.close()
        os.close(fd)
