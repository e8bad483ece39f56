"""Load tests against servers that are known: their rates, their times, their ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import serving_workbench as sw
from serving_workbench.load.records import UNANSWERED
from serving_workbench.load.testing import start
from tests import leaks
from tests.certificates import ssl_config
from tests.load_stub import LoadStub
from tests.servers import ServerProcess, SharedServer, wait_until

CHILD = "serving_workbench.load.child"


def senders(pid: int | None = None) -> list[psutil.Process]:
    """The sending processes of a process (this one)."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if CHILD in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


# --- what a run is ---


def test_an_open_loop_sends_what_it_has_drawn() -> None:
    with LoadStub() as stub:
        result = sw.loadtest(stub.address, model="any", rate=200, seconds=1, seed=3, progress=False, slo="p99 1s")
        again = sw.loadtest(stub.address, model="any", rate=200, seconds=1, seed=3, progress=False)
    records = result.records
    assert result.complete
    assert result.summary.statuses == {"OK": len(records)}
    assert records.scheduled.tobytes() == again.records.scheduled.tobytes()
    assert (np.diff(records.scheduled) >= 0).all()
    assert (records.sent >= records.scheduled).all()
    assert (records.answered > records.sent).all()
    assert 150 <= len(records) <= 250
    assert result.p50 <= result.p99
    assert 0 < result.summary.client_cpu < 1
    assert "poisson arrivals, 200/s" in repr(result)
    assert "us CPU per request" in repr(result)
    assert not senders()


def test_a_closed_loop_keeps_requests_in_flight() -> None:
    with LoadStub(delays_ms=(5.0,)) as stub:
        result = sw.loadtest(stub.address, model="any", concurrency=6, seconds=1, progress=False)
    records = result.records
    assert (records.scheduled == records.sent).all()
    assert records.ticks[1:-1, 2].max() <= 6
    assert result.summary.littles_law.computed == pytest.approx(6, rel=0.2)
    assert result.summary.saturation is None
    assert 50 < len(records) <= 1260


def test_errors_are_counted_by_status() -> None:
    with LoadStub(fail_after=100) as stub:
        result = sw.loadtest(stub.address, model="any", rate=300, seconds=1, progress=False, max_in_flight=4)
    assert result.complete
    assert not result.ok
    assert set(result.summary.statuses) == {"OK", "RESOURCE_EXHAUSTED"}
    assert result.records.texts == {8: "the stub has had enough"}
    assert "the stub has had enough" in repr(result)


def test_an_overloaded_server_is_saturated_and_the_run_ends_early() -> None:
    with LoadStub(delays_ms=(10.0,), threads=1) as stub:
        result = sw.loadtest(
            stub.address, model="any", rate=1000, seconds=60, progress=False, max_backlog=500, slo="p99 1s"
        )
    assert result.records.reason == "backlog"
    assert result.saturated
    assert result.slo_met is False
    assert result.summary.stop < 30
    assert (result.records.status == UNANSWERED).any()


def test_the_cap_is_kept_and_counted() -> None:
    with LoadStub(delays_ms=(20.0,)) as stub:
        result = sw.loadtest(stub.address, model="any", rate=200, seconds=1, max_in_flight=2, progress=False, seed=1)
    assert result.records.ticks[:, 2].max() <= 2
    assert result.summary.waited > 50
    assert "requests waited in the client, as 2 were in flight" in repr(result)
    # The server takes 20 ms; who counts from the schedule sees the queue in the client.
    assert result.summary.send_latency[50.0].value < result.p50


def test_a_real_server_over_grpc(grpc_server: SharedServer) -> None:
    """Our transport and `grpcio`'s, which many servers have."""
    for load in ({"concurrency": 40}, {"rate": 100}):
        result = sw.loadtest(
            grpc_server.grpc_endpoint, model="half_plus_two", seconds=0.5, progress=False, version=1, rows=2, **load
        )
        assert set(result.summary.statuses) == {"OK"}
        assert result.setup.rows == 2
    socket_path = f"unix:{grpc_server.directory / 'grpc.sock'}"
    local = sw.loadtest(socket_path, model="half_plus_two", rate=50, seconds=0.3, progress=False)
    assert set(local.summary.statuses) == {"OK"}


