"""The client's side of requests beside the server's: sums, transport, ids of users, load tests, other clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_server.wire.messages import PredictRequest
from serving_workbench.client_stamps import CAPACITY, ClientStamp, keep, kept
from serving_workbench.control import ControlClient
from serving_workbench.errors import PredictError, WorkbenchError
from serving_workbench.profiling.client_side import COLUMNS
from serving_workbench.profiling.events import CLIENTS, REQUESTS
from serving_workbench.profiling.requests import RequestProfile
from serving_workbench.rest import predict_by_rest
from tests.workbench.test_request_profile import answer, check_events

MANY = 1000
PARTS = ["client_encode_us", "transport_out_us", "total_us", "transport_back_us", "client_decode_us"]


@pytest.fixture
def served(warm: str, name: str, source: Callable[..., Path], tmp_path: Path) -> Iterator[sw.ServedModel]:
    handle = sw.serve(source("half_plus_two", 2), name, instance=warm, root=tmp_path, progress=False)
    handle.stamping(enabled=False)  # forgets those of the deploy
    handle.stamping(enabled=True)
    yield handle
    handle.server.control.delete_model(name)
    handle.server.close()


def check_sums(frame: pd.DataFrame, stages: list[str]) -> None:
    """The server's stages are its total; with the client's and both ways they are the client's total."""
    assert not frame[list(COLUMNS)].isna().any(axis=None)
    server = frame[[f"{stage}_us" for stage in stages]].sum(axis=1)
    assert (server - frame["total_us"]).abs().max() <= 0.1
    assert (frame[PARTS].sum(axis=1) - frame["client_total_us"]).abs().max() <= 0.1
    ways = frame["transport_out_us"] + frame["transport_back_us"]
    assert (frame["transport_us"] - ways).abs().max() <= 0.1
    assert (frame[["client_encode_us", "client_decode_us"]] >= 0).all(axis=None)
    for way in ("transport_us", "transport_out_us", "transport_back_us"):
        assert (frame[way] >= 0).mean() >= 0.999, way


def ask_by_grpc(served: sw.ServedModel, value: float) -> None:
    assert served.predict(np.float32([value]), request_id=True) == [value / 2 + 3]


def ask_by_rest(served: sw.ServedModel, value: float) -> None:
    found = predict_by_rest(served.rest_url, served.name, {"instances": [value]})
    assert found == {"predictions": [value / 2 + 3]}


@pytest.mark.parametrize("ask", [ask_by_grpc, ask_by_rest])
def test_both_sides_of_a_thousand_requests_add_up(
    served: sw.ServedModel, ask: Callable[[sw.ServedModel, float], None]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ask(served, float(number)), range(MANY)))
    found = served.requests(limit=MANY)
    assert len(found) == found.frame["request_id"].nunique() == MANY
    check_sums(found.frame, found.stages)
    assert (found.frame["client_encode_us"] > 0).all()
    assert (found.frame["client_decode_us"] > 0).all()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_load_test_stamps_one_request_of_so_many(served: sw.ServedModel, protocol: str) -> None:
    loaded: dict[str, Any] = {"protocol": protocol, "seconds": 1.0, "progress": False}
    result = sw.loadtest(served, concurrency=8, stamped=4, **loaded)
    assert result.complete
    served.stamping(capacity=100_000)
    found = served.requests(limit=10_000)
    known = found.frame["client_total_us"].notna()
    stamped = found.frame["request_id"].notna()
    assert (known == stamped).all()
    check_sums(found.frame[known], found.stages)
    assert (found.frame.loc[known, ["client_encode_us", "client_decode_us"]] == 0).all(axis=None)
    numbers = sorted(int(each.rpartition("-")[2]) for each in found.frame.loc[known, "request_id"])
    assert numbers == list(range(numbers[0], numbers[-1] + 1, 4))
    assert len(numbers) > 20
    # What the load test says of a request is what its stamp says.
    latencies = result.records.send_latency[numbers]
    by_number = found.frame[known].set_index(found.frame.loc[known, "request_id"].str.rpartition("-")[2].astype(int))
    assert by_number.loc[numbers, "client_total_us"].to_numpy() == pytest.approx(1e6 * latencies, abs=0.1)


