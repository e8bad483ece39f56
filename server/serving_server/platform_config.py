"""``--platform_config_file``: one file in place of every flag about sessions, batching, warmup and TensorFlow Lite.

A text `PlatformConfigMap` (tensorflow_serving/config/platform_config.proto) whose entry ``tensorflow`` wraps a
`SavedModelBundleSourceAdapterConfig`. It replaces those flags: ``--enable_batching`` counts for
nothing beside it, as in TensorFlow Serving.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from serving_server.batching.parameters import BatchingParameters
from serving_server.errors import InvalidArgumentError, UnimplementedError
from serving_server.session_options import SessionTemplate
from serving_server.text_files import parse_text
from serving_server.wire import messages, session_config

__all__ = ["PlatformConfig", "read_platform_config"]

#: The platform of SavedModels, the only one here.
PLATFORM: Final = "tensorflow"


@dataclasses.dataclass(frozen=True, slots=True)
class PlatformConfig:
    """What such a file says.

    Attributes
    ----------
    template : SessionTemplate
        Its `session_config`, thread counts included.
    batching : BatchingParameters or None
        None: off.
    tags : tuple of str
        Empty: ``serve``.
    warmup : bool
    warmup_iterations : int
        How often each record is replayed; 0 for once.
    prefer_tflite : bool
    """

    template: SessionTemplate
    batching: BatchingParameters | None
    tags: tuple[str, ...]
    warmup: bool
    warmup_iterations: int
    prefer_tflite: bool


def read_platform_config(path: str) -> PlatformConfig:
    """Return what a file says.

    Raises
    ------
    ServingError
        Naming the file, and the line where its text is wrong, or the part that this server does not have.
    """
    name = "tensorflow.serving.PlatformConfigMap"
    platforms = parse_text(path, name, _parse).platform_configs
    others = sorted(platforms.keys() - {PLATFORM})
    if others:
        raise InvalidArgumentError(f"{path}: platform {others[0]} is not supported; there is {PLATFORM}")
    if PLATFORM not in platforms:
        raise InvalidArgumentError(f'{path}: no platform_configs entry with the key "{PLATFORM}"')
    wrapped = platforms[PLATFORM].source_adapter_config
    adapter = session_config.session_bundle_adapter()()
    if wrapped.type_url.rpartition("/")[2] != adapter.DESCRIPTOR.full_name:
        wanted, found = adapter.DESCRIPTOR.full_name, wrapped.type_url or "nothing"
        msg = f"{path}: source_adapter_config holds {found}; wanted is {wanted}"
        raise InvalidArgumentError(msg)
    try:
        adapter.ParseFromString(wrapped.value)
    except DecodeError:
        msg = f"{path}: source_adapter_config: its value is no {adapter.DESCRIPTOR.full_name}"
        raise InvalidArgumentError(msg) from None
    config = adapter.legacy_config
    if config.enable_saved_model_config:
        raise UnimplementedError(f"{path}: enable_saved_model_config is not supported")
    if config.session_target:
        raise UnimplementedError(f"{path}: session_target is not supported; sessions run in this machine's workers")
    return PlatformConfig(
        SessionTemplate(config.session_config, keeps_threads=True),
        _batching(config),
        tuple(config.saved_model_tags),
        config.enable_model_warmup,
        config.model_warmup_options.num_request_iterations.value,
        config.prefer_tflite_model,
    )


def _parse(text: str) -> Any:
    return text_format.Parse(text, session_config.platform_config_map()(), descriptor_pool=session_config.pool())


def _batching(config: Any) -> BatchingParameters | None:
    if not config.HasField("batching_parameters"):
        return None
    # The same message by name, of the pool that everybody else uses.
    data = config.batching_parameters.SerializeToString()
    return BatchingParameters.from_proto(messages.BatchingParameters.FromString(data))
