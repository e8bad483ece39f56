"""What the harnesses share: a transport of memory, a loop that is stepped by hand, steps cut out of the input."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["MemoryTransport", "Step", "SteppedLoop", "no_faults", "pack_steps", "take_steps"]

_EDGE = struct.Struct(">BH")
_MAX_EDGES = 16


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; takes any amount."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.eof = self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        assert not self.closed
        assert not self.eof
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class SteppedLoop(asyncio.AbstractEventLoop):
    """A loop for code that only asks for its next turn, which comes when `turn` is called."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> None:
        self._soon.append(lambda: callback(*args))

    def get_debug(self) -> bool:
        return False

    def turn(self) -> None:
        """Run what waits, and what that asks for in turn; bounded."""
        for _ in range(10_000):
            soon, self._soon = self._soon, []
            if not soon:
                return
            for callback in soon:
                callback()
        raise AssertionError("a callback asks for another turn for ever")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop of this thread."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)


class _Watch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.faults.append(self.format(record))


_logger = logging.getLogger("serving_server")


@contextmanager
def no_faults() -> Iterator[None]:
    """Fail when the server logs an error: it has broken a rule of its own, and survived."""
    watch = _Watch()
    propagate, _logger.propagate = _logger.propagate, False
    _logger.addHandler(watch)
    try:
        yield
    except AssertionError as error:
        if watch.faults:
            raise AssertionError("\n".join(watch.faults)) from error
        raise
    finally:
        _logger.removeHandler(watch)
        _logger.propagate = propagate
    assert not watch.faults, "\n".join(watch.faults)


class Step(NamedTuple):
    """Bytes that come at once, and what happens behind them (0: nothing)."""

    event: int
    data: bytes


def pack_steps(stream: bytes, edges: list[tuple[int, int]] | None = None) -> bytes:
    """Return the input that means `stream`, cut and interrupted at ``(event, position)``."""
    edges = edges or []
    return bytes((len(edges),)) + b"".join(_EDGE.pack(*edge) for edge in edges) + stream


def take_steps(data: bytes, events: int) -> tuple[list[Step], bytes]:
    """Read how an input wants to be cut; returns the steps, and the stream in one piece.

    The first byte says how many edges follow, of three bytes each: an event (modulo `events`) and a position (modulo
    the length of the stream, which is the rest).
    """
    if not data:
        return [], b""
    count = min(data[0] % (_MAX_EDGES + 1), (len(data) - 1) // _EDGE.size)
    edges = [_EDGE.unpack_from(data, 1 + _EDGE.size * index) for index in range(count)]
    stream = data[1 + _EDGE.size * count :]
    at = {position % (len(stream) + 1): event % events for event, position in edges}
    at.setdefault(len(stream), 0)
    places = [0, *sorted(at.keys() - {0})]
    return [Step(at[stop], stream[start:stop]) for start, stop in itertools.pairwise(places)], stream
