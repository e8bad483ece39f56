"""Version labels: which may be set, and what they stand for in both protocols and the control channel."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from reloads import half, labelled, refused, reload

from serving_server.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from serving_server.labels import Labels, parse_labels
from serving_server.wire.messages import GetModelStatusRequest, GetModelStatusResponse
from tests.servers import ServerProcess

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOT_AVAILABLE = "Request to assign label to version {} of model half, which is not currently available for inference"
HINT = " (a new label may point at any version with --allow_version_labels_for_unavailable_models)"


@pytest.fixture
def server(configured_server: ServerProcess, models_dir: Path) -> ServerProcess:
    """Serves both versions of half, without a label."""
    reload(configured_server, half(models_dir))
    configured_server.wait_available("half", 1, 2)
    return configured_server


def test_labels_resolve_in_both_protocols(server: ServerProcess, models_dir: Path) -> None:
    reload(server, half(models_dir, labels={"stable": 1, "canary": 2}))
    assert labelled(server, "half", "stable") == (2.0, 1)
    assert labelled(server, "half", "canary") == (3.0, 2)
    for label, answer in (("stable", 2.0), ("canary", 3.0)):
        path = f"/v1/models/half/labels/{label}"
        assert server.rest("POST", f"{path}:predict", {"instances": [0.0]}) == (200, {"predictions": [answer]})
    status, metadata = server.rest("GET", "/v1/models/half/labels/stable/metadata")
    assert (status, metadata["model_spec"]["version"]) == (200, "1")
    assert server.model("half")["labels"] == {"canary": 2, "stable": 1}


def test_a_label_moves_while_requests_of_one_kind_go_on(server: ServerProcess, models_dir: Path) -> None:
    for version, answer in ((1, 2.0), (2, 3.0), (1, 2.0)):
        reload(server, half(models_dir, labels={"stable": version}))
        assert {labelled(server, "half", "stable") for _ in range(3)} == {(answer, version)}


def test_unknown_labels_are_told_the_same_in_both_protocols(server: ServerProcess) -> None:
    text = "Unrecognized servable version label: nobody"
    assert refused(labelled, server, "half", "nobody") == (grpc.StatusCode.INVALID_ARGUMENT, text)
    assert refused(labelled, server, "no-model", "nobody") == (grpc.StatusCode.INVALID_ARGUMENT, text)
    answer = server.rest("POST", "/v1/models/half/labels/nobody:predict", {"instances": [0.0]})
    assert answer == (400, {"error": text})


def test_a_label_of_an_unavailable_version_stops_the_whole_reload(server: ServerProcess, models_dir: Path) -> None:
    reload(server, half(models_dir, labels={"stable": 1}))
    other = half(models_dir, "other")
    answer = refused(reload, server, other, half(models_dir, labels={"stable": 2, "next": 7}))
    assert answer == (PRECONDITION, NOT_AVAILABLE.format(7) + HINT)
    assert server.model("half")["labels"] == {"stable": 1}
    assert server.control("GET", "/models/other")[0] == 404
    assert labelled(server, "half", "stable") == (2.0, 1)


def test_labels_of_a_model_that_the_same_list_brings_are_refused(server: ServerProcess, models_dir: Path) -> None:
    answer = refused(reload, server, half(models_dir), half(models_dir, "new", labels={"stable": 1}))
    assert answer == (PRECONDITION, NOT_AVAILABLE.format(1).replace("half", "new") + HINT)


def test_a_label_whose_version_goes_away_says_so(server: ServerProcess, models_dir: Path) -> None:
    reload(server, half(models_dir, labels={"stable": 1}))
    server.control("PUT", "/models/half/policy", {"specific": {"versions": [2]}})
    code, text = refused(labelled, server, "half", "stable")
    assert code is grpc.StatusCode.NOT_FOUND
    assert text.startswith("Servable not found for request: Specific(half, 1)")


def test_status_ignores_a_label(server: ServerProcess) -> None:
    request = GetModelStatusRequest()
    request.model_spec.name = "half"
    request.model_spec.version_label = "nobody"
    answer = server.call("/tensorflow.serving.ModelService/GetModelStatus", request, GetModelStatusResponse)
    versions = [status.version for status in answer.model_version_status]
    assert versions[-2:] == [2, 1], "and those that other tests had"
    status, body = server.rest("GET", "/v1/models/half/labels/nobody")
    assert (status, len(body["model_version_status"])) == (200, len(versions))


def test_labels_by_the_control_channel(server: ServerProcess) -> None:
    status, model = server.control("PUT", "/models/half/labels", {"stable": 2})
    assert (status, model["labels"]) == (200, {"stable": 2})
    assert labelled(server, "half", "stable") == (3.0, 2)
    status, error = server.control("PUT", "/models/half/labels", {"stable": 9})
    assert (status, error) == (400, {"error": NOT_AVAILABLE.format(9), "code": "FAILED_PRECONDITION"})
    assert server.control("GET", "/models/half/labels") == (200, {"stable": 2})
    assert server.control("PUT", "/models/nobody/labels", {})[0] == 404
    assert server.control("PUT", "/models/half/labels", {})[1]["labels"] == {}


def test_no_label_is_known_before_the_first_list() -> None:
    labels = Labels(lambda _model, _version: True, allow_unavailable=False)
    with pytest.raises(UnavailableError, match=r"^Model labels does not init yet\.stable$"):
        labels.resolve("m", "stable")
    labels.replace_all({})
    with pytest.raises(InvalidArgumentError, match=r"^Unrecognized servable version label: stable$"):
        labels.resolve("m", "stable")


def test_the_flag_lets_new_and_unmoved_labels_point_anywhere() -> None:
    available = {("m", 1)}
    labels = Labels(lambda model, version: (model, version) in available, allow_unavailable=True)
    labels.replace("m", {"stable": 7})
    labels.replace("m", {"stable": 7, "canary": 8})
    with pytest.raises(FailedPreconditionError, match="version 9 of model m"):
        labels.replace("m", {"stable": 7, "canary": 9})
    assert labels.of("m") == {"stable": 7, "canary": 8}
    labels.replace("m", {"canary": 1})
    assert labels.of("m") == {"canary": 1}
    labels.forget("m")
    assert labels.of("m") == {}


@pytest.mark.parametrize("body", [[], {"": 1}, {"a": "1"}, {"a": True}, {"a": -1}, {"a": 2**63}, {"a": 1.5}])
def test_what_is_no_map_of_labels(body: object) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_labels(body)
