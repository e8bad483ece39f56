"""Requests larger than a batch: cut into pieces that run like requests of their own, and joined again.

`enable_large_batch_splitting` of TensorFlow Serving. The first piece fills what is left of the open batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from serving_server.batching.task import Task
from serving_server.errors import ServingError
from serving_server.tensors import Array

__all__ = ["Answer", "Discard", "split_task"]

#: Takes a task out of its queue.
Discard = Callable[[Task], None]

#: Answers a task.
Answer = Callable[[Task, dict[str, Array] | None, ServingError | None], None]


def split_task(task: Task, first: int, size: int, discard: Discard, answer: Answer) -> list[Task]:
    """Return the pieces of a task; the task is answered when all of them are, or when one fails.

    Parameters
    ----------
    task : Task
        With `rows` set.
    first, size : int
        Rows of the first piece and of each further one, at least 1; the last piece has what is left.
    discard : callable
        Takes a piece out of the queue when another one has failed.
    answer : callable
        Answers the task itself.
    """
    bounds = [0, *range(min(first, task.rows), task.rows, size), task.rows]
    spans = [(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]
    collected: list[dict[str, Array] | None] = [None] * len(spans)
    pieces: list[Task] = []

    def one_done(index: int) -> Callable[[dict[str, Array] | None, ServingError | None], None]:
        def done(outputs: dict[str, Array] | None, error: ServingError | None) -> None:
            if outputs is None:
                for piece in pieces:
                    discard(piece)
                answer(task, None, error)
                return
            # Copies: the views are good for this call only, and other pieces are still to come.
            collected[index] = {alias: array.copy() for alias, array in outputs.items()}
            parts = [part for part in collected if part is not None]
            if len(parts) == len(spans):
                whole = {alias: np.concatenate([part[alias] for part in parts]) for alias in task.outputs}
                answer(task, whole, None)

        return done

    for index, (start, stop) in enumerate(spans):
        inputs = {alias: array[start:stop] for alias, array in task.inputs.items()}
        piece = Task(task.signature, inputs, task.outputs, task.created, task.deadline, one_done(index))
        piece.rows = stop - start
        piece.whole = task
        pieces.append(piece)
    return pieces
