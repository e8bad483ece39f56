"""The division of the unit interval: exact shares, least movement."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from serving_server.traffic.shares import POINTS, Piece, owner, rebalance


def sizes(pieces: Sequence[Piece]) -> Counter[int]:
    found: Counter[int] = Counter()
    for piece in pieces:
        found[piece.version] += piece.stop - piece.start
    return found


def moved(before: Sequence[Piece], after: Sequence[Piece]) -> int:
    """Points that belong to another version now."""
    cuts = sorted({piece.start for piece in (*before, *after)} | {POINTS})
    parts = itertools.pairwise(cuts)
    return sum(stop - start for start, stop in parts if owner(before, start) != owner(after, start))


def assert_whole(pieces: Sequence[Piece], weights: Mapping[int, float]) -> None:
    assert pieces[0].start == 0
    assert pieces[-1].stop == POINTS
    assert all(a.stop == b.start for a, b in itertools.pairwise(pieces))
    whole = sum(weights.values())
    assert sizes(pieces).keys() == {version for version, weight in weights.items() if weight}
    for version, size in sizes(pieces).items():
        assert abs(size - weights[version] / whole * POINTS) <= 1


def test_ninety_to_ten() -> None:
    pieces = rebalance([], {1: 90, 2: 10})
    assert [piece.version for piece in pieces] == [1, 2]
    assert pieces[1].start == pytest.approx(0.9 * POINTS, abs=1)
    assert (owner(pieces, 0), owner(pieces, pieces[1].start - 1), owner(pieces, pieces[1].start)) == (1, 1, 2)
    assert owner(pieces, POINTS - 1) == 2


def test_growth_moves_only_what_must_move() -> None:
    small, large = rebalance([], {1: 90, 2: 10}), rebalance(rebalance([], {1: 90, 2: 10}), {1: 80, 2: 20})
    assert moved(small, large) == sizes(large)[2] - sizes(small)[2]
    back = rebalance(large, {1: 90, 2: 10})
    assert back == small


def test_two_versions_lie_as_their_weights_alone_say() -> None:
    rng = random.Random(5)
    pieces: list[Piece] = []
    for _ in range(100):
        weights = {3: rng.choice([0.0, 1.0, rng.random() * 100]), 8: rng.choice([1.0, rng.random() * 100])}
        pieces = rebalance(pieces, weights)
        assert pieces == rebalance([], weights)


def test_walks_of_many_versions_keep_shares_exact_and_movement_least() -> None:
    rng = random.Random(11)
    for _ in range(60):
        pieces: list[Piece] = []
        for _ in range(25):
            versions = rng.sample(range(1, 9), rng.randint(1, 6))
            weights = {version: rng.choice([0.0, 1.0, 5.0, rng.random() * 100]) for version in versions}
            if not any(weights.values()):
                continue
            before, pieces = pieces, rebalance(pieces, weights)
            assert_whole(pieces, weights)
            if before:
                had, has = sizes(before), sizes(pieces)
                assert moved(before, pieces) == sum(max(0, has[version] - had[version]) for version in has)


def test_tiny_and_huge_weights() -> None:
    assert_whole(rebalance([], {1: 1e9, 2: 1.0}), {1: 1e9, 2: 1.0})
    assert sizes(rebalance([], {1: 1e9, 2: 1e-9}))[1] == POINTS
    thirds = sizes(rebalance([], {1: 1, 2: 1, 3: 1}))
    assert sum(thirds.values()) == POINTS
    assert max(thirds.values()) - min(thirds.values()) == 1
