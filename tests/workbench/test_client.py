"""Predictions against a real server: every dtype, versions, signatures, DataFrames, errors."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pandas as pd
import pytest

from serving_server.tensors import DTYPES
from serving_workbench.client import PredictClient, decode_text
from serving_workbench.errors import PredictError
from tests.servers import SharedServer


@pytest.fixture
def client(shared_server: SharedServer) -> Iterator[PredictClient]:
    with PredictClient(shared_server.grpc_endpoint) as client:
        yield client


def test_a_single_input_and_output_need_no_names(client: PredictClient) -> None:
    answer = client.predict("half_plus_two", [1, 2], version=1)
    assert answer.dtype == np.float32
    assert answer.tolist() == [2.5, 3.0]
    answer += 1  # users own what they get


def test_versions(client: PredictClient) -> None:
    assert client.predict("half_plus_two", [2.0], version=2).tolist() == [4.0]
    assert client.predict("half_plus_two", [2.0]).tolist() == [4.0]


@pytest.mark.parametrize("dtype", [dtype.numpy for dtype in DTYPES if not dtype.is_string], ids=str)
def test_every_dtype_comes_back_as_it_went(
    client: PredictClient, shared_server: SharedServer, dtype: np.dtype[np.generic]
) -> None:
    names = {"float16": "half", "bool": "bool"}
    signature = names.get(dtype.name, dtype.name)
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    answer = client.predict(shared_server.serve("echo_all_dtypes"), x, signature=signature)
    assert answer.dtype == dtype
    np.testing.assert_array_equal(answer, x)


def test_text_and_bytes(client: PredictClient, shared_server: SharedServer) -> None:
    name = shared_server.serve("echo_all_dtypes")
    assert client.predict(name, ["ä", "b"], signature="string").tolist() == ["ä", "b"]
    assert client.predict(name, ["ä"], signature="string", raw_strings=True).tolist() == ["ä".encode()]
    # One element that is no text keeps all as bytes: an array never mixes the two.
    assert client.predict(name, [b"\xff", "b"], signature="string").tolist() == [b"\xff", b"b"]
    assert decode_text(np.float32([1])).dtype == np.float32


def test_several_inputs_and_outputs(client: PredictClient, shared_server: SharedServer) -> None:
    name = shared_server.serve("multi")
    answer = client.predict(name, {"a": [1, 2], "b": [3, 4]})
    assert {key: array.tolist() for key, array in answer.items()} == {"sum": [4, 6], "diff": [-2, -2]}
    answer = client.predict(name, {"left": ["a"], "right": ["b"]}, signature="join")
    assert answer["joined"].tolist() == ["ab"]
    assert answer["length"].dtype == np.int32


def test_dataframes_in_and_out(client: PredictClient, shared_server: SharedServer) -> None:
    frame = pd.DataFrame({"b": [3, 4], "a": [1.0, 2.0]}, index=["p", "q"])
    answer = client.predict(shared_server.serve("multi"), frame)
    pd.testing.assert_frame_equal(
        answer, pd.DataFrame({"diff": np.float32([-2, -2]), "sum": np.float32([4, 6])}, index=["p", "q"])
    )
    pixels = pd.DataFrame(np.zeros((3, 64)))
    answer = client.predict(shared_server.serve("digits"), pixels)
    assert list(answer.columns) == [f"output_0_{i}" for i in range(10)]
    assert len(answer) == 3


def test_defaults_of_the_model_are_used(client: PredictClient, shared_server: SharedServer) -> None:
    name = shared_server.serve("with_default")
    assert client.predict(name, [1.0]).tolist() == [6.0]
    assert client.predict(name, {"x": [1.0], "bias": 1}).tolist() == [2.0]


def test_no_batch_dimension(client: PredictClient, shared_server: SharedServer) -> None:
    name = shared_server.serve("no_batch_dim")
    assert client.predict(name, 1.5).shape == ()
    assert client.predict(name, np.zeros((2, 3)), signature="transpose").shape == (3, 2)


def test_messages_over_the_default_limit_of_grpc(client: PredictClient, shared_server: SharedServer) -> None:
    x = np.arange(2_000_000, dtype=np.float64)
    answer = client.predict(shared_server.serve("echo_all_dtypes"), x, signature="float64", timeout=60)
    np.testing.assert_array_equal(answer, x)


def test_bfloat16_arrays(client: PredictClient, shared_server: SharedServer) -> None:
    answer = client.predict(shared_server.serve("echo_all_dtypes"), [1.5], signature="bfloat16")
    assert answer.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("model", "x", "options", "code", "says"),
    [
        ("nowhere", [1.0], {}, "NOT_FOUND", "nowhere"),
        ("half_plus_two", [1.0], {"version": 9}, "NOT_FOUND", "9"),
        ("half_plus_two", [1.0], {"signature": "f"}, "INVALID_ARGUMENT", "no signature 'f'; its signatures are 'serv"),
        ("half_plus_two", {"z": [1.0]}, {}, "INVALID_ARGUMENT", "no input 'z'; its inputs are 'x'"),
        ("half_plus_two", ["a"], {}, "INVALID_ARGUMENT", "takes float; given text"),
        ("half_plus_two", [[1.0]], {}, "INVALID_ARGUMENT", r"has shape \[\?\]; given \[1, 1\]"),
        ("half_plus_two", {}, {}, "INVALID_ARGUMENT", "missing"),
    ],
)
def test_bad_requests_name_the_thing(
    client: PredictClient, model: str, x: object, options: dict[str, object], code: str, says: str
) -> None:
    with pytest.raises(PredictError, match=says) as caught:
        client.predict(model, x, **options)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_an_error_in_the_graph(client: PredictClient, shared_server: SharedServer) -> None:
    with pytest.raises(PredictError, match="input 13 is not allowed") as caught:
        client.predict(shared_server.serve("fails"), [13.0])
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_deadline(client: PredictClient, shared_server: SharedServer) -> None:
    name = shared_server.serve("slow")
    client.signatures(name)
    with pytest.raises(PredictError, match=r"longer timeout=") as caught:
        client.predict(name, {"x": [1.0], "steps": [2000]}, timeout=0.05)
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_nobody_listens() -> None:
    with PredictClient("127.0.0.1:9") as client, pytest.raises(PredictError, match="No server listens") as caught:
        client.predict("m", [1.0])
    assert caught.value.code == "UNAVAILABLE"


def test_a_remembered_signature_is_asked_for_anew_when_it_no_longer_fits(
    client: PredictClient, shared_server: SharedServer
) -> None:
    # As if another process had deployed a version with other inputs since.
    name = shared_server.serve("multi")
    client._signatures[name, None] = client.signatures("half_plus_two")
    assert set(client.predict(name, {"a": [1.0], "b": [1.0]})) == {"sum", "diff"}
    client.forget(name)
    assert (name, None) not in client._signatures
