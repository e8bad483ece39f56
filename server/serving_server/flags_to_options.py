"""From flags to options: reads the files that flags name and refuses what does not fit together."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from serving_server.batching.parameters import BatchingParameters
from serving_server.batching.parameters_file import read_batching_file
from serving_server.config_file import read_model_config
from serving_server.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from serving_server.flags import FLAGS
from serving_server.model_config import absolute
from serving_server.options import ModelOptions, ServerOptions
from serving_server.platform_config import PlatformConfig, read_platform_config
from serving_server.rest.monitoring import DEFAULT_PATH
from serving_server.session_options import SessionFlags, SessionTemplate, check_fraction, read_template
from serving_server.text_files import parse_text, read_text_proto
from serving_server.tls import TlsConfig
from serving_server.wire import messages

__all__ = ["build_options", "read_batching_file", "read_model_config"]

log = logging.getLogger(__name__)


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
        config_file=values["model_config_file"],
        config_poll_wait=max(0, values["model_config_file_poll_wait_seconds"]),
        allow_unavailable_labels=values["allow_version_labels_for_unavailable_models"],
        wait_for_models=_wait_for_models(values),
        unload_on_empty=not values["servable_versions_always_present"],
        resource_preserving=_resource_preserving(values["aspired_version_policy"]),
        bind_address=values["bind_address"],
        rest_bind_address=values["bind_address"] if "bind_address" in values["given"] else "::",
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
        check_method_names=values["enable_signature_method_name_check"],
        batching=_batching(values) if platform is None else platform.batching,
        per_model_batching=values["enable_batching"] and values["enable_per_model_batching_parameters"],
        saved_model_tags=tuple(tag for tag in values["saved_model_tags"].split(",") if tag),
        session=_session(values),
        session_template=_session_template(values["tensorflow_session_config_file"])
        if platform is None
        else platform.template,
        warmup=values["enable_model_warmup"],
        warmup_iterations=max(1, values["num_request_iterations_for_warmup"]),
        freeze=values["freeze_variables"],
        prefer_tflite=values["prefer_tflite_model"],
        op_libraries=_op_libraries(values["custom_op_libraries"]),
        metrics_path=_metrics_path(values),
        grpc_health=values["enable_grpc_healthcheck_service"],
        profiler=values["enable_profiler"],
        request_log_megabytes=_at_least(values, "request_log_max_megabytes", 1),
        request_log_files=_at_least(values, "request_log_max_files", 0),
        num_load_threads=max(0, values["num_load_threads"]) or 4,
        num_unload_threads=max(0, values["num_unload_threads"]),
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


def _wait_for_models(values: dict[str, Any]) -> float:
    if not values["wait_for_models"]:
        return 0.0
    seconds = float(values["wait_for_models_timeout_seconds"])
    if seconds <= 0:
        raise InvalidArgumentError(f"--wait_for_models_timeout_seconds={seconds:g} must be positive")
    return seconds


def _resource_preserving(policy: str) -> bool:
    if policy not in {"availability_preserving", "resource_preserving"}:
        msg = f"--aspired_version_policy={policy} is unknown; there are availability_preserving and resource_preserving"
        raise InvalidArgumentError(msg)
    return policy == "resource_preserving"


def _models(values: dict[str, Any]) -> tuple[ModelOptions, ...] | None:
    if values["model_config_file"]:
        return read_model_config(values["model_config_file"])
    if values["model_base_path"]:
        if not values["model_name"]:
            raise InvalidArgumentError("--model_name must not be empty")
        return (ModelOptions(values["model_name"], absolute(values["model_name"], values["model_base_path"])),)
    if values["record_file"]:
        return None  # models come through the control channel
    raise InvalidArgumentError("Both server_options.model_base_path and server_options.model_config_file are empty!")


def _metrics_path(values: dict[str, Any]) -> str:
    """Return where the metrics page is; TensorFlow Serving reads the file when there is REST only."""
    file: str = values["monitoring_config_file"]
    if not file:
        return ""
    if not (values["rest_api_port"] or values["ephemeral_ports"]):
        log.warning("--monitoring_config_file is not read: its page needs --rest_api_port")
        return ""
    config = read_text_proto(file, messages.MonitoringConfig()).prometheus_config
    if not config.enable:
        return ""
    path: str = config.path or DEFAULT_PATH
    if not path.startswith("/") or "?" in path or path.lower().startswith("/v1/") or not path.isascii():
        raise InvalidArgumentError(f'{file}: path "{path}" must begin with /, lie outside of /v1/ and have no query')
    return path


def _op_libraries(text: str) -> tuple[str, ...]:
    paths = tuple(path for path in text.split(",") if path)
    for path in paths:
        if not Path(path).is_absolute() or not Path(path).is_file():
            raise NotFoundError(f"--custom_op_libraries: {path} is not the absolute path of a file")
    return paths


def _at_least(values: dict[str, Any], name: str, least: int) -> int:
    value: int = values[name]
    if value < least:
        raise InvalidArgumentError(f"--{name}={value} is less than {least}")
    return value


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
    for name in ("session", "intra_op", "inter_op"):
        threads = values[f"tensorflow_{name}_parallelism"]
        if threads >= 2**31:
            raise InvalidArgumentError(f"--tensorflow_{name}_parallelism={threads} is more than an int32 holds")
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
    """Read ``k=v,k=v``; a value that is an int32 becomes one.

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
        is_number = re.fullmatch("-?[0-9]{1,10}", value) is not None and -(2**31) <= int(value) < 2**31
        arguments.append((key, int(value) if is_number else value))
    return tuple(arguments)