def test_a_real_server_over_rest(shared_server: SharedServer) -> None:
    for load in ({"concurrency": 4}, {"rate": 100, "data": [1.0, 2.0, 3.0], "metadata": [("X-Trace", "t")]}):
        result = sw.loadtest(
            shared_server.rest_url, model="half_plus_two", seconds=0.5, protocol="rest", progress=False, **load
        )
        assert set(result.summary.statuses) == {"OK"}
    with pytest.raises(sw.LoadError, match="HTTP 404"):
        sw.loadtest(shared_server.rest_url, model="nobody", rate=1, protocol="rest")


def test_a_served_model(warm: str, name: str, source: Callable[[str, int], Path]) -> None:
    served = sw.serve(source("half_plus_two", 1), name, instance=warm, progress=False)
    try:
        for target in (served, name):
            for protocol in ("grpc", "rest"):
                result = sw.loadtest(
                    target, rate=50, seconds=0.3, protocol=protocol, instance=warm, progress=False, data=[2.0]
                )
                assert set(result.summary.statuses) == {"OK"}
                assert result.setup.model == name
    finally:
        # Not by `served.stop`, which ends the server with its last model: it runs on for the other tests.
        served.server.control.delete_model(name)
        served.server.close()


def test_tls(server: Callable[..., ServerProcess], certificates: Path, models_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "ssl.config"
    config.write_text(ssl_config(certificates))
    base = models_dir / "half_plus_two"
    process = server("--model_name=m", f"--model_base_path={base}", f"--ssl_config_file={config}")
    process.wait_available("m")
    port = process.grpc_endpoint.rpartition(":")[2]
    result = sw.loadtest(
        f"localhost:{port}", model="m", rate=50, seconds=0.3, tls=certificates / "ca.pem", progress=False
    )
    assert set(result.summary.statuses) == {"OK"}
    with pytest.raises(sw.LoadError):
        sw.loadtest(f"localhost:{port}", model="m", rate=50, seconds=0.3, progress=False)


def test_a_bar_tells_how_it_goes(stub: LoadStub) -> None:
    """In a terminal; the pseudo-terminal is the test's own."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    code = f"import serving_workbench as sw; sw.loadtest({stub.address!r}, model='digits', rate=200, seconds=1)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how the end of a pseudo-terminal reads
            while data := os.read(ours, 4096):
                said += data
        assert process.wait(30) == 0
    os.close(ours)
    text = said.decode()
    assert "digits: " in text
    assert "/s, p99 " in text
    assert "1.0/1 s, done" in text


# --- bars ---


@pytest.mark.parametrize("rate", [50, 200])
def test_what_is_scheduled_is_sent(rate: int) -> None:
    """All of it, none early, and the rates are those of the records; how late and how near (L1) `loadgen` measures."""
    with LoadStub() as stub:
        result = sw.loadtest(
            stub.address, model="any", rate=rate, seconds=2, arrivals="constant", warmup=0, progress=False
        )
    records, summary = result.records, result.summary
    assert result.complete
    assert len(records) == 2 * rate
    assert np.diff(records.scheduled) == pytest.approx(1 / rate)
    assert (records.sent >= records.scheduled).all()
    assert (records.answered > records.sent).all()
    assert summary.offered_rate == pytest.approx(rate, rel=0.01)
    inside = (records.answered >= summary.start) & (records.answered < summary.stop)
    assert summary.rate == pytest.approx(inside.sum() / (summary.stop - summary.start))


@pytest.mark.slow
def test_a_stall_counts_for_all_who_would_have_come() -> None:
    """L3: no coordinated omission, though the client waits with its requests (best of three)."""
    seen = []
    for _ in range(3):
        with LoadStub(freeze=(3.0, 1.0)) as stub:  # five seconds after the first request of the run
            result = sw.loadtest(
                stub.address, model="any", rate=100, seconds=10, arrivals="constant", max_in_flight=8, progress=False
            )
        summary = result.summary
        p95, p99 = summary.latency[95.0].value, summary.latency[99.0].value
        sent_based = summary.send_latency[95.0].value
        seen.append((p95, p99, sent_based, summary.warmup_cut))
        if p95 >= 0.4 and p99 >= 0.85 and sent_based < p95 / 2:
            assert "requests waited in the client, as 8 were in flight" in repr(result)
            assert summary.warmup_cut == 0  # a stall is no warm-up
            return
    pytest.fail(f"p95, p99, p95 from sending, cut: {seen}")


def test_known_times_are_measured(tmp_path: Path) -> None:
    """What the client noted lies around what the stub noted on the same clock, however slow the machine is.

    How close around it (L4) is measured by `tests.bench.loadgen`: a busy machine adds what it likes.
    """
    delays = np.array([2.0, 5.0, 10.0, 20.0]) / 1e3
    with LoadStub(delays_ms=(1e3 * delays).tolist(), exact=True, times=tmp_path / "times.json") as stub:
        result = sw.loadtest(stub.address, model="any", concurrency=1, seconds=2, warmup=0, progress=False)
    records = result.records
    assert result.complete
    taken, handed = np.array(stub.seen()).T
    assert len(taken) == len(records) + 1  # the first request is no part of the run
    assert (handed - taken >= delays[np.arange(len(taken)) % len(delays)]).all()
    # One in flight: sent, taken up, answered there, answered here, and only then the next.
    sent, answered = records.began + records.sent, records.began + records.answered
    order = np.column_stack([sent, taken[1:], handed[1:], answered]).ravel()
    assert (np.diff(order) >= 0).all()
    least, most = (handed - taken)[1:-1], taken[2:] - handed[:-2]  # by the stub's times alone; not of the last
    counted = result.to_frame()["counted"].to_numpy()
    assert counted.sum() > 0.9 * len(records)
    latency = records.latency[counted]
    assert (latency == result.to_frame()["latency"].to_numpy()[counted]).all()
    for percent in (0, 50, 95, 99, 100):
        assert result.percentile(percent) == np.percentile(latency, percent)
        inside = counted[:-1]
        measured = np.percentile(records.latency[:-1][inside], percent)
        assert np.percentile(least[inside], percent) <= measured <= np.percentile(most[inside], percent)
    assert (result.p50, result.p99) == (result.percentile(50), result.percentile(99))


# --- ends ---


def test_a_run_is_stopped_and_keeps_what_it_has() -> None:
    with LoadStub() as stub, start(stub.address, model="any", rate=300, seconds=60, warmup=0) as run:
        while run.live().answered < 30:
            assert not run.poll(0.05)
        live = run.live()
        assert live.sent >= live.answered >= 30
        assert 0 < live.p50 <= live.p99
        result = run.stop()
        assert run.stop() is result
        assert run.wait() is result
        assert run.pid is None
    assert not result.complete
    assert result.summary.good >= 30
    assert "Partial: it was interrupted" in repr(result)
    assert not senders()


def test_a_server_that_dies_leaves_a_partial_result() -> None:
    for load in ({"rate": 500}, {"concurrency": 3}):
        with LoadStub(die_after=300) as stub:
            result = sw.loadtest(stub.address, model="any", seconds=60, progress=False, **load)
        assert result.records.reason == "gone"
        assert result.summary.statuses["OK"] > 100
        assert result.summary.statuses["UNAVAILABLE"] > 0
        assert "the server could not be reached any more" in repr(result)
        assert not senders()


def test_a_server_that_comes_back_is_asked_again() -> None:
    with LoadStub(die_after=200) as first, start(first.address, model="any", rate=200, seconds=3) as run:
        assert first.process is not None
        first.process.wait(60)
        with LoadStub(port=int(first.address.rpartition(":")[2])):
            result = run.wait()
    assert result.complete
    last = result.records.status[-50:]
    assert (last == 0).all()
    assert result.summary.statuses["UNAVAILABLE"] > 0


def test_a_sender_that_is_killed_leaves_what_it_had_noted() -> None:
    with LoadStub() as stub, start(stub.address, model="any", rate=300, seconds=60, warmup=0) as run:
        while run.live().answered < 30:
            assert not run.poll(0.05)
        (sender,) = senders()
        sender.kill()
        result = run.wait()
    assert result.records.reason == "crashed"
    assert result.summary.good >= 30
    assert "process died" in repr(result)


def test_a_sender_that_hangs_is_killed() -> None:
    with LoadStub() as stub, start(stub.address, model="any", rate=300, seconds=60, warmup=0) as run:
        while run.live().answered < 30:
            assert not run.poll(0.05)
        (sender,) = senders()
        sender.suspend()
        result = run.stop()
    assert not sender.is_running()
    assert result.records.reason == "stopped"
    assert result.summary.good >= 30


_SCRIPT = """
import serving_workbench as sw
print("began", flush=True)
result = sw.loadtest({address!r}, model="any", rate=200, seconds=60, progress=False)
print(result.complete, result.summary.good > 0, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_of_the_owner_leaves_no_child(how: signal.Signals) -> None:
    """L7: Ctrl-C keeps what there is; a kernel that is killed takes its child along."""
    with LoadStub() as stub:
        script = _SCRIPT.format(address=stub.address)
        owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "began\n"
        (sender,) = wait_until(lambda: senders(owner.pid), 60, "the sender")
        stub.wait_busy()
        owner.send_signal(how)
        said, _ = owner.communicate(timeout=60)
        wait_until(lambda: not sender.is_running(), 60, "the sender's end")
    if how is signal.SIGINT:
        assert owner.returncode == 0
        assert said == "False True\n"


# --- bad input ---


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there_is_told() -> None:
    address = f"127.0.0.1:{_free_port()}"
    for protocol in ("grpc", "rest"):
        with pytest.raises(sw.LoadError, match=address) as error:
            sw.loadtest(address, model="any", rate=1, protocol=protocol)
        assert error.value.code == "UNAVAILABLE"
    assert not senders()


def test_a_first_answer_that_is_an_error_ends_it_at_once() -> None:
    with LoadStub(fail_after=-1) as stub, pytest.raises(sw.LoadError, match="RESOURCE_EXHAUSTED: the stub has had"):
        sw.loadtest(stub.address, model="any", rate=10, progress=False)
    assert not senders()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs rate="),
        ({"rate": 1, "concurrency": 1}, "Give one of them"),
        ({"concurrency": 0}, "concurrency=0 is not a whole number"),
        ({"rate": 1, "seconds": -1}, "seconds=-1"),
        ({"rate": 1, "seconds": "10s"}, "seconds='10s' is not a number of seconds"),
        ({"rate": 1, "drain": "x"}, "drain='x'"),
        ({"rate": 1, "seed": -1}, "seed=-1"),
        ({"rate": 1, "max_backlog": -5}, "max_backlog=-5"),
        ({"rate": 1, "metadata": [("a",)]}, "no list of pairs of text"),
        ({"rate": 1, "data": "logs/no such.tfrecord"}, "is not there"),
        ({"rate": 1, "rows": 1.5}, "rows=1.5"),
        ({"rate": 1, "warmup": "long"}, "warmup='long'"),
        ({"rate": 1, "protocol": "http"}, "protocol='http'"),
        ({"rate": 1, "slo": "quick"}, "slo='quick'"),
        ({"rate": 1, "signature": "other"}, "no signature 'other'; its signatures are 'serving_default'"),
        ({"rate": 1, "data": np.zeros((0, 4), np.float32)}, "no rows to send"),
        ({"rate": 1, "data": np.zeros((2, 3), np.float32)}, "has shape [?, 4]; given [2, 3]"),
        ({"arrivals": "recorded"}, "no request log with times"),
        ({"rate": 1, "tls": "/nowhere.pem"}, "tls='/nowhere.pem' is no readable file"),
        ({"rate": 1, "model": None}, "no model of it is named"),
    ],
)
def test_bad_arguments_are_named(stub: LoadStub, arguments: dict, text: str) -> None:
    with pytest.raises(sw.WorkbenchError) as error:
        sw.loadtest(stub.address, **({"model": "any"} | arguments))
    assert text in str(error.value)


@pytest.fixture(scope="module")
def stub() -> Iterator[LoadStub]:
    with LoadStub() as found:
        assert found.process is not None
        leaks.allow(found.process.pid)
        yield found


def test_it_runs_beside_an_event_loop_and_in_a_thread(stub: LoadStub) -> None:
    found = []

    async def cell() -> None:  # a notebook's cell runs inside of a running loop
        found.append(sw.loadtest(stub.address, model="any", rate=100, seconds=0.3, progress=False))

    asyncio.run(cell())
    thread = threading.Thread(
        target=lambda: found.append(sw.loadtest(stub.address, model="any", rate=100, seconds=0.3, progress=False))
    )
    thread.start()
    thread.join(30)
    assert [result.complete for result in found] == [True, True]


def test_a_module_in_the_current_folder_does_not_shadow_ours(
    stub: LoadStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert sw.loadtest(stub.address, model="any", rate=50, seconds=0.2, progress=False).complete


def test_the_sender_starts_without_numpy() -> None:
    code = f"import {CHILD}, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"numpy", "scipy", "grpc", "google.protobuf", "tensorflow", "pandas"} & set(json.loads(done.stdout))
