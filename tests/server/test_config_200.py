"""A config file of 200 models, two of which cannot be served."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.servers import ServerProcess, wait_until

GOOD = 198

#: Of a worker with half_plus_two: measured 20 MB, which are TensorFlow's own tables and Python's reference counts.
PRIVATE_BYTES = 40 * 2**20


@pytest.mark.slow
def test_198_of_200_models_are_served_and_the_other_two_explained(
    server: Any, models_dir: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad" / "1"
    bad.mkdir(parents=True)
    (bad / "saved_model.pb").write_bytes(b"no SavedModel")
    for path in (bad / "saved_model.pb", bad):
        os.utime(path, (0, 0))
    names = [f"m{number}" for number in range(GOOD)]
    for name in names:
        (tmp_path / name).symlink_to(models_dir / "half_plus_two")
    lines = [
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}'
        for name in ["bad", "missing", *names]
    ]
    file = tmp_path / "models.config"
    file.write_text("\n".join(["model_config_list {", *lines, "}"]))

    running: ServerProcess = server(f"--model_config_file={file}", "--max_num_load_retries=0")

    asked = 0

    def loaded() -> int:
        nonlocal asked
        count = running.log_text().count(": Loaded m")
        if count >= asked:
            # The front answers all the while: the status, and REST for a model that is not there.
            asked += 20
            assert running.rest("GET", "/v1/models/missing", timeout=10.0)[0] == 404
            assert running.control("GET", "/status", timeout=10.0)[0] == 200
        return count

    wait_until(lambda: loaded() == GOOD, 300.0, lambda: f"198 models, there are {loaded()}")
    models = running.control("GET", "/status")[1]["models"]
    assert [name for name in names if models[name]["serving_version"] != 2] == []
    with ThreadPoolExecutor(8) as threads:

        def ask(name: str) -> tuple[int, Any]:
            return running.rest("POST", f"/v1/models/{name}:predict", {"instances": [0.0]})

        assert list(threads.map(ask, names)) == [(200, {"predictions": [3.0]})] * GOOD

    (version,) = running.model("bad")["versions"]
    assert version["state"] == "END"
    assert str(bad) in version["error_message"]
    assert str(tmp_path / "missing") in running.model("missing")["problem"]
    wait_until(lambda: "2 model(s) did not become available: {{{name: bad version: 1} due to" in running.log_text())
    (summary,) = (line for line in running.log_text().splitlines() if "2 model(s) did not become available" in line)
    assert "{{name: missing} due to error: NOT_FOUND: base path" in summary

    workers = [running.model(name)["versions"][0]["worker_pid"] for name in names[::20]]
    private = [psutil.Process(pid).memory_full_info().uss for pid in workers]
    assert max(private) < PRIVATE_BYTES
