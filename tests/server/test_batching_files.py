"""`--enable_per_model_batching_parameters`: versions bring their own batching parameters, or are not batched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.reloads import reload
from tests.servers import ServerProcess, wait_until

_GLOBAL = "max_batch_size { value: 100 } num_batch_threads { value: 3 }"


def _start(server: Any, tmp_path: Path, **models: Path) -> ServerProcess:
    batching, config = tmp_path / "batching.pbtxt", tmp_path / "models.pbtxt"
    batching.write_text(_GLOBAL)
    entries = (f'config {{ name: "{n}" base_path: "{p}" model_platform: "tensorflow" }}' for n, p in models.items())
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    running: ServerProcess = server(
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        "--enable_per_model_batching_parameters",
        f"--model_config_file={config}",
        "--max_num_load_retries=0",
    )
    return running


def test_a_version_s_file_decides_and_a_model_without_one_is_not_batched(
    server: Any, model_copy: Callable[..., Path], tmp_path: Path
) -> None:
    with_file, without = model_copy("half_plus_two"), model_copy("no_batch_dim")
    file = with_file / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 4 } num_batch_threads { value: 9 } batch_timeout_micros { value: 7 }")
    running = _start(server, tmp_path, batched=with_file.parent, plain=without.parent)
    running.wait_available("batched", 1)
    running.wait_available("plain", 1)

    found = running.control("GET", "/models/batched/batching")[1]
    assert (found["max_batch_size"], found["batch_timeout_micros"]) == (4, 7)
    assert found["num_batch_threads"] == 3, "threads are the server's, not the version's"
    status, answer = running.rest("POST", "/v1/models/batched:predict", {"instances": [1.0] * 5})
    assert (status, answer["error"].split(" (")[0]) == (400, "Task size 5 is larger than maximum input batch size 4")

    # A reload that changes nothing leaves each version what its file says.
    reload(running, {"name": "batched", "base_path": with_file.parent}, {"name": "plain", "base_path": without.parent})
    assert running.control("GET", "/models/batched/batching")[1] == found
    # Nor does another policy: the next version has its own file, or is not batched.
    running.put_model("batched", with_file.parent, policy={"all": {}})
    assert running.control("GET", "/models/batched/batching")[1] == found
    model_copy("half_plus_two", 2)
    running.wait_available("batched", 2)
    assert running.control("GET", "/models/batched/batching")[1] is None

    assert running.control("GET", "/models/plain/batching")[1] is None
    _, metadata = running.rest("GET", "/v1/models/plain/metadata")
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    (alias,) = signature["inputs"]
    # A scalar: with batching on, it would be refused for want of a batch dimension.
    assert running.rest("POST", "/v1/models/plain:predict", {"inputs": {alias: 1.0}})[0] == 200


def test_a_broken_file_fails_that_version_only(server: Any, model_copy: Callable[..., Path], tmp_path: Path) -> None:
    good = model_copy("half_plus_two")
    running = _start(server, tmp_path, m=good.parent)
    running.wait_available("m", 1)
    staged = tmp_path / "staged"
    model_copy("half_plus_two", 2, base=staged)
    (staged / "2" / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }\nallowed_batch_sizes: 4")
    (staged / "2").rename(good.parent / "2")
    wait_until(lambda: running.versions("m").get(2, {}).get("state") == "END", 30, "version 2 to fail")
    message = running.versions("m")[2]["error_message"]
    assert "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8" in message
    assert running.rest("POST", "/v1/models/m:predict", {"instances": [2.0]})[0] == 200


def test_a_model_added_while_the_server_runs_is_batched_as_the_flags_say(
    server: Any, models_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "batching.pbtxt"
    file.write_text(_GLOBAL)
    running = server("--enable_batching", f"--batching_parameters_file={file}")
    running.put_model("m", models_dir / "half_plus_two")
    assert running.control("GET", "/models/m/batching")[1]["max_batch_size"] == 100
    running.put_model("off", models_dir / "half_plus_two", batching=None)
    assert running.control("GET", "/models/off/batching")[1] is None
