"""HandleReloadConfigRequest: what it refuses, what it changes, and that it always answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from reloads import config, half, labelled, refused, reload, reload_config

from serving_server.wire.messages import ModelServerConfig
from tests.servers import ServerProcess, wait_until

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def server(configured_server: ServerProcess, models_dir: Path) -> ServerProcess:
    """Serves half."""
    reload(configured_server, half(models_dir))
    return configured_server


def answers(server: ServerProcess, model: str) -> bool:
    return bool(server.rest("POST", f"/v1/models/{model}:predict", {"instances": [0.0]})[0] == 200)


def test_a_new_model_answers_when_the_call_returns(server: ServerProcess, models_dir: Path) -> None:
    response = reload(server, half(models_dir), half(models_dir, "more"))
    assert (response.status.error_code, response.status.error_message) == (0, "")
    assert answers(server, "more")


def test_a_model_left_out_is_unloaded(server: ServerProcess, models_dir: Path) -> None:
    reload(server, half(models_dir, "other"))
    assert server.rest("POST", "/v1/models/half:predict", {"instances": [0.0]})[0] == 404
    assert server.control("GET", "/models/half")[0] == 404
    reload(server, half(models_dir))
    assert answers(server, "half")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "half"}, "Illegal to list model half multiple times in config list"),
        ({"base_path": "a/b"}, "Expected model new to have an absolute path or URI; got base_path()=a/b"),
        ({"platform": "torch"}, "Model new requests unsupported platform torch"),
        (
            {"platform": ""},
            (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::"
                "model_platform, model name is new"
            ),
        ),
        ({"name": "a/b"}, "model name 'a/b' has '/' in it; allowed: 1 to 256 printable characters without / : and \\"),
    ],
)
def test_a_bad_list_changes_nothing(server: ServerProcess, models_dir: Path, fields: dict[str, str], text: str) -> None:
    bad = {**half(models_dir, "new"), **fields}
    assert refused(reload, server, half(models_dir), bad) == (INVALID, text)
    assert answers(server, "half")
    assert server.control("GET", "/models/new")[0] == 404


def test_the_platform_of_a_model_stays(server: ServerProcess, models_dir: Path) -> None:
    answer = refused(reload, server, half(models_dir, platform="other"))
    text = "Illegal to change a model's platform. For model half platform was tensorflow and new platform requested is "
    assert answer == (INVALID, text + "other")


def test_only_lists_of_models_are_taken(server: ServerProcess) -> None:
    custom = ModelServerConfig()
    custom.custom_model_config.SetInParent()
    text = (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    )
    for message in (ModelServerConfig(), custom):
        assert refused(reload_config, server, message) == (INVALID, text)
    assert answers(server, "half")


def test_the_deprecated_model_type(server: ServerProcess, models_dir: Path) -> None:
    message = config(half(models_dir), half(models_dir, "old", platform=""))
    message.model_config_list.config[1].model_type = 1
    reload_config(server, message)
    assert answers(server, "old")
    message.model_config_list.config[1].model_platform = "tensorflow"
    text = "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
    assert refused(reload_config, server, message) == (INVALID, text)


def test_models_that_cannot_be_loaded_are_all_named(server: ServerProcess, models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    listed = [
        half(models_dir),
        half(models_dir, "good"),
        {"name": "bad", "base_path": tmp_path / "bad"},
        {"name": "empty", "base_path": tmp_path / "empty"},
        {"name": "missing", "base_path": tmp_path / "missing"},
        half(models_dir, "none", specific=[7], policy=None),
    ]
    code, text = refused(reload, server, *listed)
    assert code is grpc.StatusCode.UNKNOWN
    assert text.startswith(
        "4 model(s) did not become available: {{{name: bad version: 1} due to error: NOT_FOUND: Specified file path "
        "does not appear to contain a SavedModel bundle"
    )
    assert "}, {{name: empty} due to error: NOT_FOUND: No versions of servable empty found under base path" in text
    assert f"}}, {{{{name: missing}} due to error: NOT_FOUND: base path {tmp_path / 'missing'} does not exist" in text
    assert "}, {{name: none} due to error: NOT_FOUND: none of the versions on disk is wanted by its policy" in text
    assert text.endswith("}, }")
    assert answers(server, "half")
    assert answers(server, "good")

    def state_of_bad() -> tuple[str, str]:
        (version,) = server.rest("GET", "/v1/models/bad")[1]["model_version_status"]
        return version["state"], version["status"]["error_code"]

    # A folder as young as this one is tried once more: it might have been incomplete.
    wait_until(lambda: state_of_bad() == ("END", "NOT_FOUND"))
    # The list is in force, and a model of it that failed is not waited for a second time.
    assert reload(server, *listed).status.error_code == 0


def test_a_model_that_failed_and_is_listed_anew_is_tried_anew(
    server: ServerProcess, models_dir: Path, tmp_path: Path, model_copy: Callable[..., Path]
) -> None:
    base = tmp_path / "bad"
    (base / "1").mkdir(parents=True)
    bad = {"name": "bad", "base_path": base}
    for _ in range(2):
        assert "name: bad version: 1" in refused(reload, server, half(models_dir), bad)[1]
        reload(server, half(models_dir))
    (base / "1").rmdir()
    model_copy("half_plus_two", base=base)
    reload(server, half(models_dir), bad)
    assert answers(server, "bad")


def test_a_wait_ends_before_its_callers_deadline(server: ServerProcess, models_dir: Path, tmp_path: Path) -> None:
    # Nothing can be said of a fifo: to open it blocks, so the load neither ends nor fails.
    import os

    folder = tmp_path / "slow" / "1"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "saved_model.pb")
    code, text = refused(
        reload, server, half(models_dir), {"name": "slow", "base_path": tmp_path / "slow"}, timeout=3.0
    )
    assert code is grpc.StatusCode.UNKNOWN
    assert "{{{name: slow version: 1} due to error: DEADLINE_EXCEEDED: still LOADING after" in text
    assert answers(server, "half")
    reload(server, half(models_dir))
    wait_until(lambda: server.control("GET", "/models/slow")[0] == 404)


def test_policy_and_base_path_of_a_known_model_change(
    server: ServerProcess, models_dir: Path, model_copy: Callable[..., Path]
) -> None:
    server.wait_available("half", 1, 2)
    reload(server, half(models_dir, policy=None, specific=[1]))
    wait_until(lambda: server.versions("half")[2]["state"] == "END")
    assert server.rest("POST", "/v1/models/half:predict", {"instances": [0.0]})[1] == {"predictions": [2.0]}
    base = model_copy("half_plus_two", version=2, as_version=5).parent
    reload(server, {"name": "half", "base_path": base})
    server.wait_available("half", 5)
    wait_until(lambda: server.versions("half")[1]["state"] == "END")
    assert server.rest("POST", "/v1/models/half:predict", {"instances": [0.0]})[1] == {"predictions": [3.0]}


def test_unknown_metrics_are_left_out(server: ServerProcess, models_dir: Path) -> None:
    response = reload_config(server, config(half(models_dir)), metrics=("/no/such/metric",))
    assert len(response.metric) == 0


def test_labels_and_models_change_in_one_call(server: ServerProcess, models_dir: Path) -> None:
    server.wait_available("half", 1, 2)
    reload(server, half(models_dir, labels={"a": 1}), half(models_dir, "more"))
    assert labelled(server, "half", "a") == (2.0, 1)
    assert answers(server, "more")
