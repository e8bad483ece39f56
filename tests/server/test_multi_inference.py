"""MultiInference against a real server, over gRPC on both transports."""

from __future__ import annotations

import itertools
from typing import Any

from serving_server.example_inference import MAX_UNIONS
from serving_server.wire import messages
from tests.examples import MULTI, example, multi_request, refused
from tests.servers import SharedServer

TWO = (example(x=1.0), example(x=3.0))


def _ask(server: SharedServer, asked: Any) -> Any:
    return server.call(MULTI, asked, messages.MultiInferenceResponse)


def test_several_signatures_in_one_run(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    tasks = {"regress": "regress", "classify": "classify", "regress_column": "regress"}
    first, second, third = _ask(grpc_server, multi_request(model, tasks, TWO)).results
    assert [regression.value for regression in first.regression_result.regressions] == [3.5, 4.5]
    rows = second.classification_result.classifications
    assert [[(c.label, c.score) for c in row.classes] for row in rows] == [
        [("a", 1.0), ("b", 3.5)],
        [("a", 3.0), ("b", 4.5)],
    ]
    assert [regression.value for regression in third.regression_result.regressions] == [3.5, 4.5]
    for result, signature in zip((first, second, third), tasks, strict=True):
        spec = result.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == (model, 2, signature)


def test_inputs_of_several_tensors(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    asked = multi_request(model, {"regress_other": "regress", "": "classify"}, TWO)
    other, default = _ask(grpc_server, asked).results
    assert [regression.value for regression in other.regression_result.regressions] == [-1.0, -3.0]
    assert default.model_spec.signature_name == "serving_default"
    assert len(default.classification_result.classifications) == 2


def test_a_context(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    asked = multi_request(model, {"regress": "regress"}, [])
    asked.input.example_list_with_context.examples.append(example(k=1))
    asked.input.example_list_with_context.context.CopyFrom(example(x=1.0))
    (result,) = _ask(grpc_server, asked).results
    assert [regression.value for regression in result.regression_result.regressions] == [3.5]


def test_the_version_is_the_first_task_s(grpc_server: SharedServer) -> None:
    """As in TensorFlow Serving: those of the other tasks do not count."""
    model = grpc_server.serve("examples")
    asked = multi_request(model, {"regress": "regress", "classify": "classify"}, TWO[:1])
    asked.tasks[0].model_spec.version.value = 1
    asked.tasks[1].model_spec.version.value = 99
    results = _ask(grpc_server, asked).results
    assert [result.model_spec.version.value for result in results] == [1, 1]
    assert results[0].regression_result.regressions[0].value == 2.5


def test_tasks_that_cannot_be(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")

    def told(*tasks: tuple[str, str], change: Any = None) -> tuple[str, str]:
        asked = multi_request(model, tasks, TWO)
        if change is not None:
            change(asked)
        return refused(grpc_server, MULTI, asked)

    def elsewhere(asked: Any) -> None:
        asked.tasks[1].model_spec.name = "other"

    def nowhere(asked: Any) -> None:
        asked.tasks[1].model_spec.Clear()

    invalid = "INVALID_ARGUMENT"
    both = (("classify", "classify"), ("regress", "regress"))
    assert told() == (invalid, "ModelSpec has no name specified.")
    assert told(both[0], change=lambda asked: asked.tasks[0].Clear()) == (invalid, "ModelSpec has no name specified.")
    assert told(*both, change=nowhere) == (invalid, "Found ModelSpec with an empty model name.")
    code, text = told(*both, change=elsewhere)
    assert code == invalid
    assert text.startswith("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    code, text = told(("", "classify"), ("serving_default", "regress"))
    assert (code, text) == (invalid, "Duplicate evaluation of signature: serving_default")
    code, text = told(both[0], ("missing", "regress"))
    assert code == invalid
    assert text.startswith("Requested signature not found in model graph: missing (this version has: ")
    code, text = told(("regress", "tensorflow/serving/predict"))
    assert code == "UNIMPLEMENTED"
    assert text.startswith("Unsupported signature method_name: tensorflow/serving/predict")
    code, text = told(both[0], ("two_regressions", "regress"))
    assert code == invalid
    assert text.startswith("Expected one output Tensor.")
    code, text = told(both[1], ("double_scores", "classify"))
    assert (code, text) == (invalid, "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE")
    assert told(both[0], change=lambda asked: asked.ClearField("input")) == (invalid, "Input is empty.")
    code, text = told(both[0], change=lambda asked: asked.tasks[0].model_spec.version.SetInParent())
    assert code == "NOT_FOUND"
    assert text.startswith(f"Servable not found for request: Specific({model}, 0)")


def test_sets_of_tensors_are_bounded(grpc_server: SharedServer) -> None:
    """Each is something that the worker keeps; clients choose them. What was asked for before goes on working."""
    model = grpc_server.serve("examples")
    fetching = ("regress", "regress_column", "scores_only", "classes_only", "regress_other", "untyped", "classify")
    extra = ("more_scores", "one_row", "double_scores")
    refusals = []
    asked = 0
    for size in range(1, 8):
        for names in itertools.combinations((*fetching, *extra), size):
            tasks = {name: "regress" if name.startswith("regress") else "classify" for name in names}
            asked += 1
            if asked > 3 * MAX_UNIONS:
                break
            request = multi_request(model, tasks, TWO[:1])
            request.tasks[0].model_spec.version.value = 1  # the other version is for other tests
            try:
                _ask(grpc_server, request)
            except Exception as error:
                refusals.append(error.code().name)  # type: ignore[attr-defined]
    assert "RESOURCE_EXHAUSTED" in refusals
    request = multi_request(model, {"regress": "regress"}, TWO)
    request.tasks[0].model_spec.version.value = 1
    assert len(_ask(grpc_server, request).results) == 1
