"""The batching parameters that a search looks at: a grid of sizes, timeouts, threads and paddings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from serving_server.batching.parameters import BatchingParameters

__all__ = ["NO_PADDING", "POWERS_OF_TWO", "TIMEOUTS", "Point", "Space", "powers_of_two"]

NO_PADDING: Final = "none"
POWERS_OF_TWO: Final = "powers of two"

#: Microseconds, as people would try them.
TIMEOUTS: Final = (0, 1000, 2000, 3000, 5000, 8000, 12_000, 20_000)


class Point(NamedTuple):
    """A place in the grid: an index into each axis of a `Space`."""

    size: int
    timeout: int
    threads: int
    padding: int


def powers_of_two(limit: int) -> tuple[int, ...]:
    """Return 1, 2, 4... and the limit itself."""
    return (*(1 << k for k in range(limit.bit_length()) if 1 << k < limit), limit)


@dataclasses.dataclass(frozen=True)
class Space:
    """A grid.

    Attributes
    ----------
    sizes : tuple of int
        Of `max_batch_size`, ascending.
    timeouts : tuple of int
        Of `batch_timeout_micros`, ascending.
    threads : tuple of int
        Of `num_batch_threads`, ascending.
    paddings : tuple of str
        `NO_PADDING`, `POWERS_OF_TWO`.
    base : BatchingParameters
        Where everything else comes from.
    waiting : int
        Requests that must find room in the queue: `max_enqueued_batches` grows with smaller batches.
    """

    sizes: tuple[int, ...]
    timeouts: tuple[int, ...] = TIMEOUTS
    threads: tuple[int, ...] = (1, 2)
    paddings: tuple[str, ...] = (NO_PADDING,)
    base: BatchingParameters = dataclasses.field(default_factory=BatchingParameters)
    waiting: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Points along each axis."""
        return (len(self.sizes), len(self.timeouts), len(self.threads), len(self.paddings))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[Point]:
        return itertools.starmap(Point, itertools.product(*map(range, self.shape)))

    def parameters(self, point: Point) -> BatchingParameters:
        """Return the parameters at a point."""
        size = self.sizes[point.size]
        padded = self.paddings[point.padding] == POWERS_OF_TWO
        return dataclasses.replace(
            self.base,
            max_batch_size=size,
            batch_timeout_micros=self.timeouts[point.timeout],
            num_batch_threads=self.threads[point.threads],
            allowed_batch_sizes=powers_of_two(size) if padded else (),
            max_enqueued_batches=max(self.base.max_enqueued_batches, -(-self.waiting // size)),
            max_execution_batch_size=None,
            enable_large_batch_splitting=False,
        )

    def coarse(self) -> list[Point]:
        """Return every second size and timeout, the last ones included, with all threads and paddings."""
        sizes, timeouts = (sorted({*range(0, count, 2), count - 1}) for count in self.shape[:2])
        return [
            Point(*point) for point in itertools.product(sizes, timeouts, range(self.shape[2]), range(self.shape[3]))
        ]

    def neighbours(self, point: Point) -> list[Point]:
        """Return the points one step away along one axis, or along size and timeout at once."""
        steps = [(ds, dt, 0, 0) for ds in (-1, 0, 1) for dt in (-1, 0, 1) if ds or dt]
        steps += [(0, 0, -1, 0), (0, 0, 1, 0), (0, 0, 0, -1), (0, 0, 0, 1)]
        found = []
        for step in steps:
            moved = [place + delta for place, delta in zip(point, step, strict=True)]
            if all(0 <= place < count for place, count in zip(moved, self.shape, strict=True)):
                found.append(Point(*moved))
        return found
