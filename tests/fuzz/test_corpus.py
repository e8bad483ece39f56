"""The seeds, and every input that broke a rule once, through the harnesses; the search itself is `tests.fuzz.run`."""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest

from tests.fuzz import fuzz_http2
from tests.fuzz.corpus import TARGETS, saved


def harness(target: str) -> Any:
    return importlib.import_module(TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str) -> None:
    for seed in harness(target).SEEDS:
        harness(target).check(seed)


@pytest.mark.parametrize(("target", "name"), [(target, name) for target in TARGETS for name in saved(target)])
def test_found_once(target: str, name: str) -> None:
    harness(target).check(saved(target)[name])


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_seeds(target: str) -> None:
    chance = random.Random(11)
    for _ in range(300):
        data = bytearray(chance.choice(harness(target).SEEDS))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(4)] = chance.choice([*harness(target).TOKENS, chance.randbytes(2)])
        harness(target).check(bytes(data))


def test_http2_leaves_no_cycle() -> None:
    for seed in fuzz_http2.SEEDS:
        if seed[0] == 0:  # in one piece
            fuzz_http2.leaves_no_cycle(fuzz_http2.HELLO + seed[1:])
