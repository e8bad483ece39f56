"""``--grpc_channel_arguments``: gRPC core's names, as far as our own transport has what they set."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from serving_server.errors import InvalidArgumentError
from serving_server.http2.limits import Http2Limits

__all__ = ["ARGUMENTS", "limits_from_arguments"]

log = logging.getLogger(__name__)

#: gRPC core writes "no limit" as -1 or as the largest int.
_UNLIMITED: Final = 2**31 - 1


def _seconds(value: int) -> float:
    """From milliseconds; "never" becomes about 25 days."""
    return (_UNLIMITED if value < 0 else value) / 1000


def _optional_seconds(value: int) -> float | None:
    return None if value < 0 or value == _UNLIMITED else value / 1000


def _size(value: int) -> int:
    return _UNLIMITED if value < 0 else value


#: The limit that each sets, and how its value becomes the limit's.
ARGUMENTS: Final[dict[str, tuple[str, Callable[[int], Any]]]] = {
    "grpc.max_connection_age_ms": ("max_age", _optional_seconds),
    "grpc.max_connection_age_grace_ms": ("age_grace", _optional_seconds),
    "grpc.max_connection_idle_ms": ("idle_timeout", _seconds),
    "grpc.max_concurrent_streams": ("max_concurrent_streams", _size),
    "grpc.keepalive_time_ms": ("keepalive_time", _seconds),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout", _seconds),
    "grpc.max_receive_message_length": ("max_message_bytes", _size),
    "grpc.max_metadata_size": ("max_header_list", _size),
    "grpc.http2.max_frame_size": ("max_frame_size", _size),
    "grpc.http2.lookahead_bytes": ("stream_window", _size),
    "grpc.server_handshake_timeout_ms": ("handshake_timeout", _seconds),
}

#: Values that ask for what is so anyway: `serving_server.listening` shares no port, and takes over one whose last
#: connections are still closing.
_ALWAYS: Final[dict[str, frozenset[int]]] = {
    "grpc.so_reuseport": frozenset({0}),
    "grpc.so_reuseaddr": frozenset({1}),
    "grpc.max_send_message_length": frozenset({-1, _UNLIMITED}),
}


def limits_from_arguments(arguments: Sequence[tuple[str, int | str]]) -> Http2Limits:
    """Return the limits that channel arguments ask for; those without a meaning here are logged.

    Raises
    ------
    InvalidArgumentError
        Naming the argument whose value cannot be.
    """
    limits = Http2Limits()
    values: dict[str, Any] = {}
    for name, value in arguments:
        if name in ARGUMENTS:
            if not isinstance(value, int):
                raise InvalidArgumentError(f"--grpc_channel_arguments: {name}={value} is not a number")
            field, convert = ARGUMENTS[name]
            values[field] = convert(value)
        elif value not in _ALWAYS.get(name, ()):
            log.warning("--grpc_channel_arguments: %s has no effect on this transport", name)
    if "stream_window" in values:
        values["large_window"] = max(values["stream_window"], limits.large_window)
    try:
        return dataclasses.replace(limits, **values)
    except ValueError as error:
        raise InvalidArgumentError(f"--grpc_channel_arguments: {error}") from None
