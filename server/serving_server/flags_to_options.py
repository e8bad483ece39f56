"""From flags to options: reads the files that flags name and refuses what does not fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import read_batching_file
from serving_server.errors import InvalidArgumentError, UnimplementedError
from serving_server.flags import FLAGS
from serving_server.lifecycle.states import All, Latest, Policy, Specific
from serving_server.options import ModelOptions, ServerOptions
from serving_server.platform_config import PlatformConfig, read_platform_config
from serving_server.session_options import DeviceOptions, SessionFlags, SessionTemplate, check_fraction, read_template
from serving_server.text_files import parse_text, read_text_proto
from serving_server.tls import TlsConfig
from serving_server.wire import messages

__all__ = ["build_options", "read_batching_file", "read_model_config"]


def _policy(config: Any) -> Policy:
    choice = config.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(config.specific.versions))
    return Latest(config.latest.num_versions or 1)


def read_model_config(path: str) -> tuple[ModelOptions, ...]:
    """Return the models of a text `ModelServerConfig` file.

    Raises
    ------
    ServingError
        With TensorFlow Serving's texts for duplicate names, relative paths and unknown platforms.
    """
    config = read_text_proto(path, messages.ModelServerConfig())
    if config.WhichOneof("config") == "custom_model_config":
        raise UnimplementedError("custom_model_config is not supported; use model_config_list")
    models: dict[str, ModelOptions] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise InvalidArgumentError(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.name:
            raise InvalidArgumentError(f"{path}: a model has no name")
        if not entry.model_platform and entry.model_type == 0:
            msg = (
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::"
                f"model_platform, model name is {entry.name}"
            )
            raise InvalidArgumentError(msg)
        if entry.model_platform not in {"", "tensorflow"}:
            msg = f"Model {entry.name} requests unsupported platform {entry.model_platform}"
            raise InvalidArgumentError(msg)
        if entry.version_labels:
            raise UnimplementedError(f"version_labels of model {entry.name}: labels are not supported yet")
        if entry.HasField("logging_config"):
            raise UnimplementedError(f"logging_config of model {entry.name}: request logging is not supported yet")
        models[entry.name] = ModelOptions(
            entry.name,
            _absolute(entry.name, entry.base_path),
            _policy(entry.model_version_policy),
            _devices(entry),
        )
    return tuple(models.values())


def _devices(config: Any) -> DeviceOptions | None:
    if not config.HasField("serving_workbench"):
        return None
    ours = config.serving_workbench
    try:
        return DeviceOptions(ours.visible_device_list, ours.per_process_gpu_memory_fraction)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"model {config.name}: {error.message}") from None


def _absolute(name: str, base_path: str) -> Path:
    if not Path(base_path).is_absolute():
        msg = f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}"
        raise InvalidArgumentError(msg)
    return Path(base_path)


def build_options(values: dict[str, Any]) -> ServerOptions:
    """Return the options that flags mean.

    Parameters
    ----------
    values : dict
        From `serving_server.flags.parse_flags`.

    Raises
    ------
    ServingError
        Naming the flag or file that is wrong.
    """
    if values["use_alts_credentials"] and values["ssl_config_file"]:
        raise InvalidArgumentError("--use_alts_credentials and --ssl_config_file exclude each other")
    for flag in FLAGS:
        if flag.refused and values[flag.name] != flag.default:
            raise UnimplementedError(f"--{flag.name} {flag.refused}")
    platform = read_platform_config(values["platform_config_file"]) if values["platform_config_file"] else None
    if platform is not None:
        values = _replaced_by(platform, values)
    return ServerOptions(
        models=_models(values),
        bind_address=values["bind_address"],
        port=_port(values, "port"),
        rest_api_port=_port(values, "rest_api_port"),
        ephemeral_ports=values["ephemeral_ports"],
        grpc_socket_path=_grpc_socket(values),
        grpc_transport=_transport(values),
        tls=TlsConfig.from_file(values["ssl_config_file"]) if values["ssl_config_file"] else None,
        grpc_channel_arguments=_channel_arguments(values["grpc_channel_arguments"]),
        rest_api_timeout=values["rest_api_timeout_in_ms"] / 1000 if values["rest_api_timeout_in_ms"] > 0 else None,
        rest_api_cors=values["rest_api_enable_cors_support"],
        tensor_content=values["enable_serialization_as_tensor_content"],
        batching=_batching(values) if platform is None else platform.batching,
        per_model_batching=values["enable_batching"] and values["enable_per_model_batching_parameters"],
        saved_model_tags=tuple(tag for tag in values["saved_model_tags"].split(",") if tag),
        session=_session(values),
        session_template=_session_template(values["tensorflow_session_config_file"])
        if platform is None
        else platform.template,
        warmup=values["enable_model_warmup"],
        freeze=values["freeze_variables"],
        num_load_threads=values["num_load_threads"] or 4,
        max_load_retries=max(0, values["max_num_load_retries"]),
        load_retry_interval=values["load_retry_interval_micros"] / 1e6,
        poll_wait=values["file_system_poll_wait_seconds"],
        record_file=Path(values["record_file"]) if values["record_file"] else None,
        record_extra=_json_object(values["record_extra"]),
        instance_name=values["instance_name"],
        lifeline_fd=values["lifeline_fd"] if values["lifeline_fd"] >= 0 else None,
        owner=(values["owner_pid"], values["owner_create_time"]) if values["owner_pid"] > 0 else None,
    )


def _replaced_by(platform: PlatformConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Return flags as if those had not been given that a platform config replaces."""
    replaced = (
        "enable_per_model_batching_parameters",
        "per_process_gpu_memory_fraction",
        "tensorflow_session_parallelism",
        "tensorflow_intra_op_parallelism",
        "tensorflow_inter_op_parallelism",
        "mixed_precision",
    )
    return {
        **values,
        **{flag.name: flag.default for flag in FLAGS if flag.name in replaced},
        "saved_model_tags": ",".join(platform.tags or ("serve",)),
        "enable_model_warmup": platform.warmup,
        "num_request_iterations_for_warmup": platform.warmup_iterations,
        "prefer_tflite_model": platform.prefer_tflite,
    }


