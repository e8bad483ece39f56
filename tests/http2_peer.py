"""A client that speaks HTTP/2 frame by frame, right or wrong as a test wants it, and a server of small methods.

@both_loops
async def test_something() -> None:
    async with serving() as (server, methods, peer):
        peer.send(peer.request(1, message=b"hi"))
        assert (await peer.answer(1)).messages == [b"hi"]
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import inspect
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple, Self, cast

import hpack
import pytest
import uvloop

from serving_server.errors import InvalidArgumentError, StatusCode
from serving_server.http2 import frames
from serving_server.http2.call import Call
from serving_server.http2.frames import ErrorCode
from serving_server.http2.limits import Http2Limits
from serving_server.http2.routing import Route, Streaming
from serving_server.http2.server import Http2Server

__all__ = [
    "DEADLINE",
    "Answer",
    "Frame",
    "Methods",
    "Peer",
    "address_of",
    "both_loops",
    "grpc_message",
    "serving",
    "wait_until",
]

#: Seconds that any one thing of a test may take.
DEADLINE = 40.0

ECHO = "/t.T/Echo"


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on uvloop and on asyncio's own loop, bounded."""

    @functools.wraps(test)
    def wrapper(loop_factory: Any, **arguments: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(**arguments), 3 * DEADLINE)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(bounded())

    own = list(inspect.signature(test).parameters.values())
    first = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wrapper.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    mark = pytest.mark.parametrize(
        "loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
    )
    return mark(wrapper)  # type: ignore[no-any-return]


async def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Let the loop run until `condition()`; AssertionError after `DEADLINE`."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110 - conditions of the server, which knows nothing of tests
                await asyncio.sleep(0.002)  # gives the loop its turns; nothing depends on its length
    except TimeoutError:
        raise AssertionError(f"Waited {DEADLINE:g} s in vain for {what}.") from None


def address_of(server: Http2Server) -> tuple[str, int]:
    """Host and port of a server on TCP."""
    host, port = server._servers[0].sockets[0].getsockname()[:2]
    return host, port


def grpc_message(message: bytes, flag: int = 0) -> bytes:
    """gRPC's five bytes and the message."""
    return struct.pack(">BI", flag, len(message)) + message


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes


@dataclasses.dataclass
class Answer:
    """All that came on one stream."""

    headers: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    trailers: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    reset: ErrorCode | None = None
    data_frames: int = 0

    @property
    def messages(self) -> list[bytes]:
        found, rest = [], self.body
        while rest:
            size = 5 + int.from_bytes(rest[1:5], "big")
            assert len(rest) >= size
            found.append(rest[5:size])
            rest = rest[size:]
        return found

    @property
    def status(self) -> StatusCode:
        """grpc-status"""
        return StatusCode(int((self.trailers or self.headers)[b"grpc-status"]))

    @property
    def text(self) -> str:
        """grpc-message, still percent-encoded"""
        return (self.trailers or self.headers).get(b"grpc-message", b"").decode()


