"""Batching parameters as the text file that TensorFlow Serving takes, with the evidence in comments."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from serving_server.batching.parameters import BatchingParameters

__all__ = ["SIGNED", "as_text", "difference", "is_ours"]

#: In the comments of every file that a search has written.
SIGNED: Final = "by Serving Workbench."


def as_text(parameters: BatchingParameters, comments: Sequence[str] = (), *, of_version: bool = False) -> str:
    """Return a text `BatchingParameters` message.

    Parameters
    ----------
    parameters : BatchingParameters
    comments : sequence of str
        Lines above it.
    of_version : bool
        For the file in a version's folder: the number of threads is the server's, so it is left out.

    Notes
    -----
    Only what TensorFlow Serving knows is written; a comment tells of what else is set.
    """
    lines = [f"# {line}".rstrip() for comment in comments for line in comment.splitlines()]
    fields = ["max_batch_size", "batch_timeout_micros", "max_enqueued_batches"]
    if not of_version:
        fields.append("num_batch_threads")
    lines += [f"{name} {{ value: {getattr(parameters, name)} }}" for name in fields]
    lines += [f"allowed_batch_sizes: {size}" for size in parameters.allowed_batch_sizes]
    if parameters.pad_variable_length_inputs:
        lines.append("pad_variable_length_inputs: true")
    if parameters.enable_large_batch_splitting:
        lines.append("enable_large_batch_splitting { value: true }")
        if parameters.max_execution_batch_size is not None:
            lines.append(f"max_execution_batch_size {{ value: {parameters.max_execution_batch_size} }}")
    if parameters.skip_timeout_when_idle:
        lines.append("# not of TensorFlow Serving, so not in this file: skip_timeout_when_idle")
    if parameters.gather_when_busy_micros:
        text = f"gather_when_busy_micros {parameters.gather_when_busy_micros}"
        lines.append(f"# not of TensorFlow Serving, so not in this file: {text}")
    return "\n".join(lines) + "\n"


def is_ours(text: str) -> bool:
    """Whether a file was written by a search, and not changed to be somebody's own by taking its comments off."""
    return any(line.startswith("#") and SIGNED in line for line in text.splitlines())


def difference(before: BatchingParameters | None, after: BatchingParameters) -> str:
    """Return how the file changes, as a unified diff without comments; empty when it does not."""
    old = [] if before is None else as_text(before).splitlines()
    lines = difflib.unified_diff(old, as_text(after).splitlines(), "in force", "chosen", lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith("@@"))
