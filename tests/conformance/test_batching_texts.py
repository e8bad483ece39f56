"""What cannot be batched, over both protocols, and which requests share a batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.batching.batch import rows_to_batch
from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.task import Task
from serving_server.errors import InvalidArgumentError
from serving_server.signatures import Signature
from serving_server.tensors import to_proto
from serving_server.wire import messages
from tests.conformance.told import differs
from tests.examples import refused
from tests.servers import SharedServer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
BATCHING = {"max_batch_size": 8, "batch_timeout_micros": 50_000, "num_batch_threads": 1}
MODELS = ("half_plus_two", "multi", "no_batch_dim", "bad_output_batch")


@pytest.fixture(scope="module")
def batched(shared_server: SharedServer, models_dir: Path) -> Iterator[SharedServer]:
    """The shared server with more models, `batched-<name>`, whose requests are batched."""
    for name in MODELS:
        shared_server.put_model(f"batched-{name}", models_dir / name, batching=BATCHING)
    for name in MODELS:
        shared_server.wait_available(f"batched-{name}")
    yield shared_server
    for name in MODELS:
        shared_server.control("DELETE", f"/models/batched-{name}")


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "code", "status", "text"),
    [
        (
            "no_batch_dim",
            "",
            {"x": 1.0},
            "INVALID_ARGUMENT",
            400,
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            "multi",
            "",
            {"a": [1.0], "b": [1.0, 2.0]},
            "INVALID_ARGUMENT",
            400,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        (
            "half_plus_two",
            "",
            {"x": [1.0] * 9},
            "INVALID_ARGUMENT",
            400,
            "Task size 9 is larger than maximum input batch size 8",
        ),
        (
            "no_batch_dim",
            "total",
            {"x": [1.0]},
            "FAILED_PRECONDITION",
            400,
            "Batched output tensor has 0 dimensions",
        ),
        (
            "bad_output_batch",
            "",
            {"x": [[1.0] * 4] * 3},
            "FAILED_PRECONDITION",
            400,
            (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors"
            ),
        ),
    ],
)
def test_what_cannot_be_batched(
    batched: SharedServer, model: str, signature: str, inputs: dict[str, Any], code: str, status: int, text: str
) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = f"batched-{model}"
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(np.float32(value)))
    assert not differs(refused(batched, PREDICT, request), (code, text))
    body = {"signature_name": signature, "inputs": inputs} if signature else {"inputs": inputs}
    got, answer = batched.rest("POST", f"/v1/models/batched-{model}:predict", body)
    assert not differs((got, answer["error"]), (status, text))


def test_a_request_without_inputs() -> None:
    """No model has such a signature; the worker would never see a batch of it."""
    task = Task(Signature("s", "", {}, {}, {}), {}, ("y",), 0.0, None, lambda *_: None)
    with pytest.raises(InvalidArgumentError, match=r"^Batching Run\(\) must have at least one input tensor$"):
        rows_to_batch(task, BatchingParameters())


def test_each_set_of_outputs_has_a_queue_of_its_own(batched: SharedServer) -> None:
    """Two requests that together would fit a batch, for other outputs: each runs when its own time is up."""

    def sizes() -> dict[str, int]:
        (version,) = batched.control("GET", "/statistics")[1]["models"]["batched-multi"].values()
        found: dict[str, int] = version["batches"]["sizes"]
        return found

    def ask(output: str) -> dict[str, list[float]]:
        request = messages.PredictRequest(output_filter=[output])
        request.model_spec.name = "batched-multi"
        for alias, value in (("a", 5.0), ("b", 3.0)):
            request.inputs[alias].CopyFrom(to_proto(np.float32([value])))
        response = batched.call(PREDICT, request, messages.PredictResponse)
        return {alias: list(tensor.float_val) for alias, tensor in response.outputs.items()}

    before = sizes()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, ("sum", "diff"))) == [{"sum": [8.0]}, {"diff": [2.0]}]
    after = sizes()
    assert {size: count - before.get(size, 0) for size, count in after.items()} == {"1": 2}
