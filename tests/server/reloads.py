"""What tests of labels and reloads share: a config, the call, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving_server.wire.messages import (
    ModelServerConfig,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from tests.servers import ServerProcess

METHOD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
ALL: dict[str, Any] = {"all": {}}


def config(*models: Mapping[str, Any]) -> Any:
    """Return a `ModelServerConfig` with these fields for each model; the platform is tensorflow unless given."""
    message = ModelServerConfig()
    message.model_config_list.SetInParent()
    for fields in models:
        entry = message.model_config_list.config.add(name=fields["name"], base_path=str(fields["base_path"]))
        entry.model_platform = fields.get("platform", "tensorflow")
        entry.version_labels.update(fields.get("labels", {}))
        if fields.get("policy") == ALL:
            entry.model_version_policy.all.SetInParent()
        for version in fields.get("specific", ()):
            entry.model_version_policy.specific.versions.append(version)
    return message


def reload(server: ServerProcess, *models: Mapping[str, Any], timeout: float = 60.0) -> Any:
    """Have the server serve these models; raises `grpc.RpcError`."""
    return reload_config(server, config(*models), timeout)


def reload_config(server: ServerProcess, message: Any, timeout: float = 60.0, metrics: tuple[str, ...] = ()) -> Any:
    """Send a whole `ModelServerConfig`; raises `grpc.RpcError`."""
    request = ReloadConfigRequest(config=message, metric_names=metrics)
    return server.call(METHOD, request, ReloadConfigResponse, timeout)


def refused(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, str]:
    """Return code and text of the error that a call must end with."""
    try:
        answer = call(*arguments, **options)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"not refused: {answer}")


def labelled(server: ServerProcess, model: str, label: str) -> tuple[float, int]:
    """Return f(0) of half_plus_two by a label, over gRPC, and the version that answered."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.version_label = label
    request.inputs["x"].CopyFrom(_zero())
    response = server.call(PREDICT, request, PredictResponse)
    return float(response.outputs["y"].float_val[0]), response.model_spec.version.value


def half(models_dir: Path, name: str = "half", **fields: Any) -> dict[str, Any]:
    """Return half_plus_two as a model of both its versions."""
    return {"name": name, "base_path": models_dir / "half_plus_two", "policy": ALL, **fields}


def _zero() -> Any:
    from serving_server.tensors import to_proto

    return to_proto(np.float32([0.0]))
