"""On a machine with a card: memory grows, a limit holds, and an unload gives all of it back.

`nvidia-smi` is asked from outside, so that what is measured is what the next process on that card would find.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.servers import ServerProcess, wait_until

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no nvidia-smi: this machine has no NVIDIA card"),
]


def _query(what: str) -> int:
    """One figure of the first card, in MiB."""
    answer = subprocess.run(
        ["nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return int(answer.stdout.strip())


def _used() -> int:
    return _query("memory.used")


def _ask(server: ServerProcess, name: str) -> None:
    """A batch large enough for the card to need memory of its own."""
    rows = np.random.default_rng(0).random((256, 784), dtype=np.float32)
    assert np.isfinite(server.predict(name, {"x": rows})["y"]).all()


def _load(server: ServerProcess, models_dir: Path, name: str, **settings: Any) -> None:
    server.put_model(name, models_dir / "mlp", **settings)
    server.wait_available(name, timeout=180)
    _ask(server, name)


def _unload(server: ServerProcess, name: str, before: int) -> None:
    assert server.control("DELETE", f"/models/{name}")[0] < 300
    wait_until(lambda: _used() <= before + 64, 60, f"the card's memory to return to {before} MiB")


def test_memory_grows_as_needed_two_versions_share_a_card_and_all_is_given_back(server: Any, models_dir: Path) -> None:
    before, total = _used(), _query("memory.total")
    running = server()
    _load(running, models_dir, "first")
    one = _used() - before
    assert 0 < one < total / 4, "the card was not used, or taken whole"
    _load(running, models_dir, "second")
    assert _used() - before < total / 2
    _unload(running, "second", before + one)
    _unload(running, "first", before)


def test_a_fraction_is_taken_at_once_when_growth_is_off(
    server: Any, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    before, total = _used(), _query("memory.total")
    running = server("--per_process_gpu_memory_fraction=0.2")
    _load(running, models_dir, "m")
    taken = _used() - before
    assert 0.15 * total < taken < 0.3 * total
    _unload(running, "m", before)


def test_a_model_that_wants_no_card_gets_none(server: Any, models_dir: Path, tmp_path: Path) -> None:
    before = _used()
    file = tmp_path / "models.pbtxt"
    file.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{models_dir / "mlp"}" model_platform: "tensorflow" '
        'serving_workbench { visible_device_list: "cpu" } } }'
    )
    running = server(f"--model_config_file={file}")
    running.wait_available("m", timeout=180)
    _ask(running, "m")
    # The process may hold a context of some hundred MiB; the allocator has taken nothing.
    assert _used() - before < 1024


def test_cuda_s_own_allocator(server: Any, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_GPU_ALLOCATOR", "cuda_malloc_async")
    before = _used()
    running = server()
    _load(running, models_dir, "m")
    assert "cuda_malloc_async" in running.log_text()
    _unload(running, "m", before)
