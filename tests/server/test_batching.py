"""Batching with TensorFlow Serving's parameters, seen from outside: what is put together, padded, refused, changed."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest

from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictRequest
from tests.servers import TRANSPORTS, ServerProcess, wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"
FAR = 20_000_000  # a timeout in us that no test waits for: a batch that runs before it ran for another reason


@pytest.fixture(scope="module", params=TRANSPORTS)
def batching_server(
    request: pytest.FixtureRequest, models_dir: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    from tests import leaks

    flags = ("--enable_batching", f"--grpc_transport={request.param}")
    with ServerProcess(*flags, directory=tmp_path_factory.mktemp("batching")) as server:
        leaks.allow(server.pid)
        for name in ("half_plus_two", "multi", "no_batch_dim", "bad_output_batch", "fails", "variable_length", "slow"):
            server.put_model(name, models_dir / name, batching={})
        for name in ("half_plus_two", "multi", "no_batch_dim", "bad_output_batch", "fails", "variable_length", "slow"):
            server.wait_available(name)
        yield server


def _set(server: ServerProcess, model: str, **parameters: Any) -> dict[str, Any]:
    defaults = {
        "max_batch_size": 8,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 100,
        "num_batch_threads": 1,
        "allowed_batch_sizes": [],
        "pad_variable_length_inputs": False,
    }
    status, answer = server.control("PATCH", f"/models/{model}/batching", {**defaults, **parameters})
    assert status == 200, answer
    result: dict[str, Any] = answer
    return result


def _sizes(server: ServerProcess, model: str) -> dict[str, int]:
    _, answer = server.control("GET", "/statistics")
    (version,) = answer["models"][model].values()
    sizes: dict[str, int] = version["batches"]["sizes"]
    return sizes


def _new_sizes(server: ServerProcess, model: str, act: Callable[[], Any]) -> tuple[dict[int, int], Any]:
    before = _sizes(server, model)
    result = act()
    after = _sizes(server, model)
    return {int(k): n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)}, result


def _together(server: ServerProcess, model: str, requests: list[dict[str, Any]]) -> list[Any]:
    """Send requests at the same time; return each one's outputs or its error."""

    def one(inputs: dict[str, Any]) -> Any:
        try:
            return server.predict(model, inputs)
        except grpc.RpcError as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


def _x(*values: float) -> dict[str, Any]:
    return {"x": np.float32(values)}


def test_requests_fill_a_batch_and_each_gets_its_rows(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=6, batch_timeout_micros=FAR)
    requests = [_x(1), _x(2, 3), _x(4, 5, 6)]
    sizes, answers = _new_sizes(
        batching_server, "half_plus_two", lambda: _together(batching_server, "half_plus_two", requests)
    )
    assert [answer["y"].tolist() for answer in answers] == [[3.5], [4.0, 4.5], [5.0, 5.5, 6.0]]
    assert sizes == {6: 1}


def test_a_batch_that_does_not_fill_runs_at_the_timeout(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=1000, batch_timeout_micros=50_000)
    sizes, answers = _new_sizes(
        batching_server, "half_plus_two", lambda: _together(batching_server, "half_plus_two", [_x(1), _x(2)])
    )
    assert [answer["y"].tolist() for answer in answers] == [[3.5], [4.0]]
    assert sum(size * count for size, count in sizes.items()) == 2


def test_a_request_that_does_not_fit_closes_the_open_batch(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=4, batch_timeout_micros=FAR)
    requests = [_x(1, 2, 3), _x(4, 5, 6), _x(7)]
    sizes, answers = _new_sizes(
        batching_server, "half_plus_two", lambda: _together(batching_server, "half_plus_two", requests)
    )
    assert sorted(len(answer["y"]) for answer in answers) == [1, 3, 3]
    assert sizes == {3: 1, 4: 1}


def test_batches_are_padded_to_an_allowed_size_and_the_padding_cut(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=8, allowed_batch_sizes=[4, 8])
    _, before = batching_server.control("GET", "/statistics")
    outputs = batching_server.predict("half_plus_two", _x(1, 2, 3))
    _, after = batching_server.control("GET", "/statistics")
    assert outputs["y"].tolist() == [3.5, 4.0, 4.5]
    rows = [next(iter(s["models"]["half_plus_two"].values()))["batches"]["padding_rows"] for s in (before, after)]
    assert rows[1] - rows[0] == 1


