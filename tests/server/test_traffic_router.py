"""Which version a request of a split gets, and what is noted of it."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from time import perf_counter
from typing import Any

import pytest

from serving_server.errors import InvalidArgumentError, StatusCode
from serving_server.traffic import exposure_pages
from serving_server.traffic.exposures import ExposureLog
from serving_server.traffic.outcomes import GIVEN_UP, KEYED
from serving_server.traffic.router import MAX_PERIODS, Router, point_of
from serving_server.traffic.wish import EXPOSURES, Wish

KEY = b"x-serving-key"


class Client:
    """A caller with one header, or none."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key

    def header(self, name: bytes) -> bytes | None:
        return self.key if name == KEY else None


def answering(*versions: int) -> dict[int | None, Any]:
    return {version: f"servable {version}" for version in versions}


def router(weights: dict[int, float], key: bytes | None = None, capacity: int = 100, seed: int = 7) -> Router:
    made = Router("m", random.Random(seed), capacity)
    made.change(weights, key, answering(*weights))
    return made


def picked(made: Router, client: Client | None = None) -> int:
    """Version that one request gets; 0 for none."""
    arm = made.pick(client or Client())
    servable: Any = None if arm is None else arm.servable
    if arm is not None:
        arm.outcomes.succeeded(perf_counter(), 1_000_000, arm.point)
    return int(servable.split()[1]) if servable else 0


def within_three_sd(count: int, total: int, share: float) -> bool:
    return abs(count - share * total) <= 3 * math.sqrt(total * share * (1 - share))


def test_ninety_to_ten_of_a_hundred_thousand_requests() -> None:
    made = router({1: 90, 2: 10})
    found = [picked(made) for _ in range(100_000)]
    assert set(found) == {1, 2}
    assert within_three_sd(found.count(2), len(found), 0.1)
    assert +made.counts() == {(1, False): found.count(1), (2, False): found.count(2)}


def test_keys_are_spread_by_weight_and_never_move_while_weights_stand() -> None:
    made = router({1: 90, 2: 10}, KEY)
    keys = [f"user-{number}".encode() for number in range(20_000)]
    first = [picked(made, Client(key)) for key in keys]
    assert within_three_sd(first.count(2), len(keys), 0.1)
    assert [picked(made, Client(key)) for key in keys] == first
    assert [picked(router({1: 90, 2: 10}, KEY, seed=1), Client(key)) for key in keys] == first, "nor by a restart"
    assert sum(made.counts()[version, True] for version in (1, 2)) == 2 * len(keys)


def test_growing_a_share_takes_keys_in_and_sends_none_out() -> None:
    made = router({1: 90, 2: 10}, KEY)
    keys = [str(number).encode() for number in range(10_000)]
    before = [picked(made, Client(key)) for key in keys]
    made.change({1: 80, 2: 20}, KEY, answering(1, 2))
    after = [picked(made, Client(key)) for key in keys]
    assert not [pair for pair in zip(before, after, strict=True) if pair == (2, 1)]
    changed = sum(pair == (1, 2) for pair in zip(before, after, strict=True))
    assert within_three_sd(changed, len(keys), 0.1)


def test_who_gets_the_new_version_of_one_model_says_nothing_of_another() -> None:
    keys = [str(number).encode() for number in range(10_000)]
    both = sum(point_of("a", key) < 2**31 and point_of("b", key) < 2**31 for key in keys)
    assert within_three_sd(both, len(keys), 0.25)


@pytest.mark.parametrize("key", [None, b""])
def test_requests_without_a_key_are_drawn(key: bytes | None) -> None:
    made = router({1: 50, 2: 50}, KEY)
    assert {picked(made, Client(key)) for _ in range(100)} == {1, 2}
    assert not made.counts()[1, True]


def test_a_long_key_is_as_sticky_as_a_short_one() -> None:
    made = router({1: 50, 2: 50}, KEY)
    assert len({picked(made, Client(b"k" * 5000)) for _ in range(50)}) == 1


def test_the_share_of_an_unavailable_version_goes_to_the_others_and_comes_back() -> None:
    made = router({1: 60, 2: 30, 3: 10}, KEY)
    keys = [str(number).encode() for number in range(3000)]
    before = [picked(made, Client(key)) for key in keys]
    made.update(answering(1, 3))
    assert made.periods[-1].shares == pytest.approx({1: 6 / 7, 3: 1 / 7})
    meanwhile = [picked(made, Client(key)) for key in keys]
    assert set(meanwhile) == {1, 3}
    assert all(now == was for was, now in zip(before, meanwhile, strict=True) if was != 2), "the others' keys stay"
    made.update(answering(1, 2, 3))
    assert [picked(made, Client(key)) for key in keys] == before
    causes = [period.cause for period in made.periods]
    assert causes == ["the weights were set", "version 2 is not available", "version 2 is available"]


