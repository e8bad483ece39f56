"""Warmup files recorded from live traffic: what is kept, that it warms up, and that nothing is ever half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.errors import AlreadyExistsError, PermissionDeniedError, ServingError
from serving_server.request_log.recording import PER_SHAPE, write
from serving_server.wire import tfrecord
from serving_server.wire.messages import ClassificationResponse, MultiInferenceResponse, PredictionLog
from serving_server.wire.tfrecord import frame
from serving_server.wire.warmup_file import warmup_file
from tests.examples import CLASSIFY, MULTI, example, multi_request, request
from tests.servers import SharedServer, wait_until

TWO = (example(x=1.0), example(x=3.0))


@pytest.fixture
def half(shared_server: SharedServer, model_copy: Callable[..., Path]) -> Iterator[Path]:
    """The folder of version 1 of 'recorded', y = x / 2 + 2, on the shared server."""
    yield from _served(shared_server, model_copy("half_plus_two"))


@pytest.fixture
def examples(shared_server: SharedServer, model_copy: Callable[..., Path]) -> Iterator[Path]:
    yield from _served(shared_server, model_copy("examples"))


def _served(server: SharedServer, folder: Path) -> Iterator[Path]:
    server.put_model("recorded", folder.parent, policy={"all": {}})
    server.wait_available("recorded", 1)
    yield folder
    assert server.control("DELETE", "/models/recorded")[0] == 204
    wait_until(lambda: server.control("GET", "/models/recorded")[0] == 404, 60, "the end of the model")


class _Recording:
    """A recording that is asked for in a thread of its own."""

    def __init__(self, server: SharedServer, pool: ThreadPoolExecutor, **body: Any) -> None:
        self._asked = pool.submit(server.control, "POST", "/models/recorded/warmup", body)
        wait_until(lambda: self._asked.done() or server.model("recorded")["recording_warmup"], 60, "the recording")

    def result(self) -> tuple[int, Any]:
        return self._asked.result(30)


@pytest.fixture
def record(shared_server: SharedServer) -> Iterator[Callable[..., _Recording]]:
    with ThreadPoolExecutor(4) as pool:
        yield lambda **body: _Recording(shared_server, pool, **body)


def _logs(folder: Path) -> list[Any]:
    return [PredictionLog.FromString(data) for data in tfrecord.read(warmup_file(folder))]


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "assets.extra").iterdir())


def test_all_kinds_are_recorded_and_warm_the_next_version_up(
    shared_server: SharedServer, examples: Path, record: Callable[..., _Recording], model_copy: Callable[..., Path]
) -> None:
    recording = record(requests=8, seconds=30)
    shared_server.call(CLASSIFY, request(CLASSIFY, "recorded", TWO, "classify"), ClassificationResponse)
    tasks = {"classify": "classify", "regress": "regress"}
    shared_server.call(MULTI, multi_request("recorded", tasks, TWO), MultiInferenceResponse)
    body = {"signature_name": "regress", "examples": [{"x": 1.0}]}
    assert shared_server.rest("POST", "/v1/models/recorded:regress", {**body, "examples": []})[0] == 400
    for _ in range(5):
        assert shared_server.rest("POST", "/v1/models/recorded:regress", body)[0] == 200
    serialized = np.array([TWO[0].SerializeToString()], dtype=object)
    shared_server.predict("recorded", {"inputs": serialized}, signature="regress")
    status, answer = recording.result()
    assert status == 200, answer
    assert (answer["requests"], answer["records"], answer["complete"]) == (8, 3 + PER_SHAPE, True)
    file = warmup_file(examples)
    assert answer["path"] == str(file)
    assert answer["bytes"] == file.stat().st_size
    assert (answer["version"], answer["too_large"]) == (1, 0)
    logs = _logs(examples)
    kinds = [log.WhichOneof("log_type") for log in logs]
    assert kinds == ["classify_log", "multi_inference_log", *["regress_log"] * PER_SHAPE, "predict_log"]
    assert list(logs[0].classify_log.request.input.example_list.examples) == list(TWO)
    assert not logs[0].classify_log.HasField("response")
    assert _left(examples) == [file.name]
    assert file.stat().st_mode == (examples / "saved_model.pb").stat().st_mode
    assert file.parent.stat().st_mode == examples.stat().st_mode

    staged = examples.parent.with_name("staged")
    model_copy("examples", base=staged)
    warmup_file(staged / "1").parent.mkdir()
    warmup_file(staged / "1").write_bytes(file.read_bytes())
    (staged / "1").rename(examples.parent / "7")
    shared_server.wait_available("recorded", 7)
    assert f"replayed {len(logs)} warmup records" in shared_server.log_text()


def test_of_each_shape_a_few_are_kept_and_time_ends_it_too(
    shared_server: SharedServer, half: Path, record: Callable[..., _Recording]
) -> None:
    recording = record(requests=1000, seconds=4.0)
    for size in [1, 2] * (PER_SHAPE + 2):
        shared_server.predict("recorded", {"x": np.ones(size, np.float32)})
    # Of another version, of another model, and one that fails.
    shared_server.predict("half_plus_two", {"x": np.ones(3, np.float32)})
    assert shared_server.rest("POST", "/v1/models/recorded:predict", {"instances": ["no number"]})[0] == 400
    status, answer = recording.result()
    assert (status, answer["complete"]) == (200, False), answer
    assert (answer["requests"], answer["records"]) == (2 * (PER_SHAPE + 2), 2 * PER_SHAPE)
    sizes = [log.predict_log.request.inputs["x"].tensor_shape.dim[0].size for log in _logs(half)]
    assert sizes == [1, 2] * PER_SHAPE


def test_a_file_that_is_there_is_replaced_only_when_told_to(
    shared_server: SharedServer, half: Path, record: Callable[..., _Recording]
) -> None:
    file = warmup_file(half)
    file.parent.mkdir()
    file.write_bytes(b"precious")
    status, answer = record(requests=1, seconds=30).result()
    assert (status, answer["code"]) == (409, "ALREADY_EXISTS")
    assert answer["error"] == f'there is a warmup file already: {file}; say "replace": true to replace it'
    recording = record(requests=1, seconds=30, replace=True)
    assert file.read_bytes() == b"precious"
    shared_server.predict("recorded", {"x": np.float32([1])})
    assert recording.result()[0] == 200
    assert len(_logs(half)) == 1
    assert _left(half) == [file.name]


def test_what_cannot_be_recorded_is_told_and_leaves_nothing(
    shared_server: SharedServer, half: Path, record: Callable[..., _Recording]
) -> None:
    def refused(name: str = "recorded", **body: Any) -> tuple[str, str]:
        status, answer = shared_server.control("POST", f"/models/{name}/warmup", body)
        assert status >= 400, answer
        return answer["code"], answer["error"]

    code, text = refused("nobody")
    assert (code, text.startswith("no model named 'nobody'; this server has: ")) == ("NOT_FOUND", True)
    assert refused(version=9)[0] == "NOT_FOUND"
    silent = "version 1 of model 'recorded' answered no request within 0.05 s; nothing was written"
    assert refused(seconds=0.05) == ("DEADLINE_EXCEEDED", f"{silent}. Send it requests while it is recorded")
    for field, value, text in (
        ("requests", 0, "requests is 0; it must be a whole number from 1 to 1000"),
        ("requests", 1001, "requests is 1001; it must be"),
        ("requests", True, "requests is True; it must be"),
        ("seconds", 0, "seconds is 0; it must be more than 0 and at most 600"),
        ("seconds", "1", "seconds is '1'; it must be"),
        ("version", "1", "version is '1'; it must be a version number"),
        ("replace", 1, "replace is 1; it must be true or false"),
        ("request", 1, "unknown field 'request'; known: replace, requests, seconds, version"),
    ):
        code, told = refused(**{field: value})
        assert (code, told[: len(text)]) == ("INVALID_ARGUMENT", text)
    recording = record(requests=1, seconds=30, version=1)
    second = "the warmup of model 'recorded' is being recorded already; wait for its end"
    assert refused() == ("FAILED_PRECONDITION", second)
    assert not (half / "assets.extra").exists()
    shared_server.predict("recorded", {"x": np.float32([1])})
    assert recording.result()[0] == 200


def test_a_folder_in_the_way_is_told_before_anybody_waits(shared_server: SharedServer, half: Path) -> None:
    (half / "assets.extra").write_text("a file")
    status, answer = shared_server.control("POST", "/models/recorded/warmup", {"seconds": 600})
    assert (status, answer["code"]) == (403, "PERMISSION_DENIED")
    assert f"{half / 'assets.extra'} is not a folder to write in" in answer["error"]


def test_a_client_that_goes_away_ends_its_recording(shared_server: SharedServer, half: Path) -> None:
    with pytest.raises(TimeoutError):
        shared_server.control("POST", "/models/recorded/warmup", {"seconds": 600}, timeout=0.3)
    wait_until(lambda: not shared_server.model("recorded")["recording_warmup"], 60, "the end of the recording")
    assert not (half / "assets.extra").exists()


# --- the file itself ---


def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "saved_model.pb").chmod(0o640)
    path = write(tmp_path, [frame(b"first")], replace=False)
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(AlreadyExistsError, match="there is a warmup file already"):
        write(tmp_path, [frame(b"second")], replace=False)
    assert list(tfrecord.read(path)) == [b"first"]
    assert _left(tmp_path) == [path.name]


def test_a_disk_that_refuses_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [frame(b"first")], replace=False)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(ServingError, match=r"cannot write the warmup file .*: No space left on device"):
            write(tmp_path, [frame(b"second")], replace=True)
        with pytest.raises(ServingError, match="No space left"):
            write(tmp_path.parent, [frame(b"second")], replace=True)
    assert list(tfrecord.read(path)) == [b"first"]
    assert _left(tmp_path) == [path.name]
    assert not (tmp_path.parent / "assets.extra").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionDeniedError, match="cannot write the warmup file"):
            write(tmp_path, [frame(b"x")], replace=False)
    finally:
        tmp_path.chmod(0o755)
