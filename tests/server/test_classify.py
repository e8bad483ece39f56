"""Classify against a real server, over gRPC on both transports and over REST."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.wire import messages
from tests.examples import CLASSIFY, ClassificationRequest, example, refused, request
from tests.servers import ServerProcess, SharedServer

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
TWO = (example(x=1.0), example(x=3.0))


def classify(server: ServerProcess, *args: Any, **options: Any) -> Any:
    return server.call(CLASSIFY, request(CLASSIFY, *args, **options), messages.ClassificationResponse)


def _pairs(response: Any) -> list[list[tuple[str, float]]]:
    return [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]


def test_classes_and_scores(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    response = classify(grpc_server, model, TWO)
    assert _pairs(response) == [[("a", 1.0), ("b", 3.5)], [("a", 3.0), ("b", 4.5)]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (model, 2, "serving_default")
    assert not spec.version_label
    older = classify(grpc_server, model, TWO, signature="classify", version=1)
    assert _pairs(older) == [[("a", 1.0), ("b", 2.5)], [("a", 3.0), ("b", 3.5)]]
    assert (older.model_spec.version.value, older.model_spec.signature_name) == (1, "classify")


def test_classes_alone_and_scores_alone(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    assert _pairs(classify(grpc_server, model, TWO[:1], "classes_only")) == [[("a", 0.0), ("b", 0.0)]]
    assert _pairs(classify(grpc_server, model, TWO[:1], "scores_only")) == [[("", 1.0), ("", 3.5)]]


def test_a_signature_for_predict_will_do_when_its_names_fit(grpc_server: SharedServer) -> None:
    """All exports of TensorFlow 2 are such."""
    model = grpc_server.serve("examples_tf2")
    assert _pairs(classify(grpc_server, model, TWO[:1])) == [[("a", 1.0), ("b", 2.5)]]
    assert _pairs(classify(grpc_server, grpc_server.serve("examples"), TWO[:1], "untyped")) == [[("", 1.0), ("", 3.5)]]


def test_a_context_is_part_of_each_example(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    examples = [example(k=1), example(x=7.0)]  # the second has its own x, which wins
    response = classify(grpc_server, model, examples, "scores_only", context=example(x=1.0))
    assert [row[0][1] for row in _pairs(response)] == [1.0, 7.0]


def test_zero_and_special_scores(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    values = [0.0, -0.0, float("inf"), float("nan"), 1e-40]
    response = classify(grpc_server, model, [example(x=value) for value in values], "scores_only")
    got = np.float32([row[0][1] for row in _pairs(response)])
    np.testing.assert_array_equal(got, np.float32(values))
    assert np.signbit(got[1])


#: What INVALID_ARGUMENT says, by signature.
ERRORS = {
    "missing": "No signature was found with the name: missing (this version has: ",
    "two_inputs": "Expected one input Tensor.",
    "three_outputs": "Expected one or two output Tensors, found 3",
    "inputs_elsewhere": 'No classification inputs found in SignatureDef: inputs {\n  key: "examples',
    "neither_output": (
        'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: '
        'inputs {\n  key: "inputs"'
    ),
    "flat_scores": "Expected Tensor shape: [batch_size num_classes] but got [2]",
    "flat_classes": "Expected Tensor shape: [batch_size num_classes] but got [2]",
    "int_classes": "Expected classes Tensor of DT_STRING. Got: DT_INT64",
    "double_scores": "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
    "one_row": "Expected scores output batch size of 2. Got: 1",
    "one_row_of_classes": "Expected classes output batch size of 2. Got: 1",
    "more_scores": "Tensors class and score should match in dim_size(1). Got 2 vs. 4",
    "numbers": "Expects arg[0] to be float but string is provided",
}


@pytest.mark.parametrize("signature", ERRORS)
def test_signatures_that_cannot_classify(grpc_server: SharedServer, signature: str) -> None:
    model = grpc_server.serve("examples")
    code, details = refused(grpc_server, CLASSIFY, request(CLASSIFY, model, TWO, signature))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(ERRORS[signature])
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 3.0}]}
    status, answer = grpc_server.rest("POST", f"/v1/models/{model}:classify", body)
    assert status == 400
    # Over REST nothing is cut.
    assert answer["error"].startswith(details.removesuffix("...TRUNCATED"))


@pytest.mark.parametrize("with_context", [False, True])
def test_no_examples(grpc_server: SharedServer, with_context: bool) -> None:
    model = grpc_server.serve("examples")
    context = example(x=1.0) if with_context else None
    asked = request(CLASSIFY, model, [], context=context)
    assert refused(grpc_server, CLASSIFY, asked) == ("INVALID_ARGUMENT", "Input is empty.")
    asked.ClearField("input")
    assert refused(grpc_server, CLASSIFY, asked) == ("INVALID_ARGUMENT", "Input is empty.")


def test_model_specs(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    asked = request(CLASSIFY, model, TWO, version=9)
    code, text = refused(grpc_server, CLASSIFY, asked)
    assert code == "NOT_FOUND"
    assert text.startswith(f"Servable not found for request: Specific({model}, 9)")
    asked.model_spec.version_label = "nobody"
    metadata = messages.GetModelMetadataRequest(model_spec=asked.model_spec, metadata_field=["signature_def"])
    assert refused(grpc_server, CLASSIFY, asked) == refused(grpc_server, METADATA, metadata)
    asked.model_spec.Clear()
    assert refused(grpc_server, CLASSIFY, asked) == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
    asked.ClearField("model_spec")
    assert refused(grpc_server, CLASSIFY, asked) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_what_is_no_request_and_what_is_no_example(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    broken: Any = messages.ExamplesRequest()
    broken.model_spec.name = model
    broken.input.example_list.examples.append(b"\xff no example")
    code, text = refused(grpc_server, CLASSIFY, broken)
    assert code == "INVALID_ARGUMENT"
    assert "Could not parse example input" in text
    code, text = refused(grpc_server, CLASSIFY, messages.SerializedInput.FromString(b"\x82\x01\x03abc"))
    assert (code, text) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    lacking = request(CLASSIFY, model, [example(k=1)])
    code, text = refused(grpc_server, CLASSIFY, lacking)
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x (data type: float) is required" in text


def test_requests_share_batches(server: Callable[..., ServerProcess], models_dir: Path, tmp_path: Path) -> None:
    """Eight requests of one example fill the batch that nothing else would close."""
    parameters = tmp_path / "batching.txt"
    parameters.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 600000000 } num_batch_threads { value: 1 }"
    )
    running = server(
        "--model_name=examples",
        f"--model_base_path={models_dir / 'examples'}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        "--enable_signature_method_name_check",
    )
    running.wait_available("examples")
    running.channel()
    got: dict[int, Any] = {}

    def ask(number: int) -> None:
        got[number] = _pairs(classify(running, "examples", [example(x=float(number))], "scores_only"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == {number: [[("", number), ("", number * 0.5 + 3)]] for number in range(8)}
    _the_check_of_method_names(running)


def _the_check_of_method_names(running: ServerProcess) -> None:
    """Of the same server, as starting one takes seconds."""
    eight = [example(x=1.0)] * 8
    text = "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
    code, details = refused(running, CLASSIFY, request(CLASSIFY, "examples", eight, "regress"))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(text + "tensorflow/serving/regress")
    body = {"signature_name": "untyped", "examples": [{"x": 1.0}]}
    status, answer = running.rest("POST", "/v1/models/examples:classify", body)
    assert status == 400
    assert answer["error"].startswith(text + "nobody/knows")
    body = {"signature_name": "classify", "examples": [{"x": 1.0}]}
    status, answer = running.rest("POST", "/v1/models/examples:regress", body)
    assert status == 400
    assert answer["error"].startswith(
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify"
    )
    status, answer = running.rest(
        "POST", "/v1/models/examples:predict", {"signature_name": "untyped", "instances": [{"b64": ""}]}
    )
    assert status == 500
    assert answer["error"].startswith(
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: nobody/knows"
    )
    wanted = example(x=2.0).SerializeToString()
    strings = np.array([wanted] * 8 + [None], dtype=object)[:-1]
    outputs = running.predict("examples", {"inputs": strings}, signature="scores_only")
    assert outputs["scores"].tolist() == [[2.0, 4.0]] * 8


def test_the_real_message_has_the_fields_that_ours_leaves_serialized() -> None:
    asked = request(CLASSIFY, "m", TWO, "s", context=example(k=1))
    ours = messages.ExamplesRequest.FromString(asked.SerializeToString())
    kept = ours.input.example_list_with_context
    assert [messages.Example.FromString(data) for data in kept.examples] == list(TWO)
    assert messages.Example.FromString(kept.context) == example(k=1)
    assert ClassificationRequest.FromString(ours.SerializeToString()) == asked
