"""Logged requests sent again: to the version that answered them, to another one, and what cannot be sent."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_workbench as sw
from serving_server.errors import DataLossError
from serving_server.tensors import to_proto
from serving_server.wire import tfrecord
from serving_server.wire.messages import (
    ClassificationResponse,
    MultiInferenceResponse,
    PredictionLog,
    RegressionResponse,
)
from serving_workbench.replaying import _Pace
from tests import leaks
from tests.examples import CLASSIFY, MULTI, REGRESS, example, multi_request, request
from tests.servers import ServerProcess, wait_until

TWO = (example(x=1.0), example(x=3.0))

_MODEL = """config {{
  name: "{name}" base_path: "{base}" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
  logging_config {{
    log_collector_config {{ filename_prefix: "{logs}/{name}" }} sampling_config {{ sampling_rate: 1 }}
  }}
}}"""


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that logs what 'half' (1: x / 2 + 2, 2: x / 2 + 3) and 'examples' answer."""
    directory = tmp_path_factory.mktemp("replay")
    (directory / "logs").mkdir()
    entries = [
        _MODEL.format(name=name, base=models_dir / folder, logs=directory / "logs")
        for name, folder in (("half", "half_plus_two"), ("examples", "examples"))
    ]
    config = directory / "models.config"
    config.write_text("model_config_list { " + " ".join(entries) + " }")
    with ServerProcess(f"--model_config_file={config}", directory=directory) as process:
        leaks.allow(process.pid)
        process.wait_available("half", 1, 2)
        process.wait_available("examples", 1)
        yield process


