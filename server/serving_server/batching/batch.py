"""Requests that run together, and what makes a request fit to be among them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.task import Task
from serving_server.errors import InvalidArgumentError
from serving_server.inputs import describe
from serving_server.metrics.stages import ALONE

__all__ = ["Batch", "Callable", "rows_to_batch", "rows_unbatched"]

#: pad_variable_length_inputs works up to this rank, as in TensorFlow Serving.
_MAX_PADDED_RANK: Final = 6


class Callable(NamedTuple):
    """What the worker makes of a set of tensors to feed and to fetch: its number, their names, the outputs' aliases."""

    number: int
    names: tuple[Sequence[str], Sequence[str]]
    outputs: Sequence[str]


class Batch:
    """Some requests of one kind; with `batched`, joined along their 0th dimension, else exactly one."""

    __slots__ = (
        "assembly_ns",
        "batched",
        "callable",
        "closed",
        "created",
        "lane",
        "noted",
        "number",
        "queue",
        "ready",
        "ready_ns",
        "reason",
        "retried",
        "rows",
        "sent_ns",
        "sent_rows",
        "taken_ns",
        "tasks",
    )

    def __init__(self, made: Callable, created: float, *, batched: bool) -> None:
        self.queue: Hashable = None  # which one it waits in (`serving_server.batching.queues`)
        self.callable = made
        self.created = created
        self.batched = batched
        self.closed = not batched
        self.rows = 0
        self.sent_rows = 0  # with padding; set when it starts
        self.retried = False  # whether its request was in a batch that failed
        self.noted = False  # whether a client asks about one of its requests, or one is a piece of a larger one
        self.number = 0  # set when it starts, as the next one
        self.lane = 0
        self.reason = ALONE  # why it runs (`serving_server.metrics.stages`)
        self.ready = math.inf  # when it needed no more requests to run, by `time.perf_counter`
        self.ready_ns = 0  # from when on it waited for a thread, as the next ones by `time.perf_counter_ns`
        self.taken_ns = 0  # when a thread was there
        self.sent_ns = 0  # when the worker was told
        self.assembly_ns = 0
        self.tasks: list[Task] = []

    def add(self, task: Task) -> None:
        """Take a request in."""
        self.tasks.append(task)
        self.rows += task.rows
        if task.asked is not None or task.whole is not None:
            self.noted = True
        task.batch = self

    def discard(self, task: Task) -> None:
        """Take a request out that nobody waits for any more."""
        self.tasks.remove(task)
        self.rows -= task.rows
        task.batch = None


def rows_to_batch(task: Task, parameters: BatchingParameters) -> int:
    """Return the 0th dimension that all inputs share.

    Raises
    ------
    InvalidArgumentError
        With TensorFlow Serving's text, and the input that is at fault.
    """
    if not task.inputs:
        raise InvalidArgumentError("Batching Run() must have at least one input tensor")
    rows: int | None = None
    for alias, array in task.inputs.items():
        if array.ndim == 0:
            msg = (
                f'Batching Run() input tensors must have at least one dimension (input "{alias}" of signature '
                f'"{task.signature.name}" is {describe(task.signature.inputs[alias])}: serve this model without '
                "batching)"
            )
            raise InvalidArgumentError(msg)
        if rows is None:
            rows = array.shape[0]
        elif array.shape[0] != rows:
            msg = (
                f'Batching Run() input tensors must have equal 0th-dimension size (input "{alias}" has '
                f"{array.shape[0]}, the first has {rows})"
            )
            raise InvalidArgumentError(msg)
        if parameters.pad_variable_length_inputs and array.ndim > _MAX_PADDED_RANK:
            msg = f'input "{alias}" has rank {array.ndim}; pad_variable_length_inputs works up to {_MAX_PADDED_RANK}'
            raise InvalidArgumentError(msg)
    assert rows is not None
    if rows > parameters.max_batch_size:
        msg = f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
        raise InvalidArgumentError(msg)
    return rows


def rows_unbatched(task: Task) -> int:
    """Return what a request that ran by itself counts for in the batch-size statistics."""
    return next((array.shape[0] for array in task.inputs.values() if array.ndim), 1)
