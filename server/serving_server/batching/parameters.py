"""Batching parameters: TensorFlow Serving's names and defaults, checked in one place, changeable while requests run."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from serving_server.errors import InvalidArgumentError

__all__ = ["BatchingParameters"]


@dataclasses.dataclass(frozen=True, slots=True)
class BatchingParameters:
    """How requests for one model are put together (session_bundle_config.proto, BatchingParameters).

    Attributes
    ----------
    max_batch_size : int
        Limit in rows (0th dimension) of one request and of a batch.
    batch_timeout_micros : int
        An open batch this old runs as soon as a thread is free; microseconds.
    max_enqueued_batches : int
        Batches waiting per queue; beyond it requests get UNAVAILABLE.
    num_batch_threads : int
        Batches that run at once. TensorFlow Serving has one pool for all models; here each version's own process has
        that many threads (at most 64), so one model's load does not take another's.
    allowed_batch_sizes : tuple of int
        Increasing; batches are padded up to one of them. Empty: any size.
    pad_variable_length_inputs : bool
        Pad dimensions 1.. of inputs to the largest in the batch.
    enable_large_batch_splitting : bool
        Cut a request that is larger than a batch, and join its answers.
    max_execution_batch_size : int or None
        Limit in rows of a batch when splitting, while `max_batch_size` limits the request; None: `max_batch_size`.
    skip_timeout_when_idle : bool
        Ours, off by default: while no batch of the version is running, do not wait for the timeout.
    gather_when_busy_micros : int
        Ours, off by default: while a batch of the version is running, an open batch waits this long for more rows
        before a second one runs beside it, or until the first ends; microseconds, in steps of the loop's clock (1 ms).
        Runs of a few rows side by side cost more than one run of all.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None
    skip_timeout_when_idle: bool = False
    gather_when_busy_micros: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
            ("gather_when_busy_micros", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidArgumentError(f"{name} must be an integer of at least {least}; was {value!r}")
        sizes = self.allowed_batch_sizes
        if any(not isinstance(size, int) or size < 1 for size in sizes) or list(sizes) != sorted(set(sizes)):
            msg = f"allowed_batch_sizes must be positive and in increasing order; was {list(sizes)}"
            raise InvalidArgumentError(msg)
        self._check_execution_size()
        if sizes and sizes[-1] != self.batch_limit:
            limit = "max_batch_size" if self.max_execution_batch_size is None else "max_execution_batch_size"
            msg = (
                f"Last entry in allowed_batch_sizes must match {limit}; last entry was "
                f"{sizes[-1]}; expected {self.batch_limit}"
            )
            raise InvalidArgumentError(msg)
        for name in ("pad_variable_length_inputs", "enable_large_batch_splitting", "skip_timeout_when_idle"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(f"{name} must be true or false; was {getattr(self, name)!r}")

    def _check_execution_size(self) -> None:
        size: Any = self.max_execution_batch_size
        if size is None:
            return
        if not self.enable_large_batch_splitting:
            raise InvalidArgumentError("max_execution_batch_size needs enable_large_batch_splitting")
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= self.max_batch_size:
            msg = f"max_execution_batch_size must be an integer from 1 to max_batch_size; was {size!r}"
            raise InvalidArgumentError(msg)

    @property
    def batch_limit(self) -> int:
        """Most rows that run together."""
        if self.max_execution_batch_size is None:
            return self.max_batch_size
        return self.max_execution_batch_size

    @classmethod
    def from_json(cls, values: Any) -> BatchingParameters:
        """Return the parameters of a JSON object; missing fields take their defaults.

        Raises
        ------
        InvalidArgumentError
            Naming an unknown field or a bad value.
        """
        return cls().changed(values)

    def changed(self, values: Any) -> BatchingParameters:
        """Return a copy with the fields of a JSON object replaced (see `from_json`)."""
        if not isinstance(values, dict):
            raise InvalidArgumentError(f"batching parameters must be an object; got {type(values).__name__}")
        names = {field.name for field in dataclasses.fields(self)}
        unknown = sorted(values.keys() - names)
        if unknown:
            msg = f"unknown batching parameter {unknown[0]!r}; known: {', '.join(sorted(names))}"
            raise InvalidArgumentError(msg)
        if "allowed_batch_sizes" in values:
            if not isinstance(values["allowed_batch_sizes"], (list, tuple)):
                raise InvalidArgumentError("allowed_batch_sizes must be a list of integers")
            values = {**values, "allowed_batch_sizes": tuple(values["allowed_batch_sizes"])}
        return dataclasses.replace(self, **values)

    @classmethod
    def from_proto(cls, message: Any) -> BatchingParameters:
        """Return the parameters of a `tensorflow.serving.BatchingParameters` message.

        Raises
        ------
        InvalidArgumentError
            For values out of range.
        """
        values: dict[str, Any] = {
            name: getattr(message, name).value
            for name in (
                "max_batch_size",
                "batch_timeout_micros",
                "max_enqueued_batches",
                "num_batch_threads",
                "max_execution_batch_size",
                "enable_large_batch_splitting",
            )
            if message.HasField(name)
        }
        values["allowed_batch_sizes"] = tuple(message.allowed_batch_sizes)
        values["pad_variable_length_inputs"] = message.pad_variable_length_inputs
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**dataclasses.asdict(self), "allowed_batch_sizes": list(self.allowed_batch_sizes)}

    def padded(self, rows: int) -> int:
        """Return the number of rows that a batch of `rows` is padded to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)
