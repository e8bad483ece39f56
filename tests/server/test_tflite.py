"""`--prefer_tflite_model`: TensorFlow Lite models of every kind of signature, beside SavedModels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import leaks, model_formats
from tests.servers import ServerProcess, wait_until


@pytest.fixture(scope="module")
def tflite_server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Models of `tests.model_formats`, under the ends of their names, and a SavedModel."""
    folder = tmp_path_factory.mktemp("tflite")
    with ServerProcess("--prefer_tflite_model", "--enable_batching", directory=folder / "server") as server:
        leaks.allow(server.pid)
        for name in model_formats.TFLITE:
            server.put_model(name.removeprefix("tflite_"), models_dir / name)
        server.put_model("saved_model", models_dir / "half_plus_two", policy={"specific": {"versions": [1]}})
        for name in ("converted", "plain", "stored", "saved_model"):
            server.wait_available(name)
        yield server


def test_the_converter_s_signatures(tflite_server: ServerProcess) -> None:
    assert tflite_server.predict("converted", {"x": np.float32([2, 4])})["y"].tolist() == [3, 4]
    a, b = np.int32([[1, 2]]), np.int32([[10, 20]])
    found = tflite_server.predict("converted", {"a": a, "b": b}, signature="add")
    assert found["sum"].tolist() == [[11, 22]]
    assert found["difference"].tolist() == [[-9, -18]]
    _, metadata = tflite_server.rest("GET", "/v1/models/converted/metadata")
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "add"}
    (dim,) = signatures["serving_default"]["inputs"]["x"]["tensor_shape"]["dim"]
    assert dim["size"] == "-1"


def test_a_model_without_signatures_goes_by_its_tensors_names(tflite_server: ServerProcess) -> None:
    _, metadata = tflite_server.rest("GET", "/v1/models/plain/metadata")
    (alias,) = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert ":" not in alias
    assert tflite_server.rest("POST", "/v1/models/plain:predict", {"instances": [2.0, 4.0]}) == (
        200,
        {"predictions": [3.0, 4.0]},
    )


def test_signatures_in_the_metadata_are_preferred(tflite_server: ServerProcess) -> None:
    assert tflite_server.predict("stored", {"number": np.float32([2])})["half"].tolist() == [3]


def test_a_saved_model_beside_them_is_served_as_ever(tflite_server: ServerProcess) -> None:
    assert tflite_server.predict("saved_model", {"x": np.float32([2])})["y"].tolist() == [3]


@pytest.mark.parametrize("model", ["converted", "plain"])
def test_many_clients_with_many_shapes_get_their_own_answers(tflite_server: ServerProcess, model: str) -> None:
    def ask(rows: int) -> tuple[list[float], list[float]]:
        values = [float(rows * 100 + i) for i in range(rows)]
        status, answer = tflite_server.rest("POST", f"/v1/models/{model}:predict", {"instances": values})
        assert status == 200, answer
        return answer["predictions"], [value / 2 + 2 for value in values]

    with ThreadPoolExecutor(8) as pool:
        for found, wanted in pool.map(ask, [1 + n % 13 for n in range(200)]):
            assert found == wanted


def test_a_wrong_dtype_is_refused_by_name(tflite_server: ServerProcess) -> None:
    status, answer = tflite_server.rest("POST", "/v1/models/converted:predict", {"instances": ["text"]})
    assert status == 400
    assert "is not of expected type: float" in answer["error"]


#: Makes a model without signatures that takes no other inputs than [rows, 3].
_PRODUCT = """
import pathlib, sys
import tensorflow as tf
module = tf.Module()
module.product = tf.function(lambda x: tf.matmul(x, tf.ones([3, 2])), [tf.TensorSpec([None, 3], tf.float32, name="x")])
converter = tf.lite.TFLiteConverter.from_concrete_functions([module.product.get_concrete_function()])
pathlib.Path(sys.argv[1]).write_bytes(converter.convert())
"""


def test_shapes_that_a_model_refuses_do_not_spoil_its_next_answers(
    tflite_server: ServerProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "product" / "1"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", _PRODUCT, str(folder / "model.tflite")]
    built = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    tflite_server.put_model("product", folder.parent)
    tflite_server.wait_available("product")
    path = "/v1/models/product:predict"
    for _ in range(8):  # on every thread
        assert tflite_server.rest("POST", path, {"instances": [[1, 2, 3]]}) == (200, {"predictions": [[6.0, 6.0]]})
        assert tflite_server.rest("POST", path, {"instances": [[1, 2, 3, 4]]})[0] >= 400


def test_a_file_that_is_no_model_fails_with_its_name(
    tflite_server: ServerProcess, model_copy: Callable[..., Path]
) -> None:
    folder = model_copy("half_plus_two")
    (folder / "model.tflite").write_bytes(b"not a flatbuffer at all")
    tflite_server.put_model("broken", folder.parent)
    wait_until(lambda: bool(tflite_server.versions("broken")), 60, "the version to be seen")
    wait_until(lambda: tflite_server.versions("broken")[1]["error_message"], 30, "an error")
    assert "model.tflite is not a TensorFlow Lite model" in tflite_server.versions("broken")[1]["error_message"]
