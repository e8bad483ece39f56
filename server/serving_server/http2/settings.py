"""SETTINGS: what the peer said, checked (RFC 9113 section 6.5)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

from serving_server.http2.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    frame,
)

__all__ = ["DEFAULT_TABLE_SIZE", "PeerSettings", "Setting", "parse_settings", "settings_frame"]

#: SETTINGS_HEADER_TABLE_SIZE before any SETTINGS.
DEFAULT_TABLE_SIZE: Final = 4096

_ENTRY: Final = struct.Struct(">HI")


class Setting(enum.IntEnum):
    """Numbers of the settings."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class PeerSettings:
    """The peer's settings in force.

    Attributes
    ----------
    header_table_size, initial_window, max_frame : int
        Bytes.
    max_streams, max_header_list : int or None
        None: not limited.
    """

    __slots__ = ("header_table_size", "initial_window", "max_frame", "max_header_list", "max_streams")

    def __init__(self) -> None:
        self.header_table_size = DEFAULT_TABLE_SIZE
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_SIZE
        self.max_streams: int | None = None
        self.max_header_list: int | None = None

    def apply(self, values: Mapping[int, int]) -> None:
        """Take what a SETTINGS frame says, as `parse_settings` returned it."""
        for number, value in values.items():
            if number == Setting.HEADER_TABLE_SIZE:
                self.header_table_size = value
            elif number == Setting.MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif number == Setting.INITIAL_WINDOW_SIZE:
                self.initial_window = value
            elif number == Setting.MAX_FRAME_SIZE:
                self.max_frame = value
            elif number == Setting.MAX_HEADER_LIST_SIZE:
                self.max_header_list = value


def settings_frame(values: Mapping[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_ENTRY.pack(number, value) for number, value in values.items()))


def parse_settings(payload: bytes, *, from_server: bool = False) -> dict[int, int]:
    """Return the values of a SETTINGS payload, the last of each number; unknown numbers stay in.

    Raises
    ------
    ConnectionFault
        For a broken payload or a value that the RFC forbids.
    """
    if len(payload) % _ENTRY.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes: not a multiple of 6")
    values: dict[int, int] = {}
    for number, value in _ENTRY.iter_unpack(payload):
        if number == Setting.ENABLE_PUSH and value > (0 if from_server else 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH={value}")
        if number == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE={value} is over 2**31-1")
        if number == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME_SIZE <= value < 2**24:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE={value}")
        values[number] = value
    return values
