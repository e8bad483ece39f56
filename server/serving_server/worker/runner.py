"""What the worker's lanes and its warmup need of a loaded model, whichever library runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["Runnable", "Runner"]

#: From arrays, in the order of the feeds, to arrays.
Runnable = Callable[..., list[Any]]


class Runner(Protocol):
    """A loaded model."""

    def signature_defs(self) -> Any:
        """Return the `SignatureDefMap` of all signatures."""

    def runnable(self, feeds: Sequence[str], fetches: Sequence[str]) -> tuple[Runnable, bool]:
        """Return a function for tensors of the graph, and whether it may keep its feeds after it has returned.

        Any thread may call the function.

        Raises
        ------
        ServingError
            When the graph has no such tensor.
        """
