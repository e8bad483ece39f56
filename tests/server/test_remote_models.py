"""Base paths that are URIs: TensorFlow's own ``gs://`` file system against a store on this machine, and ``file://``."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import psutil
import pytest

from serving_server.channel.lines import BlockingLines
from serving_server.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from serving_server.forkserver.client import ForkServer
from serving_server.place import RemotePath, is_remote, to_place
from serving_server.remote_files import RemoteFiles
from serving_server.tensors import to_proto
from serving_server.wire.messages import PredictionLog
from serving_server.wire.tfrecord import frame
from serving_server.wire.warmup_file import warmup_file
from tests.object_store import ObjectStore
from tests.servers import ServerProcess, wait_until

# -- what is remote ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/models/m", Path("/models/m")),
        ("file:///models/m", Path("/models/m")),
        ("file://localhost/models/m", Path("/models/m")),
        ("gs://bucket/models/m", RemotePath("gs://bucket/models/m")),
        ("gs://bucket/models/m//", RemotePath("gs://bucket/models/m")),
        ("models/m", Path("models/m")),
        ("gs:/bucket", Path("gs:/bucket")),
    ],
)
def test_what_a_base_path_names(text: str, place: object) -> None:
    assert to_place(text) == place
    assert is_remote(text) == isinstance(place, RemotePath)


def test_a_file_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="file://elsewhere/m names no folder of this machine"):
        to_place("file://elsewhere/m")


# -- the front's side, without TensorFlow ------------------------------------------------------------------------------


class _Forks:
    """Stands in for the forkserver: "forks" a thread that answers by `reply`, or lets a question wait for None."""

    def __init__(self, reply: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        self.specs: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []
        self._reply = reply

    async def fork(self, spec: dict[str, Any], fds: Sequence[int]) -> int:
        self.specs.append(spec)
        lines = BlockingLines(socket.socket(fileno=os.dup(fds[0])))
        thread = threading.Thread(target=self._serve, args=(lines,), daemon=True)
        self.threads.append(thread)
        thread.start()
        return 100 + len(self.specs)

    def on_exit(self, pid: int, callback: Callable[[str], None]) -> None:
        pass

    def _serve(self, lines: BlockingLines) -> None:
        with lines.sock:
            while (received := lines.receive()) is not None:
                reply = self._reply(received[0])
                if reply == {}:
                    return  # as a process that dies
                if reply is not None:
                    lines.send({**reply, "id": received[0]["id"]})


def _files(forks: _Forks, seconds: float = 20.0) -> RemoteFiles:
    return RemoteFiles(cast("ForkServer", forks), ["/lib.so"], seconds)


async def _ended(forks: _Forks) -> None:
    for thread in forks.threads:
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()


async def test_a_look_is_a_scan_and_one_process_answers_all() -> None:
    seen: list[dict[str, Any]] = []

    def reply(question: dict[str, Any]) -> dict[str, Any]:
        seen.append(question)
        return {"names": ["0002", "1", "2", "note"], "prints": {"1": ["digest", 5.0]}}

    forks = _Forks(reply)
    files = _files(forks)
    base = RemotePath("gs://b/m")
    found, again = await asyncio.gather(files.look(base, {1: base / "1"}), files.look(base, {}))
    assert found.versions == again.versions == {1: base / "1", 2: base / "2"}
    assert (found.problem, found.duplicates) == (None, ("0002",))
    assert (found.fingerprints[1].digest, found.fingerprints[1].newest) == ("digest", 5.0)
    assert sorted(question["failed"].items() for question in seen) == [{}.items(), {"1": "gs://b/m/1"}.items()]
    assert forks.specs == [{"role": "remote_files", "op_libraries": ["/lib.so"]}]
    files.close()
    await _ended(forks)
    with pytest.raises(UnavailableError, match="shutting down"):
        await files.read("gs://b/f", 10)


async def test_what_cannot_be_listed_is_a_problem_not_an_end_of_service() -> None:
    answers = iter([{"code": 5, "message": "no"}, {"code": 7, "message": "who are you?"}])
    forks = _Forks(lambda _: next(answers))
    files = _files(forks)
    missing, denied = [await files.look(RemotePath("gs://b/m"), {}) for _ in range(2)]
    assert missing.problem == "base path gs://b/m does not exist; it is picked up when it appears"
    assert denied.problem == "cannot list gs://b/m: who are you?"
    files.close()
    await _ended(forks)


async def test_a_question_that_hangs_ends_in_time_and_the_next_has_another_process() -> None:
    forks = _Forks(
        lambda question: None if question["uri"] == "gs://slow" else {"data": base64.b64encode(b"x").decode()}
    )
    files = _files(forks, 1.0)
    with pytest.raises(DeadlineExceededError, match=r"gs://slow has not answered for 1 s"):
        await files.read("gs://slow", 10)
    assert await files.read("gs://quick", 10) == b"x"
    assert len(forks.specs) == 2
    files.close()
    await _ended(forks)


async def test_a_process_that_dies_is_told_and_replaced() -> None:
    replies = iter([{}, {"data": ""}])
    forks = _Forks(lambda _: next(replies))
    files = _files(forks)
    with pytest.raises(UnavailableError, match="the process that reads remote files was lost"):
        await files.read("gs://b/f", 10)
    assert await files.read("gs://b/f", 10) == b""
    files.close()
    await _ended(forks)


# -- the whole server --------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, certificates: Path) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path / "store", certificates) as running:
        yield running


def _upload(models_dir: Path, name: str, version: int, target: Path) -> Path:
    shutil.copytree(models_dir / name / str(version), target, dirs_exist_ok=True)
    return target


def _warmup_record(value: float) -> bytes:
    entry = PredictionLog()
    entry.predict_log.request.inputs["x"].CopyFrom(to_proto(np.float32([value])))
    return frame(entry.SerializeToString())


def _state(running: ServerProcess, name: str, version: int) -> Mapping[str, Any]:
    return running.versions(name).get(version, {})


@pytest.mark.slow
def test_a_bucket_s_versions_are_served_and_followed(server: Any, store: ObjectStore, models_dir: Path) -> None:
    base = store.folder / "bucket" / "models" / "m"
    first = _upload(models_dir, "half_plus_two", 1, base / "1")
    store.age = 3600
    warmup_file(first).parent.mkdir(parents=True)
    warmup_file(first).write_bytes(_warmup_record(1.0) + _warmup_record(2.0))
    (first / "batching_params.pbtxt").write_text("max_batch_size { value: 3 }")
    running: ServerProcess = server(
        "--model_name=m",
        "--model_base_path=gs://bucket/models/m/",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--max_num_load_retries=0",
        env=store.env,
    )
    running.wait_available("m", 1)
    assert running.model("m")["base_path"] == "gs://bucket/models/m"
    assert running.predict_versioned("m", {"x": np.float32([2.0])}) == ({"y": np.float32([3.0])}, 1)
    assert "replayed 2 warmup records of gs://bucket/models/m/1" in running.log_text()
    status, answer = running.rest("POST", "/v1/models/m:predict", {"instances": [1.0] * 4})
    assert (status, answer["error"].split(" (")[0]) == (400, "Task size 4 is larger than maximum input batch size 3")
    status, answer = running.control("POST", "/models/m/warmup", {"requests": 1, "seconds": 1, "replace": True})
    assert status == 501
    assert "lies at gs://bucket/models/m/1, and recordings are written into folders only" in answer["error"]

    # An upload is not atomic: what is loaded too early is loaded again when all of it is there.
    whole = _upload(models_dir, "half_plus_two", 2, store.folder / "staged")
    shutil.copytree(whole, base / "2", ignore=shutil.ignore_patterns("variables.*"))
    wait_until(lambda: _state(running, "m", 2).get("state") == "END", 30, "the half version to fail")
    # Its files look old, so that it is tried again for what changes, not for being young.
    before = len(store.requests)
    wait_until(lambda: _looked_at(store.requests[before:], "m/2/saved_model.pb"), 30, "a look at what has failed")
    assert running.rest("POST", "/v1/models/m:predict", {"instances": [2.0]}) == (200, {"predictions": [3.0]})
    (whole / "variables").rename(base / "2" / "variables")
    wait_until(lambda: _state(running, "m", 2).get("state") == "AVAILABLE", 60, running.log_tail)
    assert running.predict_versioned("m", {"x": np.float32([2.0])})[1] == 2

    # A store that refuses, and one that has lost everything, unload nothing.
    store.failing = 403
    wait_until(lambda: "cannot list gs://bucket/models/m" in (running.model("m")["problem"] or ""), 30, "the refusal")
    store.failing = None
    shutil.rmtree(base)
    wait_until(lambda: "does not exist" in (running.model("m")["problem"] or ""), 30, "the problem to be told")
    assert running.rest("GET", "/v1/models/m/versions/2")[1]["model_version_status"][0]["state"] == "AVAILABLE"
    helper = next(child for child in _descendants(running) if str(child.pid) in _told_pid(running))
    # The end does not wait for a store that answers nothing.
    store.stall()
    asked = len(store.requests)
    wait_until(lambda: len(store.requests) > asked, 30, "a question that the store lets wait")
    running.stop()
    wait_until(lambda: not psutil.pid_exists(helper.pid), 60, "the helper's end")


def _looked_at(targets: Sequence[str], file: str) -> bool:
    """Whether the facts of a file were asked for, and that look at its folder has ended: the next one has begun."""
    asked = [index for index, target in enumerate(targets) if f"{quote(file, safe='')}?fields=size" in target]
    return bool(asked) and any("o/models%2Fm?" in target for target in targets[asked[0] :])


def _told_pid(running: ServerProcess) -> str:
    return next(line for line in running.log_text().splitlines() if "reads remote files" in line)


def _descendants(running: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(running.pid).children(recursive=True)


@pytest.mark.slow
def test_a_config_file_in_a_bucket_and_models_that_no_file_system_knows(
    server: Any, store: ObjectStore, models_dir: Path
) -> None:
    _upload(models_dir, "tflite_plain", 1, store.folder / "bucket" / "lite" / "1")
    config = store.folder / "bucket" / "models.pbtxt"
    bases = {
        "here": f"file://{models_dir}/half_plus_two",
        "there": "s3://bucket/m",
        "missing": "gs://bucket/none",
        "lite": "gs://bucket/lite",
    }
    entries = (f'config {{ name: "{n}" base_path: "{p}" model_platform: "tensorflow" }}' for n, p in bases.items())
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    running: ServerProcess = server(
        "--model_config_file=gs://bucket/models.pbtxt",
        "--model_config_file_poll_wait_seconds=1",
        "--prefer_tflite_model",
        env=store.env,
    )
    running.wait_available("here")
    running.wait_available("lite")
    assert running.rest("POST", "/v1/models/lite:predict", {"instances": [2.0]}) == (200, {"predictions": [3.0]})
    wait_until(lambda: running.model("there")["problem"] and running.model("missing")["problem"], 30, "the problems")
    assert "has no file system for s3:// here; mount the store as a folder" in running.model("there")["problem"]
    assert (
        running.model("missing")["problem"]
        == "base path gs://bucket/none does not exist; it is picked up when it appears"
    )
    status, answer = running.rest("POST", "/v1/models/there:predict", {"instances": [1.0]})
    assert status == 404
    assert answer["error"].startswith("Servable not found for request: Latest(there)")
    assert "no file system for s3://" in answer["error"]

    # The file is followed where it lies.
    config.write_text(config.read_text() + "oops")
    wait_until(lambda: "the models stay as they were" in running.log_text(), 30, "the broken file to be told")
    assert "gs://bucket/models.pbtxt:1:" in running.log_text()
    config.write_text("model_config_list {}")
    wait_until(lambda: running.control("GET", "/models/here")[0] == 404, 30, "the models to go")
