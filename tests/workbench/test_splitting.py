"""Requests split over versions, from Python: what a user types, reads and is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError
from serving_workbench.splitting import set_traffic, traffic_table
from tests.servers import wait_until
from tests.workbench.stub import ControlStub

Source = Callable[..., Path]

TRAFFIC: dict[str, Any] = {
    "weights": {"1": 90.0, "2": 10.0},
    "shares": {"1": 1.0},
    "key": "x-serving-key",
    "since": 1000.0,
    "ended": None,
    "versions": [
        {"version": 1, "weight": 90.0, "share": 1.0, "requests": 12, "keyed": 3},
        {"version": 2, "weight": 10.0, "share": 0.0, "requests": 0, "keyed": 0},
    ],
    "unrouted": 0,
}
MODEL: dict[str, Any] = {
    "serving_version": 2,
    "versions": [{"version": 2, "state": "LOADING"}, {"version": 1, "state": "AVAILABLE"}],
}


@pytest.fixture
def two(warm: str, name: str, source: Source, tmp_path: Path) -> Iterator[sw.ServedModel]:
    """half_plus_two on the warm server: version 2 serves, version 1 is on disk."""
    options: dict[str, Any] = {"instance": warm, "root": tmp_path, "progress": False}
    sw.serve(source("half_plus_two", 1), name, **options)
    handle = sw.serve(source("half_plus_two", 2), name, **options)
    yield handle
    handle.server.control.delete_model(name)
    handle.server.close()


def test_a_table_of_shares() -> None:
    table = traffic_table("digits", TRAFFIC, MODEL)
    assert str(table).splitlines()[1:] == [
        "version  weight  share  requests  by key  state",
        "1        90      100 %  12        3       AVAILABLE",
        "2        10      0 %    0         0       LOADING",
    ]
    assert table.title.startswith("digits: requests split 1: 90 %, 2: 10 %, sticky by x-serving-key, since ")
    assert table.data == TRAFFIC
    assert "<td" in table._repr_html_()


def test_a_table_without_a_split() -> None:
    never = {"weights": None, "shares": {}, "key": None, "since": None, "ended": None, "versions": []}
    assert traffic_table("digits", never, MODEL).title == "digits: version 2 answers all requests that name none"
    ended = never | {"ended": {"at": 0, "reason": "it was taken back", "weights": {"1": 1, "2": 3}}}
    title = traffic_table("digits", ended, MODEL | {"serving_version": None}).title
    assert title.startswith("digits: no version answers; the split 1: 25 %, 2: 75 % ended at ")
    assert title.endswith(": it was taken back")


@pytest.mark.parametrize(
    ("weights", "key", "verb", "body"),
    [
        (None, None, "GET", None),
        ({}, None, "DELETE", None),
        ({1: 90, 2: 10}, None, "PUT", {"weights": {"1": 90.0, "2": 10.0}, "seconds": 5}),
        ({np.int64(1): np.float32(0.5)}, "x-user", "PUT", {"weights": {"1": 0.5}, "seconds": 5, "key": "x-user"}),
        ({1: 1}, "", "PUT", {"weights": {"1": 1.0}, "seconds": 5, "key": None}),
    ],
)
def test_what_is_asked_of_the_server(weights: Any, key: str | None, verb: str, body: Any) -> None:
    path = "/control/v1/models/digits/traffic"
    with ControlStub("secret", {path: (200, TRAFFIC)}) as stub:
        control = ControlClient(("tcp", "127.0.0.1", stub.port), "secret")
        assert set_traffic(control, "digits", weights, key, 5) == TRAFFIC
        assert stub.requests == [(verb, path, body)]


@pytest.mark.parametrize(
    ("weights", "key", "message"),
    [
        (None, "x-user", "key='x-user' goes with weights"),
        ([90, 10], None, r"weights must be a dict of version to weight, not \[90, 10\]"),
        ({1: "much"}, None, "The weight of version 1 must be a number, not 'much'"),
        ({1: None}, None, "The weight of version 1 must be a number, not None"),
    ],
)
def test_what_is_no_split(weights: Any, key: str | None, message: str) -> None:
    with pytest.raises(ControlError, match=message) as raised:
        set_traffic(ControlClient(("unix", "/nowhere"), "secret"), "digits", weights, key, 5)
    assert raised.value.code == "INVALID_ARGUMENT"


def test_a_split_just_works_and_a_deploy_ends_it(
    two: sw.ServedModel, source: Source, warm: str, tmp_path: Path
) -> None:
    assert two.traffic().title == f"{two.name}: version 2 answers all requests that name none"
    table = two.traffic({1: 50, 2: 50}, key="x-serving-key")
    assert [row["share"] for row in table.rows] == ["50 %", "50 %"]
    assert {float(two.predict([0.0])[0]) for _ in range(60)} == {2.0, 3.0}
    assert float(two.predict([0.0], version=2)[0]) == 3.0
    assert two.exposures().groupby("version").size().sum() == 60
    assert [(row["version"], row["traffic"]) for row in two.status().rows[:2]] == [(2, "50 %"), (1, "50 %")]
    assert "requests split 1: 50 %, 2: 50 %, sticky by x-serving-key" in two.status().title
    assert "traffic" in two.server.status().columns
    assert sw.traffic(two.name, {1: 100, 2: 0}, instance=warm)[1]["share"] == "0 %"
    assert {float(two.predict([0.0])[0]) for _ in range(20)} == {2.0}

    options: dict[str, Any] = {"instance": warm, "root": tmp_path, "progress": False}
    third = sw.serve(source("half_plus_two", 1), two.name, **options)
    assert [note.split(" ended at ")[0] for note in third.messages] == ["The split 1: 100 %, 2: 0 %"]
    assert third.messages[0].endswith(": version 3 went into service.")
    assert "traffic" not in two.status().columns
    assert "ended at" in third.traffic().title


def test_a_rollback_ends_a_split_and_says_so(two: sw.ServedModel) -> None:
    two.traffic({1: 50, 2: 50})
    assert two.rollback() == 1
    assert two.messages[0].endswith(": the version policy was set to specific {1}.")
    assert {float(two.predict([0.0])[0]) for _ in range(30)} == {2.0}
    two.traffic({1: 50, 2: 50})
    assert {float(two.predict([0.0])[0]) for _ in range(60)} == {2.0, 3.0}
    assert two.traffic({}).data["weights"] is None
    assert {float(two.predict([0.0])[0]) for _ in range(30)} == {2.0}, "pinned as before"


def test_what_cannot_be_split(two: sw.ServedModel, warm: str) -> None:
    with pytest.raises(sw.ModelNotServedError, match=r"version 9 of model .* is not on disk; its versions are: 1, 2"):
        two.traffic({1: 1, 9: 1})
    with pytest.raises(sw.ModelNotServedError, match="This server has no model nobody"):
        sw.traffic("nobody", instance=warm)
    with pytest.raises(ControlError, match="the weights are all 0"):
        two.traffic({1: 0})
    with pytest.raises(sw.ServerNotRunningError):
        sw.traffic("nobody", instance="no-such-instance")


def test_copies_for_another_version(two: sw.ServedModel) -> None:
    assert two.mirror().title == f"{two.name}: no request is copied to another version"
    with pytest.raises(ControlError, match="there is nothing to mirror to it"):
        two.mirror(2)
    with pytest.raises(sw.ModelNotServedError, match="version 9 of model"):
        two.mirror(9)
    table = two.mirror(1, busy=1.0)
    assert table.title.startswith(f"{two.name}: 100 % of the requests are copied to version 1; the oldest copy is")
    assert "are copied to version 1" in two.status().title
    for value in range(20):
        two.predict([float(value)])
    wait_until(lambda: two.mirror().data["answered"] == 20)
    frame = two.mirrored()
    assert frame["number"].tolist() == list(range(1, 21))
    assert set(zip(frame["primary"], frame["shadow"], strict=True)) == {(2, 1)}
    inputs = [row["x"].item() for row in frame["inputs"]]
    assert [row["y"].item() for row in frame["primary_outputs"]] == [x / 2 + 3 for x in inputs]
    assert [row["y"].item() for row in frame["shadow_outputs"]] == [x / 2 + 2 for x in inputs]
    assert frame["error"].isna().all()
    assert (frame["shadow_ms"] > 0).all()
    assert two.mirrored(after=15)["number"].tolist() == [16, 17, 18, 19, 20]
    ended = two.mirror(stop=True)
    assert ended.title.endswith("were copied to version 1 until: it was taken back")
    assert ended[2] == {"requests": "answered by version 1 too", "count": 20, "of those seen": "100 %"}
    assert "copied" not in two.status().title
