"""Constants behind convolutions and products become their weights, and nothing else does; the answers stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

#: What is left of each case's graph.
FOLDED = {
    "conv_normalized": {"Conv2D": 1, "BiasAdd": 1, "Relu6": 1},
    "depthwise_scaled": {"DepthwiseConv2dNative": 1, "BiasAdd": 1, "Relu": 1},
    "product_normalized": {"MatMul": 1, "BiasAdd": 1, "Relu": 1},
}
LEFT_ALONE = {
    "product_with_bias": {"MatMul": 2, "BiasAdd": 1, "Relu": 1, "AddV2": 1},
    "used_twice": {"Conv2D": 1, "FusedBatchNormV3": 1, "AddV2": 1},
    "not_per_channel": {"Conv2D": 1, "Mul": 1},
    "training": {"Conv2D": 1, "FusedBatchNormV3": 1},
    "fed_scale": {"Conv2D": 1, "Mean": 1, "Mul": 1},
}

#: 784-512-512-10 with biases, float32.
MLP_BYTES = 4 * (784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.server.fold_cases",
            str(tmp_path_factory.mktemp("fold")),
            str(models_dir / "mlp" / "1"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found.keys() == FOLDED.keys() | LEFT_ALONE.keys() | {"keras"}
    return found


@pytest.mark.parametrize("name", [*FOLDED, *LEFT_ALONE])
def test_what_is_left_of_the_graph(cases: dict[str, dict[str, Any]], name: str) -> None:
    assert cases[name]["ops"] == (FOLDED | LEFT_ALONE)[name]


@pytest.mark.parametrize("name", [*FOLDED, *LEFT_ALONE])
def test_answers_stay_whatever_the_size_of_the_batch_before(cases: dict[str, dict[str, Any]], name: str) -> None:
    case = cases[name]
    assert case["frozen"] == ["serving_default"]
    assert case["folded"]
    assert case["varies"] > 0.1  # else equal answers would prove nothing
    assert case["difference"] < 1e-5


def test_products_with_constant_weights_are_kept_from_fusion(cases: dict[str, dict[str, Any]]) -> None:
    assert {name: case["unfused"] for name, case in cases.items() if case.get("unfused")} == {
        "product_normalized": 1,
        "product_with_bias": 2,
    }


def test_variables_over_the_limit_stay_variables(cases: dict[str, dict[str, Any]]) -> None:
    """A Keras export, whose graph has no collection of variables."""
    found = cases["keras"]
    assert found["bytes"] == MLP_BYTES
    assert "serving_default" in found["allowed"]
    assert found["refused"].keys() >= set(found["allowed"])
    assert all("its variables take" in found["refused"][name] for name in found["allowed"])
