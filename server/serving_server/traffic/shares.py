"""Which version a point of the unit interval belongs to, and how little of that changes when the weights do.

The interval is `POINTS` whole numbers. A request's point is drawn, or comes of its key; so a key keeps its version as
long as its point does. New weights move exactly as much as the shares that shrink give up, never a point between two
versions that both keep or raise their shares.

As long as the same two versions are split, they lie as their weights alone say, the lower version first; so the same
weights mean the same versions for all keys after a restart and on another server. With more, where a version's points
lie also depends on the weights that were there before: least movement and a layout of the weights alone exclude each
other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

__all__ = ["POINTS", "Piece", "owner", "rebalance"]

#: The unit interval in whole numbers.
POINTS: Final = 1 << 32

#: More pieces than this, after very many changes of more than two weights, are laid out anew, which moves more.
MAX_PIECES: Final = 512


class Piece(NamedTuple):
    """The points ``start <= point < stop``, which belong to a version."""

    start: int
    stop: int
    version: int


def owner(pieces: Sequence[Piece], point: int) -> int:
    """Return the version that a point belongs to."""
    return pieces[bisect_right(pieces, point, key=lambda piece: piece.start) - 1].version


def rebalance(pieces: Sequence[Piece], weights: Mapping[int, float]) -> list[Piece]:
    """Divide the interval by weights, moving as few points as can be.

    Parameters
    ----------
    pieces : sequence of Piece
        How it was divided; empty for the first time.
    weights : mapping of int to float
        By version; not negative, one at least above 0.

    Returns
    -------
    list of Piece
        In order and without gaps. Each version has its share of `POINTS`, rounded so that they add up.
    """
    need = _quotas(weights)
    layout = _layout(need)
    if not pieces or len(pieces) > MAX_PIECES:
        return layout
    kept: list[Piece] = []
    free: list[Piece] = []
    # What lies where the weights alone would put it is kept first and given away last: so two versions end up there.
    cut = sorted(_cut_at(pieces, layout), key=lambda piece: owner(layout, piece.start) != piece.version)
    for piece in cut:
        size = min(piece.stop - piece.start, need.get(piece.version, 0))
        if size:
            kept.append(piece._replace(stop=piece.start + size))
            need[piece.version] -= size
        if size < piece.stop - piece.start:
            free.append(piece._replace(start=piece.start + size))
    rest: list[Piece] = []
    for piece in free:
        version = owner(layout, piece.start)
        size = min(piece.stop - piece.start, need[version])
        if size:
            kept.append(Piece(piece.start, piece.start + size, version))
            need[version] -= size
        if size < piece.stop - piece.start:
            rest.append(piece._replace(start=piece.start + size))
    lacking = [version for version in need if need[version]]
    for piece in rest:
        start = piece.start
        while start < piece.stop:
            version = lacking[0]
            size = min(piece.stop - start, need[version])
            kept.append(Piece(start, start + size, version))
            start += size
            need[version] -= size
            if not need[version]:
                lacking.pop(0)
    return _joined(kept)


def _quotas(weights: Mapping[int, float]) -> dict[int, int]:
    """Return the points of each version, in order of versions; the largest remainders are rounded up."""
    whole = sum(weights.values())
    exact = {version: weights[version] / whole * POINTS for version in sorted(weights)}
    quotas = {version: int(points) for version, points in exact.items()}
    missing = POINTS - sum(quotas.values())
    for version in sorted((v for v in exact if exact[v]), key=lambda v: quotas[v] - exact[v])[:missing]:
        quotas[version] += 1
    return quotas


def _layout(quotas: Mapping[int, int]) -> list[Piece]:
    stops = accumulate(quotas.values())
    pieces = (Piece(stop - size, stop, version) for (version, size), stop in zip(quotas.items(), stops, strict=True))
    return [piece for piece in pieces if piece.start < piece.stop]


def _cut_at(pieces: Iterable[Piece], layout: Iterable[Piece]) -> list[Piece]:
    """Cut pieces where those of a layout begin."""
    cuts = [piece.start for piece in layout]
    found = []
    for piece in pieces:
        start = piece.start
        for cut in cuts:
            if start < cut < piece.stop:
                found.append(Piece(start, cut, piece.version))
                start = cut
        found.append(Piece(start, piece.stop, piece.version))
    return found


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in sorted(pieces):
        if found and found[-1].version == piece.version and found[-1].stop == piece.start:
            found[-1] = found[-1]._replace(stop=piece.stop)
        else:
            found.append(piece)
    return found
