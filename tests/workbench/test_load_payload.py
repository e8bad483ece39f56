"""Requests of a load test, encoded before the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import serving_workbench as sw
from serving_server.signatures import Signature, TensorSpec
from serving_server.tensors import by_enum, to_array, to_proto
from serving_server.wire import tfrecord
from serving_server.wire.messages import PredictionLog, PredictRequest
from serving_workbench.load import payload
from serving_workbench.load.target import Target
from tests.servers import SharedServer

FLOAT, STRING, HALF = by_enum(1), by_enum(7), by_enum(19)
GRPC = Target("grpc", "127.0.0.1:1", "digits", None, None)
REST = dataclasses.replace(GRPC, protocol="rest", version=3)


def signature(name: str = "serving_default", **inputs: tuple) -> Signature:
    specs = {key: TensorSpec(key, f"{key}:0", dtype, shape) for key, (dtype, shape) in inputs.items()}
    return Signature(name, "tensorflow/serving/predict", specs, {"y": TensorSpec("y", "y:0", FLOAT, (-1,))}, {})


ONE = signature(x=(FLOAT, (-1, 2)))
TWO = signature("other", a=(FLOAT, (-1,)), s=(STRING, (-1, 1)))


def rows_of(made: payload.Payload, key: str = "x") -> list:
    return [to_array(PredictRequest.FromString(body).inputs[key]).tolist() for _, body in made.requests]


def test_rows_become_requests() -> None:
    made = payload.from_data(GRPC, ONE, np.arange(10).reshape(5, 2), 2)
    assert rows_of(made) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]  # the odd row is left out: all have two
    assert made.rows == 2
    assert made.what == f"5 rows of data, 2 requests of {len(made.requests[0][1])} B"
    assert {path for path, _ in made.requests} == {"/tensorflow.serving.PredictionService/Predict"}
    request = PredictRequest.FromString(made.requests[0][1])
    assert (request.model_spec.name, request.model_spec.signature_name) == ("digits", "")
    assert not request.model_spec.HasField("version")
    fewer = payload.from_data(GRPC, ONE, np.zeros((3, 2)), 8)
    assert (len(fewer.requests), fewer.rows) == (1, 3)


def test_frames_and_versions() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "s": ["x", "y"]})
    made = payload.from_data(dataclasses.replace(GRPC, version=7), TWO, frame, 1)
    request = PredictRequest.FromString(made.requests[1][1])
    assert (request.model_spec.version.value, request.model_spec.signature_name) == (7, "other")
    assert to_array(request.inputs["s"]).tolist() == [[b"y"]]


def test_json_of_rest() -> None:
    made = payload.from_data(REST, ONE, np.arange(4).reshape(2, 2), 2)
    assert made.requests[0][0] == "/v1/models/digits/versions/3:predict"
    assert json.loads(made.requests[0][1]) == {"instances": [[0, 1], [2, 3]]}
    frame = pd.DataFrame({"a": [1.0, 2.0], "s": ["x", "y"]})
    assert json.loads(payload.from_data(REST, TWO, frame, 2).requests[0][1]) == {
        "signature_name": "other",
        "instances": [{"a": 1.0, "s": [{"b64": "eA=="}]}, {"a": 2.0, "s": [{"b64": "eQ=="}]}],
    }
    scalar = signature(x=(FLOAT, ()))
    assert json.loads(payload.from_data(REST, scalar, 2.5, 1).requests[0][1]) == {"inputs": 2.5}
    half = signature(x=(HALF, (-1,)))
    assert json.loads(payload.from_data(REST, half, np.float16([0.5]), 1).requests[0][1]) == {"instances": [0.5]}
    with pytest.raises(sw.WorkbenchError, match="NaN or an infinity"):
        payload.from_data(REST, ONE, np.float32([[np.nan, 1]]), 1)


def test_a_signature_alone_is_enough() -> None:
    made = payload.from_signature(GRPC, ONE, 4)
    assert len(made.requests) == 32
    shapes = {np.shape(rows) for rows in rows_of(made)}
    assert shapes == {(4, 2)}
    assert len({body for _, body in made.requests}) == 32
    fixed = payload.from_signature(GRPC, signature(x=(FLOAT, (3,))), 4)
    assert np.isnan(fixed.rows)
    assert np.shape(rows_of(fixed)) == (1, 3)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": [1.0, 2.0], "s": [["x"]]}, "different numbers of rows: 'a' 2, 's' 1"),
        ({"a": [1.0]}, "Input is missing for signature 'other'"),
        ({"a": [], "s": np.zeros((0, 1), dtype=object)}, "no rows to send"),
    ],
)
def test_data_that_do_not_fit(data: dict, text: str) -> None:
    with pytest.raises(sw.WorkbenchError) as error:
        payload.from_data(GRPC, TWO, data, 1)
    assert text in str(error.value)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Four recorded requests in three seconds."""
    path = tmp_path / "requests.tfrecord"
    with path.open("wb") as file:
        for second, value in ((100, 1.0), (102, 2.0), (102, 3.0), (103, 4.0)):
            record = PredictionLog()
            record.log_metadata.timestamp_secs = second
            request = record.predict_log.request
            request.model_spec.name = "recorded"
            request.inputs["x"].CopyFrom(to_proto(np.float32([value])))
            file.write(tfrecord.frame(record.SerializeToString()))
    return path


def test_recorded_requests_are_sent_to_this_model(log: Path) -> None:
    made = payload.from_logs(dataclasses.replace(GRPC, version=2), log)
    assert rows_of(made) == [[1], [2], [3], [4]]
    assert made.times is not None
    assert made.times.tolist() == [100, 102, 102.5, 103]
    spec = PredictRequest.FromString(made.requests[0][1]).model_spec
    assert (spec.name, spec.version.value) == ("digits", 2)
    assert made.what == "4 recorded requests of requests.tfrecord"
    with pytest.raises(sw.WorkbenchError, match="cannot be sent over REST"):
        payload.from_logs(REST, log)
    empty = log.with_name("empty.tfrecord")
    empty.write_bytes(b"")
    with pytest.raises(sw.WorkbenchError, match="no requests in empty"):
        payload.from_logs(GRPC, empty)


def test_recorded_requests_come_as_they_came(shared_server: SharedServer, log: Path) -> None:
    result = sw.loadtest(
        shared_server.grpc_endpoint,
        model="half_plus_two",
        data=log,
        arrivals="recorded",
        seconds=2.9,
        progress=False,
    )
    assert result.setup.arrivals == "replay"
    assert result.records.scheduled.tolist() == [0, 2, 2.5]
    assert result.summary.statuses == {"OK": 3}
