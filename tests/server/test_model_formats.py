"""Models of every kind of export, all in one server with one config file, each asked by gRPC and REST."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.wire import messages
from tests import leaks, models
from tests.examples import CLASSIFY, MULTI, REGRESS, example, multi_request, request
from tests.model_formats import NOTE
from tests.servers import ServerProcess

_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What Predict of a signature answers.

    Attributes
    ----------
    inputs, outputs : dict
        Values by alias, exact in float32; in REST's row form as well, so all share the first dimension.
    """

    model: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    signature: str = ""
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model}-{self.signature or 'default'}"


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What Classify or Regress of a signature answers, in REST's form."""

    model: str
    method: str
    examples: list[dict[str, Any]]
    results: list[Any]
    signature: str = ""

    def __str__(self) -> str:
        return f"{self.model}-{self.method}-{self.signature or 'default'}"


_INT = {"a": "int32", "b": "int32"}
_PREDICTED = (
    # Graphs as TensorFlow 1 exported them.
    Predicted("half_plus_two", {"x": [1.0, 2.0]}, {"y": [3.5, 4.0]}),
    Predicted("half_plus_three", {"x": [[1.0], [5.0]]}, {"y": [[3.5], [5.5]]}),
    Predicted("half_plus_three", {"x": [[1.0]]}, {"y": [[3.5]]}, "tensorflow/serving/predict"),
    Predicted("multi", {"a": [5.0], "b": [3.0]}, {"sum": [8.0], "diff": [2.0]}),
    Predicted(
        "multi", {"m": [[1.0, 2.0, 3.0]], "scale": [[2.0]]}, {"scaled": [[2.0, 4.0, 6.0]], "row_sum": [6.0]}, "matrix"
    ),
    Predicted("multi", {"left": ["a", "b"], "right": ["c", ""]}, {"joined": ["ac", "b"], "length": [2, 1]}, "join"),
    # Modules of TensorFlow 2.
    Predicted("half_plus_two_tf2", {"x": [1.0, 2.0]}, {"y": [3.5, 4.0]}),
    Predicted("vocabulary_tf2", {"word": ["dog", "horse", "cat"]}, {"number": [1, -1, 0]}),
    Predicted("variable_length", {"x": [[1.0, 2.0], [3.0, 4.0]]}, {"total": [3.0, 7.0]}),
    # Keras 3, by Model.export and by ExportArchive.
    Predicted("keras_heads", {"left": [[1.0, 2.0]], "right": [[3.0]]}, {"total": [[6.0]], "twice": [[6.0]]}),
    Predicted("keras_archive", {"left": [[1.0, 2.0]], "right": [[4.0]]}, {"total": [[7.0]], "twice": [[8.0]]}),
    Predicted("keras_archive", {"left": [[1.0, 2.0]], "right": [[4.0]]}, {"total": [[7.0]], "twice": [[8.0]]}, "serve"),
    Predicted("keras_archive", {"right": [[4.0], [1.0]]}, {"twice": [[8.0], [2.0]]}, "only_twice"),
    # TensorFlow Lite.
    Predicted("tflite_converted", {"x": [2.0, 4.0]}, {"y": [3.0, 4.0]}),
    Predicted(
        "tflite_converted",
        {"a": [[1, 2]], "b": [[10, 20]]},
        {"sum": [[11, 22]], "difference": [[-9, -18]]},
        "add",
        _INT,
    ),
    Predicted("tflite_stored", {"number": [2.0]}, {"half": [3.0]}),
)