def test_a_load_test_stamps_an_open_loop_too_and_nothing_unless_told(served: sw.ServedModel) -> None:
    loaded: dict[str, Any] = {"seconds": 0.5, "progress": False, "rate": 200, "arrivals": "constant"}
    sw.loadtest(served, **loaded)
    assert served.requests().frame["request_id"].isna().all()
    served.stamping(enabled=False)
    served.stamping(enabled=True)
    result = sw.loadtest(served, stamped=10, **loaded)
    frame = served.requests().frame
    assert frame["client_total_us"].notna().sum() == -(-len(result.records) // 10)


def test_what_a_load_test_cannot_stamp(served: sw.ServedModel) -> None:
    with pytest.raises(WorkbenchError, match="stamped=0 is not a whole number from 1 to 1000000"):
        sw.loadtest(served, rate=10, stamped=0)
    with pytest.raises(WorkbenchError, match="Both stamped= and metadata with x-request-id are given"):
        sw.loadtest(served, rate=10, stamped=1, metadata={"X-Request-Id": "mine"})


def test_ids_of_users(served: sw.ServedModel) -> None:
    for number in range(3):
        served.predict(np.float32([number]), request_id="mine")  # the same one again
    served.predict(np.float32([3]), request_id="other")
    found = served.requests(request_id="mine")
    assert len(found) == 3
    check_sums(found.frame, found.stages)
    begun = [row.begun for row in kept() if row.request_id == "mine"]
    ours = [found.request(each)["client"]["begun_ns"] / 1e9 for each in found.frame["id"]]
    assert ours == pytest.approx(begun, abs=1e-6)
    with pytest.raises(PredictError, match="request_id='two words' is no text of 1 to 128 printable") as caught:
        served.predict(np.float32([1]), request_id="two words")
    assert caught.value.code == "INVALID_ARGUMENT"


def test_requests_of_others_have_no_client(served: sw.ServedModel) -> None:
    message = PredictRequest()
    message.model_spec.name = served.name
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_shape.dim.add(size=1)
    message.inputs["x"].float_val.append(1.0)
    with grpc.insecure_channel(served.grpc_endpoint) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        call(message.SerializeToString(), timeout=30)
        call(message.SerializeToString(), timeout=30, metadata=(("x-request-id", "theirs"),))
    served.predict(np.float32([1]), request_id="theirs")
    served.predict(np.float32([1]))
    found = served.requests()
    assert found.frame["request_id"].fillna("").tolist() == ["", "theirs", "theirs", ""]
    assert found.frame["client_total_us"].notna().tolist() == [False, False, True, False]
    assert found.frame.loc[:1, list(COLUMNS)].isna().all(axis=None)
    first = found.frame["id"][0]
    assert found.request(first)["client"] is None
    assert "client" not in found.explain(first)
    assert [patch.get_width() for patch in found.waterfall(first).axes[0].patches] == pytest.approx(
        [found.frame[f"{stage}_us"][0] for stage in found.stages]
    )


def test_a_failed_request_leaves_no_stamp(served: sw.ServedModel) -> None:
    with pytest.raises(PredictError):
        served.predict(np.float32([1]), version=99, request_id="fails")
    assert not [stamp for stamp in kept() if stamp.request_id == "fails"]


def test_one_request_from_end_to_end(served: sw.ServedModel, tmp_path: Path) -> None:
    served.predict(np.float32([1]), request_id="whole")
    found = served.requests()
    row = found.frame.iloc[-1]
    title, *lines = found.explain("whole").splitlines()
    assert f"us of the client's {row['client_total_us']:,.0f}, in batch" in title
    path = ["client_encode", "transport_out", *found.stages, "transport_back", "client_decode"]
    assert [line.split()[0] for line in lines] == [*path, "total"]
    assert lines[-1].split()[1] == f"{row['client_total_us']:,.1f}"
    (axes,) = found.waterfall("whole").axes
    bars = axes.containers[0].patches
    assert len(bars) == len(path)
    assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(row["client_total_us"])
    assert found.slowest(1, by="client_total_us")["request_id"].tolist() == ["whole"]
    assert found.chrome_trace(tmp_path / "whole.json").exists()


def test_clients_are_in_the_trace(served: sw.ServedModel) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ask_by_grpc(served, float(number)), range(40)))
    found = served.requests()
    events = found.trace_events()
    check_events(events, 40, len(found.batches))
    slices = [event for event in events if event["ph"] == "X"]
    clients = {event["name"]: event for event in slices if event["name"].startswith("client of ")}
    requests = {event["name"]: event for event in slices if event["name"].startswith("request ")}
    assert len(clients) == 40
    for name, request in requests.items():
        client = clients[name.replace("request", "client of")]
        assert client["pid"] == CLIENTS
        assert client["ts"] <= request["ts"]
        assert request["ts"] + request["dur"] <= client["ts"] + client["dur"]
    arrows = [event for event in events if event.get("cat") == "client"]
    assert len(arrows) == 80
    assert {(event["ph"], event["pid"]) for event in arrows} == {("s", CLIENTS), ("f", REQUESTS)}