def test_strings_are_batched_and_padded_too(batching_server: ServerProcess) -> None:
    _set(batching_server, "multi", max_batch_size=4, batch_timeout_micros=20_000, allowed_batch_sizes=[4])
    request = {"left": np.array([b"x\0", b"yy"], dtype=object), "right": np.array([b"1", b""], dtype=object)}

    def call(_: int) -> Any:
        return batching_server.predict("multi", request, signature="join")

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(call, range(2)))
    for answer in answers:
        assert answer["joined"].tolist() == [b"x\x001", b"yy"]
        assert answer["length"].tolist() == [3, 2]


def test_rows_of_different_length_are_padded_when_asked_for(batching_server: ServerProcess) -> None:
    _set(
        batching_server,
        "variable_length",
        max_batch_size=3,
        batch_timeout_micros=FAR,
        pad_variable_length_inputs=True,
    )
    requests = [{"x": np.float32([[0, 1]])}, {"x": np.float32([[0, 1, 2, 3]])}, {"x": np.float32([[0]])}]
    sizes, answers = _new_sizes(
        batching_server, "variable_length", lambda: _together(batching_server, "variable_length", requests)
    )
    assert sizes == {3: 1}
    assert [answer["total"].tolist() for answer in answers] == [[1.0], [6.0], [0.0]]


def test_without_padding_other_shapes_get_batches_of_their_own(batching_server: ServerProcess) -> None:
    _set(batching_server, "variable_length", max_batch_size=2, batch_timeout_micros=FAR)
    requests = [{"x": np.float32([[1, 1]])}, {"x": np.float32([[1, 1, 1]])}] * 2
    sizes, answers = _new_sizes(
        batching_server, "variable_length", lambda: _together(batching_server, "variable_length", requests)
    )
    assert sizes == {2: 2}
    assert [answer["total"].tolist() for answer in answers] == [[2.0], [3.0]] * 2


def test_one_bad_request_does_not_spoil_its_batch(batching_server: ServerProcess) -> None:
    _set(batching_server, "fails", max_batch_size=3, batch_timeout_micros=FAR)
    answers = _together(batching_server, "fails", [_x(1), _x(13), _x(2)])
    assert isinstance(answers[1], grpc.RpcError)
    assert "input 13 is not allowed" in str(answers[1])
    (first,), (third,) = answers[0].values(), answers[2].values()
    assert (first.tolist(), third.tolist()) == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("model", "inputs", "signature", "text", "hint"),
    [
        (
            "no_batch_dim",
            {"x": np.float32(1)},
            "",
            "Batching Run() input tensors must have at least one dimension",
            'input "x"',
        ),
        (
            "half_plus_two",
            {"x": np.zeros(9, np.float32)},
            "",
            "Task size 9 is larger than maximum input batch size 8",
            "",
        ),
        (
            "multi",
            {"a": np.zeros((1, 2), np.float32), "b": np.zeros((2, 2), np.float32)},
            "",
            "Batching Run() input tensors must have equal 0th-dimension size",
            'input "b" has 2',
        ),
        ("no_batch_dim", {"x": np.float32([1])}, "total", "Batched output tensor has 0 dimensions", 'output "total"'),
        (
            "bad_output_batch",
            {"x": np.zeros((3, 4), np.float32)},
            "",
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input",
            'output "y" has 4, the inputs 3',
        ),
    ],
)
def test_what_cannot_be_batched_is_refused_and_named(
    batching_server: ServerProcess, model: str, inputs: Any, signature: str, text: str, hint: str
) -> None:
    _set(batching_server, model)
    with pytest.raises(grpc.RpcError) as caught:
        batching_server.predict(model, inputs, signature=signature)
    error: Any = caught.value
    assert error.details().startswith(text)
    assert hint in error.details()


def test_a_full_queue_refuses_with_unavailable(batching_server: ServerProcess) -> None:
    _set(batching_server, "slow", max_batch_size=1, max_enqueued_batches=1)
    request = {"x": np.float32([1]), "steps": np.int32([300])}
    answers = _together(batching_server, "slow", [request] * 8)
    errors = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
    assert errors
    for error in errors:
        failed: Any = error
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert failed.details() == (
            "The batch scheduling queue to which this task was submitted is full; currently 1 batches enqueued and "
            "max_enqueued_batches is 1"
        )
    assert len(errors) < len(answers)


def test_a_request_that_waits_past_its_deadline_is_dropped_from_the_queue(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=2, batch_timeout_micros=FAR)
    with pytest.raises(grpc.RpcError):
        batching_server.predict("half_plus_two", _x(100), timeout=0.05)

    def nothing_waits() -> bool:
        _, answer = batching_server.control("GET", "/statistics")
        (version,) = answer["models"]["half_plus_two"].values()
        return bool(version["queued"] == 0)

    wait_until(nothing_waits, 60, "the expired request to leave the queue")
    sizes, answers = _new_sizes(
        batching_server,
        "half_plus_two",
        lambda: _together(batching_server, "half_plus_two", [_x(1), _x(2)]),
    )
    assert [answer["y"].tolist() for answer in answers] == [[3.5], [4.0]]
    assert sizes == {2: 1}


