"""`--prefer_tflite_model`: TensorFlow Lite models of every kind of signature, beside SavedModels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import leaks, models
from tests.servers import ServerProcess, wait_until

#: Writes, below the folder in argv[1]: converted/1 (the converter's own signatures, two of them), plain/1 (none) and
#: stored/1 (TensorFlow Serving's metadata).
_BUILD = """
import sys
from pathlib import Path
import flatbuffers
from flatbuffers import flexbuffers
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.lite.python import schema_py_generated as schema

class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def halve(self, x):
        return {"y": x * 0.5 + 2}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, "a"), tf.TensorSpec([None, 2], tf.int32, "b")])
    def add(self, a, b):
        return {"sum": a + b, "difference": a - b}

def write(name, content):
    folder = Path(sys.argv[1]) / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)

module = Module()
saved = str(Path(sys.argv[1]) / "saved")
tf.saved_model.save(module, saved, signatures={"serving_default": module.halve, "add": module.add})
write("converted", tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=["serving_default", "add"]).convert())
tf.saved_model.save(module, saved + "1", signatures={"serving_default": module.halve})
single = tf.lite.TFLiteConverter.from_saved_model(saved + "1").convert()

def packed(edit):
    model = schema.ModelT.InitFromPackedBuf(single, 0)
    model.signatureDefs = []
    edit(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

write("plain", packed(lambda model: None))

def store(model):
    graph = model.subgraphs[0]
    definition = SignatureDef(method_name="tensorflow/serving/predict")
    places = ((definition.inputs, graph.inputs[0], "number"), (definition.outputs, graph.outputs[0], "half"))
    for into, index, alias in places:
        into[alias].name = graph.tensors[index].name.decode().removesuffix(":0")
        into[alias].dtype = tf.float32.as_datatype_enum
        into[alias].tensor_shape.dim.add(size=-1)
    buffer = schema.BufferT()
    buffer.data = list(flexbuffers.Dumps({"serving_default": definition.SerializeToString()}))
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]

write("stored", packed(store))
"""


@pytest.fixture(scope="module")
def tflite_server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tflite")
    done = subprocess.run([sys.executable, "-c", _BUILD, str(folder)], capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    models.copy_version(models_dir / "half_plus_two" / "1", folder / "saved_model" / "1")
    with ServerProcess("--prefer_tflite_model", "--enable_batching", directory=folder / "server") as server:
        leaks.allow(server.pid)
        for name in ("converted", "plain", "stored", "saved_model"):
            server.put_model(name, folder / name)
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


def test_a_file_that_is_no_model_fails_with_its_name(
    tflite_server: ServerProcess, model_copy: Callable[..., Path]
) -> None:
    folder = model_copy("half_plus_two")
    (folder / "model.tflite").write_bytes(b"not a flatbuffer at all")
    tflite_server.put_model("broken", folder.parent)
    wait_until(lambda: bool(tflite_server.versions("broken")), 20, "the version to be seen")
    wait_until(lambda: tflite_server.versions("broken")[1]["error_message"], 30, "an error")
    assert "model.tflite is not a TensorFlow Lite model" in tflite_server.versions("broken")[1]["error_message"]
