"""What a server says of models that it cannot serve, in its log, by status and by a reload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving_server.tensors import to_proto
from serving_server.wire import messages
from tests import leaks
from tests.conformance.told import begins_as, differs
from tests.servers import ServerProcess, wait_until

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def _entry(name: str, base_path: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {more} }}'


def _reload(server: ServerProcess, *entries: str) -> tuple[str, str]:
    """Code and text of a reload's answer."""
    from google.protobuf import text_format

    request = messages.ReloadConfigRequest()
    text_format.Parse(f"config {{ model_config_list {{ {' '.join(entries)} }} }}", request)
    try:
        response = server.call(RELOAD, request, messages.ReloadConfigResponse, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""  # type: ignore[attr-defined]
    assert response.status.error_code == 0
    return "OK", response.status.error_message


def _status(server: ServerProcess, model: str) -> list[tuple[int, int, int, str]]:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = model
    answer = server.call("/tensorflow.serving.ModelService/GetModelStatus", request, messages.GetModelStatusResponse)
    return [
        (entry.version, entry.state, entry.status.error_code, entry.status.error_message)
        for entry in answer.model_version_status
    ]


AVAILABLE, END, UNIMPLEMENTED, NOT_FOUND = 30, 50, 12, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base paths, each of which has something else that is wrong; `missing` is not there at all."""
    folder = tmp_path_factory.mktemp("spoiled")
    for name, file in (("bundle", "export.meta"), ("nothing", "notes.txt")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / file).touch()
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def running(folder: Path, models_dir: Path) -> Iterator[ServerProcess]:
    """Serves half, and has been told to serve what cannot be."""
    entries = [_entry(name, folder / name) for name in ("bundle", "nothing", "empty", "missing")]
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {_entry('half', models_dir / 'half_plus_two')} {' '.join(entries)} }}")
    flags = (
        f"--model_config_file={file}",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=1000",
        "--allow_version_labels_for_unavailable_models",
    )
    with ServerProcess(*flags, directory=folder / "server") as process:
        leaks.allow(process.pid)
        process.wait_available("half", 2)
        yield process


def test_models_that_cannot_be_served(running: ServerProcess, folder: Path, models_dir: Path) -> None:
    _bundle, nothing, empty, missing = (folder / name for name in ("bundle", "nothing", "empty", "missing"))
    half = models_dir / "half_plus_two"

    def ended(model: str) -> Any:
        return [entry for entry in _status(running, model) if entry[1] == END]

    ((version, _, code, text),) = wait_until(lambda: ended("bundle"), 60, running.log_tail)
    assert (version, code, text) == (1, UNIMPLEMENTED, "Session Bundle is deprecated and removed.")
    ((version, _, code, text),) = wait_until(lambda: ended("nothing"), 60, running.log_tail)
    assert (version, code) == (1, NOT_FOUND)
    bare = (
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {nothing / '1'}"
    )
    assert begins_as(text, bare), text
    log = running.log_text()
    for left in (2, 1):
        assert f"Loading bundle version 1 failed, {left} tries left, the next in 0.001 s" in log
    assert "Loading bundle version 1 failed (tried 3 times)" in log
    assert (
        f"No versions of servable empty found under base path {empty}. Did you forget to name your leaf directory as a "
        "number (eg. '/1/')?"
    ) in log
    assert f"Could not find base path {missing} for servable missing with error " in log

    # The list of models shows what failed.
    listed = {model["name"]: model["model_version_status"] for model in running.rest("GET", "/v1/models")[1]["models"]}
    assert [entry["state"] for entry in listed["bundle"]] == ["END"]
    # The same of a reload, which waits for what is new: three braces before the first.
    code_name, text = _reload(running, _entry("half", half), _entry("other", nothing))
    assert code_name == "UNKNOWN"
    assert text.startswith(
        f"1 model(s) did not become available: {{{{{{name: other version: 1}} due to error: NOT_FOUND: {bare}"
    )
    assert text.endswith("}, }")
    # What is left out is unloaded, and what stays is served.
    assert running.rest("GET", "/v1/models/bundle")[0] == 404
    assert running.rest("POST", "/v1/models/half:predict", {"instances": [0.0]}) == (200, {"predictions": [3.0]})


@pytest.mark.parametrize("text", ["", "model_config_list {}"])
def test_a_start_without_models(server: Callable[..., ServerProcess], tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    running = server(f"--model_config_file={file}")
    status, answer = running.rest("GET", "/v1/models/m")
    assert not differs((status, answer["error"]), (404, "Could not find any versions of model m"))


def test_labels_with_the_flag(running: ServerProcess, models_dir: Path) -> None:
    """By requests: a label may be new or stay anywhere; one that moves must point at what answers."""
    half = models_dir / "half_plus_two"

    def label(**versions: int) -> str:
        labels = " ".join(f'version_labels {{ key: "{key}" value: {number} }}' for key, number in versions.items())
        return _entry("m", half, labels)

    # Version 2 is the latest; the model is not even loaded when the label comes.
    assert _reload(running, label(stable=2, next=7)) == ("OK", "")
    body = {"instances": [0.0]}
    assert running.rest("POST", "/v1/models/m/labels/stable:predict", body) == (200, {"predictions": [3.0]})
    request = messages.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "m", "stable"
    request.inputs["x"].CopyFrom(to_proto(np.float32([0])))
    spec = running.call(PREDICT, request, messages.PredictResponse).model_spec
    assert (spec.name, spec.version.value, spec.WhichOneof("version_choice")) == ("m", 2, "version")
    status, answer = running.rest("POST", "/v1/models/m/labels/next:predict", body)
    assert not differs((status, answer["error"]), (404, "Servable not found for request: Specific(m, 7)"))
    text = "Request to assign label to version 8 of model m, which is not currently available for inference"
    assert _reload(running, label(stable=2, next=8), _entry("n", half)) == ("FAILED_PRECONDITION", text)
    assert running.rest("GET", "/v1/models/n")[0] == 404
    assert _reload(running, label(next=2)) == ("OK", "")
    assert running.rest("POST", "/v1/models/m/labels/next:predict", body) == (200, {"predictions": [3.0]})
    status, answer = running.rest("POST", "/v1/models/m/labels/stable:predict", body)
    assert not differs((status, answer["error"]), (400, "Unrecognized servable version label: stable"))


def test_a_reload_tells_by_how_much_a_metric_rose(running: ServerProcess, models_dir: Path) -> None:
    """Requests come while it waits for a model that is new."""
    from google.protobuf import text_format

    name = "/tensorflow/serving/request_count"
    half = models_dir / "half_plus_two"
    request = messages.ReloadConfigRequest(metric_names=[name, "/nobody/knows"])
    entries = f"{_entry('half', half)} {_entry('risen', half)}"
    text_format.Parse(f"config {{ model_config_list {{ {entries} }} }}", request)
    running.rest("GET", "/v1/models/half")
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(running.call, RELOAD, request, messages.ReloadConfigResponse, 60)
        asked = 0
        while not reload.done():
            assert running.rest("GET", "/v1/models/half")[0] == 200
            asked += 1
    response = reload.result()
    ((told, rise),) = [(metric.name, metric.int64_value_increase) for metric in response.metric]
    assert (told, response.status.error_code) == (name, 0)
    assert 0 < rise <= asked


def test_another_base_path_reloads_no_version_that_is_loaded(
    running: ServerProcess, models_dir: Path, model_copy: Callable[..., Path]
) -> None:
    everything = "model_version_policy { all {} }"
    assert _reload(running, _entry("half", models_dir / "half_plus_two", everything)) == ("OK", "")
    running.wait_available("half", 1, 2)
    # There, version 2 is what was version 1, and 3 is new.
    other = model_copy("half_plus_two", version=1, as_version=2).parent
    model_copy("half_plus_two", version=1, as_version=3)
    assert _reload(running, _entry("half", other, everything)) == ("OK", "")
    running.wait_available("half", 3)
    wait_until(lambda: running.versions("half")[1]["state"] == "END")
    # The status keeps what was unloaded; the list of models, which has more of it with every deploy, does not.
    assert [entry[:2] for entry in _status(running, "half")] == [(3, AVAILABLE), (2, AVAILABLE), (1, END)]
    (listed,) = running.rest("GET", "/v1/models")[1]["models"]
    assert [entry["version"] for entry in listed["model_version_status"]] == ["3", "2"]
    for version, answer in ((2, 3.0), (3, 2.0)):
        path = f"/v1/models/half/versions/{version}:predict"
        assert running.rest("POST", path, {"instances": [0.0]}) == (200, {"predictions": [answer]})
