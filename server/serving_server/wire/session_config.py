"""`tensorflow.ConfigProto` without TensorFlow: to read session and platform config files where no model is loaded.

The message and all that it refers to stand in `session_config.binpb`, taken from the installed TensorFlow by
`python -m serving_server.wire.build`: field names and numbers, nothing else. They have a pool of their own, made when
it is first asked for, because most servers never are.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["config_proto", "platform_config_map", "pool", "session_bundle_adapter"]


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
    """Return the pool, which reading an `Any` in a text file needs."""
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(
        (files("serving_server.wire") / "session_config.binpb").read_bytes()
    )
    private = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        private.Add(file)
    return private


@functools.cache
def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def config_proto() -> Any:
    """Return the class of `tensorflow.ConfigProto` (tensorflow/core/protobuf/config.proto)."""
    return _message_class("tensorflow.ConfigProto")


def platform_config_map() -> Any:
    """Return the class of `tensorflow.serving.PlatformConfigMap`."""
    return _message_class("tensorflow.serving.PlatformConfigMap")


def session_bundle_adapter() -> Any:
    """Return the class of `tensorflow.serving.SavedModelBundleSourceAdapterConfig`."""
    return _message_class("tensorflow.serving.SavedModelBundleSourceAdapterConfig")