def _models(values: dict[str, Any]) -> tuple[ModelOptions, ...]:
    if values["model_config_file"]:
        return read_model_config(values["model_config_file"])
    if values["model_base_path"]:
        if not values["model_name"]:
            raise InvalidArgumentError("--model_name must not be empty")
        return (ModelOptions(values["model_name"], _absolute(values["model_name"], values["model_base_path"])),)
    if values["record_file"]:
        return ()  # models come through the control channel
    raise InvalidArgumentError("Both server_options.model_base_path and server_options.model_config_file are empty!")


def _port(values: dict[str, Any], name: str) -> int:
    port: int = values[name]
    if not 0 <= port <= 65535:
        raise InvalidArgumentError(f"--{name}={port} is not a port number (0 to 65535)")
    return port


def _grpc_socket(values: dict[str, Any]) -> str:
    path: str = values["grpc_socket_path"]
    if values["port"] == 0 and not values["ephemeral_ports"] and not path:
        raise InvalidArgumentError("server_options.grpc_port is not set.")
    return path


def _transport(values: dict[str, Any]) -> str:
    name: str = values["grpc_transport"]
    if name not in {"own", "grpcio"}:
        raise InvalidArgumentError(f"--grpc_transport={name} is unknown; there are own and grpcio")
    return name


def _batching(values: dict[str, Any]) -> BatchingParameters | None:
    file: str = values["batching_parameters_file"]
    if not values["enable_batching"]:
        if file:
            msg = "server_options.batching_parameters_file is set without setting server_options.enable_batching."
            raise InvalidArgumentError(msg)
        return None
    return read_batching_file(file) if file else BatchingParameters()


def _session(values: dict[str, Any]) -> SessionFlags:
    both, intra, inter = (
        values["tensorflow_session_parallelism"],
        values["tensorflow_intra_op_parallelism"],
        values["tensorflow_inter_op_parallelism"],
    )
    if both > 0 and intra > 0 and inter > 0:
        msg = (
            "Either configure tensorflow_session_parallelism or (tensorflow_intra_op_parallelism, "
            "tensorflow_inter_op_parallelism) separately. You cannot configure all."
        )
        raise InvalidArgumentError(msg)
    if intra <= 0 and inter <= 0:
        intra = inter = both
    fraction = values["per_process_gpu_memory_fraction"]
    check_fraction(fraction, "--per_process_gpu_memory_fraction")
    return SessionFlags(max(0, intra), max(0, inter), fraction, values["mixed_precision"])


def _session_template(path: str) -> SessionTemplate | None:
    if not path:
        return None
    return parse_text(path, "tensorflow.ConfigProto", read_template)


def _json_object(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"--record_extra is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError("--record_extra must be a JSON object")
    return value


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """Read ``k=v,k=v``; a value that is a number becomes one.

    Raises
    ------
    InvalidArgumentError
        For an entry without ``=``.
    """
    arguments: list[tuple[str, int | str]] = []
    for entry in text.split(",") if text else ():
        key, equals, value = entry.partition("=")
        if not equals:
            raise InvalidArgumentError(f"--grpc_channel_arguments: {entry!r} is not of the form key=value")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return tuple(arguments)
