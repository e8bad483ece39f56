"""The flags: one table, read the way TensorFlow reads flags."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["FLAGS", "Flag", "FlagValueError", "describe_unknown", "parse_flags", "usage"]


class FlagValueError(ValueError):
    """A flag whose value cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes
    ----------
    name : str
    default : bool, int, float or str
        Its type is the flag's type.
    help : str
    group : str
    note : str
        What to log when it is given, for flags that do nothing here.
    refused : str
        Why the server must not start with it (given, and not its default), for flags whose silence would hurt.
    """

    name: str
    default: bool | int | float | str
    help: str
    group: str
    note: str = ""
    refused: str = ""


_NO_EFFECT: Final = "is accepted for compatibility and has no effect here"
_NOT_YET: Final = "is not supported yet"

FLAGS: Final = (
    Flag("model_name", "default", "name of the one model to serve", "Models"),
    Flag("model_base_path", "", "its folder; every sub-folder with a number as its name is a version", "Models"),
    Flag("model_config_file", "", "text ModelServerConfig with any number of models", "Models"),
    Flag("model_config_file_poll_wait_seconds", 0, "look at that file every so often; 0: once", "Models"),
    Flag("allow_version_labels_for_unavailable_models", False, "new labels may point at any version", "Models"),
    Flag("saved_model_tags", "serve", "comma-separated exact tag set to load", "Models"),
    Flag("file_system_poll_wait_seconds", 1, "pause between looks for versions; 0: once; <0: never", "Models"),
    Flag("max_num_load_retries", 5, "further tries after a failed load", "Models"),
    Flag("load_retry_interval_micros", 60_000_000, "pause between tries; negative: none", "Models"),
    Flag("num_load_threads", 0, "loads at once; 0: 4", "Models"),
    Flag("num_unload_threads", 0, "unloads at once; 0: no limit", "Models"),
    Flag("enable_model_warmup", True, "replay assets.extra/tf_serving_warmup_requests before serving", "Models"),
    Flag("num_request_iterations_for_warmup", 0, "replay each of them so often; 0: once", "Models"),
    Flag("prefer_tflite_model", False, "run model.tflite where a version has one", "Models"),
    Flag("num_tflite_pools", 0, "", "Models", note="has no effect here: each batch thread has an interpreter"),
    Flag(
        "num_tflite_interpreters_per_pool",
        1,
        "",
        "Models",
        note="has no effect here: each batch thread has an interpreter",
    ),
    Flag("flush_filesystem_caches", True, "", "Models", note=_NO_EFFECT),
    Flag("remove_unused_fields_from_bundle_metagraph", True, "", "Models", note=_NO_EFFECT),
    Flag("port", 8500, "gRPC port; 0: no TCP", "Ports"),
    Flag("grpc_socket_path", "", "also serve gRPC on this unix socket", "Ports"),
    Flag("rest_api_port", 0, "REST port; 0: no REST", "Ports"),
    Flag("rest_api_timeout_in_ms", 30_000, "time limit of a REST request; <=0: none", "Ports"),
    Flag("rest_api_enable_cors_support", False, "send the CORS headers", "Ports"),
    Flag("rest_api_num_threads", 0, "", "Ports", note="has no effect here: one event loop serves all connections"),
    Flag("grpc_max_threads", 0, "", "Ports", note="has no effect here: one event loop serves all connections"),
    Flag("grpc_channel_arguments", "", "k=v,k=v for the gRPC server", "Ports"),
    Flag("ssl_config_file", "", "text SSLConfig: TLS for gRPC, by TCP and by the unix socket", "Ports"),
    Flag("use_alts_credentials", False, "", "Ports", refused="is for Google's own machines; use --ssl_config_file"),
    Flag("enable_batching", False, "put requests together", "Batching"),
    Flag("batching_parameters_file", "", "text BatchingParameters", "Batching"),
    Flag(
        "enable_per_model_batching_parameters",
        False,
        "read batching_params.pbtxt in each version's folder; versions without it are not batched",
        "Batching",
    ),
    Flag("tensorflow_session_parallelism", 0, "threads within and between ops", "Sessions"),
    Flag("tensorflow_intra_op_parallelism", 0, "threads within an op", "Sessions"),
    Flag("tensorflow_inter_op_parallelism", 0, "threads between ops", "Sessions"),
    Flag("tensorflow_session_config_file", "", "text tensorflow.ConfigProto that sessions start from", "Sessions"),
    Flag("per_process_gpu_memory_fraction", 0.0, "part of a card's memory for each loaded version", "Sessions"),
    Flag(
        "platform_config_file",
        "",
        "text PlatformConfigMap; replaces the flags about sessions, batching, warmup",
        "Sessions",
    ),
    Flag("mixed_precision", "", "bfloat16: let oneDNN compute in it", "Sessions"),
    Flag("xla_cpu_compilation_enabled", False, "", "Sessions", note=_NO_EFFECT),
    Flag("xla_gpu_compilation_enabled", False, "", "Sessions", note=_NO_EFFECT),
    Flag("skip_initialize_tpu", False, "", "Sessions", note=_NO_EFFECT),
    Flag("thread_pool_factory_config_file", "", "", "Sessions", refused="has no factories to name"),
    Flag("enable_signature_method_name_check", False, "refuse signatures made for another method", "Answers"),
    Flag("enable_serialization_as_tensor_content", False, "answer Predict with tensor_content", "Answers"),
    Flag("monitoring_config_file", "", "text MonitoringConfig: metrics for Prometheus on the REST port", "Monitoring"),
    Flag("enable_profiler", True, "TensorFlow's ProfilerService on the gRPC port", "Monitoring"),
    Flag("enable_grpc_healthcheck_service", False, "grpc.health.v1.Health on the gRPC port", "Monitoring"),
    Flag("version", False, "print versions and exit", "Help"),
    Flag("help", False, "print this and exit", "Help"),
    Flag("wait_for_models", False, "open the ports when all models answer, end when one fails to load", "Workbench"),
    Flag("wait_for_models_timeout_seconds", 600, "end after that long", "Workbench"),
    Flag(
        "aspired_version_policy", "availability_preserving", "resource_preserving: unload before loading", "Workbench"
    ),
    Flag("servable_versions_always_present", True, "a base path without versions unloads nothing", "Workbench"),
    Flag("freeze_variables", True, "run with constants in place of variables where provably equal", "Workbench"),
    Flag("custom_op_libraries", "", "comma-separated libraries with ops or file systems, for all models", "Workbench"),
    Flag("request_log_max_megabytes", 64, "size at which a file of logged requests is closed", "Workbench"),
    Flag("request_log_max_files", 0, "older files of a model's request log are removed; 0: keep all", "Workbench"),
    Flag("bind_address", "0.0.0.0", "interface of both ports", "Workbench"),  # noqa: S104 - TensorFlow Serving's
    Flag("grpc_transport", "own", "own: the HTTP/2 stack of this server; grpcio: the stock one", "Workbench"),
    Flag("ephemeral_ports", False, "bind both ports to free ones and tell them in the record", "Workbench"),
    Flag("record_file", "", "write how to reach this server there (0600) and open the control channel", "Workbench"),
    Flag("record_extra", "", "JSON object to put into the record", "Workbench"),
    Flag("instance_name", "default", "name in the record", "Workbench"),
    Flag("lifeline_fd", -1, "end when this descriptor reads end of file", "Workbench"),
    Flag("owner_pid", 0, "end when this process does", "Workbench"),
    Flag("owner_create_time", 0.0, "its create time, so that a reused pid is not mistaken for it", "Workbench"),
)

#: Python reads more as whole numbers than TensorFlow does, such as ``1_000`` and digits of other scripts.
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,19}")
_INT64: Final = range(-(2**63), 2**63)

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_TYPE_NAMES: Final = {bool: "bool", int: "int64", float: "float", str: "string"}


def _convert(flag: Flag, text: str | None) -> Any:
    kind = type(flag.default)
    if kind is bool:
        if text in {None, "true"}:
            return True
        if text == "false":
            return False
    elif kind is int:
        if text is not None and _WHOLE.fullmatch(text) and int(text) in _INT64:
            return int(text)
    elif text is not None:
        try:
            return kind(text)
        except ValueError:
            pass  # told below, with the flag's name
    wanted = {bool: "it takes true or false", int: "it takes a whole number"}.get(kind, "it takes a number")
    remark = wanted if text is not None else f"write --{flag.name}=<value>"
    raise FlagValueError(f"Couldn't interpret value {text or ''} for flag {flag.name}. ({remark})")


def describe_unknown(argument: str) -> str:
    """Say which argument is no flag, in TensorFlow's words, and which flag may have been meant."""
    name = argument.removeprefix("--").partition("=")[0]
    close = difflib.get_close_matches(name, _BY_NAME, 1, 0.8)
    return f"unknown argument: {argument}" + (f" (did you mean --{close[0]}?)" if close else "")


def parse_flags(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read a command line.

    Returns
    -------
    values, unknown : dict, list of str
        Every flag's value by name, and under ``given`` the set of those on the command line; arguments that are no
        flag of ours.

    Raises
    ------
    FlagValueError
        With TensorFlow's message.
    """
    values: dict[str, Any] = {flag.name: flag.default for flag in FLAGS}
    given: set[str] = set()
    unknown = []
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = _BY_NAME.get(name) if argument.startswith("--") else None
        if flag is None:
            unknown.append(argument)
            continue
        values[name] = _convert(flag, text if equals else None)
        given.add(name)
    values["given"] = given
    return values, unknown


def usage() -> str:
    """Return the help text, flags grouped by what they are about."""
    lines = ["usage: serving-server --model_name=<name> --model_base_path=<path> [--flag=value ...]"]
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        lines.append(f"\n{group}")
        for flag in (flag for flag in FLAGS if flag.group == group):
            default = str(flag.default).lower() if isinstance(flag.default, bool) else repr(flag.default)
            what = "; ".join(text for text in (flag.help, flag.note, flag.refused) if text)
            lines.append(f"  --{flag.name:<45} {_TYPE_NAMES[type(flag.default)]:<7} {default:<10} {what}")
    return "\n".join(lines)
