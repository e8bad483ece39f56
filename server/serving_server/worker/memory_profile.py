"""What a version's weights and its runs take of the memory: TensorFlow's own books of every allocation of a run.

A run with `RunOptions.FULL_TRACE` notes each allocation and release of its ops, small ones and temporary ones included.
That costs up to twice the time of a run, so it is done for a few runs of the profile's own, by a function of its own
(`Model.traced`). Of a frozen signature this function holds the weights once more while the profile runs.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psutil
import tensorflow as tf

from serving_server.errors import ResourceExhaustedError, ServingError
from serving_server.tensors import Array
from serving_server.worker.model import Model, as_serving_error
from serving_server.worker.pacing import Pace
from serving_server.worker.profile_inputs import DRAWN, Loaded, Rows, choose

__all__ = ["peak_bytes", "profile_memory", "weights"]

#: Constants of the graph below this are no weights. Bytes.
_LEAST_CONSTANT: Final = 1024

#: What holds a variable: of resource variables, and of TensorFlow 1's first kind.
_VARIABLES: Final = frozenset({"VarHandleOp", "Variable", "VariableV2"})

#: "[mklcpu 0.2MB 0.2MB] big = _MklMatMul(x, w)" (tensorflow/core/common_runtime/step_stats_collector.cc).
_LABEL: Final = re.compile(r"(?:\[.*\] )?\S+ = (?P<type>\w+)\(")

#: Runs of each size, after one that warms up.
_RUNS: Final = 2


def profile_memory(model: Model, loaded: Loaded, wish: dict[str, Any], end: threading.Event) -> dict[str, Any]:
    """Profile and return a JSON object (`serving_server.version_profiles` tells its fields).

    Parameters
    ----------
    model : Model
    loaded : Loaded
    wish : dict
        ``sizes``, ``signature``, ``request``, ``busy``; checked by the front.
    end : threading.Event
        Set when nobody waits for it any more.

    Raises
    ------
    ServingError
        Already the smallest size fails, or there is no such signature.
    """
    rows = choose(loaded, wish["signature"], wish["request"])
    feeds = [spec.tensor_name for spec in rows.signature.inputs.values()]
    fetches = [spec.tensor_name for spec in rows.signature.outputs.values()]
    resident = psutil.Process().memory_info().rss
    traced = model.traced(feeds, fetches)
    found: list[dict[str, Any]] = []
    ops: list[dict[str, Any]] = []
    failed = None
    pace = Pace(wish["busy"], math.inf, end)
    for size in sorted(set(wish["sizes"])) if rows.batched else [1]:
        pace.check()
        try:
            arrays = _feeds(rows, size)
            stats = _stats(traced, arrays, rows, pace)
        except ServingError as error:
            pace.check()
            if not found:
                raise
            failed = {"rows": size, "message": error.message}
            break
        found.append(
            {
                "rows": size,
                "peak_bytes": max(map(peak_bytes, stats)),
                "input_bytes": sum(array.nbytes for array in arrays),
                "output_bytes": sum(_output_bytes(rows, stats[-1])),
            }
        )
        ops = _by_op(stats[-1])
    return {
        "source": rows.source,
        "signature": rows.signature.name,
        "batched": rows.batched,
        "frozen": model.frozen is not None and rows.signature.name in model.frozen.signatures,
        "resident_bytes": resident,
        "weights": weights(model),
        "sizes": found,
        "failed": failed,
        "ops": ops,
    }


def peak_bytes(stats: Any) -> int:
    """Return the most that the ops of a run held at once, beyond what was there before.

    Parameters
    ----------
    stats : StepStats
        Of a run with full trace.
    """
    held = most = 0
    for _, change in sorted(_changes(stats), key=lambda each: (each[0], -each[1])):
        # Of one microsecond, allocations come first: rather a little too much than too little.
        held += change
        most = max(most, held)
    return most


def _changes(stats: Any) -> Iterator[tuple[int, int]]:
    for node in _nodes(stats):
        for memory in node.memory:
            for record in memory.allocation_records:
                yield record.alloc_micros, record.alloc_bytes


def _nodes(stats: Any) -> Iterator[Any]:
    for device in stats.dev_stats:
        yield from device.node_stats


def _by_op(stats: Any) -> list[dict[str, Any]]:
    """Return what each op asked for, the largest first; those that asked for nothing are left out."""
    found = []
    for node in _nodes(stats):
        total = sum(memory.total_bytes for memory in node.memory)
        if total:
            match = _LABEL.match(node.timeline_label)
            kind = match["type"] if match is not None else ""
            peak = sum(memory.peak_bytes for memory in node.memory)
            found.append({"name": node.node_name, "type": kind, "total_bytes": total, "peak_bytes": peak})
    return sorted(found, key=lambda op: -op["total_bytes"])


def _output_bytes(rows: Rows, stats: Any) -> Iterator[int]:
    wanted = {spec.tensor_name.split(":")[0]: spec.tensor_name for spec in rows.signature.outputs.values()}
    for node in _nodes(stats):
        if node.node_name in wanted:
            slot = int(wanted[node.node_name].partition(":")[2] or 0)
            for output in node.output:
                if output.slot == slot:
                    yield output.tensor_description.allocation_description.requested_bytes


def weights(model: Model) -> list[dict[str, Any]]:
    """Return the variables and the larger constants of a model's graph, the largest first.

    Returns
    -------
    list of dict
        ``name``, ``kind`` (``variable`` or ``constant``), ``dtype``, ``shape``, ``bytes``, ``used`` (by any signature).
    """
    found = []
    signatures = model.signature_defs().signature_def.values()
    outputs = [info.name.split(":")[0] for each in signatures for info in each.outputs.values() if info.name]
    used = _behind(model.graph, outputs)
    # A graph has more handles than variables: functions and initializers have their own. What is restored is there.
    restored = _behind(model.graph, [model.restore_op]) if model.restore_op else None
    for op in model.graph.get_operations():
        if op.type in _VARIABLES:
            if restored is not None and op.name not in restored:
                continue
            shape = tf.TensorShape(op.get_attr("shape"))
            dtype = tf.dtypes.as_dtype(op.get_attr("dtype"))
            name = (op.type == "VarHandleOp" and op.get_attr("shared_name").decode()) or op.name
            kind = "variable"
        elif op.type == "Const":
            shape, dtype, name, kind = op.outputs[0].shape, op.outputs[0].dtype, op.name, "constant"
        else:
            continue
        if shape.is_fully_defined():
            size = shape.num_elements() * dtype.size
            if kind == "variable" or size >= _LEAST_CONSTANT:
                entry = {"name": name, "kind": kind, "dtype": dtype.name, "shape": shape.as_list(), "bytes": size}
                found.append({**entry, "used": op.name in used})
    return sorted(found, key=lambda each: -each["bytes"])


def _behind(graph: Any, names: Sequence[str]) -> set[str]:
    """Return the names of all ops that some ops need, themselves included."""
    found: set[str] = set()
    waiting = [graph.get_operation_by_name(name) for name in names]
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found.add(op.name)
            waiting += [each.op for each in op.inputs]
            waiting += op.control_inputs
    return found


def _feeds(rows: Rows, size: int) -> list[Array]:
    try:
        return rows.feeds(size)
    except MemoryError as error:
        raise ResourceExhaustedError(f"there is no memory for {size} rows") from error


def _stats(traced: Callable[..., Any], feeds: Sequence[Array], rows: Rows, pace: Pace) -> list[Any]:
    """Return the `StepStats` of some runs, after one that warms up."""
    found: list[Any] = []

    def run(*arrays: Array) -> None:
        found.append(_run(traced, arrays, rows))

    for _ in range(1 + _RUNS):
        pace.run(run, feeds)
    return found[1:]


def _run(traced: Callable[..., Any], feeds: Sequence[Array], rows: Rows) -> Any:
    """Run once and return the run's `StepStats`."""
    try:
        return traced(*feeds).step_stats
    except Exception as error:
        known = as_serving_error(error)
        if rows.source == DRAWN:
            hint = "the inputs were drawn to fit the signature; give rows that the model understands"
            raise ServingError(f"{known.message} ({hint})", known.code) from error
        raise known from error
