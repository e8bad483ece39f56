"""The single requests of a split, read from the server page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["ExposureSource", "all_exposures", "exposure_pages"]


class ExposureSource(Protocol):
    """What pages come from; `ControlClient` is one."""

    def exposures(self, name: str, after: int = 0, limit: int | None = None) -> dict[str, Any]:
        """Return the oldest requests with numbers above `after`, by column, and the number of the ``last`` of all."""


def exposure_pages(
    source: ExposureSource, name: str, after: int = 0, limit: int | None = None
) -> Iterator[dict[str, Any]]:
    """Give the requests that the server remembers, oldest first, up to the last one at the beginning.

    Parameters
    ----------
    source : ExposureSource
    name : str
        Of the model.
    after : int
        Sequence number of the last request that is known already.
    limit : int, optional
        Requests of a page; the server's default is 10,000.

    Yields
    ------
    dict
        Columns of one length, 1 at least, see `ServedModel.exposures`; and ``last``. Where ``sequence`` does not go on
        from page to page, the server has forgotten what was between.
    """
    until = None
    while True:
        page = source.exposures(name, after, limit)
        until = page["last"] if until is None else until
        if not page["sequence"]:
            return
        yield page
        after = page["sequence"][-1]
        if after >= until:
            return


def all_exposures(source: ExposureSource, name: str) -> dict[str, list[Any]]:
    """Return all requests that the server remembers, by column."""
    empty = source.exposures(name, 2**62, 1)
    found: dict[str, list[Any]] = {column: [] for column in empty if column != "last"}
    for page in exposure_pages(source, name):
        for column, values in found.items():
            values.extend(page[column])
    return found
