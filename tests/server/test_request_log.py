"""Request logs: what is written, that TensorFlow reads it, that it warms a version up, and what a bad disk costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.errors import DataLossError, InvalidArgumentError
from serving_server.request_log.record import Kind, Record
from serving_server.request_log.registry import RequestLogs
from serving_server.request_log.request_logger import check
from serving_server.request_log.writer import RotatingWriter
from serving_server.tensors import to_array
from serving_server.wire import messages
from serving_server.wire.messages import LoggingConfig, PredictionLog
from serving_server.wire.tfrecord import frame, read
from tests.examples import CLASSIFY, MULTI, REGRESS, example, multi_request, request
from tests.servers import ServerProcess, wait_until

_CONFIG = """model_config_list {{ config {{
  name: "m" base_path: "{base}" model_platform: "tensorflow"
  logging_config {{
    log_collector_config {{ type: "file" filename_prefix: "{prefix}" }}
    sampling_config {{ sampling_rate: {rate} }}
  }}
}} }}"""


def _start(server: Any, tmp_path: Path, base: Path, rate: float = 1.0) -> tuple[ServerProcess, Path]:
    logs = tmp_path / "logs"
    logs.mkdir()
    config = tmp_path / "models.pbtxt"
    config.write_text(_CONFIG.format(base=base, prefix=logs / "requests", rate=rate))
    running: ServerProcess = server(f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1")
    running.wait_available("m")
    return running, logs


def _records(logs: Path) -> list[Any]:
    found = []
    for path in sorted(logs.iterdir()):
        found += [PredictionLog.FromString(record) for record in read(path)]
    return found


def test_requests_of_both_protocols_are_logged_and_warm_the_next_version_up(
    server: Any, model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    base = model_copy("half_plus_two").parent
    running, logs = _start(server, tmp_path, base)
    assert running.predict("m", {"x": np.float32([1, 2])})["y"].tolist() == [2.5, 3.0]
    assert running.rest("POST", "/v1/models/m:predict", {"instances": [4.0]})[0] == 200
    assert running.rest("POST", "/v1/models/m:predict", {"instances": ["no number"]})[0] == 400
    wait_until(lambda: len(_complete(logs)) == 2, 60, "two records on the disk")

    first, second = _records(logs)
    assert to_array(first.predict_log.request.inputs["x"]).tolist() == [1, 2]
    assert to_array(first.predict_log.response.outputs["y"]).tolist() == [2.5, 3.0]
    assert to_array(second.predict_log.request.inputs["x"]).tolist() == [4]
    metadata = second.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 1)
    assert metadata.model_spec.signature_name == "serving_default"
    assert metadata.sampling_config.sampling_rate == 1
    assert list(metadata.saved_model_tags) == ["serve"]
    assert metadata.timestamp_secs > 1.6e9
    (file,) = logs.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600, "requests are nobody else's business"

    staged = tmp_path / "staged"
    folder = model_copy("half_plus_two", 2, base=staged)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(file.read_bytes())
    folder.rename(base / "2")
    running.wait_available("m", 2)
    assert "replayed 2 warmup records" in running.log_text()


def _complete(logs: Path) -> list[bytes]:
    try:
        return [record for path in sorted(logs.iterdir()) for record in read(path)]
    except DataLossError:  # half a record is on the disk
        return []


def test_logging_is_switched_off_and_a_bad_config_changes_nothing(
    server: Any, models_dir: Path, tmp_path: Path
) -> None:
    running, logs = _start(server, tmp_path, models_dir / "half_plus_two")
    config = tmp_path / "models.pbtxt"
    running.predict("m", {"x": np.float32([1])})
    text = config.read_text()
    config.write_text(text.replace("sampling_rate: 1.0", "sampling_rate: 7"))
    wait_until(lambda: "sampling_rate is 7" in running.log_text(), 60, "the refusal")
    running.predict("m", {"x": np.float32([1])})
    wait_until(lambda: len(_complete(logs)) == 2, 60, "two records on the disk")
    start = text.index("logging_config")
    end = text.index("}", text.index("sampling_rate")) + 1  # of sampling_config; the next one is of logging_config
    end = text.index("}", end) + 1
    config.write_text(text[:start] + text[end:])
    wait_until(lambda: running.log_text().count("the models are now m") >= 1, 60, "the new config")
    running.predict("m", {"x": np.float32([1])})
    assert running.stop() == 0
    assert len(_records(logs)) == 2


def test_a_rate_of_zero_logs_nothing_and_a_half_about_half(server: Any, models_dir: Path, tmp_path: Path) -> None:
    running, logs = _start(server, tmp_path, models_dir / "half_plus_two", 0.5)
    for _ in range(200):
        running.predict("m", {"x": np.float32([1])})
    assert running.stop() == 0
    # 7 standard deviations: once in 10^11 runs by chance.
    assert 50 <= len(_records(logs)) <= 150


def test_tensorflow_reads_the_records_and_we_read_tensorflow_s(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    data = [b"", b"a", os.urandom(100_000)]
    ours.write_bytes(b"".join(frame(record) for record in data))
    code = """
import sys, tensorflow as tf
records = [r.numpy() for r in tf.data.TFRecordDataset(sys.argv[1])]
with tf.io.TFRecordWriter(sys.argv[2]) as writer:
    for record in records:
        writer.write(record)
