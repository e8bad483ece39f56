"""gRPC requests that no gRPC client would send, by the `h2` package, which shares no code with the server.

with RawConnection(endpoint) as connection:
    stream = connection.request(headers(te=None), framed(message))
    answer = connection.answer(stream)
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

__all__ = ["Answer", "RawConnection", "framed", "headers"]

PREDICT = "/tensorflow.serving.PredictionService/Predict"

#: Seconds that any one thing may take.
DEADLINE = 60.0

#: Of a successful answer core sends an empty text; and it says what it could unpack.
_IGNORED = {("grpc-message", "")}
_IGNORED_NAMES = {"grpc-accept-encoding", "accept-encoding"}


@dataclasses.dataclass
class Answer:
    """One answer; what both transports add without a meaning is left out.

    Attributes
    ----------
    head, trailers : list of (name, value)
        Sorted. Of an error both are in `head`.
    reset : int or None
        Code of the RST_STREAM, or of the GOAWAY, that ended it.
    """

    head: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    data: bytes = b""
    trailers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    reset: int | None = None
    ended: bool = False

    @property
    def http_status(self) -> str | None:
        return dict(self.head).get(":status")

    @property
    def grpc_status(self) -> str | None:
        return dict([*self.head, *self.trailers]).get("grpc-status")

    @property
    def grpc_message(self) -> str | None:
        return dict([*self.head, *self.trailers]).get("grpc-message")


class RawConnection:
    """One HTTP/2 connection without TLS.

    Attributes
    ----------
    answers : dict of int to Answer
        By stream.
    goaway : str
        What the server said when it ended the connection.
    """

    def __init__(self, endpoint: str) -> None:
        self.goaway = ""
        host, _, port = endpoint.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), DEADLINE)
        self._h2 = h2.connection.H2Connection(
            # What goes out is as wrong as the test wants it.
            h2.config.H2Configuration(
                header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self._h2.initiate_connection()
        self.answers: dict[int, Answer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def request(self, fields: list[tuple[str, str]], body: bytes | None) -> int:
        """Send a whole request and return its stream; without a body the headers end it."""
        stream: int = self._h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self._h2.send_headers(stream, fields, end_stream=body is None)
        if body is not None:
            self._h2.send_data(stream, body, end_stream=True)
        self._flush()
        return stream

    def answer(self, stream: int) -> Answer:
        """Read until this stream has ended; other streams' answers are kept in `answers`."""
        while not self.answers[stream].ended:
            data = self._socket.recv(65536)
            assert data, "the server closed the connection"
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
        return self.answers[stream]

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = f"GOAWAY {event.error_code}: {(event.additional_data or b'').decode(errors='replace')}"
            for answer in self.answers.values():
                if not answer.ended:
                    answer.reset, answer.ended = int(event.error_code or 0), True
            return
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived):
            answer.head = _kept(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = _kept(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            answer.data += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset) and not answer.ended:
            answer.reset, answer.ended = int(event.error_code), True


def _kept(fields: Any) -> list[tuple[str, str]]:
    return sorted(
        (name, value) for name, value in fields if (name, value) not in _IGNORED and name not in _IGNORED_NAMES
    )


def headers(path: str = PREDICT, **fields: str | None) -> list[tuple[str, str]]:
    """Return a request's headers: "_" in a name is "-", a leading one ":"; None leaves a field out."""
    found: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    for name, value in fields.items():
        found[(":" if name.startswith("_") else "") + name.lstrip("_").replace("_", "-")] = value
    return [(name, value) for name, value in found.items() if value is not None]


def framed(message: bytes, flag: int = 0) -> bytes:
    """Return the message behind gRPC's five bytes."""
    return struct.pack(">BI", flag, len(message)) + message
