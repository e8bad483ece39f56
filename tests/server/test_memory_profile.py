"""Memory and start-up of one version: exact for a model whose every byte is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving_server.available_memory import available_bytes
from serving_server.errors import InvalidArgumentError
from serving_server.version_profiles import MemoryWish
from tests.server.test_op_profile import request
from tests.servers import ServerProcess, SharedServer

#: Of `dominated`: the heavy product's output (ReLU takes its place), and the light one's, while it is still there.
_PER_ROW = 4096 * 4 + 32 * 4


def profile(server: ServerProcess, model: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    status, answer = server.control("POST", f"/models/{model}/versions/{version}/profile/memory", fields, timeout=60)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def test_every_byte_is_found(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    answer = profile(shared_server, model, sizes=[64, 1, 16])
    assert answer["available_bytes"] > 0
    found = answer["profile"]
    weights = {each["name"]: each for each in found["weights"]}
    assert (weights["heavy"]["bytes"], weights["heavy"]["shape"]) == (512 * 4096 * 4, [512, 4096])
    assert (weights["light"]["bytes"], weights["light"]["kind"]) == (4096 * 32 * 4, "variable")
    assert next(iter(weights)) == "heavy"
    assert weights["heavy"]["used"]
    assert [each["rows"] for each in found["sizes"]] == [1, 16, 64]
    for each in found["sizes"]:
        assert each["peak_bytes"] == each["rows"] * _PER_ROW
        assert each["input_bytes"] == each["rows"] * 512 * 4
    assert found["ops"][0]["name"] == "heavy_product"
    assert found["ops"][0]["total_bytes"] == 64 * 4096 * 4
    assert found["resident_bytes"] > 8 << 20


def test_twice_as_large_takes_what_the_line_says(shared_server: SharedServer) -> None:
    model = shared_server.serve("mlp")
    sizes = profile(shared_server, model, sizes=[1, 8, 32, 64])["profile"]["sizes"]
    rows, peaks = zip(*((each["rows"], each["peak_bytes"]) for each in sizes), strict=True)
    slope, fixed = np.polyfit(rows[:3], peaks[:3], 1)
    assert fixed + slope * 64 == pytest.approx(peaks[3], rel=0.2)


def test_variables_of_tensorflow_2_and_of_what_is_not_frozen(shared_server: SharedServer) -> None:
    weights = profile(shared_server, shared_server.serve("mlp"))["profile"]["weights"]
    variables = [each for each in weights if each["kind"] == "variable"]
    parameters = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert sum(each["bytes"] for each in variables if each["used"]) == 4 * parameters
    # Keras' export writes each twice, and both are restored.
    assert sum(each["bytes"] for each in variables) == 2 * 4 * parameters
    counter = profile(shared_server, shared_server.serve("counter"), sizes=[2])["profile"]
    assert not counter["frozen"]
    assert counter["sizes"][0]["rows"] in {1, 2}


def test_requests_of_another_kind(shared_server: SharedServer) -> None:
    model = shared_server.serve("slow")
    rows = request(x=np.float32([1.0]), steps=np.int32([2]))
    assert profile(shared_server, model, request=rows)["profile"]["source"] == "given"
    assert not profile(shared_server, shared_server.serve("no_batch_dim"))["profile"]["batched"]
    status, answer = shared_server.control(
        "POST", f"/models/{shared_server.serve('examples')}/versions/1/profile/memory", {}, timeout=60
    )
    assert status >= 400
    assert "drawn to fit the signature" in answer["error"]
    for fields, message in (({"sizes": [0]}, "sizes must be"), ({"signature": 1}, "signature is 1")):
        with pytest.raises(InvalidArgumentError, match=message):
            MemoryWish.from_json(fields)


def test_a_run_holds_what_it_has_not_given_back() -> None:
    from serving_server.worker import memory_profile  # TensorFlow

    def node(*records: tuple[int, int]) -> Any:
        changes = [SimpleNamespace(alloc_micros=when, alloc_bytes=change) for when, change in records]
        return SimpleNamespace(memory=[SimpleNamespace(allocation_records=changes)])

    stats = SimpleNamespace(
        dev_stats=[SimpleNamespace(node_stats=[node((1, 100), (5, -100)), node((3, 50), (4, -50), (6, 70))])]
    )
    assert memory_profile.peak_bytes(stats) == 150


def test_a_load_is_the_sum_of_its_steps(shared_server: SharedServer) -> None:
    model = shared_server.serve("dominated")
    shared_server.predict_versioned(model, {"x": np.zeros((1, 512), np.float32)}, 2)
    shared_server.predict_versioned(model, {"x": np.zeros((1, 512), np.float32)}, 2)
    status, found = shared_server.control("GET", f"/models/{model}/versions/2/profile/startup")
    assert status == 200, found
    names = [name for name, _ in found["steps"]]
    assert names == [
        *("fork", "op libraries", "read graph", "restore variables", "initialize"),
        *("read warmup", "freeze", "hand over", "answer"),
    ]
    assert all(ns >= 0 for _, ns in found["steps"])
    told = {each["version"]: each for each in shared_server.model(model)["versions"]}[2]["load_seconds"]
    assert sum(ns for _, ns in found["steps"]) / 1e9 <= told + 1e-3
    assert found["variable_bytes"] == (512 * 4096 + 4096 * 32) * 4
    assert found["warmup_records"] == 0
    assert found["first_run_ns"] > 0
    assert found["later_run_ns"] > 0
    assert shared_server.control("GET", f"/models/{model}/versions/9/profile/startup")[0] == 404


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, "1000000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 600000\ninactive_file 100000\n")
    assert available_bytes(tmp_path, own) == 400_000
    assert available_bytes(tmp_path, tmp_path / "nix") > 1_000_000