class Peer:
    """One raw connection to a server; closed by `serving` at the latest."""

    opened: ClassVar[list[Peer]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.seen: list[Frame] = []  # frames read and not asked for
        self.answers: dict[int, Answer] = {}
        self.granted: collections.Counter[int] = collections.Counter()  # by WINDOW_UPDATEs, per stream
        self.opened.append(self)

    @classmethod
    async def connect(
        cls, server: Http2Server, *, settings: dict[int, int] | None = None, preface: bool = True, **options: Any
    ) -> Self:
        """Connect to a server on TCP; with a preface unless told otherwise."""
        peer = cls(*await asyncio.open_connection(*address_of(server), limit=2**26, **options))
        if preface:
            peer.send(frames.PREFACE, peer.settings(settings or {}))
        return peer

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    # --- out ---

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    @staticmethod
    def settings(values: dict[int, int]) -> bytes:
        return frames.frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in values.items()))

    def block(self, path: str = ECHO, *extra: tuple[str, str], without: Iterable[str] = (), **pseudo: str) -> bytes:
        """A request's header block."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
        fields = [(name, pseudo.get(name[1:], value)) for name, value in fields]
        fields += [("content-type", "application/grpc"), ("te", "trailers"), *extra]
        return self.encoder.encode([field for field in fields if field[0] not in set(without)])

    def headers(self, stream_id: int, *arguments: Any, end: bool = False, **options: Any) -> bytes:
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        return frames.frame(frames.HEADERS, flags, stream_id, self.block(*arguments, **options))

    @staticmethod
    def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
        return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)

    def request(self, stream_id: int, path: str = ECHO, *extra: tuple[str, str], message: bytes = b"") -> bytes:
        """A whole unary request."""
        return self.headers(stream_id, path, *extra) + self.data(stream_id, grpc_message(message), end=True)

    # --- in ---

    async def frame(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        try:
            async with asyncio.timeout(DEADLINE):
                head = await self.reader.readexactly(9)
                word, flags, stream_id = frames.unpack_header(head)
                payload = await self.reader.readexactly(word >> 8)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None
        found = Frame(word & 0xFF, flags, stream_id, payload)
        self._note(found)
        return found

    def _note(self, found: Frame) -> None:
        answer = self.answers.setdefault(found.stream_id, Answer())
        if found.kind == frames.HEADERS:
            assert found.flags & frames.END_HEADERS
            fields = dict(self.decoder.decode(found.payload, raw=True))
            if answer.headers:
                answer.trailers = fields
            else:
                answer.headers = fields
        elif found.kind == frames.DATA:
            answer.body += found.payload
            answer.data_frames += 1
        elif found.kind == frames.WINDOW_UPDATE:
            self.granted[found.stream_id] += int.from_bytes(found.payload, "big")
        elif found.kind == frames.RST_STREAM:
            answer.reset = ErrorCode(int.from_bytes(found.payload, "big"))

    async def until(self, kind: int, stream_id: int | None = None, *, ack: bool | None = None) -> Frame:
        """Read up to the next frame of a kind, and return it."""
        while True:
            found = await self.frame()
            assert found is not None, f"the connection ended before a frame of type {kind}; seen: {self.seen[-9:]}"
            self.seen.append(found)
            wanted = found.kind == kind and stream_id in {None, found.stream_id}
            if wanted and ack in {None, bool(found.flags & frames.ACK)}:
                return found

    async def answer(self, stream_id: int) -> Answer:
        """Read until the stream has ended, by END_STREAM or RST_STREAM."""
        while True:
            found = await self.frame()
            assert found is not None, f"the connection ended before stream {stream_id} did"
            self.seen.append(found)
            if found.stream_id == stream_id:
                ends = found.kind in {frames.DATA, frames.HEADERS} and found.flags & frames.END_STREAM
                if ends or found.kind == frames.RST_STREAM:
                    return self.answers[stream_id]

    async def goaway(self) -> tuple[ErrorCode, int, str]:
        """Read up to GOAWAY; its code, last stream and text."""
        payload = (await self.until(frames.GOAWAY)).payload
        last, code = struct.unpack_from(">II", payload)
        return ErrorCode(code), last, payload[8:].decode()

    async def broken(self) -> tuple[ErrorCode, str]:
        """The connection ends with GOAWAY and nothing after it: its code and text."""
        code, _, text = await self.goaway()
        while (found := await self.frame()) is not None:
            assert found.kind == frames.GOAWAY, f"{found} behind GOAWAY"
        await self.close()
        return code, text

    async def ping(self, payload: bytes = b"are you?") -> None:
        """Two round trips: everything sent before was looked at, and its effects are here."""
        for _ in range(2):
            self.send(frames.ping(payload))
            while (await self.until(frames.PING, ack=True)).payload != payload:
                continue

    async def gone(self) -> None:
        """Read until the connection ends."""
        while await self.frame() is not None:
            continue
        await self.close()


class Methods:
    """Methods of a test server, and what they saw.

    Echo answers with its message; Hold waits until `held` is used; Fail, Crash; Big answers with as many bytes as the
    message says; Stream answers with as many messages as the message has bytes; Chat echoes each of many messages.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.messages: list[bytes] = []
        self.held: list[Call] = []
        self.cancelled: list[Call] = []
        self.chats: list[tuple[str, bytes]] = []
        self.routes: dict[bytes, Route] = {
            b"/t.T/Echo": self.echo,
            b"/t.T/Hold": self.hold,
            b"/t.T/Fail": self.fail,
            b"/t.T/Crash": self.crash,
            b"/t.T/Big": self.big,
            b"/t.T/Stream": self.stream,
            b"/t.T/Chat": Streaming(self.chat),
        }

    def echo(self, message: bytes | bytearray, call: Call) -> None:
        self.calls.append(call)
        call.answer(message)

    def hold(self, message: bytes | bytearray, call: Call) -> Callable[[], None]:
        self.messages.append(bytes(message[:100]))
        self.held.append(call)

        def cancel() -> None:
            self.cancelled.append(call)

        return cancel

    def fail(self, message: bytes | bytearray, call: Call) -> None:
        raise InvalidArgumentError(message.decode("utf-8", "replace"))

    def crash(self, message: bytes | bytearray, call: Call) -> None:
        raise ZeroDivisionError("by design")

    def big(self, message: bytes | bytearray, call: Call) -> None:
        if not message.isdigit() or len(message) > 9:
            raise InvalidArgumentError(f"{bytes(message[:20])!r} is no size")
        call.answer(bytes(int(message)))

    def stream(self, message: bytes | bytearray, call: Call) -> None:
        for index in range(len(message)):
            call.send(bytes(message[index : index + 1]))
        call.finish()

    def chat(self, call: Call) -> Any:
        methods = self

        class Chat:
            def message(self, message: bytes | bytearray) -> None:
                methods.chats.append(("message", bytes(message)))
                call.send(message)

            def end(self) -> None:
                methods.chats.append(("end", b""))
                call.finish()

            def cancel(self) -> None:
                methods.chats.append(("cancel", b""))

        return Chat()


@asynccontextmanager
async def serving(
    limits: Http2Limits | None = None,
    *,
    settings: dict[int, int] | None = None,
    tls: ssl.SSLContext | None = None,
    witness: bool = True,
) -> AsyncIterator[tuple[Http2Server, Methods, Peer]]:
    """A server of `Methods` with one peer connected.

    At the end, another client that has been there all the time (the witness) must be served as ever.
    """
    methods = Methods()
    server = Http2Server(methods.routes, limits, tls)
    await server.start_tcp("127.0.0.1", 0)
    try:
        if tls is not None:
            yield server, methods, cast("Peer", None)
            return
        other = await Peer.connect(server) if witness else None
        yield server, methods, await Peer.connect(server, settings=settings)
        if other is not None:
            other.send(other.request(1, message=b"still here"))
            assert (await other.answer(1)).messages == [b"still here"]
    finally:
        for one in Peer.opened:
            await one.close()
        Peer.opened.clear()
        await server.stop(0.0)
    assert not server.connections