_WORD = [{"word": "dog", "weight": 2.5}, {"word": "horse"}]
_INFERRED = (
    Inferred("examples", "classify", [{"x": 1.0}], [[["a", 1.0], ["b", 3.5]]]),
    Inferred("examples", "regress", [{"x": 1.0}, {"x": 2.0}], [3.5, 4.0], "regress"),
    Inferred("examples_tf2", "classify", [{"x": 1.0}], [[["a", 1.0], ["b", 2.5]]]),
    Inferred("examples_tf2", "regress", [{"x": 1.0}], [2.5], "regress"),
    Inferred("half_plus_three", "regress", [{"x": 1.0}, {"x": 2.0}], [3.5, 4.0], "tensorflow/serving/regress"),
    Inferred("half_plus_three", "regress", [{"x": 1.0, "x2": 4.0}], [5.0], "regress_x2_to_y3"),
    Inferred("half_plus_three", "classify", [{"x": 1.0}], [[["", 3.5]]], "classify_x_to_y"),
    Inferred(
        "estimator",
        "classify",
        _WORD,
        [[["cat", 1.0], ["dog", 3.5], ["cow", 1.0]], [["cat", 1.0], ["dog", 1.0], ["cow", 1.0]]],
    ),
    Inferred("estimator", "regress", _WORD, [2.5, 1.0], "regression"),
)

_MODELS = sorted({row.model for row in (*_PREDICTED, *_INFERRED)} | {"tflite_plain", "digits"})


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("formats")
    entries = []
    for name in _MODELS:
        # TensorFlow Serving's own pages number versions like this.
        models.copy_version(models_dir / name / str(models.VERSIONS[name][-1]), folder / name / "00000123")
        entries.append(f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}')
    file = folder / "models.config"
    file.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    flags = (f"--model_config_file={file}", "--prefer_tflite_model", "--max_num_load_retries=0")
    with ServerProcess(*flags, directory=folder / "server") as process:
        leaks.allow(process.pid)
        for name in _MODELS:
            process.wait_available(name, 123, timeout=120)
        yield process


@pytest.mark.parametrize("row", _PREDICTED, ids=str)
def test_predict(server: ServerProcess, row: Predicted) -> None:
    arrays = {}
    for alias, values in row.inputs.items():
        array = np.asarray(values, row.dtypes.get(alias))
        arrays[alias] = array.astype(np.float32) if array.dtype == np.float64 else array
    found, version = server.predict_versioned(row.model, arrays, signature=row.signature)
    assert version == 123
    assert {alias: _plain(array) for alias, array in found.items()} == row.outputs

    signature = {"signature_name": row.signature} if row.signature else {}
    path = f"/v1/models/{row.model}:predict"
    columns = row.inputs if len(row.inputs) > 1 else next(iter(row.inputs.values()))
    outputs = row.outputs if len(row.outputs) > 1 else next(iter(row.outputs.values()))
    assert server.rest("POST", path, {**signature, "inputs": columns}) == (200, {"outputs": outputs})
    answer = server.rest("POST", path, {**signature, "instances": _rows(row.inputs)})
    assert answer == (200, {"predictions": _rows(row.outputs) if len(row.outputs) > 1 else outputs})


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(array: Any) -> Any:
    values = array.tolist()
    return [value.decode() for value in values] if values and isinstance(values[0], bytes) else values


@pytest.mark.parametrize("row", _INFERRED, ids=str)
def test_classify_and_regress(server: ServerProcess, row: Inferred) -> None:
    signature = {"signature_name": row.signature} if row.signature else {}
    answer = server.rest("POST", f"/v1/models/{row.model}:{row.method}", {**signature, "examples": row.examples})
    assert answer == (200, {"results": row.results})
    examples = [example(**features) for features in row.examples]
    method = CLASSIFY if row.method == "classify" else REGRESS
    asked = request(method, row.model, examples, row.signature)
    answers = messages.ClassificationResponse if method == CLASSIFY else messages.RegressionResponse
    result = server.call(method, asked, answers).result
    if method == CLASSIFY:
        assert [[[c.label, c.score] for c in entry.classes] for entry in result.classifications] == row.results
    else:
        assert [entry.value for entry in result.regressions] == row.results