@pytest.fixture(scope="module")
def logs(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the server has logged: two files, with seven requests of all kinds."""
    for size in (1, 2, 3):
        server.predict("half", {"x": np.arange(size, dtype=np.float32)}, version=1)
    server.call(CLASSIFY, request(CLASSIFY, "examples", TWO, "classify", version=1), ClassificationResponse)
    server.call(REGRESS, request(REGRESS, "examples", TWO, "regress", version=1), RegressionResponse)
    asked = multi_request("examples", {"classify": "classify", "regress": "regress"}, TWO)
    for task in asked.tasks:
        task.model_spec.version.value = 1
    server.call(MULTI, asked, MultiInferenceResponse)
    body = {"signature_name": "regress", "examples": [{"x": 1.0}]}
    assert server.rest("POST", "/v1/models/examples/versions/1:regress", body)[0] == 200

    def written() -> list[bytes]:
        try:
            return [record for path in (server.directory / "logs").iterdir() for record in tfrecord.read(path)]
        except DataLossError:  # half a record is on the disk
            return []

    wait_until(lambda: len(written()) == 7, 60, "seven records on the disk")
    folder = tmp_path_factory.mktemp("logs")
    for path in (server.directory / "logs").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_same_version_answers_as_logged(server: ServerProcess, logs: Path) -> None:
    result = sw.replay(logs, server.grpc_endpoint, version=1)
    assert (result.answered, result.same, result.different) == (7, 7, 0), result
    assert result.ok
    assert not result.mismatches
    text = repr(result)
    assert text.startswith(f"7 requests replayed to {server.grpc_endpoint} in ")
    assert "  7 answered: 7 as logged, 0 differently, 0 not compared\n  milliseconds until the answer: p50 " in text
    methods = sorted(row.method for row in result.requests)
    assert methods == ["Classify", "MultiInference", "Predict", "Predict", "Predict", "Regress", "Regress"]
    assert 0 < (result.percentile(50) or 0) <= (result.percentile(100) or 0)
    frame = result.to_frame()
    assert frame.shape == (7, 8)
    assert set(frame.code) == {"OK"}


def test_another_version_s_answers_differ_by_this_much(server: ServerProcess, logs: Path) -> None:
    halves = sorted(logs.glob("half-*"))
    result = sw.replay(halves, server.grpc_endpoint, version=2, concurrency=1)
    assert (result.answered, result.different) == (3, 3)
    assert not result.ok
    worst = result.mismatches[1]
    assert (worst.record, worst.method, worst.model) == (f"record 2 of {halves[0].name}", "Predict", "half")
    assert (worst.output, worst.max_abs, worst.max_rel) == ("y", 1.0, 0.5)
    assert "at [0] it is np.float32(3.0), logged was np.float32(2.0); 2 of 2 values differ" in str(worst)
    assert f"differs: {worst}" in repr(result)
    # The serving version is 2: the default.
    assert sw.replay(halves, server.grpc_endpoint).different == 3
    assert sw.replay(halves, server.grpc_endpoint, tolerance=(0.6, 0)).same == 3
    unchecked = sw.replay(halves, server.grpc_endpoint, tolerance=None)
    assert (unchecked.same, unchecked.different, unchecked.ok) == (0, 0, True)
    assert "3 not compared" in repr(unchecked)


def test_errors_are_counted_by_code(server: ServerProcess, logs: Path) -> None:
    result = sw.replay(logs, server.grpc_endpoint, model="nobody", limit=5)
    assert (result.answered, dict(result.errors), result.ok) == (0, {"NOT_FOUND": 5}, False)
    assert "5 x NOT_FOUND, first record 1 of " in repr(result)
    assert {row.code for row in result.requests} == {"NOT_FOUND"}
    assert result.percentile(50) is None


def _edited(source: Path, target: Path, edit: Callable[[Any], None]) -> Path:
    """Copy a log with each of its messages changed."""
    data = b""
    for record in tfrecord.read(source):
        log = PredictionLog.FromString(record)
        edit(log)
        data += tfrecord.frame(log.SerializeToString())
    target.write_bytes(data)
    return target


def test_each_kind_of_answer_is_compared(server: ServerProcess, logs: Path, tmp_path: Path) -> None:
    def change(log: Any) -> None:
        if log.HasField("classify_log"):
            log.classify_log.response.result.classifications[1].classes[0].label = "other"
        elif log.HasField("regress_log"):
            log.regress_log.response.result.regressions.add(value=7)
        elif log.HasField("multi_inference_log"):
            log.multi_inference_log.response.results[1].regression_result.regressions[0].value += 0.25

    (source,) = logs.glob("examples-*")
    edited = _edited(source, tmp_path / "edited", change)
    result = sw.replay(edited, server.grpc_endpoint, version=1, concurrency=1)
    assert (result.different, result.same) == (4, 0)
    found = [(mismatch.output, mismatch.max_abs) for mismatch in result.mismatches]
    assert found == [("classes", None), ("outputs", None), ("1.outputs", 0.25), ("outputs", None)]
    assert result.mismatches[1].detail == "is float32 [2], logged was float32 [3]"


def test_what_cannot_be_read_is_told_and_the_rest_is_sent(server: ServerProcess, logs: Path, tmp_path: Path) -> None:
    (source,) = logs.glob("half-*")
    streamed = PredictionLog()
    streamed.predict_streamed_log.SetInParent()
    cut = tmp_path / "cut"
    good = source.read_bytes()
    cut.write_bytes(
        tfrecord.frame(streamed.SerializeToString()) + tfrecord.frame(b"") + tfrecord.frame(b"\xff") + good[:-1]
    )
    result = sw.replay([cut, source], server.grpc_endpoint, version=1)
    assert result.same == 2 + 3
    assert not result.ok
    first, second, third, last = result.unreadable
    assert first == f"record 1 of {cut}: a predict_streamed_log cannot be sent again"
    assert second == f"record 2 of {cut}: a record without a request cannot be sent again"
    assert third.startswith(f"record 3 of {cut} is no PredictionLog")
    assert last.startswith(f"{cut} after record 5: truncated record at ")
    assert f"not read: {first}" in repr(result)


def test_a_warmup_file_has_no_answers_to_compare_with(server: ServerProcess, tmp_path: Path) -> None:
    log = PredictionLog()
    log.predict_log.request.model_spec.name = "half"
    log.predict_log.request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    path = tmp_path / "warmup"
    path.write_bytes(tfrecord.frame(log.SerializeToString()) * 3)
    result = sw.replay(path, server.grpc_endpoint, speed=1)
    assert (result.answered, result.same, result.different, result.ok) == (3, 0, 0, True)


def test_the_recorded_pace(server: ServerProcess, logs: Path, tmp_path: Path) -> None:
    (source,) = logs.glob("half-*")
    seconds = iter([100, 100, 102])

    def retime(log: Any) -> None:
        log.log_metadata.timestamp_secs = next(seconds)

    path = _edited(source, tmp_path / "timed", retime)
    pace = _Pace([path], 2.0)
    assert [pace.due(second) for second in (100, 100, 102)] == [0.0, 0.25, 1.0]
    result = sw.replay(path, server.grpc_endpoint, version=1, speed=20)
    assert result.same == 3
    assert result.seconds >= 2 / 20


def test_wrong_arguments_are_told_before_anything_is_sent(server: ServerProcess, logs: Path, tmp_path: Path) -> None:
    endpoint = server.grpc_endpoint
    with pytest.raises(sw.WorkbenchError, match=r"The request log '.*nothing' is not there\."):
        sw.replay([logs, tmp_path / "nothing"], endpoint)
    with pytest.raises(sw.WorkbenchError, match=r"has no \*\.tfrecord files"):
        sw.replay(tmp_path, endpoint)
    with pytest.raises(sw.WorkbenchError, match="There is no request log to read"):
        sw.replay([], endpoint)
    for wrong in ({"concurrency": 0}, {"limit": 1.5}, {"speed": 0}, {"tolerance": "x"}):
        (name,) = wrong
        with pytest.raises(sw.WorkbenchError, match=f"^{name}="):
            sw.replay(logs, endpoint, **wrong)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(sw.PredictError, match=f"No server answered at {address} within 0.3 s"):
            sw.replay(logs, address, timeout=0.3)


def test_pandas_is_imported_for_a_table_only() -> None:
    code = "import sys, serving_workbench as sw; sw.replay; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
