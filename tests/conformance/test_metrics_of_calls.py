"""The metrics page by its very lines: what which call adds, under TensorFlow Serving's names and labels."""

from __future__ import annotations

import http.client
import urllib.parse
from typing import Any

from serving_server.wire import messages
from tests.examples import CLASSIFY, MULTI, REGRESS, example, multi_request, refused, request
from tests.metrics_page import PATH
from tests.servers import SharedServer

TWO = (example(x=1.0), example(x=3.0))
PREFIX = ":tensorflow:serving:"


def _lines(server: SharedServer) -> dict[str, float]:
    """Samples as they stand on the page: name and labels as one text."""
    address = urllib.parse.urlsplit(server.rest_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        connection.request("GET", PATH)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    assert (response.status, response.headers["Content-Type"]) == (200, "text/plain")
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_what_calls_add(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    before = _lines(grpc_server)
    for _ in range(2):
        grpc_server.call(CLASSIFY, request(CLASSIFY, model, TWO, "classify"), messages.ClassificationResponse)
    refused(grpc_server, CLASSIFY, request(CLASSIFY, model, [], "classify"))
    grpc_server.call(REGRESS, request(REGRESS, model, TWO, "regress"), messages.RegressionResponse)
    tasks = {"classify": "classify", "regress": "regress"}
    grpc_server.call(MULTI, multi_request(model, tasks, TWO), messages.MultiInferenceResponse)
    body: Any = {"signature_name": "regress", "examples": [{"x": 1.0}]}
    assert grpc_server.rest("POST", f"/v1/models/{model}:regress", body)[0] == 200
    assert grpc_server.rest("GET", f"/v1/models/{model}")[0] == 200
    after = _lines(grpc_server)

    def grown(name: str) -> float:
        return after[PREFIX + name] - before.get(PREFIX + name, 0)

    # MultiInference does not count here.
    assert grown(f'request_count{{model_name="{model}",status="OK"}}') == 5
    assert grown(f'request_count{{model_name="{model}",status="INVALID_ARGUMENT"}}') == 1
    for api, entrypoint, count in (("Classify", "GRPC", 2), ("Regress", "GRPC", 1), ("regress", "REST", 1)):
        labels = f'model_name="{model}",API="{api}",entrypoint="{entrypoint}"'
        assert grown(f"request_latency_count{{{labels}}}") == count
        assert grown(f'request_latency_bucket{{{labels},le="+Inf"}}') == count
    assert grown(f'runtime_latency_count{{model_name="{model}",API="Classify",runtime="TF1"}}') == 2
    assert grown(f'runtime_latency_count{{model_name="{model}",API="Regress",runtime="TF1"}}') == 2
    assert grown(f'request_example_count_total{{model="{model}"}}') == 2
    assert grown(f'request_example_counts_count{{model="{model}"}}') == 1