# --- another clock --------------------------------------------------------------------------------------------------

#: Sent by this process to a server that has an hour on its clock: begun, sent, answered, decoded.
SENT = (3600.0, 3600.001, 3600.005, 3600.006)


@pytest.fixture
def elsewhere(served: sw.ServedModel, monkeypatch: pytest.MonkeyPatch) -> sw.ServedModel:
    """A server whose clock began another day."""
    ahead = 86_400 * 10**9
    ask = ControlClient.profile_requests

    def moved(self: ControlClient, name: str, **query: Any) -> dict[str, Any]:
        told = ask(self, name, **query)
        told["clock"]["monotonic_ns"] += ahead
        for row in told["requests"]:
            row["received_ns"] += ahead
        return told

    monkeypatch.setattr(ControlClient, "profile_requests", moved)
    return served


def test_of_another_clock_only_the_sum_of_both_ways_is_known(elsewhere: sw.ServedModel) -> None:
    for number in range(5):
        elsewhere.predict(np.float32([number]), request_id=True)
    found = elsewhere.requests()
    frame = found.frame
    assert frame[["transport_out_us", "transport_back_us"]].isna().all(axis=None)
    parts = frame[["client_encode_us", "transport_us", "total_us", "client_decode_us"]]
    assert (parts.sum(axis=1) - frame["client_total_us"]).abs().max() <= 0.1
    assert (frame["transport_us"] >= 0).all()
    assert [line.split()[0] for line in found.explain().splitlines()[1:]] == [*found.stages, "total"]
    assert "of the client's" in found.title()
    assert not [event for event in found.trace_events() if event["pid"] == CLIENTS]


def test_an_id_given_twice_tells_nothing_on_another_clock() -> None:
    told = answer()
    stamps = [ClientStamp("mine", *SENT), ClientStamp("else", *SENT)]
    known = RequestProfile("digits", told, stamps, one_clock=False).frame["client_total_us"]
    assert known.notna().tolist() == [False, False, False]  # two of its rows have this id
    told["requests"] = told["requests"][:2]
    told["batches"] = told["batches"][:1]
    frame = RequestProfile("digits", told, stamps, one_clock=False).frame
    assert frame["client_total_us"].notna().tolist() == [False, True]
    assert frame["transport_us"][1] == pytest.approx(4000 - frame["total_us"][1])
    assert RequestProfile("digits", told, [*stamps, stamps[0]], one_clock=False).frame["client_total_us"].isna().all()


def test_stamps_are_bounded() -> None:
    before = kept()
    try:
        for number in range(CAPACITY + 10):
            keep(ClientStamp(f"bound-{number}", *SENT))
        assert [len(kept()), kept()[0].request_id] == [CAPACITY, "bound-10"]
    finally:
        for stamp in before:
            keep(stamp)


def test_negative_transport_is_told_as_it_is() -> None:
    """A row that began before its client had sent it is an error that a number must show."""
    told = answer()
    told["requests"] = [told["requests"][1]]
    told["batches"] = told["batches"][:1]
    row = told["requests"][0]
    sent = row["received_ns"] / 1e9 + 5e-6
    stamp = ClientStamp("mine", sent - 1e-6, sent, sent + 1e-3, sent + 2e-3)
    profile = RequestProfile("digits", told, [stamp])
    assert profile.frame["transport_out_us"][0] == pytest.approx(-5)
    check_events(profile.trace_events(), 1, 1)