def test_none_available_means_the_usual_rule() -> None:
    made = router({1: 90, 2: 10})
    made.update({})
    assert [picked(made), picked(made)] == [0, 0]
    assert made.unrouted == 2
    made.update(answering(2))
    assert picked(made) == 2


def test_a_version_without_weight_gets_nothing_even_alone() -> None:
    made = router({1: 1, 2: 0})
    assert {picked(made) for _ in range(50)} == {1}
    made.update(answering(2))
    assert picked(made) == 0


def test_a_worker_s_successor_gets_the_requests() -> None:
    made = router({1: 1})
    made.update({1: "servable 5"})  # type: ignore[dict-item]
    assert picked(made) == 5


def test_each_period_counts_its_own() -> None:
    made = router({1: 1, 2: 0})
    for _ in range(3):
        picked(made)
    made.change({1: 0, 2: 1}, None, answering(1, 2))
    picked(made)
    first, second = (period.to_json() for period in made.periods)
    assert first["requests"] == {"1": 3, "2": 0}
    assert second["requests"] == {"1": 0, "2": 1}
    assert second["shares"] == {"1": 0.0, "2": 1.0}
    assert first["since"] <= second["since"]
    assert made.counts()[1, False] == 3


def test_what_is_remembered_is_bounded() -> None:
    made = router({1: 50, 2: 50}, KEY, capacity=10)
    for number in range(MAX_PERIODS + 50):
        made.change({1: 50, 2: 50 + number}, KEY, answering(1, 2))
        picked(made, Client(b"a"))
    assert len(made.periods) == MAX_PERIODS
    assert len(made.exposures) == 10
    assert sum(made.counts().values()) == MAX_PERIODS + 50, "the counts are of all"
    arm = made.pick(Client(b"a"))
    assert arm is not None
    last = made.exposures.after(0, 100)
    assert last.sequence.tolist() == list(range(MAX_PERIODS + 41, MAX_PERIODS + 51)), "the latest"
    assert (last.version[-1], last.point[-1], last.keyed[-1]) == (arm.version, point_of("m", b"a"), True)
    made.resize(3)
    assert made.exposures.after(0, 100).sequence.tolist() == last.sequence[-3:].tolist()
    made.resize(0)
    picked(made)
    assert len(made.exposures) == 0
    assert made.exposures.last == MAX_PERIODS + 51


# --- what became of requests ---


def test_the_log_tells_each_request_and_the_outcomes_their_sums() -> None:
    log = ExposureLog(100)
    first, second = log.open(1, objective=10.0), log.open(2)
    now = perf_counter()
    first.succeeded(now - 20, 3_000_000, 7 + KEYED)
    second.failed(StatusCode.INTERNAL, now, 9)
    second.failed(GIVEN_UP, now, 9)
    first.succeeded(now, -3_000_000, 8)
    found = log.after(0, 10)
    assert found.sequence.tolist() == [1, 2, 3, 4]
    assert found.version.tolist() == [1, 2, 2, 1]
    assert list(zip(found.point.tolist(), found.keyed.tolist(), strict=True))[:2] == [(7, True), (9, False)]
    assert found.status.tolist() == [0, StatusCode.INTERNAL, GIVEN_UP, 0]
    assert found.run_ns.tolist() == [3_000_000, 0, 0, -3_000_000]
    assert found.total_s[0] >= 20
    assert time.time() - found.time[0] >= 20
    assert (first.answered, first.misses, first.runs, first.requests) == (2, 1, 1, 2)
    assert (second.answered, dict(second.errors), second.requests) == (0, {StatusCode.INTERNAL: 1}, 1)
    assert first.log_run == pytest.approx(math.log(3e-3))
    log.forget(second)
    second.failed(StatusCode.INTERNAL, now, 9)
    assert (log.after(4, 10).sequence.tolist(), second.requests) == ([], 1), "of a period that is forgotten"


@pytest.mark.parametrize("capacity", [1, 7, 1000, 5000])
def test_the_ring_has_the_latest_and_pages_go_through_it(capacity: int) -> None:
    log = ExposureLog(capacity)
    outcomes = log.open(1)
    for point in range(1, 3001):  # the sequence number
        outcomes.succeeded(0.0, 0, point)
        if point % 997 == 0:
            log.settle()
    found: list[int] = []
    while len(page := log.after(found[-1] if found else 0, 300).sequence):
        assert len(page) <= 300
        found += page.tolist()
    assert found == list(range(max(1, 3001 - capacity), 3001))
    assert log.after(0, capacity).point.tolist() == found[:capacity]


