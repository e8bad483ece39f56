"""Regress against a real server, over gRPC on both transports and over REST."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving_server.wire import messages
from tests.examples import REGRESS, example, refused, request
from tests.servers import ServerProcess, SharedServer

TWO = (example(x=1.0), example(x=3.0))


def regress(server: ServerProcess, *args: Any, **options: Any) -> Any:
    return server.call(REGRESS, request(REGRESS, *args, **options), messages.RegressionResponse)


def _values(response: Any) -> list[float]:
    return [regression.value for regression in response.result.regressions]


@pytest.mark.parametrize("signature", ["regress", "regress_column"])
def test_values(grpc_server: SharedServer, signature: str) -> None:
    model = grpc_server.serve("examples")
    response = regress(grpc_server, model, TWO, signature)
    assert _values(response) == [3.5, 4.5]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (model, 2, signature)
    assert _values(regress(grpc_server, model, TWO, signature, version=1)) == [2.5, 3.5]


def test_a_signature_for_predict_will_do_when_its_names_fit(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples_tf2")
    assert _values(regress(grpc_server, model, TWO, "regress")) == [2.5, 3.5]


def test_a_context_is_part_of_each_example(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    response = regress(grpc_server, model, [example(), example(x=3.0)], "regress", context=example(x=1.0))
    assert _values(response) == [3.5, 4.5]


def test_zero_and_special_values(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    values = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40]
    asked = [example(x=-value) for value in values]
    got = np.float32(_values(regress(grpc_server, model, asked, "regress_other")))
    np.testing.assert_array_equal(got, np.float32(values))
    assert np.signbit(got[:2]).tolist() == [False, True]


#: What INVALID_ARGUMENT says, by signature.
ERRORS = {
    "missing": "No signature was found with the name: missing (this version has: ",
    "two_inputs": "Expected one input Tensor.",
    "two_regressions": "Expected one output Tensor.",
    "regress_inputs_elsewhere": 'No regression inputs found in SignatureDef: inputs {\n  key: "examples"',
    "neither_output": 'No regression outputs found in SignatureDef: inputs {\n  key: "inputs"',
    "regress_two_columns": ("Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]"),
    "regress_one_row": "Input batch size did not match output batch size: 2 vs. 1",
    "regress_int": "Expected output Tensor of DT_FLOAT.  Got: DT_INT64",
}


@pytest.mark.parametrize("signature", ERRORS)
def test_signatures_that_cannot_regress(grpc_server: SharedServer, signature: str) -> None:
    model = grpc_server.serve("examples")
    code, details = refused(grpc_server, REGRESS, request(REGRESS, model, TWO, signature))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(ERRORS[signature])
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 3.0}]}
    status, answer = grpc_server.rest("POST", f"/v1/models/{model}:regress", body)
    assert status == 400
    assert answer["error"].startswith(details.removesuffix("...TRUNCATED"))


def test_long_texts_are_cut(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    name = "n" * 2000
    _, details = refused(grpc_server, REGRESS, request(REGRESS, model, TWO, name))
    assert details == f"No signature was found with the name: {name}"[:1024] + "...TRUNCATED"


def test_no_examples_and_no_model(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    asked = request(REGRESS, model, [], "regress")
    assert refused(grpc_server, REGRESS, asked) == ("INVALID_ARGUMENT", "Input is empty.")
    asked.ClearField("model_spec")
    assert refused(grpc_server, REGRESS, asked) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    code, text = refused(grpc_server, REGRESS, request(REGRESS, "absent", TWO))
    assert code == "NOT_FOUND"
    assert text.startswith("Servable not found for request: Latest(absent)")
