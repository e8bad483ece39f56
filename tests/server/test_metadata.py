"""GetModelMetadata against a real server, over gRPC on both transports and over REST."""

from __future__ import annotations

from typing import Any

from serving_server.wire import messages
from tests.examples import refused
from tests.servers import SharedServer

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"


def _request(model: str, *fields: str) -> Any:
    asked = messages.GetModelMetadataRequest(metadata_field=fields)
    asked.model_spec.name = model
    return asked


def _signatures(answer: Any) -> Any:
    (entry,) = answer.metadata.values()
    assert list(answer.metadata) == ["signature_def"]
    assert entry.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    return messages.SignatureDefMap.FromString(entry.value).signature_def


def test_all_signatures_of_the_meta_graph(grpc_server: SharedServer) -> None:
    """Not those that TensorFlow 2's loader shows: with methods, the init op and the defaults."""
    model = grpc_server.serve("examples")
    asked = _request(model, "signature_def", "signature_def")
    asked.model_spec.signature_name = "classify"  # does not count
    answer = grpc_server.call(METADATA, asked, messages.GetModelMetadataResponse)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (model, 2)
    assert not answer.model_spec.signature_name
    signatures = _signatures(answer)
    methods = {name: signatures[name].method_name for name in ("classify", "regress", "features", "untyped")}
    assert methods == {
        "classify": "tensorflow/serving/classify",
        "regress": "tensorflow/serving/regress",
        "features": "tensorflow/serving/predict",
        "untyped": "nobody/knows",
    }
    model = grpc_server.serve("with_default")
    answer = grpc_server.call(METADATA, _request(model, "signature_def"), messages.GetModelMetadataResponse)
    signatures = _signatures(answer)
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    assert list(signatures["serving_default"].defaults) == ["bias"]
    status, rest = grpc_server.rest("GET", f"/v1/models/{model}/metadata")
    assert status == 200
    assert rest["model_spec"] == {"name": model, "signature_name": "", "version": "1"}
    found = rest["metadata"]["signature_def"]["signature_def"]
    assert set(found) == set(signatures)
    assert found["__saved_model_init_op"]["defaults"] == {}
    assert list(found["serving_default"]["defaults"]) == ["bias"]


def test_refusals(grpc_server: SharedServer) -> None:
    model = grpc_server.serve("examples")
    invalid = "INVALID_ARGUMENT"
    none = (invalid, "GetModelMetadataRequest must specify at least one metadata_field")
    assert refused(grpc_server, METADATA, _request(model)) == none
    unknown = (invalid, "Metadata field graph is not supported")
    assert refused(grpc_server, METADATA, _request(model, "signature_def", "graph")) == unknown
    # The fields are looked at before the model.
    assert refused(grpc_server, METADATA, _request("absent", "graph")) == unknown
    assert refused(grpc_server, METADATA, _request("")) == none
    nameless = refused(grpc_server, METADATA, _request("", "signature_def"))
    assert nameless == (invalid, "ModelSpec has no name specified.")
    asked = _request(model, "signature_def")
    asked.model_spec.version.value = 9
    code, text = refused(grpc_server, METADATA, asked)
    assert code == "NOT_FOUND"
    assert text.startswith(f"Servable not found for request: Specific({model}, 9)")
    asked.ClearField("model_spec")
    assert refused(grpc_server, METADATA, asked) == (invalid, "Missing ModelSpec")
