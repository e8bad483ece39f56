"""Put the inputs of several requests together in shared memory, and take the outputs apart again.

Assembling the batch *is* the copy into shared memory; there is no other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving_server.batching.task import Task
from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.packets import (
    Answer,
    TensorPlace,
    place_tensors,
    read_strings,
    view_tensor,
    write_strings,
)
from serving_server.errors import FailedPreconditionError
from serving_server.tensors import Array, DType

__all__ = ["assemble", "read_outputs", "split"]


def assemble(tasks: Sequence[Task], rows: int, buffer: SharedBuffer, *, batched: bool) -> list[TensorPlace]:
    """Write the inputs of tasks of one kind into a lane's request buffer.

    Parameters
    ----------
    tasks : sequence of Task
        Same inputs; with `batched`, same ranks, and where inner sizes differ they are padded.
    rows : int
        Rows of the batch, padding included; rows beyond the tasks' are copies of the first row of the last task.
    batched : bool
        Whether the 0th dimension may be joined; otherwise there is exactly one task, written as it is.

    Returns
    -------
    list of TensorPlace
        In feed order.
    """
    first = tasks[0]
    specs = first.signature.inputs
    wanted: list[tuple[DType, tuple[int, ...], int]] = []
    strings: dict[int, list[bytes]] = {}
    for index, (alias, array) in enumerate(first.inputs.items()):
        dtype = specs[alias].dtype
        assert dtype is not None  # `inputs.check_dtypes` has refused the others
        shape = (rows, *_inner(tasks, alias)) if batched else array.shape
        if dtype.is_string:
            values = _string_values(tasks, alias, shape, batched=batched)
            strings[index] = values
            nbytes = 8 * (len(values) + 1) + sum(map(len, values))
        else:
            nbytes = math.prod(shape) * dtype.numpy.itemsize
        wanted.append((dtype, shape, nbytes))
    places, end = place_tensors(wanted)
    memory = buffer.writable(end)
    for index, (alias, place) in enumerate(zip(first.inputs, places, strict=True)):
        if index in strings:
            write_strings(memory, place, strings[index])
        elif batched:
            _join(view_tensor(memory, place), tasks, alias)
        else:
            view_tensor(memory, place)[...] = first.inputs[alias]
    return places


def _inner(tasks: Sequence[Task], alias: str) -> tuple[int, ...]:
    shape: tuple[int, ...] = tasks[0].inputs[alias].shape[1:]
    for task in tasks[1:]:
        other = task.inputs[alias].shape[1:]
        if other != shape:
            shape = tuple(map(max, shape, other))
    return shape


def _join(target: Array, tasks: Sequence[Task], alias: str) -> None:
    row = 0
    inner = target.shape[1:]
    for task in tasks:
        array = task.inputs[alias]
        stop = row + task.rows
        if array.shape[1:] == inner:
            target[row:stop] = array
        else:
            part = target[row:stop]
            # Shorter than the longest in the batch: padded with its own first value (pad_variable_length_inputs).
            part[...] = array.flat[0] if array.size else np.zeros((), target.dtype)
            part[tuple(slice(size) for size in array.shape)] = array
        row = stop
    _pad_rows(target, row, tasks)


def _pad_rows(target: Array, row: int, tasks: Sequence[Task]) -> None:
    """Fill the rows from `row` on with copies of the first row of the last task that has one."""
    if row < target.shape[0]:
        last = next((task.rows for task in reversed(tasks) if task.rows), 0)
        target[row:] = target[row - last] if last else (b"" if target.dtype == object else 0)


def _string_values(tasks: Sequence[Task], alias: str, shape: tuple[int, ...], *, batched: bool) -> list[Any]:
    if not batched:
        return tasks[0].inputs[alias].ravel().tolist()
    if len(shape) > 1 and any(task.inputs[alias].shape[1:] != shape[1:] for task in tasks):
        whole = np.empty(shape, dtype=object)
        _join_strings(whole, tasks, alias)
        return whole.ravel().tolist()
    values = list(itertools.chain.from_iterable(task.inputs[alias].ravel().tolist() for task in tasks))
    missing = shape[0] - sum(task.rows for task in tasks)
    if missing:
        last = next((task.inputs[alias] for task in reversed(tasks) if task.rows), None)
        row = last[:1].ravel().tolist() if last is not None else [b""] * math.prod(shape[1:])
        values += row * missing
    return values


def _join_strings(target: Array, tasks: Sequence[Task], alias: str) -> None:
    row = 0
    for task in tasks:
        array = task.inputs[alias]
        part = target[row : row + task.rows]
        part.fill(array.flat[0] if array.size else b"")
        part[tuple(slice(size) for size in array.shape)] = array
        row += task.rows
    _pad_rows(target, row, tasks)


def read_outputs(answer: Answer, buffer: SharedBuffer) -> list[Array]:
    """Return the fetched tensors of an answer; numeric ones are views of the lane's response buffer."""
    end = max((place.offset + place.nbytes for place in answer.tensors), default=0)
    memory = buffer.readable(end)
    return [
        read_strings(memory, place) if place.dtype.is_string else view_tensor(memory, place) for place in answer.tensors
    ]


def split(tasks: Sequence[Task], outputs: dict[str, Array], rows: int) -> list[dict[str, Array]]:
    """Return each task's rows of the outputs (views).

    Raises
    ------
    FailedPreconditionError
        Naming an output that has no batch dimension or another number of rows than the inputs.
    """
    for alias, array in outputs.items():
        if array.ndim == 0:
            msg = (
                f'Batched output tensor has 0 dimensions (output "{alias}": this signature cannot be batched; serve '
                "the model without batching)"
            )
            raise FailedPreconditionError(msg)
        if array.shape[0] != rows:
            msg = (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                f'tensors (output "{alias}" has {array.shape[0]}, the inputs {rows}: this signature cannot be '
                "batched; serve the model without batching)"
            )
            raise FailedPreconditionError(msg)
    if len(tasks) == 1 and tasks[0].rows == rows:
        return [outputs]
    parts = []
    row = 0
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        for task in tasks:
            stop = row + task.rows
            parts.append({alias: array[row:stop]})
            row = stop
        return parts
    items = outputs.items()
    for task in tasks:
        stop = row + task.rows
        parts.append({alias: array[row:stop] for alias, array in items})
        row = stop
    return parts
