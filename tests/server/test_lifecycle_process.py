"""Versions coming and going in a real server: swaps and crashes under load, memory, and folders that are not models."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from tests.load import HalfPlusTwoLoad
from tests.memory import shared_buffers, tree_pss
from tests.servers import ServerProcess, wait_until

ONE = {"x": np.float32([2])}


def _only(server: ServerProcess, version: int, model: str = "m") -> Callable[[], bool]:
    """Whether that version serves and every other one has ended."""

    def check() -> bool:
        state = server.model(model)
        alive = {v["version"] for v in state["versions"] if v["state"] != "END"}
        return state["serving_version"] == version and alive == {version}

    return check


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fifty_swaps_under_load_lose_and_falsify_nothing(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two", 1).parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    with HalfPlusTwoLoad(process.grpc_endpoint, "m", rate=200) as load:
        for number in range(2, 52):
            model_copy("half_plus_two", 2 - number % 2, as_version=number, base=base)
            wait_until(_only(process, number), 30, f"version {number} alone")
            if number > 3:
                shutil.rmtree(base / str(number - 2))
        seen = len(load.answers)
        wait_until(lambda: len(load.answers) > seen + 20, 60, "answers after the last swap")
    assert not load.failed, load.failed[:3]
    assert not load.wrong, load.wrong[:3]
    assert len({answer.version for answer in load.answers}) == 51


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twenty_loads_and_unloads_give_all_memory_back(server: Any, models_dir: Path) -> None:
    process: ServerProcess = server()

    def round_() -> None:
        process.put_model("mlp", models_dir / "mlp")
        process.wait_available("mlp")
        process.predict("mlp", {_first_input(process): np.zeros((64, 784), np.float32)})
        assert shared_buffers(process.pid) > 0
        assert process.control("DELETE", "/models/mlp")[0] == 204
        wait_until(lambda: not _workers(process), 60, "the worker to end")

    round_()  # first use grows heaps and caches once
    before = tree_pss(process.pid)
    for _ in range(20):
        round_()
    after = tree_pss(process.pid)
    print(f"PSS of the process tree: {before:.1f} MB before, {after:.1f} MB after 20 rounds")
    assert after - before <= 20, f"{before:.1f} MB before, {after:.1f} MB after"
    # The buffers have no name in /dev/shm; they live as long as a descriptor of theirs.
    assert shared_buffers(process.pid) == 0
    assert not list(Path("/dev/shm").glob("*serving*"))


def _first_input(process: ServerProcess) -> str:
    _, answer = process.rest("GET", "/v1/models/mlp/metadata")
    return str(next(iter(answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"])))


def _workers(process: ServerProcess) -> list[int]:
    """Pids of all workers: the forkserver's children."""
    _, status = process.control("GET", "/status")
    pid = status["forkserver"]["pid"]
    return [child.pid for child in psutil.Process(pid).children()] if pid else []


def test_a_killed_worker_costs_its_own_requests_only_and_comes_back(server: Any, models_dir: Path) -> None:
    process: ServerProcess = server()
    for name in ("half_plus_two", "slow"):
        process.put_model(name, models_dir / name)
        process.wait_available(name)
    work = {"x": np.float32([1]), "steps": np.int32([30_000])}
    running = process.channel().unary_unary("/tensorflow.serving.PredictionService/Predict")
    pending = [running.future(_predict_bytes("slow", work), timeout=60) for _ in range(4)]
    wait_until(lambda: process.versions("slow")[1]["requests_in_flight"] == 4, 60, "four requests in flight")
    with HalfPlusTwoLoad(process.grpc_endpoint, "half_plus_two", rate=100) as other:
        wait_until(lambda: len(other.answers) > 10, 60, "the other model's answers")
        worker = process.versions("slow")[1]["worker_pid"]
        os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        for call in pending:
            with pytest.raises(grpc.RpcError) as caught:
                call.result(10)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            for part in ("'slow'", "version 1", "SIGKILL"):
                assert part in error.details()

        def back() -> bool:
            with contextlib.suppress(grpc.RpcError):
                quick = {"x": np.float32([1]), "steps": np.int32([1])}
                return process.predict("slow", quick)["y"].shape == (1,)
            return False

        wait_until(back, 60, "the version to serve again")
        print(f"served again {time.monotonic() - killed:.2f} s after the SIGKILL")
    assert not other.failed, other.failed[:3]
    assert not other.wrong
    assert process.versions("slow")[1]["restarts"] == 1
    assert process.versions("slow")[1]["worker_pid"] != worker