def test_both_kinds_of_inference_of_an_estimator_at_once(server: ServerProcess) -> None:
    asked = multi_request("estimator", {"serving_default": "classify", "regression": "regress"}, [example(word="cow")])
    classes, values = server.call(MULTI, asked, messages.MultiInferenceResponse).results
    scores = [(c.label, c.score) for c in classes.classification_result.classifications[0].classes]
    assert scores == [("cat", 1.0), ("dog", 1.0), ("cow", 2.0)]
    assert [entry.value for entry in values.regression_result.regressions] == [1.0]


def test_predict_takes_the_examples_of_an_estimator_as_bytes(server: ServerProcess) -> None:
    serialized = [example(word=word).SerializeToString() for word in ("cow", "horse")]
    found = server.predict("estimator", {"examples": np.array(serialized, object)}, signature="predict")
    assert found["class_ids"].tolist() == [[2], [-1]]
    rows = [{"b64": base64.b64encode(data).decode()} for data in serialized]
    body = {"signature_name": "predict", "instances": rows}
    assert server.rest("POST", "/v1/models/estimator:predict", body) == (200, {"predictions": [[2], [-1]]})


def test_the_init_op_reads_a_file_of_the_assets(server: ServerProcess) -> None:
    """Its length is in a variable of the kind that graphs refer to (DT_INT32_REF), which answers with its value."""
    found = server.predict("half_plus_three", {"x": np.float32([[1]])}, signature="asset_length")
    assert (found["length"].dtype, found["length"].tolist()) == (np.int32, len(NOTE))
    body = {"signature_name": "asset_length", "inputs": [1.0]}
    assert server.rest("POST", "/v1/models/half_plus_three:predict", body) == (200, {"outputs": len(NOTE)})
    (output,) = _signatures(server, "half_plus_three")["asset_length"]["outputs"].values()
    assert output["dtype"] == "DT_INT32_REF"


def test_tensorflow_lite_without_signatures_goes_by_names_of_tensors(server: ServerProcess) -> None:
    (alias,) = _signatures(server, "tflite_plain")["serving_default"]["inputs"]
    (values,) = server.predict("tflite_plain", {alias: np.float32([2, 4])}).values()
    assert values.tolist() == [3, 4]
    answer = server.rest("POST", "/v1/models/tflite_plain:predict", {"instances": [2.0, 4.0]})
    assert answer == (200, {"predictions": [3.0, 4.0]})


def test_a_trained_keras_model_answers_alike_in_both_protocols(server: ServerProcess) -> None:
    pixels = np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 64)
    (found,) = server.predict("digits", {"pixels": pixels}).values()
    assert found.shape == (2, 10)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    status, answer = server.rest("POST", "/v1/models/digits:predict", {"instances": pixels.tolist()})
    assert (status, np.float32(answer["predictions"]).tolist()) == (200, found.tolist())


def _signatures(server: ServerProcess, model: str) -> dict[str, Any]:
    status, answer = server.rest("GET", f"/v1/models/{model}/metadata")
    assert (status, answer["model_spec"]["version"]) == (200, "123"), answer
    found: dict[str, Any] = answer["metadata"]["signature_def"]["signature_def"]
    return found


@pytest.mark.parametrize("model", _MODELS)
def test_status_and_metadata(server: ServerProcess, model: str) -> None:
    asked = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = model
    answer = server.call(_METADATA, asked, messages.GetModelMetadataResponse)
    signatures = messages.SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
    told = _signatures(server, model)
    assert set(told) == set(signatures)
    # Each signature that the rows above ask for, under the aliases that they use.
    for row in _PREDICTED:
        if row.model == model:
            signature = signatures[row.signature or "serving_default"]
            for found, wanted in ((signature.inputs, row.inputs), (signature.outputs, row.outputs)):
                assert set(found) == set(wanted)
            assert set(told[row.signature or "serving_default"]["inputs"]) == set(row.inputs)
    status, answer = server.rest("GET", f"/v1/models/{model}")
    (entry,) = answer["model_version_status"]
    assert (status, entry["version"], entry["state"]) == (200, "123", "AVAILABLE")