"""
    done = subprocess.run([sys.executable, "-c", code, str(ours), str(theirs)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert theirs.read_bytes() == ours.read_bytes()
    assert list(read(theirs)) == data


@pytest.mark.parametrize("cut", [1, 11, 12, 14, 17])
def test_a_file_that_is_cut_off_or_changed_says_where(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f"
    whole = frame(b"first") + frame(b"last!")
    path.write_bytes(whole[: len(frame(b"first")) + cut])
    reader = read(path)
    assert next(reader) == b"first"
    with pytest.raises(DataLossError, match="truncated record at 21 of"):
        next(reader)
    damaged = bytearray(whole)
    damaged[cut] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataLossError, match="corrupted record at 0 of"):
        list(read(path))


def test_files_are_rotated_and_the_oldest_removed(tmp_path: Path) -> None:
    writer = RotatingWriter(tmp_path / "log", max_bytes=1000, max_files=3)
    for number in range(50):
        assert writer.write(b"%03d" % number + bytes(97))
    writer.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    numbers = [int(record[:3]) for path in files for record in read(path)]
    assert numbers == list(range(50 - len(numbers), 50)), "the last ones, in order"
    assert all(path.stat().st_size >= 1000 for path in files[:-1])
    assert (writer.written, writer.dropped) == (50, 0)
    assert not writer.write(b"too late")


def test_logs_with_one_prefix_have_files_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Of two models, or of one before and after a reload: within the same second.
    writers = [RotatingWriter(tmp_path / "log", max_bytes=1, max_files=0) for _ in range(3)]
    for number in range(30):
        assert writers[number % 3].write(b"%d" % number)
    for writer in writers:
        writer.close()
    records = [record for path in tmp_path.iterdir() for record in read(path)]
    assert sorted(map(int, records)) == list(range(30))
    assert caplog.text == ""


def test_what_a_log_has_taken_reaches_the_disk_though_a_reload_ended_it(tmp_path: Path) -> None:
    logs = RequestLogs()
    config = LoggingConfig()
    config.log_collector_config.filename_prefix = str(tmp_path / "log")
    config.sampling_config.sampling_rate = 1
    logs.configure("m", config)
    record = Record(Kind.PREDICT, "m", 1, "serving_default", (), b"", b"\x0a\x00" * 5000)
    for _ in range(200):
        logs.tapped("m", 1, lambda _answer: record, lambda _answer, _error: None)(b"answer", None)
    logs.configure("m", None)
    logs.close()
    assert len([each for path in tmp_path.iterdir() for each in read(path)]) == 200


def test_a_disk_that_refuses_costs_records_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "gone"
    writer = RotatingWriter(folder / "log", max_bytes=1000, max_files=0)
    for _ in range(5):
        writer.write(b"record")
    writer.close()
    assert (writer.written, writer.dropped) == (0, 5)
    assert sum("cannot be written" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"type": "kafka"}, 'log_collector_config.type "kafka" is unknown'),
        ({"filename_prefix": "relative/x"}, "must be an absolute path"),
        ({"filename_prefix": "/no/such/folder/x"}, "there is no folder /no/such/folder"),
        ({"filename_prefix": ""}, "must be an absolute path"),
    ],
)
def test_a_bad_collector_is_named(tmp_path: Path, change: dict[str, str], text: str) -> None:
    config = LoggingConfig()
    config.log_collector_config.filename_prefix = str(tmp_path / "x")
    check(config)
    for field, value in change.items():
        setattr(config.log_collector_config, field, value)
    with pytest.raises(InvalidArgumentError, match=text):
        check(config)


def test_requests_of_examples_are_logged_with_their_answers(server: Any, models_dir: Path, tmp_path: Path) -> None:
    running, logs = _start(server, tmp_path, models_dir / "examples")
    two = [example(x=1.0), example(x=3.0)]
    classified = running.call(
        CLASSIFY, request(CLASSIFY, "m", two, "classify", context=example(k=1)), messages.ClassificationResponse
    )
    regressed = running.call(REGRESS, request(REGRESS, "m", two, "regress"), messages.RegressionResponse)
    asked = multi_request("m", {"classify": "classify", "regress": "regress"}, two)
    inferred = running.call(MULTI, asked, messages.MultiInferenceResponse)
    for verb in ("classify", "regress"):
        body = {"signature_name": verb, "examples": [{"x": 1.0}]}
        assert running.rest("POST", f"/v1/models/m:{verb}", body)[0] == 200
    wait_until(lambda: len(_complete(logs)) == 5, 60, "five records on the disk")

    first, second, third, fourth, fifth = _records(logs)
    # The context is merged into each example, which is what it means.
    assert list(first.classify_log.request.input.example_list.examples) == [example(x=1.0, k=1), example(x=3.0, k=1)]
    assert first.classify_log.response == classified
    version = max(int(path.name) for path in (models_dir / "examples").iterdir())
    assert first.classify_log.request.model_spec.version.value == version
    assert list(second.regress_log.request.input.example_list.examples) == two
    assert second.regress_log.response == regressed
    log = third.multi_inference_log
    assert log.response == inferred
    assert [task.model_spec.signature_name for task in log.request.tasks] == ["classify", "regress"]
    assert [task.method_name for task in log.request.tasks] == [task.method_name for task in asked.tasks]
    assert third.log_metadata.model_spec.signature_name == "classify"
    assert list(fourth.classify_log.request.input.example_list.examples) == two[:1]
    assert list(fifth.regress_log.request.input.example_list.examples) == two[:1]
    assert fifth.log_metadata.sampling_config.sampling_rate == 1
