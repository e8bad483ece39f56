"""The server's configuration, typed; `serving_server.cli` makes it from flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_server.batching.parameters import BatchingParameters
from serving_server.lifecycle.states import Latest, Policy
from serving_server.place import Place
from serving_server.request_log.registry import MAX_FILES, MAX_MEGABYTES
from serving_server.session_options import DeviceOptions, SessionFlags, SessionTemplate
from serving_server.tls import TlsConfig

__all__ = ["ModelOptions", "ServerOptions"]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelOptions:
    """One model to serve.

    Attributes
    ----------
    name : str
    base_path : Path or RemotePath
        Folder, or URI, whose numbered sub-folders are versions.
    policy : Policy
        Which of them to serve.
    devices : DeviceOptions or None
        What it says of GPUs.
    labels : tuple of (str, int)
        Version labels and their versions, sorted.
    logging : bytes or None
        A serialized `LoggingConfig`.
    """

    name: str
    base_path: Place
    policy: Policy = dataclasses.field(default_factory=Latest)
    devices: DeviceOptions | None = None
    labels: tuple[tuple[str, int], ...] = ()
    logging: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ServerOptions:
    """All of it. Times in seconds; names follow TensorFlow Serving's flags where there is one.

    Attributes
    ----------
    models : tuple of ModelOptions or None
        Served from the start; None: nobody has said, they come by the control channel or a reload.
    config_file : str
        Where they were read from.
    config_poll_wait : float
        Pause between looks at that file; 0: none.
    allow_unavailable_labels : bool
        See `serving_server.labels`.
    wait_for_models : float
        Open the ports only when all models answer, or end when one cannot; at most after so long. 0: at once.
    unload_on_empty, resource_preserving : bool
        See `VersionSource` and `Manager`.
    bind_address, rest_bind_address : str
        Interfaces of gRPC and REST; ``::`` for REST stands for all of IPv6 and IPv4, as in TensorFlow Serving.
    port, rest_api_port : int
        0: that protocol has no TCP port (unless `ephemeral_ports`).
    ephemeral_ports : bool
        Bind both protocols to free ports and tell them in the record.
    grpc_socket_path : str
        Also listen there; empty for not.
    grpc_transport : str
        ``own`` or ``grpcio``.
    tls : TlsConfig or None
        Of gRPC, on its port and its socket; None: off.
    check_method_names : bool
        Refuse requests for signatures that were not made for the method.
    warmup_iterations : int
        How often each warmup record is replayed.
    batching : BatchingParameters or None
        None: off.
    per_model_batching : bool
        Versions bring their own parameters, in ``batching_params.pbtxt``; without the file they are not batched.
    session : SessionFlags
    session_template : SessionTemplate or None
        From ``--tensorflow_session_config_file``.
    metrics_path : str
        Of the metrics page on the REST port; empty for none.
    grpc_health, profiler : bool
        Have grpc.health.v1.Health and tensorflow.ProfilerService on the gRPC port.
    record_file : Path or None
        Where to tell the workbench how to reach us; also turns the control channel on.
    lifeline_fd : int or None
        The server ends when this descriptor reads end of file.
    owner : (pid, create time) or None
        The server ends when that process does.
    """

    models: tuple[ModelOptions, ...] | None = None
    config_file: str = ""
    config_poll_wait: float = 0.0
    allow_unavailable_labels: bool = False
    wait_for_models: float = 0.0
    unload_on_empty: bool = False
    resource_preserving: bool = False
    bind_address: str = "0.0.0.0"  # noqa: S104 - as TensorFlow Serving; the workbench passes 127.0.0.1
    rest_bind_address: str = "::"
    port: int = 8500
    rest_api_port: int = 0
    ephemeral_ports: bool = False
    grpc_socket_path: str = ""
    grpc_transport: str = "own"
    tls: TlsConfig | None = None
    grpc_channel_arguments: tuple[tuple[str, int | str], ...] = ()
    rest_api_timeout: float | None = 30.0
    rest_api_cors: bool = False
    tensor_content: bool = False
    check_method_names: bool = False
    batching: BatchingParameters | None = None
    per_model_batching: bool = False
    saved_model_tags: tuple[str, ...] = ("serve",)
    session: SessionFlags = dataclasses.field(default_factory=SessionFlags)
    session_template: SessionTemplate | None = None
    warmup: bool = True
    warmup_iterations: int = 1
    freeze: bool = True
    prefer_tflite: bool = False
    op_libraries: tuple[str, ...] = ()
    metrics_path: str = ""
    grpc_health: bool = False
    profiler: bool = True
    request_log_megabytes: int = MAX_MEGABYTES
    request_log_files: int = MAX_FILES
    num_load_threads: int = 4
    num_unload_threads: int = 0
    max_load_retries: int = 5
    load_retry_interval: float = 60.0
    poll_wait: float = 1.0
    record_file: Path | None = None
    record_extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    instance_name: str = "default"
    lifeline_fd: int | None = None
    owner: tuple[int, float] | None = None
