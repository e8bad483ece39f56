"""Which handler a request gets, and the answers to requests that none gets (gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from serving_server.errors import StatusCode
from serving_server.http2.call import Call
from serving_server.http2.grpc_status import GRPC_CONTENT_TYPE, http_error, literal, status_block
from serving_server.http2.headers import RequestHead
from serving_server.http2.messages import ENCODINGS, unknown_encoding
from serving_server.stamps.fields import REQUEST_ID, WANTS_TIMING

__all__ = ["Handler", "Receiver", "Refusal", "Route", "Streaming", "resolve"]

#: What `serving_server.stamps.asked` looks for.
_ASKING: Final = frozenset({REQUEST_ID, WANTS_TIMING})

#: A unary method: gets the whole message and answers by the call, at once or later on the loop. What it returns is
#: called once if the call ends before it was answered: the client cancelled, went away, or its deadline passed.
Handler = Callable[[bytes | bytearray, Call], Callable[[], None] | None]


class Receiver(Protocol):
    """Takes the messages of a client stream as they come."""

    def message(self, message: bytes | bytearray) -> None:
        """Take the next one."""

    def end(self) -> None:
        """Take note that there are no more."""

    def cancel(self) -> None:
        """Take note that the call has ended without an answer; called at most once."""


class Streaming:
    """Route of a method whose client may send any number of messages.

    Parameters
    ----------
    open_call : callable
        Called with each new call; returns its `Receiver`.
    """

    def __init__(self, open_call: Callable[[Call], Receiver]) -> None:
        self.open_call = open_call


Route = Handler | Streaming


class Refusal:
    """Route of requests that no handler gets: the same header block answers each."""

    __slots__ = ("block",)

    def __init__(self, block: bytes) -> None:
        self.block = block


def resolve(head: RequestHead, routes: Mapping[bytes, Route], max_header_list: int) -> None:
    """Decide once for all requests with these headers what becomes of them: sets `head.route`, `special` and `asks`."""
    route = routes.get(head.path)
    refusal = _refusal(head, max_header_list)
    if refusal is None and route is None:
        refusal = status_block(StatusCode.UNIMPLEMENTED, b"Method not found!")
    head.route = route if refusal is None else Refusal(refusal)
    head.special = not callable(head.route)
    head.asks = any(name in _ASKING for name, _ in head.fields)


def _refusal(head: RequestHead, max_header_list: int) -> bytes | None:
    if head.size > max_header_list:
        text = b"received metadata size exceeds limit (%d vs. %d)" % (head.size, max_header_list)
        return status_block(StatusCode.RESOURCE_EXHAUSTED, text)
    if head.method != b"POST":
        return http_error(405, StatusCode.UNKNOWN, b"gRPC uses POST", (b"allow", b"POST"))
    if not _is_grpc(head.content_type):
        return http_error(
            415, StatusCode.UNKNOWN, b"content-type is not application/grpc", (b"accept-post", GRPC_CONTENT_TYPE)
        )
    if head.encoding not in ENCODINGS:
        error = unknown_encoding(head.encoding)
        accepted = literal(b"grpc-accept-encoding", b",".join(ENCODINGS))
        return status_block(error.code, error.message.encode()) + accepted
    if head.bad_timeout:
        return status_block(StatusCode.INTERNAL, b"Error parsing 'grpc-timeout' metadata")
    return None


def _is_grpc(content_type: bytes | None) -> bool:
    """Whether it is ``application/grpc``, perhaps with ``+proto`` or parameters behind it."""
    if content_type is None or not content_type.lower().startswith(GRPC_CONTENT_TYPE):
        return False
    return content_type[len(GRPC_CONTENT_TYPE) :][:1] in {b"", b"+", b";"}
