"""Load tests against servers that are known: their rates, their times, their ends."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

import serving_workbench as sw
from serving_workbench.load.testing import start
from tests.load_stub import LoadStub
from tests.servers import SharedServer


def no_children() -> bool:
    return not [child for child in psutil.Process().children() if "load.child" in " ".join(child.cmdline())]


def test_an_open_loop_sends_what_it_has_drawn() -> None:
    with LoadStub() as stub:
        result = sw.loadtest(stub.address, model="any", rate=200, seconds=1, seed=3, progress=False, slo="p99 1s")
    records = result.records
    assert result.complete
    assert result.summary.statuses == {"OK": len(records)}
    again = np.diff(records.scheduled)
    assert (again >= 0).all()
    assert (records.sent >= records.scheduled).all()
    assert (records.answered > records.sent).all()
    assert 150 <= len(records) <= 250
    assert result.p50 <= result.p99
    assert "poisson arrivals, 200/s" in repr(result)
    assert no_children()


def test_a_closed_loop_keeps_requests_in_flight() -> None:
    with LoadStub(delays_ms=(5.0,)) as stub:
        result = sw.loadtest(stub.address, model="any", concurrency=6, seconds=1, progress=False)
    records = result.records
    assert (records.scheduled == records.sent).all()
    assert records.ticks[1:-1, 2].max() <= 6
    assert result.summary.littles_law.computed == pytest.approx(6, rel=0.2)
    assert result.summary.saturation is None
    assert 200 < len(records) <= 1260


def test_a_run_is_stopped_and_keeps_what_it_has() -> None:
    with LoadStub() as stub, start(stub.address, model="any", rate=300, seconds=60) as run:
        while run.live().answered < 30:
            assert not run.poll(0.05)
        result = run.stop()
        assert run.pid is None
    assert not result.complete
    assert result.summary.good >= 30
    assert "Partial: it was interrupted" in repr(result)
    assert no_children()


def test_a_server_that_dies_leaves_a_partial_result() -> None:
    with LoadStub(die_after=300) as stub:
        result = sw.loadtest(stub.address, model="any", rate=500, seconds=60, progress=False)
    assert result.records.reason == "gone"
    assert result.summary.statuses["OK"] > 100
    assert result.summary.statuses["UNAVAILABLE"] > 0
    assert no_children()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_real_server(shared_server: SharedServer, protocol: str) -> None:
    address = shared_server.grpc_endpoint if protocol == "grpc" else shared_server.rest_url
    result = sw.loadtest(
        address, model="half_plus_two", concurrency=4, seconds=0.5, protocol=protocol, progress=False, rows=2
    )
    assert set(result.summary.statuses) == {"OK"}
    assert result.setup.rows == 2