def _queued(server: ServerProcess, model: str) -> int:
    _, answer = server.control("GET", "/statistics")
    (version,) = answer["models"][model].values()
    return int(version["queued"])


def test_who_gives_up_leaves_the_queue(batching_server: ServerProcess) -> None:
    """By a cancelled call and by a REST connection that is closed; what is left makes the batch, alone."""
    _set(batching_server, "half_plus_two", max_batch_size=3, batch_timeout_micros=FAR)
    request = PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].CopyFrom(to_proto(np.float32([100])))
    call = batching_server.channel().unary_unary(PREDICT).future(request.SerializeToString())
    address = urlsplit(batching_server.rest_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    connection.request("POST", "/v1/models/half_plus_two:predict", b'{"instances": [200]}')
    wait_until(lambda: _queued(batching_server, "half_plus_two") == 2, 60, "both to wait")
    call.cancel()
    wait_until(lambda: _queued(batching_server, "half_plus_two") == 1, 60, "the cancelled call to leave the queue")
    connection.close()
    wait_until(lambda: _queued(batching_server, "half_plus_two") == 0, 60, "the closed connection's to leave it too")
    sizes, answers = _new_sizes(
        batching_server,
        "half_plus_two",
        lambda: _together(batching_server, "half_plus_two", [_x(1), _x(2), _x(3)]),
    )
    assert [answer["y"].tolist() for answer in answers] == [[3.5], [4.0], [4.5]]
    assert sizes == {3: 1}


def test_parameters_that_change_while_a_version_loads_are_its_own(
    batching_server: ServerProcess, models_dir: Any
) -> None:
    # A load may be over before the change comes; then it is tried again.
    for number in range(10):
        name = f"loading_{number}"
        batching_server.put_model(name, models_dir / "mlp", batching={"max_batch_size": 8})
        status, _ = batching_server.control("PATCH", f"/models/{name}/batching", {"max_batch_size": 2})
        assert status == 200
        was_loading = {version["state"] for version in batching_server.versions(name).values()} == {"LOADING"}
        if was_loading:
            break
        assert batching_server.control("DELETE", f"/models/{name}")[0] == 204
    assert was_loading
    batching_server.wait_available(name)
    (alias,) = batching_server.rest("GET", f"/v1/models/{name}/metadata")[1]["metadata"]["signature_def"][
        "signature_def"
    ]["serving_default"]["inputs"]
    with pytest.raises(grpc.RpcError, match="Task size 3 is larger than maximum input batch size 2"):
        batching_server.predict(name, {alias: np.zeros((3, 784), np.float32)})
    assert batching_server.control("DELETE", f"/models/{name}")[0] == 204


def test_more_batch_threads_than_a_worker_can_have_are_taken(batching_server: ServerProcess, models_dir: Any) -> None:
    """As on a machine of a hundred processors: at the load, and while requests run."""
    batching_server.put_model("many_threads", models_dir / "half_plus_two", batching={"num_batch_threads": 200})
    batching_server.wait_available("many_threads")
    _set(batching_server, "half_plus_two", num_batch_threads=1000, batch_timeout_micros=1000)
    for model in ("many_threads", "half_plus_two"):
        # More at once than there were lanes before: one that the worker does not know would never answer.
        answers = _together(batching_server, model, [_x(float(value)) for value in range(16)])
        assert [answer["y"].tolist() for answer in answers] == [[value * 0.5 + 3] for value in range(16)]
    assert batching_server.control("DELETE", "/models/many_threads")[0] == 204


def test_parameters_change_while_requests_run(batching_server: ServerProcess) -> None:
    _set(batching_server, "half_plus_two", max_batch_size=64, batch_timeout_micros=1000)
    failures: list[Any] = []
    answers = 0
    done = False

    def ask(seed: int) -> None:
        nonlocal answers
        value = float(seed)
        while not done:
            got = batching_server.predict("half_plus_two", _x(value))["y"].tolist()
            answers += 1
            if got != [value * 0.5 + 3]:
                failures.append(got)
            value += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, 100 * seed) for seed in range(4)]
        try:
            for round_ in range(60):
                _set(
                    batching_server,
                    "half_plus_two",
                    max_batch_size=1 + round_ % 7,
                    batch_timeout_micros=100 * (round_ % 5),
                    num_batch_threads=1 + round_ % 6,
                )
                if round_ % 10 == 9:
                    assert batching_server.control("PATCH", "/models/half_plus_two/batching", b"null") == (200, None)
                    assert batching_server.control("GET", "/models/half_plus_two/batching") == (200, None)
            seen = answers
            wait_until(lambda: answers > seen, 60, "requests to go on")
        finally:
            done = True
        for future in asking:
            future.result(60)
    assert not failures


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be an integer of at least 1; was 0"),
        ({"max_batch_size": "8"}, "max_batch_size must be an integer of at least 1; was '8'"),
        ({"allowed_batch_sizes": [2, 4]}, "last entry was 4; expected 8"),
        ({"allowed_batch_sizes": [8, 4]}, "increasing order"),
        ({"batch_size": 8}, "unknown batching parameter 'batch_size'"),
        ([1], "must be an object"),
    ],
)
def test_bad_parameters_are_refused_and_change_nothing(batching_server: ServerProcess, change: Any, text: str) -> None:
    before = _set(batching_server, "half_plus_two")
    status, answer = batching_server.control("PATCH", "/models/half_plus_two/batching", change)
    assert status == 400
    assert text in answer["error"]
    assert batching_server.control("GET", "/models/half_plus_two/batching") == (200, before)