async def test_a_page_is_written_while_others_have_their_turns() -> None:
    log = ExposureLog(60_000)
    outcomes = log.open(3)
    for number in range(50_000):
        outcomes.succeeded(0.0, 2_500_000 if number % 2 else -2_500_000, number)
    outcomes.failed(GIVEN_UP, 0.0, 1 + KEYED)
    turns = 0
    done = asyncio.Event()

    async def other_requests() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(other_requests())
    text = await exposure_pages.written(log.after(0, 100_000), log.last)
    done.set()
    await other
    assert turns > 50, "one of each column's pieces at least"
    page = json.loads(text)
    assert page["last"] == 50_001
    assert page["sequence"] == list(range(1, 50_002))
    assert (page["version"][0], page["point"][49_999], page["run_ms"][1], page["shared"][:2]) == (
        3,
        49_999,
        2.5,
        [True, False],
    )
    last = {name: values[-1] for name, values in page.items() if name not in ("last", "time", "total_ms", "sequence")}
    assert last == {"version": 3, "point": 1, "keyed": True, "status": "CANCELLED", "run_ms": None, "shared": False}
    empty = json.loads(await exposure_pages.written(log.after(50_001, 10), log.last))
    assert empty == {"last": 50_001} | {name: [] for name in page.keys() - {"last"}}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"after": "-1"}, "after must be a whole number from 0"),
        ({"after": ""}, "after must be"),
        ({"limit": "0"}, "limit must be a whole number from 1 to 100000; got '0'"),
        ({"limit": "100001"}, "limit must be"),
        ({"limit": "9" * 5000}, "limit must be"),
        ({"offset": "1"}, "unknown parameter 'offset'; known: after, limit"),
    ],
)
def test_a_page_that_cannot_be_is_named(query: dict[str, str], message: str) -> None:
    assert exposure_pages.asked({}) == (0, 10_000)
    with pytest.raises(InvalidArgumentError, match=message):
        exposure_pages.asked(query)


# --- what may be asked for ---


def test_a_wish_is_read() -> None:
    wish = Wish.from_json({"weights": {"10": 1, "2": 0.5}, "key": "X-User"})
    assert list(wish.weights.items()) == [(2, 0.5), (10, 1.0)]
    assert (wish.key, wish.keeps_key, wish.exposures) == (b"x-user", False, None)
    assert Wish.from_json({"weights": {"1": 1}}).keeps_key
    assert not Wish.from_json({"weights": {"1": 1}, "key": None}).keeps_key
    assert EXPOSURES > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "weights must be an object"),
        ({"weights": {}}, "weights must be an object"),
        ({"weights": [90, 10]}, "weights must be an object"),
        ({"weights": {"one": 1}}, "weights are by version number; got 'one'"),
        ({"weights": {"1": -1}}, "the weight of version 1 must be a number from 0 to"),
        ({"weights": {"1": "90"}}, "the weight of version 1 must be a number from 0 to"),
        ({"weights": {"1": True}}, "the weight of version 1 must be a number from 0 to"),
        ({"weights": {"1": math.nan}}, "the weight of version 1 must be a number from 0 to"),
        ({"weights": {"1": math.inf}}, "the weight of version 1 must be a number from 0 to"),
        ({"weights": {"1": 0, "2": 0}}, "the weights are all 0: no version would answer"),
        ({"weights": {str(number): 1 for number in range(17)}}, "weights of 17 versions; a split has at most 16"),
        ({"weights": {"1": 1}, "key": ""}, "key must be the name of a header"),
        ({"weights": {"1": 1}, "key": "x key"}, "key must be the name of a header"),
        ({"weights": {"1": 1}, "key": "grpc-timeout"}, "key must be the name of a header"),
        ({"weights": {"1": 1}, "key": ":path"}, "key must be the name of a header"),
        (
            {"weights": {"1": 1}, "key": "X-User-Bin"},
            "not beginning with 'grpc-' or ending in '-bin'; got 'X-User-Bin'",
        ),
        ({"weights": {"1": 1, "01": 2}}, "version 1 has two weights"),
        ({"weights": {"1": 1}, "seconds": 601}, "seconds must be a number from 0 to 600"),
        ({"weights": {"1": 1}, "exposures": -1}, "exposures must be a whole number"),
    ],
)
def test_what_is_no_wish(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Wish.from_json(fields)
