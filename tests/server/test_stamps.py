"""Stamps of requests: stages that add up, batches and their mates, what clients are told, the ring and its switch."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest

from serving_server.errors import InvalidArgumentError, StatusCode
from serving_server.stamps.asked import Asked
from serving_server.stamps.ring import BatchStamps, Settings, Stamps
from serving_server.stamps.rows import STAGES, Wish, points, requests_json
from serving_server.tensors import to_proto
from serving_server.wire import messages
from tests.examples import CLASSIFY, example, request
from tests.servers import TRANSPORTS, ServerProcess, wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"
MODELS = ("half_plus_two", "slow", "examples", "fails")
FAR = 2_000_000  # a timeout in us that no test waits for


@pytest.fixture(scope="module", params=TRANSPORTS)
def stamped(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    from tests import leaks

    flags = ("--enable_batching", f"--grpc_transport={request.param}")
    with ServerProcess(*flags, directory=tmp_path_factory.mktemp("stamps")) as server:
        leaks.allow(server.pid)
        for name in MODELS:
            server.put_model(name, models_dir / name, batching={})
        for name in MODELS:
            server.wait_available(name)
        yield server


def batching(server: ServerProcess, model: str, **parameters: Any) -> None:
    defaults = {"max_batch_size": 8, "batch_timeout_micros": 0, "num_batch_threads": 1, "allowed_batch_sizes": []}
    status, answer = server.control("PATCH", f"/models/{model}/batching", {**defaults, **parameters})
    assert status == 200, answer


def kept(server: ServerProcess, model: str = "half_plus_two", query: str = "") -> dict[str, Any]:
    status, answer = server.control("GET", f"/models/{model}/profile/requests{query}")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def switch(server: ServerProcess, model: str = "half_plus_two", **fields: Any) -> dict[str, Any]:
    status, answer = server.control("PUT", f"/models/{model}/profile/requests", fields)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def clear(server: ServerProcess, model: str = "half_plus_two") -> None:
    switch(server, model, enabled=False)
    switch(server, model, enabled=True, every=1, per_second=10_000, capacity=10_000)


def together(server: ServerProcess, model: str, inputs: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(len(inputs)) as pool:
        list(pool.map(lambda each: server.predict(model, each), inputs))


def x(*values: float) -> dict[str, Any]:
    return {"x": np.float32(values)}


def check(answer: dict[str, Any]) -> None:
    """What must be true of any answer of the route."""
    assert answer["stages"] == list(STAGES)
    batches = {batch["batch"]: batch for batch in answer["batches"]}
    assert set(batches) == {row["batch"] for row in answer["requests"]} - {None}
    for row in answer["requests"]:
        batch = batches[row["batch"]]
        assert row["id"] in batch["mates"]
        assert row["version"] == batch["version"]
        assert list(row["stages_us"]) == list(STAGES)
        assert min(row["stages_us"].values()) >= 0
        assert sum(row["stages_us"].values()) == pytest.approx(row["total_us"], abs=0.01)
        ends = list(itertools.accumulate(row["stages_us"].values(), initial=0.0))
        taken = (batch["taken_ns"] - row["received_ns"]) / 1000
        assert ends[STAGES.index("thread_wait") + 1] == pytest.approx(taken, abs=0.01)
    for batch in batches.values():
        times = [batch[name] for name in ("ready_ns", "taken_ns", "handed_over_ns", "run_began_ns", "run_ended_ns")]
        assert times == sorted(times)
        assert batch["run_ended_ns"] <= batch["came_ns"] <= answer["clock"]["monotonic_ns"]


def test_front_and_worker_have_one_clock() -> None:
    if sys.platform == "linux":
        assert time.get_clock_info("perf_counter").implementation == "clock_gettime(CLOCK_MONOTONIC)"


def test_a_lone_request_waits_for_its_batch_and_for_no_thread(stamped: ServerProcess) -> None:
    batching(stamped, "half_plus_two", max_batch_size=8, batch_timeout_micros=20_000, allowed_batch_sizes=[4, 8])
    clear(stamped)
    stamped.predict("half_plus_two", x(1))
    answer = kept(stamped)
    check(answer)
    (row,), (batch,) = answer["requests"], answer["batches"]
    assert (row["rows"], row["pieces"], row["request_id"], row["version"]) == (1, 0, None, 2)
    assert row["stages_us"]["batch_wait"] >= 18_000  # it may not run before; the loop's clock has milliseconds
    assert row["stages_us"]["thread_wait"] == 0
    assert row["stages_us"]["run"] > 0
    assert (batch["reason"], batch["requests"], batch["rows"], batch["padding_rows"]) == ("timeout", 1, 1, 3)
    assert batch["signature"] == "serving_default"
    assert batch["mates"] == [row["id"]]


def test_batch_mates_share_their_batch(stamped: ServerProcess) -> None:
    batching(stamped, "half_plus_two", max_batch_size=6, batch_timeout_micros=FAR)
    clear(stamped)
    together(stamped, "half_plus_two", [x(1), x(2, 3), x(4, 5, 6)])
    answer = kept(stamped)
    check(answer)
    (batch,) = answer["batches"]
    assert (batch["reason"], batch["requests"], batch["rows"], batch["padding_rows"]) == ("full", 3, 6, 0)
    assert [row["id"] for row in answer["requests"]] == batch["mates"]
    assert sorted(row["rows"] for row in answer["requests"]) == [1, 2, 3]
    waits = [row["stages_us"]["encode_wait"] for row in answer["requests"]]
    assert waits == sorted(waits)  # answers are written in turn
    assert kept(stamped, query=f"?batch={batch['batch']}")["requests"] == answer["requests"]


def test_waiting_for_a_thread_is_told_apart(stamped: ServerProcess) -> None:
    batching(stamped, "slow", max_batch_size=1)
    clear(stamped, "slow")

    def ask(steps: int) -> Any:
        return stamped.predict("slow", {"x": np.float32([1]), "steps": np.int32([steps])})

    def running() -> bool:
        return bool(stamped.control("GET", "/models/slow/live")[1]["statistics"]["running"])

    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(ask, 4000)
        wait_until(running)
        short = pool.submit(ask, 1)
        long.result()
        short.result()
    answer = kept(stamped, "slow")
    check(answer)
    first, second = (row["stages_us"] for row in answer["requests"])
    assert first["thread_wait"] == 0
    assert second["thread_wait"] > second["batch_wait"]


def test_a_request_in_pieces_is_one_row(stamped: ServerProcess) -> None:
    pieces = {"enable_large_batch_splitting": True, "max_execution_batch_size": 2}
    batching(stamped, "half_plus_two", max_batch_size=8, **pieces)
    clear(stamped)
    stamped.predict("half_plus_two", x(1, 2, 3, 4, 5))
    batching(stamped, "half_plus_two", enable_large_batch_splitting=False, max_execution_batch_size=None)
    answer = kept(stamped)
    check(answer)
    (row,) = answer["requests"]
    assert (row["rows"], row["pieces"]) == (5, 3)


def test_a_request_that_fails_in_its_run_has_a_row_with_its_batch(stamped: ServerProcess) -> None:
    batching(stamped, "fails")
    clear(stamped, "fails")
    with pytest.raises(grpc.RpcError):
        stamped.predict("fails", x(13))
    answer = kept(stamped, "fails")
    check(answer)
    (row,), (batch,) = answer["requests"], answer["batches"]
    assert (row["id"], row["status"], row["rows"]) == ("f1", "INVALID_ARGUMENT", 1)
    assert row["stages_us"]["run"] > 0
    assert (batch["mates"], batch["requests"], batch["retried"]) == (["f1"], 1, False)
    assert (answer["recorded"], answer["failed"]) == (0, 1)


def test_mates_of_a_bad_request_say_that_they_ran_again(stamped: ServerProcess) -> None:
    batching(stamped, "fails", max_batch_size=2, batch_timeout_micros=FAR)
    clear(stamped, "fails")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(stamped.predict, "fails", x(value)) for value in (1, 13)]
        assert sorted((each.exception() is None) for each in asked) == [False, True]
    answer = kept(stamped, "fails")
    check(answer)
    assert sorted(row["status"] for row in answer["requests"]) == ["INVALID_ARGUMENT", "OK"]
    assert [(batch["requests"], batch["retried"], batch["reason"]) for batch in answer["batches"]] == [
        (1, True, "alone")
    ] * 2


def test_a_request_that_waits_too_long_has_a_row_without_a_batch(stamped: ServerProcess) -> None:
    batching(stamped, "half_plus_two", batch_timeout_micros=FAR)
    clear(stamped)
    with pytest.raises(grpc.RpcError):
        stamped.predict("half_plus_two", x(1), timeout=0.2)
    wait_until(lambda: kept(stamped)["failed"] == 1)
    answer = kept(stamped)
    (row,) = answer["requests"]
    assert row["status"] in {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}
    assert row["batch"] is None
    assert answer["batches"] == []
    assert row["stages_us"]["batch_wait"] > 0
    assert sum(row["stages_us"].values()) == pytest.approx(row["total_us"], abs=0.01)


def test_a_request_that_takes_too_long_has_a_row_with_the_batch_it_ran_in(stamped: ServerProcess) -> None:
    batching(stamped, "slow", max_batch_size=1)
    clear(stamped, "slow")
    with pytest.raises(grpc.RpcError):
        stamped.predict("slow", {"x": np.float32([1]), "steps": np.int32([20_000])}, timeout=0.3)
    wait_until(lambda: kept(stamped, "slow")["failed"] == 1)
    answer = kept(stamped, "slow")
    check(answer)
    (row,) = answer["requests"]
    assert row["status"] != "OK"
    assert row["stages_us"]["run"] > 0.5 * row["total_us"]
    wait_until(lambda: not stamped.control("GET", "/models/slow/live")[1]["statistics"]["running"])


def test_waiting_for_a_thread_until_the_end_is_told_as_that(stamped: ServerProcess) -> None:
    batching(stamped, "slow", max_batch_size=1)
    clear(stamped, "slow")

    def ask(steps: int, timeout: float) -> Any:
        return stamped.predict("slow", {"x": np.float32([1]), "steps": np.int32([steps])}, timeout=timeout)

    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(ask, 20_000, 60)
        wait_until(lambda: bool(stamped.control("GET", "/models/slow/live")[1]["statistics"]["running"]))
        with pytest.raises(grpc.RpcError):
            ask(1, 0.3)
        long.result()
    wait_until(lambda: kept(stamped, "slow")["failed"] == 1)
    (late,) = (row for row in kept(stamped, "slow")["requests"] if row["status"] != "OK")
    assert late["batch"] is None
    assert late["stages_us"]["thread_wait"] > 0.9 * late["total_us"]


def test_of_each_version_so_many_are_kept(stamped: ServerProcess) -> None:
    stamps = Stamps()
    stamps.change(Settings(every=2))
    kept = [version for turn in range(10) for version in (1, 2) if stamps.wants(version, 1, 10**9 * (turn + 1))]
    assert kept.count(1) == kept.count(2) == 5


def test_a_request_that_is_refused_has_a_row(stamped: ServerProcess) -> None:
    batching(stamped, "half_plus_two")
    clear(stamped)
    assert ask_grpc(stamped, {"x-request-id": "bad"}, values=np.array([b"text"], object))["failed"]
    ask_rest(stamped, {"X-Request-Id": "worse"}, '{"instances": ["text"]}')
    answer = kept(stamped)
    assert [(row["request_id"], row["status"], row["batch"]) for row in answer["requests"]] == [
        ("bad", "INVALID_ARGUMENT", None),
        ("worse", "INVALID_ARGUMENT", None),
    ]
    assert kept(stamped, query="?request_id=worse")["requests"] == answer["requests"][1:]


def test_lanes_are_told(stamped: ServerProcess) -> None:
    batching(stamped, "slow", max_batch_size=1, num_batch_threads=2)
    clear(stamped, "slow")
    together(stamped, "slow", [{"x": np.float32([1]), "steps": np.int32([2000])}] * 4)
    answer = kept(stamped, "slow")
    check(answer)
    assert {batch["lane"] for batch in answer["batches"]} == {0, 1}


def test_without_batching_each_request_is_a_batch(stamped: ServerProcess) -> None:
    assert stamped.control("PATCH", "/models/half_plus_two/batching", b"null")[0] == 200
    clear(stamped)
    stamped.predict("half_plus_two", x(1, 2))
    stamped.predict("half_plus_two", x(1, 2, 3))
    answer = kept(stamped)
    check(answer)
    assert [row["rows"] for row in answer["requests"]] == [2, 3]
    assert [(batch["reason"], batch["rows"]) for batch in answer["batches"]] == [("alone", 2), ("alone", 3)]


def test_requests_of_examples_are_stamped(stamped: ServerProcess) -> None:
    clear(stamped, "examples")
    asked = request(CLASSIFY, "examples", [example(x=1.0)])
    stamped.call(CLASSIFY, asked, messages.ClassificationResponse)
    answer = kept(stamped, "examples")
    check(answer)
    assert len(answer["requests"]) == 1
    assert answer["requests"][0]["stages_us"]["decode"] > 0


# --- what clients are told ------------------------------------------------------------------------------------------


def ask_grpc(server: ServerProcess, metadata: dict[str, str], values: Any = None) -> dict[str, Any]:
    message = messages.PredictRequest()
    message.model_spec.name = "half_plus_two"
    message.inputs["x"].CopyFrom(to_proto(np.float32([1]) if values is None else values))
    stub = server.channel().unary_unary(PREDICT, request_serializer=type(message).SerializeToString)
    try:
        _, call = stub.with_call(message, timeout=30, metadata=tuple(metadata.items()))
    except grpc.RpcError as error:
        failed: Any = error
        return {"failed": True, **dict(failed.trailing_metadata())}
    return dict(call.trailing_metadata())


def ask_rest(server: ServerProcess, headers: dict[str, str], body: str = '{"instances": [1.0]}') -> dict[str, str]:
    address = urlsplit(server.rest_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        connection.request("POST", "/v1/models/half_plus_two:predict", body, headers)
        response = connection.getresponse()
        response.read()
        return {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def entries(text: str) -> dict[str, float]:
    return {name: float(duration) for name, duration in (part.split(";dur=") for part in text.split(", "))}


def check_timing(text: str) -> None:
    timing = entries(text)
    assert list(timing) == [*STAGES, "total"]
    assert sum(timing[name] for name in STAGES) == pytest.approx(timing["total"], abs=0.001)
    assert timing["run"] > 0


@pytest.fixture
def plain(stamped: ServerProcess) -> ServerProcess:
    batching(stamped, "half_plus_two")
    clear(stamped)
    return stamped


def test_nothing_is_told_to_those_who_do_not_ask(plain: ServerProcess) -> None:
    assert not {"x-request-id", "server-timing"} & ask_grpc(plain, {"x-server-timing": "0"}).keys()
    assert not {"x-request-id", "server-timing"} & ask_rest(plain, {}).keys()


def test_an_id_comes_back_and_is_kept(plain: ServerProcess) -> None:
    for number in range(3):  # the third is not parsed by the transport, but recognized
        assert ask_grpc(plain, {"x-request-id": f"mine/{number}"})["x-request-id"] == f"mine/{number}"
    assert "server-timing" not in ask_grpc(plain, {"x-request-id": "plain"})
    assert ask_rest(plain, {"X-Request-Id": "by-rest"})["x-request-id"] == "by-rest"
    rows = kept(plain)["requests"]
    assert [row["request_id"] for row in rows] == ["mine/0", "mine/1", "mine/2", "plain", "by-rest"]
    assert kept(plain, query="?request_id=mine/1")["requests"] == [rows[1]]


def test_an_id_comes_back_with_an_error(plain: ServerProcess) -> None:
    answer = ask_grpc(plain, {"x-request-id": "bad", "x-server-timing": "1"}, values=np.array([b"text"], object))
    assert answer["failed"]
    assert answer["x-request-id"] == "bad"
    assert "server-timing" not in answer
    assert ask_rest(plain, {"X-Request-Id": "bad"}, "{")["x-request-id"] == "bad"


@pytest.mark.parametrize("given", ["two words", "x" * 129, ""])
def test_what_is_no_id_is_not_kept(plain: ServerProcess, given: str) -> None:
    assert "x-request-id" not in ask_grpc(plain, {"x-request-id": given})
    assert "x-request-id" not in ask_rest(plain, {"X-Request-Id": given})
    assert [row["request_id"] for row in kept(plain)["requests"]] == [None, None]


def test_the_stages_are_told_on_demand(plain: ServerProcess) -> None:
    check_timing(ask_grpc(plain, {"x-server-timing": "1"})["server-timing"])
    check_timing(ask_rest(plain, {"X-Server-Timing": "1"})["server-timing"])


# --- the ring and its switch ----------------------------------------------------------------------------------------


def test_the_switch(plain: ServerProcess) -> None:
    plain.predict("half_plus_two", x(1))
    assert switch(plain, enabled=False) == {"enabled": False, "every": 1, "per_second": 10_000, "capacity": 10_000}
    answer = ask_grpc(plain, {"x-request-id": "off", "x-server-timing": "1"})
    assert answer["x-request-id"] == "off"
    assert "server-timing" not in answer
    assert kept(plain)["recorded"] == 0
    switch(plain, enabled=True, every=2)
    for _ in range(6):
        plain.predict("half_plus_two", x(1))
    assert kept(plain)["recorded"] == 3
    check_timing(ask_grpc(plain, {"x-server-timing": "1"})["server-timing"])
    check_timing(ask_grpc(plain, {"x-server-timing": "1"})["server-timing"])
    assert kept(plain)["recorded"] == 5  # those that a client asks about are kept in any case
    switch(plain, every=1, per_second=1)
    for number in range(5):
        ask_grpc(plain, {"x-request-id": str(number)})
        plain.predict("half_plus_two", x(1))
    ids = [row["request_id"] for row in kept(plain)["requests"][5:]]
    assert [each for each in ids if each is not None] == list("01234")
    assert ids.count(None) < 5


def test_limit_slowest_and_version(plain: ServerProcess) -> None:
    for _ in range(5):
        plain.predict("half_plus_two", x(1))
    everything = kept(plain)["requests"]
    assert [row["id"] for row in kept(plain, query="?limit=2")["requests"]] == [row["id"] for row in everything[-2:]]
    slowest = kept(plain, query="?slowest=3")
    check(slowest)
    totals = sorted((row["total_us"] for row in everything), reverse=True)
    assert [row["total_us"] for row in slowest["requests"]] == totals[:3]
    assert kept(plain, query="?version=1")["requests"] == []
    assert len(kept(plain, query="?version=2")["requests"]) == 5


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "limit must be a whole number from 1 to 10000; got 0"),
        ("limit=10001", "limit must be a whole number from 1 to 10000; got 10001"),
        ("slowest=many", "slowest must be a whole number from 1 to 10000; got 'many'"),
        ("version=-1", "version must be a whole number from 0 to 9223372036854775807; got '-1'"),
        ("batch=" + "9" * 5000, "batch must be a whole number"),
        ("limt=3", "unknown field 'limt'; known: batch, limit, request_id, slowest, version"),
        ("limit=1&limit=2", "a parameter of the query string is given twice"),
    ],
)
def test_bad_questions_are_named(plain: ServerProcess, query: str, text: str) -> None:
    status, answer = plain.control("GET", f"/models/half_plus_two/profile/requests?{query}")
    assert status == 400
    assert answer["error"].startswith(text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"enabled": 1}, "enabled must be true or false; got 1"),
        ({"every": 0}, "every must be a whole number from 1 to 1000000; got 0"),
        ({"per_second": 0}, "per_second must be a whole number from 1 to 1000000; got 0"),
        ({"capacity": True}, "capacity must be a whole number from 100 to 100000; got True"),
        ({"sampling": 2}, "unknown field 'sampling'; known: capacity, enabled, every, per_second"),
    ],
)
def test_bad_settings_are_named(plain: ServerProcess, fields: dict[str, Any], text: str) -> None:
    status, answer = plain.control("PUT", "/models/half_plus_two/profile/requests", fields)
    assert (status, answer["error"]) == (400, text)
    assert kept(plain)["settings"] == {"enabled": True, "every": 1, "per_second": 10_000, "capacity": 10_000}


def test_an_unknown_model_is_named(plain: ServerProcess) -> None:
    status, answer = plain.control("GET", "/models/nobody/profile/requests")
    assert status == 404
    assert "nobody" in answer["error"]


# --- in this process ------------------------------------------------------------------------------------------------


def fill(stamps: Stamps, batches: int, requests: int) -> None:
    for index in range(batches):
        base = 1_000_000 * (index + 1)
        times = (*range(base, base + 5), base + 9, base + 9)
        sizes = (requests, requests, requests)
        batch = BatchStamps(stamps.next_number(), 1, "serving_default", 0, 0, False, *sizes, *times)
        tasks: Any = [
            SimpleNamespace(received=(base - 900) / 1e9, arrived=(base - 500) / 1e9, rows=1, asked=None, pieces=())
        ] * requests
        stamps.answered(batch, tasks, [(base + 20 + place) / 1e9 for place in range(requests)], noted=False)


async def rows_of(stamps: Stamps, wish: Wish) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await requests_json(stamps, wish))
    return found


async def test_the_ring_is_bounded_and_gives_whole_batches() -> None:
    stamps = Stamps()
    stamps.change(Settings(capacity=100))
    fill(stamps, 50, 3)
    answer = await rows_of(stamps, Wish())
    assert answer["recorded"] == len(answer["requests"]) == 99
    assert {len(batch["mates"]) for batch in answer["batches"]} == {3}
    stamps.change(Settings(capacity=200))
    assert len((await rows_of(stamps, Wish()))["requests"]) == 99
    fill(stamps, 50, 3)
    assert (await rows_of(stamps, Wish()))["recorded"] == 198
    stamps.change(Settings(capacity=100))
    assert (await rows_of(stamps, Wish()))["recorded"] == 99


async def test_a_batch_larger_than_the_ring_is_told_all_the_same() -> None:
    stamps = Stamps()
    stamps.change(Settings(capacity=100))
    fill(stamps, 1, 150)
    assert len((await rows_of(stamps, Wish()))["requests"]) == 150
    fill(stamps, 1, 2)
    assert len((await rows_of(stamps, Wish()))["requests"]) == 2


async def test_what_a_request_knew_of_its_batch_gives_way_to_what_the_batch_tells() -> None:
    stamps = Stamps()
    task: Any = SimpleNamespace(
        received=1e-3, arrived=2e-3, rows=1, asked=None, pieces=(), signature=SimpleNamespace(name="serving_default")
    )
    partial = BatchStamps(1, 1, "serving_default", 0, 0, False, 2, 2, 2, 1, 2, 3, 3, 4, 7, 7)
    stamps.ended(task, StatusCode.CANCELLED, 1, partial)
    fill(stamps, 1, 1)
    for wish in (Wish(), Wish(slowest=2), Wish(slowest=1)):
        answer = await rows_of(stamps, wish)
        (batch,) = answer["batches"]
        assert batch["mates"] == ["1-0", "f1"]
        assert batch["taken_ns"] == 1_000_001


async def test_of_a_fast_load_some_batches_are_kept() -> None:
    stamps = Stamps()
    kept = [stamps.wants(1, 30, 10**9 + number * 600_000) for number in range(1, 10_000)]  # 50,000 a second
    assert all(kept[:30])  # of a burst
    assert sum(kept[5000:]) == pytest.approx(1000, abs=2)  # a fifth
    slow = [stamps.wants(1, 30, 10**11 + number * 6_000_000) for number in range(1, 100)]  # 5,000 a second
    assert all(slow)
    stamps.change(Settings(per_second=1_000_000))
    assert all(stamps.wants(1, 30, 10**12 + number * 600_000) for number in range(1, 1000))


async def test_many_rows_leave_the_loop_to_others() -> None:
    stamps = Stamps()
    fill(stamps, 10_000, 1)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    answer = await rows_of(stamps, Wish(limit=10_000))
    other.cancel()
    assert len(answer["requests"]) == len(answer["batches"]) == 10_000
    assert turns >= 2 * 10_000 // 200


async def test_stamps_out_of_order_give_no_negative_stage() -> None:
    """Clocks of two processors may differ by a little."""
    batch = BatchStamps(1, 1, "s", 0, 0, False, 1, 1, 1, 100, 200, 300, 290, 100, 380, 400)
    passed = points(batch, 50e-9, 60e-9, 400e-9, 500e-9)
    assert passed.at == (50, 60, 100, 200, 300, 300, 390, 390, 400, 400, 500)
    assert passed.total == 450 == sum(duration for _, duration in passed.stages())


def test_questions_are_read_as_they_are_written() -> None:
    assert Wish.from_query({"limit": "5", "slowest": "2", "version": "0", "request_id": "a"}) == Wish(
        5, 2, 0, None, "a"
    )
    with pytest.raises(InvalidArgumentError, match="limit"):
        Wish.from_query({"limit": ""})


def test_a_client_that_asks_for_nothing_known_is_told_nothing() -> None:
    class Silent:
        def header(self, name: bytes) -> bytes | None:
            return None

    asked = Asked(Silent())
    assert asked.request_id is None
    assert asked.timing(0.0) is None