def _predict_bytes(model: str, inputs: dict[str, Any]) -> bytes:
    from serving_server.tensors import to_proto
    from serving_server.wire.messages import PredictRequest

    request = PredictRequest()
    request.model_spec.name = model
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(value))
    return bytes(request.SerializeToString())


@pytest.mark.slow
def test_a_worker_that_keeps_crashing_is_given_up_and_says_so(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    killed: set[int] = set()

    def ended() -> bool:
        version = process.versions("m")[1]
        pid = version["worker_pid"]
        if version["state"] == "AVAILABLE" and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return bool(version["state"] == "END")

    wait_until(ended, 90, "the server to stop trying")
    version = process.versions("m")[1]
    assert version["error_code"] == "UNAVAILABLE"
    assert "crashed" in version["error_message"]
    assert "Not restarting" in version["error_message"]
    status, answer = process.rest("GET", "/v1/models/m")
    assert status == 200
    assert answer["model_version_status"][0]["state"] == "END"
    assert "crashed" in answer["model_version_status"][0]["status"]["error_message"]
    # The next version takes over as if nothing had happened.
    model_copy("half_plus_two", 2)
    process.wait_available("m", 2)
    assert process.predict("m", ONE)["y"].tolist() == [4.0]


def test_a_lost_forkserver_is_replaced_and_running_versions_go_on(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    _, status = process.control("GET", "/status")
    os.kill(status["forkserver"]["pid"], signal.SIGKILL)
    wait_until(
        lambda: process.control("GET", "/status")[1]["forkserver"]["pid"] not in {None, status["forkserver"]["pid"]},
        60,
        "another forkserver",
    )
    assert process.predict("m", ONE)["y"].tolist() == [3.0]
    model_copy("half_plus_two", 2)
    process.wait_available("m", 2)
    wait_until(_only(process, 2), 60, "version 2 alone")
    assert process.predict("m", ONE)["y"].tolist() == [4.0]


def test_ports_answer_loading_before_the_model_is_there(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    status, answer = process.rest("GET", "/v1/models/m")
    if status == 200:  # TensorFlow takes seconds to import, so this is all but certain
        assert answer["model_version_status"][0]["state"] in {"START", "LOADING"}
    with pytest.raises(grpc.RpcError) as caught:
        process.predict("m", ONE)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details().startswith("Servable not found for request: Latest(m)")
    assert process.rest("GET", "/readyz")[0] == 503
    process.wait_available("m")
    assert process.rest("GET", "/readyz")[0] == 200
    assert process.predict("m", ONE)["y"].tolist() == [3.0]


def _failed(process: ServerProcess, version: int) -> str:
    def message() -> str:
        return str(process.versions("m").get(version, {}).get("error_message", ""))

    return str(wait_until(message, 30, f"version {version} to fail\n{process.log_tail()}"))


def test_a_bad_new_version_says_why_and_leaves_the_old_one_serving(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}", "--max_num_load_retries=0")
    process.wait_available("m")
    (base / "2").mkdir()
    assert "saved_model.pb" in (text := _failed(process, 2))
    assert str(base / "2") in text
    assert "it is empty" in text
    half_copied = model_copy("half_plus_two", 2, as_version=3)
    (half_copied / "variables" / "variables.index").unlink()
    # The copy above was whole for a moment and may have been loaded; what counts is a folder that was never whole.
    (base / ".4").mkdir()
    shutil.copytree(half_copied, base / ".4", dirs_exist_ok=True)
    (base / ".4").rename(base / "4")
    text = _failed(process, 4)
    assert "variables.index" in text
    assert "incomplete" in text
    (base / ".5").mkdir()
    (base / ".5" / "saved_model.pb").write_bytes(b"not a graph" * 10)
    (base / ".5").rename(base / "5")
    assert str(base / "5") in _failed(process, 5)
    assert process.predict("m", ONE)["y"].tolist() in ([3.0], [4.0])
    assert process.versions("m")[5]["state"] == "END"


def test_a_half_copied_version_heals_when_the_copy_ends(server: Any, model_copy: Any, models_dir: Path) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    source, target = models_dir / "half_plus_two" / "2", base / "2"
    (target / "variables").mkdir(parents=True)
    shutil.copy(source / "saved_model.pb", target)
    shutil.copy(source / "variables" / "variables.data-00000-of-00001", target / "variables")
    assert "incomplete" in _failed(process, 2)
    shutil.copy(source / "variables" / "variables.index", target / "variables")
    process.wait_available("m", 2, retries=True)
    assert process.predict("m", ONE)["y"].tolist() == [4.0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, and root itself reads everything")
@pytest.mark.parametrize("what", ["saved_model.pb", "variables"])
def test_an_unreadable_version_is_named_with_its_bits(model_copy: Any, what: str) -> None:
    version: Path = model_copy("half_plus_two")
    version.chmod(0o755)
    (version / what).chmod(0o600)
    # The imports come first: the other user need not be able to read them. Nor the folders above: hence the relative
    # path.
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from serving_server.worker.model import check_folder\n"
        "from serving_server.errors import ServingError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    check_folder(Path('1'))\nexcept ServingError as error:\n    print(error.code.name, error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=version.parent, capture_output=True, text=True, timeout=120, check=True
    )
    assert answer.stdout.startswith("PERMISSION_DENIED"), answer.stdout + answer.stderr[-500:]
    assert f"1/{what}" in answer.stdout
    assert "0o600" in answer.stdout


def test_a_missing_base_path_is_named_and_hurts_no_other_model(server: Any, models_dir: Path, tmp_path: Path) -> None:
    process: ServerProcess = server()
    process.put_model("half_plus_two", models_dir / "half_plus_two")
    process.put_model("lost", tmp_path / "nowhere")
    process.wait_available("half_plus_two")
    wait_until(lambda: process.model("lost")["problem"], 60, "the problem to be seen")
    assert str(tmp_path / "nowhere") in process.model("lost")["problem"]
    with pytest.raises(grpc.RpcError) as caught:
        process.predict("lost", ONE)
    error: Any = caught.value
    assert str(tmp_path / "nowhere") in error.details()
    assert process.predict("half_plus_two", ONE)["y"].tolist() == [4.0]


def test_a_vanished_folder_keeps_what_serves(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    shutil.rmtree(base)
    wait_until(lambda: process.model("m")["problem"], 60, "the problem to be seen")
    assert process.predict("m", ONE)["y"].tolist() == [3.0]


def test_a_held_version_waits_for_its_promotion(server: Any, model_copy: Any) -> None:
    base = model_copy("half_plus_two").parent
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}")
    process.wait_available("m")
    assert process.control("PUT", "/models/m/versions/2/hold")[0] == 200
    model_copy("half_plus_two", 2)
    process.wait_available("m", 1, 2)
    assert process.predict_versioned("m", ONE)[1] == 1
    assert process.predict_versioned("m", ONE, version=2)[1] == 2
    assert process.control("DELETE", "/models/m/versions/2/hold")[0] == 200
    assert process.predict_versioned("m", ONE)[1] == 2
    wait_until(_only(process, 2), 60, "version 1 to unload")
    # Roll back by policy: version 1 is loaded from disk again and takes the traffic.
    assert process.control("PUT", "/models/m/policy", {"specific": {"versions": [1]}})[0] == 200
    wait_until(_only(process, 1), 60, "version 1 alone")
    assert process.predict_versioned("m", ONE)[1] == 1


def test_warmup_records_are_replayed_and_a_bad_one_fails_the_load(server: Any, model_copy: Any) -> None:
    version = model_copy("half_plus_two")
    base = version.parent
    good = base / ".2"
    shutil.copytree(version, good)
    bad = base / ".3"
    shutil.copytree(version, bad)
    code = """
import sys
import tensorflow as tf
from serving_server.wire.messages import PredictionLog
from serving_server.tensors import to_proto
import numpy as np
from pathlib import Path
for folder, alias in zip(sys.argv[1:], ("x", "wrong")):
    log = PredictionLog()
    log.predict_log.request.model_spec.name = "whatever"
    log.predict_log.request.inputs[alias].CopyFrom(to_proto(np.float32([1, 2])))
    path = Path(folder) / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(3):
            writer.write(log.SerializeToString())
"""
    subprocess.run([sys.executable, "-c", code, str(good), str(bad)], check=True, capture_output=True, timeout=120)
    process: ServerProcess = server("--model_name=m", f"--model_base_path={base}", "--max_num_load_retries=0")
    process.wait_available("m")
    good.rename(base / "2")
    process.wait_available("m", 2)
    assert "replayed 3 warmup records" in process.log_text()
    bad.rename(base / "3")
    text = _failed(process, 3)
    assert "wrong" in text
    assert process.predict_versioned("m", ONE)[1] == 2
