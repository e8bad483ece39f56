"""Differences of outputs of every kind: found exactly, measured rightly, and never a crash."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from serving_workbench.comparison.outputs import compare_head, compare_outputs, flatten, kind_of
from serving_workbench.errors import WorkbenchError

DRAW = np.random.default_rng(12)
SCORES = DRAW.dirichlet(np.ones(4), 200)


def test_kinds_are_seen_by_their_looks() -> None:
    assert kind_of(SCORES, SCORES) == "scores"
    assert kind_of(DRAW.normal(size=(5, 16))) == "embedding"
    assert kind_of(DRAW.normal(size=(5, 3))) == "float"
    assert kind_of(DRAW.normal(size=5)) == "float"
    assert kind_of(np.arange(5)) == "integer"
    assert kind_of(np.array([True])) == "boolean"
    assert kind_of(np.array([b"a", b"b"], object)) == "string"
    assert kind_of([[1, 2], [3]]) == "ragged"
    assert kind_of(DRAW.normal(size=(5, 4, 4))) == "float"


def test_another_class_in_k_rows_is_found_in_exactly_these() -> None:
    other = SCORES.copy()
    rows = [3, 77, 150]
    for row in rows:
        other[row] = np.roll(other[row], 1)
    head = compare_head("scores", SCORES, other)
    assert list(head.differing) == rows
    assert head.measures["agreement"] == 197 / 200
    assert sum(count for one, two, count in head.confusion if one != two) == 3
    expected = np.mean([jensenshannon(one, two, base=2) for one, two in zip(SCORES, other, strict=True)])
    assert head.measures["Jensen-Shannon distance"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("eps", [0.5, 0.01])
def test_noise_is_reported_as_large_as_it_is(eps: float) -> None:
    values = DRAW.normal(size=20_000)
    head = compare_head("value", values, values + DRAW.normal(0, eps, 20_000))
    assert head.measures["rms difference"] == pytest.approx(eps, rel=0.05)
    assert head.measures["mean abs difference"] == pytest.approx(eps * math.sqrt(2 / math.pi), rel=0.05)


def test_rounding_is_no_difference_but_more_is() -> None:
    values = np.linspace(1, 2, 100, dtype=np.float32)
    assert compare_head("value", values, values * np.float32(1 + 1e-6)).differing == ()
    moved = values.copy()
    moved[40] += 0.01
    assert compare_head("value", values, moved).differing == (40,)
    assert compare_head("value", values, moved, atol=0.1).differing == ()


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros(5, np.float32), np.zeros(5, np.float64), "float32 in A and float64 in B"),
        (np.zeros((5, 2)), np.zeros((5, 3)), r"shape \[5, 2\] in A and \[5, 3\] in B"),
        (np.zeros(5), np.array([0, 0, math.nan, 0, 0]), "NaN in B only, in 1 of 5 rows; the first is 2"),
        (np.array([0, math.inf]), np.zeros(2), "infinite values in A only"),
        (np.array([b"a"], object), np.zeros(1), "object in A and float64 in B"),
        ([[1, 2], [3]], [[1, 2]], "2 rows in A and 1 in B"),
    ],
)
def test_what_no_tolerance_excuses_is_a_failure(a: Any, b: Any, words: str) -> None:
    (head,) = compare_outputs({"y": a}, {"y": b})
    assert len(head.failures) == 1
    import re

    assert re.search(words, head.failures[0])


def test_a_missing_output_is_named() -> None:
    heads = compare_outputs({"x": np.zeros(2), "y": np.zeros(2)}, {"x": np.zeros(2)})
    assert [head.kind for head in heads] == ["float", "missing"]
    assert heads[1].failures == ("Output 'y' is missing in B.",)


def test_all_shapes_have_a_table_and_none_crashes() -> None:
    outputs: dict[str, Any] = {
        "scalar": np.float32(3),
        "nested": {"boxes": np.zeros((4, 5, 4)), "names": (np.array([b"x"] * 4, object), np.arange(4))},
        "ragged": [np.arange(3), np.arange(1), np.array([b"a", b"b"], object), np.zeros(0)],
        "empty": np.zeros((4, 0)),
        "words": np.array([["a", "b"]] * 4),
        "flags": np.ones((4, 2), bool),
        "nan": np.full(4, math.nan),
        "image": np.ones((4, 8, 8, 3), np.float32),
        "unsigned": np.arange(4, dtype=np.uint8),
        "half": np.ones(4, np.float16),
    }
    names = [name for name, _ in flatten(outputs)]
    assert {"nested/boxes", "nested/names/0", "nested/names/1"} <= set(names)
    heads = compare_outputs(outputs, outputs)
    assert [head.name for head in heads] == names
    assert [head.name for head in heads if head.differing or head.failures] == []


def test_ragged_rows_are_compared_one_by_one() -> None:
    a = [np.array([1.0, 2.0]), np.array([3.0]), np.array([4.0])]
    b = [np.array([1.0, 2.5]), np.array([3.0, 3.0]), np.array([4.0])]
    head = compare_head("spans", a, b)
    assert (head.kind, head.differing) == ("ragged", (0, 1))
    assert head.measures["rows of another length"] == 1
    assert head.measures["max abs difference"] == 0.5


def test_the_user_knows_better_what_an_output_is() -> None:
    (head,) = compare_outputs({"y": SCORES}, {"y": SCORES + 1e-3}, kinds={"y": "float"})
    assert head.kind == "float"
    assert len(head.differing) == 200
    with pytest.raises(WorkbenchError, match="names 'z'; the outputs are y"):
        compare_outputs({"y": SCORES}, {"y": SCORES}, kinds={"z": "float"})
    with pytest.raises(WorkbenchError, match="'picture'"):
        compare_outputs({"y": SCORES}, {"y": SCORES}, kinds={"y": "picture"})


def test_embeddings_have_a_cosine() -> None:
    a = DRAW.normal(size=(50, 32))
    head = compare_head("embedding", a, -a)
    assert head.measures["cosine"] == pytest.approx(-1)
    assert len(head.differing) == 50
