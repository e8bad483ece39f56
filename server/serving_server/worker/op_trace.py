"""Which op took how long: TensorFlow's trace of some runs, read.

TensorFlow's own tracer writes an XSpace (tensorflow/tsl/profiler/protobuf/xplane.proto). Its plane ``/host:CPU`` has a
line per thread with events that lie within each other: ``SessionRun`` (its step), in it or in another thread
``ExecutorState::Process`` (of the same step), and in that ``node:OpType`` for each op, with the memory it asked for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Iterator
from typing import Any, Final

__all__ = ["Event", "Op", "Trace", "marked_steps", "read"]

_PLANE: Final = "/host:CPU"
_RUN: Final = "SessionRun"
_EXECUTOR: Final = "ExecutorState::Process"
_ALLOCATION: Final = "MemoryAllocation"

#: Where marks carry their number.
_NUMBER: Final = "step_num"

#: Node names are TensorFlow's (tensorflow/core/graph/graph_constructor.cc). Types begin with an upper-case letter,
#: those of oneDNN's kernels with an underscore before it. "ThreadpoolListener::Record" is no op.
_OP: Final = re.compile(r"(?P<node>[A-Za-z0-9_.][A-Za-z0-9_.\\/>-]*):(?P<type>_?[A-Z][A-Za-z0-9_]*)")


@dataclasses.dataclass(slots=True)
class Op:
    """Sums over the calls of one node of the graph. Nanoseconds; bytes that it asked its allocator for."""

    name: str
    type: str
    calls: int = 0
    total_ns: int = 0
    self_ns: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One call of an op, or one run (`op` -1). Nanoseconds since the trace began; `track` numbers the threads."""

    op: int
    step: int
    track: int
    start_ns: int
    duration_ns: int


@dataclasses.dataclass(slots=True)
class Trace:
    """What a trace says of the wanted steps.

    Attributes
    ----------
    ops : list of Op
        In the order of their first calls; `Event.op` is the position.
    runs : list of Event
        One per step.
    events : list of Event
        Calls of ops, in order; perhaps only the first ones.
    tracks : list of str
        Names of threads.
    """

    ops: list[Op] = dataclasses.field(default_factory=list)
    runs: list[Event] = dataclasses.field(default_factory=list)
    events: list[Event] = dataclasses.field(default_factory=list)
    tracks: list[str] = dataclasses.field(default_factory=list)

    @property
    def run_ns(self) -> int:
        """Time of all runs."""
        return sum(run.duration_ns for run in self.runs)


def marked_steps(space: Any, mark: str) -> dict[int, int]:
    """Return the steps of the runs inside events of a name (`serving_server.worker.marks`), each with its number."""
    found: dict[int, int] = {}
    for plane in _planes(space):
        keys = _Keys(plane)
        for line in plane.lines:
            until, value = -1, 0
            for start, end, event in _in_order(line):
                name = keys.name(event)
                if name == mark:
                    until, value = end, keys.integer(event, _NUMBER)
                elif name == _RUN and start < until:
                    found[keys.integer(event, "id")] = value
    return found


def read(space: Any, steps: Container[int] | None = None, most_events: int | None = None) -> Trace:
    """Return what a trace says of some steps.

    Parameters
    ----------
    space : XSpace
    steps : container of int, optional
        By default all.
    most_events : int, optional
        Of so many calls, the first ones, there are events; by default of all. The sums are of all.
    """
    trace = Trace()
    numbers: dict[str, int] = {}
    for plane in _planes(space):
        keys = _Keys(plane)
        for line in plane.lines:
            track = len(trace.tracks)
            trace.tracks.append(line.display_name or line.name or f"thread {track}")
            known, trace.events = trace.events, []
            _read_line(line, track, keys, steps, trace, numbers, most_events)
            trace.events = sorted(known + trace.events, key=lambda event: event.start_ns)[:most_events]
    return trace


def _read_line(
    line: Any,
    track: int,
    keys: _Keys,
    steps: Container[int] | None,
    trace: Trace,
    numbers: dict[str, int],
    most_events: int | None,
) -> None:
    stack: list[tuple[int, int | None, Op | None]] = []  # until when, of which step, of which op: innermost last
    base = line.timestamp_ns
    for start, end, event in _in_order(line):
        while stack and stack[-1][0] <= start:
            stack.pop()
        name = keys.name(event)
        if name in {_RUN, _EXECUTOR}:
            step = keys.integer(event, "id")
            wanted = steps is None or step in steps
            if name == _RUN and wanted:
                trace.runs.append(Event(-1, step, track, base + start // 1000, (end - start) // 1000))
            # A loop's or a function's executor lies in its op: what runs in there is not that op's own time.
            outer = stack[-1][2] if stack and stack[-1][1] == step else None
            stack.append((end, step if wanted else None, outer))
            continue
        if not stack or stack[-1][1] is None:
            continue
        _, step_or_none, parent = stack[-1]
        assert step_or_none is not None
        if name == _ALLOCATION:
            if parent is not None:
                parent.bytes += keys.integer(event, "requested_bytes")
            continue
        match = _OP.fullmatch(name)
        if match is None:
            continue
        number = numbers.setdefault(name, len(trace.ops))
        if number == len(trace.ops):
            trace.ops.append(Op(match["node"], match["type"]))
        op = trace.ops[number]
        duration = (end - start) // 1000
        op.calls += 1
        op.total_ns += duration
        op.self_ns += duration
        if parent is not None:
            parent.self_ns -= duration
        if most_events is None or len(trace.events) < most_events:
            trace.events.append(Event(number, step_or_none, track, base + start // 1000, duration))
        stack.append((end, step_or_none, op))


def _planes(space: Any) -> Iterator[Any]:
    return (plane for plane in space.planes if plane.name == _PLANE)


def _in_order(line: Any) -> list[tuple[int, int, Any]]:
    """Return start and end in picoseconds, and the event: what holds others before these."""
    found = [(event.offset_ps, event.offset_ps + event.duration_ps, event) for event in line.events]
    found.sort(key=lambda each: (each[0], -each[1]))
    return found


class _Keys:
    """Names of a plane's events and of what they carry."""

    def __init__(self, plane: Any) -> None:
        self._names: dict[int, str] = {number: data.name for number, data in plane.event_metadata.items()}
        self._stats = {data.name: number for number, data in plane.stat_metadata.items()}

    def name(self, event: Any) -> str:
        return self._names.get(event.metadata_id, "")

    def integer(self, event: Any, stat: str) -> int:
        """Return a whole number that an event carries; 0 without it."""
        number = self._stats.get(stat)
        for each in event.stats:
            if each.metadata_id == number:
                kind = each.WhichOneof("value")
                return int(getattr(each, kind)) if kind in {"int64_value", "uint64_value"} else 0
        return 0
