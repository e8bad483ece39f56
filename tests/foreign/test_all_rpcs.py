"""Every RPC of TensorFlow Serving by generated stubs that others made, on both transports, with one list of answers.

Each client loads the models by HandleReloadConfigRequest itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.foreign.tensorflow_clients import CLIENTS, TensorFlowClients, environment
from tests.servers import ServerProcess

_MODELS = ("half_plus_two", "examples", "echo_all_dtypes", "multi")

_BITS = {"half": [0x3C00, 0xC000], "bfloat16": [0x3F80, 0xC000]}  # 1 and -2
_WHOLE = {
    **{name: [np.iinfo(name).min, np.iinfo(name).max] for name in ("int8", "int16", "int32")},
    **{name: [0, np.iinfo(name).max] for name in ("uint8", "uint16", "uint32")},
    # What JavaScript's numbers can hold.
    "int64": [-(2**53) + 1, 2**53 - 1],
    "uint64": [0, 2**53 - 1],
}
_FIELDS = {"int64": "int64_val", "uint32": "uint32_val", "uint64": "uint64_val"}


def _tensors() -> dict[str, tuple[str, str, list[Any], str | None]]:
    """dtype -> its name in TensorFlow, typed field, values, bytes in hexadecimal."""
    found: dict[str, tuple[str, str, list[Any], str | None]] = {
        "float32": ("DT_FLOAT", "float_val", [0.5, -1.5], np.float32([0.5, -1.5]).tobytes().hex()),
        "float64": ("DT_DOUBLE", "double_val", [0.1, 1e300], np.float64([0.1, 1e300]).tobytes().hex()),
        "complex64": ("DT_COMPLEX64", "scomplex_val", [1, 2, 3, 4], np.complex64([1 + 2j, 3 + 4j]).tobytes().hex()),
        "complex128": ("DT_COMPLEX128", "dcomplex_val", [1, 2, 3, 4], np.complex128([1 + 2j, 3 + 4j]).tobytes().hex()),
        "bool": ("DT_BOOL", "bool_val", [True, False], "0100"),
        "string": ("DT_STRING", "string_val", ["", "ä"], None),
    }
    for name, bits in _BITS.items():
        found[name] = (f"DT_{name.upper()}", "half_val", bits, np.uint16(bits).tobytes().hex())
    for name, values in _WHOLE.items():
        content = np.asarray(values, name).tobytes().hex()
        found[name] = (f"DT_{name.upper()}", _FIELDS.get(name, "int_val"), values, content)
    return found


_TENSORS = _tensors()


def _job(server: ServerProcess, models_dir: Path, **more: str) -> str:
    models = {name: str(models_dir / name) for name in _MODELS}
    return json.dumps({"endpoint": server.grpc_endpoint, "models": models, "tensors": _TENSORS, **more})


def _check(written: str) -> None:
    found = json.loads(written.splitlines()[-1])
    assert found["reloads"] == [0, 0]
    assert found["statuses"] == [[[2, 30, 0], [1, 30, 0]], [[1, 30, 0]]]
    latest, first = ["half_plus_two", 2, "serving_default", ""], ["half_plus_two", 1, "serving_default", ""]
    assert found["predict"] == {
        "latest": [[3.5, 4], *latest],
        "signature": [[3.5, 4], *latest],
        "version": [[2.5, 3], *first],
        "stable": [[2.5, 3], *first],
        "canary": [[3.5, 4], *latest],
        "content": [[3.5, 4], *latest],
        "content_wins": [[3.5], *latest],
        "last_repeated": [[3.5, 4, 4], *latest],
        "nothing": [[3, 3], *latest],
    }
    for dtype, (name, _, values, content) in _TENSORS.items():
        assert found["tensors"][dtype] == [[name, [2], values]] * (1 if content is None else 2), dtype
    assert found["filtered"] == {"diff": [2]}
    assert found["classes"] == [[["a", 1], ["b", 3.5]], [["a", 3], ["b", 4.5]]]
    assert found["values"] == [[2.5], 1]
    assert found["multi"] == [["classification_result", "serving_default", 2], ["regression_result", "regress", 2]]
    signature = ["tensorflow/serving/predict", {"x": [-1]}, {"y": "DT_FLOAT"}]
    assert found["metadata"] == [1, {"serving_default": signature}]
    _check_errors(found["refused"])


def _check_errors(found: Mapping[str, tuple[int, str]]) -> None:
    invalid, not_found, unimplemented = 3, 5, 12
    wanted = {
        "label": (invalid, "Unrecognized servable version label: nobody"),
        "dtype": (invalid, "Expects arg[0] to be float but double is provided"),
        "length": (invalid, "tensor parsing error: x"),
        "examples": (invalid, "Input is empty."),
        "field": (invalid, "GetModelMetadataRequest must specify at least one metadata_field"),
        "version": (not_found, "Could not find version 9 of model half_plus_two"),
        "twice": (invalid, "Illegal to list model examples multiple times in config list"),
        "session_run": (unimplemented, ""),
    }
    assert set(found) == set(wanted)
    for name, (code, text) in wanted.items():
        assert found[name][0] == code, (name, found[name])
        assert found[name][1].startswith(text), (name, found[name])


def _run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment() | env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_stubs_of_tensorflow_serving(
    configured_server: ServerProcess, models_dir: Path, tensorflow_clients: TensorFlowClients
) -> None:
    _check(tensorflow_clients.run("all_rpcs.py", _job(configured_server, models_dir)))


def test_the_stubs_of_min_tfs_client(configured_server: ServerProcess, models_dir: Path, min_tfs_client: Path) -> None:
    """Stubs and messages of 2020, with protobuf in Python only."""
    command = [sys.executable, "-S", CLIENTS / "all_rpcs.py", _job(configured_server, models_dir)]
    _check(_run(*command, PYTHONPATH=str(min_tfs_client)))


@pytest.fixture(scope="session")
def protos(tensorflow_clients: TensorFlowClients, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of TensorFlow Serving's own .proto files."""
    path = tmp_path_factory.mktemp("protos")
    tensorflow_clients.run("protos.py", str(path))
    return path


def test_grpc_js(configured_server: ServerProcess, models_dir: Path, node_modules: Path, protos: Path) -> None:
    job = _job(configured_server, models_dir, protos=str(protos))
    _check(_run("node", CLIENTS / "node" / "all_rpcs.js", job, cwd=node_modules))
