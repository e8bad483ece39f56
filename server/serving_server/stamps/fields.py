"""Names of the headers, or gRPC metadata, by which clients ask to be told something beside an answer."""

from __future__ import annotations

from typing import Final

__all__ = ["REQUEST_ID", "SERVER_TIMING", "WANTS_TIMING"]

REQUEST_ID: Final = b"x-request-id"
WANTS_TIMING: Final = b"x-server-timing"
SERVER_TIMING: Final = b"server-timing"