def test_a_request_larger_than_a_batch_is_split_and_joined_when_asked_for(batching_server: ServerProcess) -> None:
    _set(
        batching_server,
        "half_plus_two",
        max_batch_size=20,
        enable_large_batch_splitting=True,
        max_execution_batch_size=4,
        batch_timeout_micros=0,
    )
    values = [float(v) for v in range(18)]
    sizes, outputs = _new_sizes(
        batching_server, "half_plus_two", lambda: batching_server.predict("half_plus_two", _x(*values))
    )
    assert outputs["y"].tolist() == [value * 0.5 + 3 for value in values]
    assert sizes == {4: 4, 2: 1}
    with pytest.raises(grpc.RpcError, match="Task size 21 is larger than maximum input batch size 20"):
        batching_server.predict("half_plus_two", {"x": np.zeros(21, np.float32)})
    _set(batching_server, "half_plus_two", enable_large_batch_splitting=False, max_execution_batch_size=None)


def test_an_error_in_one_piece_of_a_split_request_fails_it_once(batching_server: ServerProcess) -> None:
    split = {"enable_large_batch_splitting": True, "max_execution_batch_size": 2}
    _set(batching_server, "fails", max_batch_size=20, **split)
    answers = _together(batching_server, "fails", [_x(1, 2, 3, 13, 5, 6), _x(7, 8, 9)])
    assert isinstance(answers[0], grpc.RpcError)
    assert "input 13 is not allowed" in str(answers[0])
    assert next(iter(answers[1].values())).tolist() == [7.0, 8.0, 9.0]
    _set(batching_server, "fails", enable_large_batch_splitting=False, max_execution_batch_size=None)


def test_an_idle_version_need_not_wait_for_the_timeout(batching_server: ServerProcess) -> None:
    """With a timeout longer than the client's deadline, an answer shows that it was not waited for."""
    _set(batching_server, "half_plus_two", batch_timeout_micros=60_000_000, skip_timeout_when_idle=True)
    assert batching_server.predict("half_plus_two", _x(1), timeout=5)["y"].tolist() == [3.5]
    _set(batching_server, "half_plus_two", skip_timeout_when_idle=False)


def test_a_busy_version_may_gather_rows_before_a_second_thread_runs(batching_server: ServerProcess) -> None:
    """Requests that come during a run wait for its end and share the next batch, although a thread is free."""
    _set(batching_server, "slow", max_batch_size=100, num_batch_threads=2, gather_when_busy_micros=60_000_000)

    def ask(value: float, steps: int) -> Any:
        inputs = {"x": np.float32([value]), "steps": np.int32([steps])}
        return batching_server.predict("slow", inputs, timeout=50)["y"].tolist()

    def is_running() -> bool:
        (version,) = batching_server.control("GET", "/statistics")[1]["models"]["slow"].values()
        return bool(version["running"] == 1)

    def act() -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(ask, 1, 4000)
            wait_until(is_running)
            rest = [pool.submit(ask, value, 1) for value in (2, 3, 4)]
            return [future.result() for future in (first, *rest)]

    sizes, answers = _new_sizes(batching_server, "slow", act)
    assert answers == [[1.0], [2.0], [3.0], [4.0]]
    assert sizes == {1: 1, 3: 1}
    _set(batching_server, "slow", gather_when_busy_micros=0)
