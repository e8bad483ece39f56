"""Marks around runs in traces of this worker: an event that holds the run's, and tells whose run it is.

The front numbers a batch when it is answered, so a run of requests is marked by when it began, which the stamps of its
batch tell too (``run_began_ns``). TensorBoard takes both kinds for steps, and shows their numbers behind the names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf

from serving_server.tensors import Array
from serving_server.worker.runner import Runnable

__all__ = ["BATCH", "OWN", "run_batch", "run_own", "wanted", "watching"]

#: Names of the events: around a batch of requests, around a run that a profile makes itself.
BATCH: Final = "batch"
OWN: Final = "profiling_run"

#: Whether a trace is being made; lanes look here before each run.
wanted = False


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Have the runs of requests marked meanwhile. One at a time, as traces of a process are."""
    global wanted
    wanted = True
    try:
        yield
    finally:
        wanted = False


def run_batch(runnable: Runnable, feeds: Sequence[Array], began_ns: int) -> list[Any]:
    """Run requests inside a mark."""
    with tf.profiler.experimental.Trace(BATCH, batch_id=began_ns, step_num=began_ns, _r=1):
        return runnable(*feeds)


def run_own(runnable: Runnable, feeds: Sequence[Array], number: int) -> list[Any]:
    """Run rows of a profile inside a mark."""
    with tf.profiler.experimental.Trace(OWN, step_num=number, _r=1):
        return runnable(*feeds)
