"""One promise of TensorFlow Serving, and what becomes of it here."""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["MUST", "SHOULD", "SKIP", "Row", "Status"]


class Status(enum.Enum):
    """What becomes of a promise."""

    SAME = "same"
    BETTER = "same, and more"
    DIFFERS = "differs"
    ACCEPTED = "accepted, does nothing"
    REFUSED = "refused with a reason"
    MISSING = "not yet"


MUST = "must"
SHOULD = "should"
SKIP = "skip"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    mark : str
        ``must``, ``should`` or ``skip``: how much users rely on it.
    feature : str
        What is promised, in TensorFlow Serving's terms.
    status : Status
    tests : tuple of str
        The tests that fail when the promise is broken, as ``path below tests/::function``.
    note : str
        How and why it differs, or what more there is.
    """

    mark: str
    feature: str
    status: Status
    tests: tuple[str, ...]
    note: str = ""
