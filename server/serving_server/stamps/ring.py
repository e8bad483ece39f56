"""The stamps of a model's answered requests: one tuple for each in a ring, and one for each batch, which they share.

All times are of CLOCK_MONOTONIC (`time.perf_counter`), which the processes of a machine share, so those of the front
and of its workers are of one scale. The tuples are plain, as each request pays for what is made here; `rows` reads
them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from typing import Any, Final

from serving_server.errors import InvalidArgumentError

__all__ = ["BatchStamps", "RequestStamps", "Settings", "Stamps", "whole_number"]

#: (id, version, signature, why it ran (`metrics.stages`), requests in it, their rows, rows with padding, then ns:
#: ready but for a thread, taken, handed over, run began, run took, answer here, split).
BatchStamps = tuple[int, int, str, int, int, int, int, int, int, int, int, int, int, int]

#: (its batch, or the last one of its pieces; seconds: received, queued, answered; rows, pieces, request id or None).
RequestStamps = tuple[BatchStamps, float, float, float, int, int, str | None]

#: Requests that are remembered, at least and at most; each takes about 600 bytes with its batch.
MIN_CAPACITY: Final = 100
MAX_CAPACITY: Final = 100_000
MAX_EVERY: Final = 1_000_000


def whole_number(value: object, what: str, least: int, most: int) -> int:
    """Return a value that must be a whole number from `least` to `most`.

    Raises
    ------
    InvalidArgumentError
        Naming `what`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidArgumentError(f"{what} must be a whole number from {least} to {most}; got {value!r}")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What is kept.

    Attributes
    ----------
    enabled : bool
    every : int
        Of so many batches one, with all of its requests.
    capacity : int
        Requests.
    """

    enabled: bool = True
    every: int = 1
    capacity: int = 10_000

    def changed(self, fields: dict[str, Any]) -> Settings:
        """Return these settings with the fields that are given.

        Raises
        ------
        InvalidArgumentError
            Naming the field.
        """
        enabled = fields.get("enabled", self.enabled)
        if not isinstance(enabled, bool):
            raise InvalidArgumentError(f"enabled must be true or false; got {enabled!r}")
        every = whole_number(fields.get("every", self.every), "every", 1, MAX_EVERY)
        capacity = whole_number(fields.get("capacity", self.capacity), "capacity", MIN_CAPACITY, MAX_CAPACITY)
        return Settings(enabled, every, capacity)


class Stamps:
    """The ring of a model, all versions together.

    Attributes
    ----------
    settings : Settings
    ring : deque of RequestStamps or None
        Requests of one batch stand next to each other, oldest first. None while switched off.
    """

    __slots__ = ("_numbers", "ring", "settings")

    def __init__(self) -> None:
        self.settings = Settings()
        self.ring: deque[RequestStamps] | None = deque(maxlen=self.settings.capacity)
        self._numbers = itertools.count(1)

    def change(self, settings: Settings) -> None:
        """Put other settings in force. What was kept stays as far as there is room, and goes when switched off."""
        self.settings = settings
        self.ring = deque(self.ring or (), settings.capacity) if settings.enabled else None

    def open(self) -> tuple[int, deque[RequestStamps] | None]:
        """Return the number of a batch that is answered now, and where its requests are put, if anywhere."""
        number = next(self._numbers)
        return number, self.ring if number % self.settings.every == 0 else None
