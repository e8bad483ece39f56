"""Every bound of an HTTP/2 connection, by name."""

from __future__ import annotations

import dataclasses

from serving_server.http2.frames import DEFAULT_FRAME_SIZE, DEFAULT_WINDOW, MAX_STREAM_ID, MAX_WINDOW

__all__ = ["Http2Limits"]


@dataclasses.dataclass(frozen=True, slots=True)
class Http2Limits:
    """Bounds of one connection. Times are seconds, checked about four times a second; rates are counted per second.

    A peer beyond one of the sizes or rates gets GOAWAY with ENHANCE_YOUR_CALM unless something else is said.

    Attributes
    ----------
    max_concurrent_streams : int
        Requests of one connection at a time; announced. A stream beyond it is refused (REFUSED_STREAM: clients retry).
    max_frame_size : int
        Largest frame taken; announced. A larger one is a FRAME_SIZE_ERROR.
    max_header_list : int
        Request headers as RFC 9113 counts them (names, values and 32 bytes for each); announced. A request beyond it is
        answered RESOURCE_EXHAUSTED; four times as much ends the connection.
    max_header_block : int
        Bytes of one compressed header block, HEADERS and CONTINUATION together.
    max_continuations : int
        CONTINUATION frames of one header block.
    max_message_bytes : int
        One request message as sent; RESOURCE_EXHAUSTED beyond it, before its bytes are taken.
    max_unpacked_bytes : int
        A compressed message after unpacking; RESOURCE_EXHAUSTED. One message of a connection is unpacked at a time.
    connection_window, stream_window, large_window : int
        What a peer may send ahead: on all streams, on each stream at first, and on a stream whose message is known to
        be larger than `stream_window`.
    max_partial_bytes : int
        Incomplete messages of one connection. Beyond it only the oldest of them may go on; the others wait for a
        window, and new requests are refused.
    max_held_bytes : int
        Large messages (16 KiB and up) that wait for their answers. Beyond it the connection's window stays shut (up to
        `connection_window` more may come), and no compressed message is unpacked.
    max_queued_bytes : int
        Answers that wait for the peer's windows. Beyond it, requests wait before they are started, and a stream that
        asks on while its answers wait is ended with RESOURCE_EXHAUSTED.
    write_buffer : int
        Bytes that wait for the socket. Beyond it no more of the queued answers goes out and the connection is not read.
    resets_per_second : int
        Streams opened and then reset by the peer, or by us because the peer broke a rule (rapid reset).
    pings_per_second, settings_per_second : int
        Frames that want an answer.
    empty_frames_per_second : int
        DATA without bytes that does not end its stream, and empty pieces of header blocks.
    idle_frames_per_second : int
        Frames that do nothing: PRIORITY, unknown types, frames of closed streams but for WINDOW_UPDATE.
    preface_timeout : float
        From the accepted socket (with TLS, from the end of the handshake) to the client's preface and SETTINGS.
    handshake_timeout : float
        TLS handshake.
    frame_timeout : float
        From the first byte of a header block to its last, and of any frame but DATA.
    slow_sender_seconds, slow_sender_bytes : float, int
        An incomplete request that did not grow by so many bytes in so many seconds is answered ABORTED.
    send_timeout : float
        A peer that takes no byte of its answers for so long: by its socket, the connection is dropped; by its windows,
        the stream is reset.
    idle_timeout : float
        A connection without any request is closed (GOAWAY first).
    linger_timeout : float
        After a GOAWAY for an error: time for the peer to read it, before its unread bytes make the kernel reset.
    drain_ping_timeout : float
        How long a graceful GOAWAY waits for the peer to show that it has seen it.
    max_age, age_grace : float or None
        After `max_age` (10 % more or less) a connection drains gracefully, and is cut `age_grace` later.
    keepalive_time, keepalive_timeout : float
        A peer that was silent so long is pinged, and dropped when nothing comes within the second time.
    """

    max_concurrent_streams: int = 4096
    max_frame_size: int = 256 * 1024
    max_header_list: int = 32 * 1024
    max_header_block: int = 64 * 1024
    max_continuations: int = 16
    max_message_bytes: int = 2**31 - 1
    max_unpacked_bytes: int = 2**28
    connection_window: int = 16 * 1024 * 1024
    stream_window: int = 256 * 1024
    large_window: int = 4 * 1024 * 1024
    max_partial_bytes: int = 256 * 1024 * 1024
    max_held_bytes: int = 256 * 1024 * 1024
    max_queued_bytes: int = 64 * 1024 * 1024
    write_buffer: int = 1024 * 1024
    resets_per_second: int = 5000
    pings_per_second: int = 10_000
    settings_per_second: int = 100
    empty_frames_per_second: int = 1000
    idle_frames_per_second: int = 10_000
    preface_timeout: float = 10.0
    handshake_timeout: float = 10.0
    frame_timeout: float = 10.0
    slow_sender_seconds: float = 60.0
    slow_sender_bytes: int = 4096
    send_timeout: float = 60.0
    idle_timeout: float = 1800.0
    linger_timeout: float = 1.0
    drain_ping_timeout: float = 1.0
    max_age: float | None = None
    age_grace: float | None = None
    keepalive_time: float = 7200.0
    keepalive_timeout: float = 20.0

    def __post_init__(self) -> None:
        bounds = {
            "max_concurrent_streams": (1, MAX_STREAM_ID),
            "max_frame_size": (DEFAULT_FRAME_SIZE, 2**24 - 1),
            "stream_window": (DEFAULT_WINDOW, MAX_WINDOW),
            "connection_window": (DEFAULT_WINDOW, MAX_WINDOW),
            "large_window": (self.stream_window, MAX_WINDOW),
            "max_message_bytes": (0, 2**32 - 1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}={value} is not between {low} and {high}")
