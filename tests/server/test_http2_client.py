"""The client's side of HTTP/2: against our server, against grpcio's, and against servers that break every rule."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_server.errors import InvalidArgumentError, ServingError, StatusCode, UnavailableError
from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode
from serving_server.http2.limits import Http2Limits
from serving_server.http2.server import Http2Server
from serving_server.http2_client.awaitable import MessageStream, request
from serving_server.http2_client.call import Call
from serving_server.http2_client.connecting import connect
from serving_server.http2_client.connection import ClientConnection
from serving_server.http2_client.request_headers import RequestHeaders
from serving_server.tensors import to_array, to_proto
from serving_server.wire.messages import PredictRequest, PredictResponse
from tests.http2_peer import Methods, Peer, address_of, both_loops, grpc_message, serving, wait_until
from tests.servers import SharedServer

OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
OK_TRAILERS = [("grpc-status", "0")]


class Ends:
    """Collects what `on_done` is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes | None, StatusCode, str]] = []

    def __call__(self, message: bytes | bytearray | None, status: StatusCode, details: str) -> None:
        self.seen.append((None if message is None else bytes(message), status, details))

    async def all(self, count: int = 1) -> list[tuple[bytes | None, StatusCode, str]]:
        await wait_until(lambda: len(self.seen) >= count, f"{count} calls to end")
        assert len(self.seen) == count
        return self.seen

    async def one(self) -> tuple[bytes | None, StatusCode, str]:
        return (await self.all())[0]


@asynccontextmanager
async def client(server: Http2Server, **options: Any) -> AsyncIterator[ClientConnection]:
    host, port = address_of(server)
    async with connected(f"{host}:{port}", **options) as connection:
        yield connection


@asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[ClientConnection]:
    connection = await connect(address, **options)
    try:
        yield connection
    finally:
        await connection.close()
        assert not connection.connected


def method(connection: ClientConnection, name: str = "Echo", **options: Any) -> RequestHeaders:
    return RequestHeaders(f"/t.T/{name}", connection.authority, **options)


class Script(Peer):
    """A server that does as a test says; `Peer` reads and notes what the client sends."""

    def respond(self, stream_id: int, fields: list[tuple[str, str]], *, end: bool = False) -> None:
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        self.send(frames.frame(frames.HEADERS, flags, stream_id, self.encoder.encode(fields)))

    def answer_with(self, stream_id: int, message: bytes, trailers: list[tuple[str, str]] = OK_TRAILERS) -> None:
        self.respond(stream_id, OK_HEADERS)
        self.send(self.data(stream_id, grpc_message(message)))
        self.respond(stream_id, trailers, end=True)


@asynccontextmanager
async def pretending(
    script: Callable[[Script], Awaitable[None]], settings: dict[int, int] | None = None
) -> AsyncIterator[str]:
    """The address of a server that greets and then runs the script; None in `settings` leaves the greeting out."""
    peers: list[Script] = []
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Script(reader, writer)
        peers.append(peer)
        try:
            assert await reader.readexactly(len(frames.PREFACE)) == frames.PREFACE
            if settings is not None:
                peer.send(peer.settings(settings), frames.frame(frames.SETTINGS, frames.ACK, 0))
            await script(peer)
            await peer.gone()
        except (ConnectionResetError, asyncio.IncompleteReadError):
            return
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            await peer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**26)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for peer in peers:
            await peer.close()
        Peer.opened.clear()
        await server.wait_closed()
    assert not failures


# --- against our own server ---


@both_loops
async def test_unary_calls() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        assert await request(connection, method(connection), b"hi") == b"hi"
        assert await request(connection, method(connection), b"") == b""
        ends = Ends()
        metadata: list[tuple[str, str | bytes]] = [("x-who", "me"), ("x-raw-bin", b"\0\xff")]
        connection.unary(method(connection, metadata=metadata), b"with metadata", ends, timeout=7.5)
        assert await ends.one() == (b"with metadata", StatusCode.OK, "")
        call = methods.calls[-1]
        assert ("x-who", "me") in call.metadata
        assert ("x-raw-bin", b"\0\xff") in call.metadata
        assert call.head.timeout == 7.5
        assert call.head.authority.decode() == connection.address


@both_loops
async def test_errors_arrive_with_their_text() -> None:
    async with serving() as (server, _, _), client(server) as connection:
        text = "50 % of naïve inputs: ∞\n"
        with pytest.raises(ServingError) as failed:
            await request(connection, method(connection, "Fail"), text.encode())
        assert failed.value.code is StatusCode.INVALID_ARGUMENT
        assert failed.value.message == text
        with pytest.raises(ServingError) as failed:
            await request(connection, method(connection, "Nowhere"), b"")
        assert failed.value.code is StatusCode.UNIMPLEMENTED


@both_loops
async def test_many_requests_leave_in_one_write() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        ends = Ends()
        headers = method(connection)
        for number in range(500):
            connection.unary(headers, b"%d" % number, ends)
        assert len(connection.output.pieces) == 1000
        assert not methods.calls
        answers = await ends.all(500)
        assert {message for message, _, _ in answers} == {b"%d" % number for number in range(500)}


@pytest.mark.parametrize("size", [2**20, 2**26])
@both_loops
async def test_large_messages_both_ways(size: int) -> None:
    message = bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8))
    async with serving() as (server, _, _), client(server) as connection:
        assert await request(connection, method(connection), message) == message


@both_loops
async def test_two_that_send_more_than_the_sockets_hold_do_not_wait_for_each_other() -> None:
    message = bytes(2**23)
    async with serving() as (server, _, _), client(server) as connection:
        ends = Ends()
        for _ in range(6):
            connection.unary(method(connection), message, ends)
        assert [len(answer or b"") for answer, _, _ in await ends.all(6)] == [2**23] * 6


@both_loops
async def test_streamed_answers() -> None:
    async with serving() as (server, _, _), client(server) as connection:
        sent = bytes(range(256)) * 4
        async with MessageStream(connection, method(connection, "Stream"), sent) as messages:
            assert b"".join([bytes(message) async for message in messages]) == sent
        async with MessageStream(connection, method(connection, "Fail"), b"no") as messages:
            with pytest.raises(ServingError, match="no"):
                await anext(messages)
        assert not connection.calls


@both_loops
async def test_a_reader_that_waits_is_not_sent_more_than_its_window() -> None:
    limits = Http2Limits(stream_window=2**16, large_window=2**16)
    async with serving() as (server, methods, _), client(server, limits=limits) as connection:
        methods.routes[b"/t.T/Flood"] = lambda message, call: flood(call)

        def flood(call: Any) -> None:
            for _ in range(400):
                call.send(bytes(1000))
            call.finish()

        async with MessageStream(connection, method(connection, "Flood"), b"") as messages:
            assert await anext(messages) == bytes(1000)
            await request(connection, method(connection), b"the others go on")
            assert sum(len(m) for m in messages._messages) <= 2 * 2**16
            count = 1
            async for _ in messages:
                count += 1
            assert count == 400


@both_loops
async def test_the_server_sees_a_cancelled_call() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        ends = Ends()
        call = connection.unary(method(connection, "Hold"), b"x", ends)
        await wait_until(lambda: methods.held, "the call")
        call.cancel()
        call.cancel()
        assert [status for _, status, _ in ends.seen] == [StatusCode.CANCELLED]
        await wait_until(lambda: methods.cancelled == methods.held, "the server to see it")
        waiting = asyncio.create_task(request(connection, method(connection, "Hold"), b"y"))
        await wait_until(lambda: len(methods.held) == 2, "the call")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await wait_until(lambda: len(methods.cancelled) == 2, "the server to see it")
        assert await request(connection, method(connection), b"go on") == b"go on"


@both_loops
async def test_a_call_of_which_much_is_unsent_can_be_cancelled() -> None:
    limits = Http2Limits(stream_window=2**16, large_window=2**16)
    async with serving(limits) as (server, _, _), client(server) as connection:
        ends = Ends()
        call = connection.unary(method(connection), bytes(2**24), ends)
        await asyncio.sleep(0)
        call.cancel()
        assert [status for _, status, _ in ends.seen] == [StatusCode.CANCELLED]
        assert connection.output.queued == 0
        assert await request(connection, method(connection), b"go on") == b"go on"


@both_loops
async def test_deadlines() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        ends = Ends()
        connection.unary(method(connection, "Hold"), b"x", ends, timeout=0.02)
        message, status, details = await ends.one()
        assert (message, status) == (None, StatusCode.DEADLINE_EXCEEDED)
        assert "Deadline Exceeded" in details
        await wait_until(lambda: methods.cancelled, "the server to see it")
        with pytest.raises(ServingError) as failed:
            await request(connection, method(connection), b"x", timeout=0)
        assert failed.value.code is StatusCode.DEADLINE_EXCEEDED
        assert await request(connection, method(connection), b"x", timeout=3600) == b"x"


@both_loops
async def test_calls_wait_for_a_stream_where_the_server_limits_them() -> None:
    async with serving(Http2Limits(max_concurrent_streams=3)) as (server, methods, _), client(server) as connection:
        ends, late = Ends(), Ends()
        for number in range(10):
            connection.unary(method(connection, "Hold"), b"%d" % number, ends)
        connection.unary(method(connection, "Hold"), b"late", late, timeout=0.05)
        dropped = connection.unary(method(connection, "Hold"), b"dropped", Ends())
        dropped.cancel()
        assert (await late.one())[1:] == (
            StatusCode.DEADLINE_EXCEEDED,
            "Deadline Exceeded while waiting for a stream",
        )
        for number in range(10):
            await wait_until(lambda n=number: len(methods.held) > n, "the next call")
            assert len(connection.calls) <= 3
            methods.held[number].answer(b"done")
        assert [message for message, _, _ in await ends.all(10)] == [b"done"] * 10
        assert methods.messages == [b"%d" % number for number in range(10)]


@both_loops
async def test_limits_of_headers_and_messages() -> None:
    async with serving(Http2Limits(max_header_list=1000)) as (server, _, _):
        limits = Http2Limits(max_message_bytes=1000)
        async with client(server, limits=limits) as connection:
            with pytest.raises(ServingError, match=r"and 127\.0\.0\.1:\d+ takes 1000") as failed:
                await request(connection, method(connection, metadata=[("x", "y" * 1000)]), b"")
            assert failed.value.code is StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(ServingError, match=r"CLIENT: Received message larger than max \(1001 vs. 1000\)"):
                await request(connection, method(connection, "Big"), b"1001")
            with pytest.raises(ServingError, match="CLIENT: Received message larger than max"):
                await request(connection, method(connection, "Big"), b"5000000")
            assert await request(connection, method(connection, "Big"), b"1000") == bytes(1000)


@both_loops
async def test_headers_of_several_frames() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        metadata: list[tuple[str, str | bytes]] = [("x-long", "y" * 20_000)]
        assert await request(connection, method(connection, metadata=metadata), b"hi") == b"hi"
        assert metadata[0] in methods.calls[-1].metadata


@both_loops
async def test_a_graceful_stop_of_the_server_loses_no_call() -> None:
    async with serving(witness=False) as (server, methods, peer):
        await peer.close()
        async with client(server) as connection:
            ends, refused = Ends(), Ends()
            connection.unary(method(connection, "Hold"), b"x", ends)
            await wait_until(lambda: methods.held, "the call")
            stopping = asyncio.create_task(server.stop(20))
            await wait_until(lambda: connection._draining, "GOAWAY")
            call = connection.unary(method(connection), b"later", refused)
            _, status, details = await refused.one()
            assert status is StatusCode.UNAVAILABLE
            assert call.refused
            assert "GOAWAY NO_ERROR" in details
            assert "can be sent again" in details
            methods.held[0].answer(b"in time")
            assert (await ends.one())[0] == b"in time"
            await stopping


@both_loops
async def test_a_server_that_goes_away_fails_what_is_in_flight_by_its_address() -> None:
    async with serving(witness=False) as (server, methods, peer):
        await peer.close()
        async with client(server) as connection:
            ends = Ends()
            for _ in range(3):
                connection.unary(method(connection, "Hold"), b"x", ends)
            await wait_until(lambda: len(methods.held) == 3, "the calls")
            for each in list(server.connections):
                each.abort()
            for message, status, details in await ends.all(3):
                assert (message, status) == (None, StatusCode.UNAVAILABLE)
                assert connection.address in details
            with pytest.raises(ServingError, match=connection.address):
                await request(connection, method(connection), b"")


@both_loops
async def test_closing_twice_and_with_calls_in_flight() -> None:
    async with serving() as (server, methods, _), client(server) as connection:
        ends = Ends()
        connection.unary(method(connection, "Hold"), b"x", ends)
        await wait_until(lambda: methods.held, "the call")
        await asyncio.gather(connection.close(), connection.close())
        assert [status for _, status, _ in ends.seen] == [StatusCode.CANCELLED]
        await connection.close()


@both_loops
async def test_a_callback_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "serving_server")
    async with serving() as (server, _, _), client(server) as connection:

        def fail(*arguments: object) -> None:
            raise ZeroDivisionError

        connection.unary(method(connection), b"x", fail)
        assert await request(connection, method(connection), b"y") == b"y"


@both_loops
async def test_unix_sockets(tmp_path: Path) -> None:
    server = Http2Server(Methods().routes)
    await server.start_unix(tmp_path / "s")
    try:
        async with connected(f"unix:{tmp_path / 's'}") as connection:
            assert await request(connection, method(connection), b"hi") == b"hi"
    finally:
        await server.stop(0)
    with pytest.raises(UnavailableError, match=f"unix:{tmp_path}"):
        await connect(f"unix:{tmp_path / 's'}")


# --- addresses and headers ---


@pytest.mark.parametrize("address", ["", "8500", "host:", ":1", "host:http", "host:0", "host:65536", "unix:"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="address"):
        asyncio.run(connect(address))


@both_loops
async def test_nobody_listens(unused_tcp_port: int) -> None:
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{unused_tcp_port}: cannot connect"):
        await connect(f"127.0.0.1:{unused_tcp_port}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Upper", "x"),
        ("grpc-status", "0"),
        ("te", "x\r\ny: z"),
        (":path", "x"),
        ("a b", "x"),
        ("x", " led by a space"),
        ("x", "naïve"),
        ("x", b"bytes"),
        ("x-bin", "text"),
        ("", "x"),
    ],
)
def test_metadata_that_cannot_be_sent(name: str, value: str | bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="Metadata"):
        RequestHeaders("/a/B", "here", [(name, value)])


def test_paths_and_authorities_that_cannot_be_sent() -> None:
    for path, authority in (("a/B", "here"), ("/a\n", "here"), ("/a", ""), ("/a", "h\r\nx: y")):
        with pytest.raises(InvalidArgumentError):
            RequestHeaders(path, authority)


# --- against servers that break the rules ---

Script_ = Callable[[Script], Awaitable[None]]


async def first_request(peer: Script) -> int:
    """Read up to the end of the next request; its stream."""
    found = await peer.until(frames.HEADERS)
    await peer.answer(found.stream_id)
    return found.stream_id


def answering(
    headers: list[tuple[str, str]] | None, data: bytes = b"", trailers: list[tuple[str, str]] | None = None
) -> Script_:
    """Answer the first request like this; without trailers DATA ends the stream."""

    async def script(peer: Script) -> None:
        stream_id = await first_request(peer)
        if headers is not None:
            peer.respond(stream_id, headers, end=not data and trailers is None)
        if data:
            peer.send(peer.data(stream_id, data, end=trailers is None))
        if trailers is not None:
            peer.respond(stream_id, trailers, end=True)

    return script


def sending(*data: bytes) -> Script_:
    """Answer the first request with these bytes."""

    async def script(peer: Script) -> None:
        await first_request(peer)
        peer.send(*data)

    return script


def goaway_frame(last: int, code: ErrorCode, text: str = "") -> bytes:
    return frames.goaway(last, code, text)


HEADERS = frames.END_HEADERS
WRONG_ANSWERS: dict[str, tuple[Script_, StatusCode, str]] = {
    "trailers only": (
        answering([*OK_HEADERS, ("grpc-status", "5"), ("grpc-message", "not%20here%E2%82%AC%zz")]),
        StatusCode.NOT_FOUND,
        "not here€%zz",
    ),
    "a status that no one knows": (
        answering(OK_HEADERS, grpc_message(b"x"), [("grpc-status", "77"), ("grpc-message", "odd")]),
        StatusCode.UNKNOWN,
        "odd",
    ),
    "a status that is no number": (
        answering(OK_HEADERS, grpc_message(b"x"), [("grpc-status", "fine")]),
        StatusCode.INTERNAL,
        "grpc-status is b'fine'",
    ),
    "no status": (answering(OK_HEADERS, grpc_message(b"x"), [("a", "b")]), StatusCode.UNKNOWN, "without grpc-status"),
    "no trailers": (answering(OK_HEADERS, grpc_message(b"x")), StatusCode.INTERNAL, "without trailers"),
    "OK without a message": (answering(OK_HEADERS, b"", OK_TRAILERS), StatusCode.INTERNAL, "without a message"),
    "half a message": (answering(OK_HEADERS, grpc_message(b"xyz")[:6], OK_TRAILERS), StatusCode.INTERNAL, "cut short"),
    "half a prefix": (answering(OK_HEADERS, b"\0\0", OK_TRAILERS), StatusCode.INTERNAL, "cut short"),
    "two messages": (
        answering(OK_HEADERS, 2 * grpc_message(b"x"), OK_TRAILERS),
        StatusCode.INTERNAL,
        "more than one message",
    ),
    "an unknown flag": (answering(OK_HEADERS, grpc_message(b"x", 1), OK_TRAILERS), StatusCode.INTERNAL, "encoding"),
    "damaged gzip": (
        answering([*OK_HEADERS, ("grpc-encoding", "gzip")], grpc_message(b"not zipped", 1), OK_TRAILERS),
        StatusCode.INTERNAL,
        "zlib",
    ),
    "an unknown encoding": (
        answering([*OK_HEADERS, ("grpc-encoding", "br")], grpc_message(b"x"), OK_TRAILERS),
        StatusCode.UNKNOWN,
        "'br'",
    ),
    "HTTP 503": (
        answering([(":status", "503")], b"busy", OK_TRAILERS),
        StatusCode.UNAVAILABLE,
        "HTTP status 503",
    ),
    "HTTP 404": (answering([(":status", "404")]), StatusCode.UNIMPLEMENTED, "HTTP status 404"),
    "a web page": (
        answering([(":status", "200"), ("content-type", "text/html")], b"<html>", OK_TRAILERS),
        StatusCode.UNKNOWN,
        "text/html",
    ),
    "no :status": (answering([("content-type", "application/grpc")], b"x"), StatusCode.INTERNAL, ":status"),
    "trailers without headers": (answering(None, b"", OK_TRAILERS), StatusCode.INTERNAL, ":status"),
    "DATA before HEADERS": (sending(Peer.data(1, b"x")), StatusCode.INTERNAL, "in front of its HEADERS"),
    "headers too large": (
        answering([*OK_HEADERS, ("x", "y" * 40_000)], grpc_message(b"x"), OK_TRAILERS),
        StatusCode.RESOURCE_EXHAUSTED,
        "metadata size exceeds limit",
    ),
    "RST_STREAM": (sending(frames.rst_stream(1, ErrorCode.INTERNAL_ERROR)), StatusCode.INTERNAL, "INTERNAL_ERROR"),
    "RST_STREAM CANCEL": (sending(frames.rst_stream(1, ErrorCode.CANCEL)), StatusCode.CANCELLED, "CANCEL"),
    "calm": (
        sending(frames.rst_stream(1, ErrorCode.ENHANCE_YOUR_CALM)),
        StatusCode.RESOURCE_EXHAUSTED,
        "ENHANCE_YOUR_CALM",
    ),
    "refused": (
        sending(frames.rst_stream(1, ErrorCode.REFUSED_STREAM)),
        StatusCode.UNAVAILABLE,
        "so it can be sent again",
    ),
    "an unknown reason": (
        sending(frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\0\x63")),
        StatusCode.INTERNAL,
        "the stream: 99",
    ),
}


@pytest.mark.parametrize(("script", "status", "text"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
@both_loops
async def test_one_call_fails_and_the_connection_goes_on(script: Script_, status: StatusCode, text: str) -> None:
    async def then_echo(peer: Script) -> None:
        await script(peer)
        while (found := await peer.frame()) is not None:
            if found.kind == frames.DATA and found.flags & frames.END_STREAM:
                peer.answer_with(found.stream_id, peer.answers[found.stream_id].body[5:])

    async with pretending(then_echo, {}) as address, connected(address) as connection:
        ends = Ends()
        call = connection.unary(method(connection), b"x", ends)
        message, found, details = await ends.one()
        assert (message, found) == (None, status)
        assert text in details
        assert call.refused == ("sent again" in text)
        assert await request(connection, method(connection), b"again") == b"again"


BROKEN_CONNECTIONS: dict[str, tuple[Script_, str]] = {
    "the end of the connection": (sending(), "closed the connection"),
    "a frame that is too large": (sending(b"\xff\xff\xff\0\0\0\0\0\1"), "FRAME_SIZE_ERROR"),
    "a push": (sending(frames.frame(frames.PUSH_PROMISE, HEADERS, 1, b"\0\0\0\2")), "PROTOCOL_ERROR"),
    "a stream that nobody opened": (sending(Peer.data(33, b"x")), "which is idle"),
    "HEADERS of an even stream": (sending(frames.frame(frames.HEADERS, HEADERS, 2, b"\x88")), "which is idle"),
    "RST_STREAM of an idle stream": (sending(frames.rst_stream(9, ErrorCode.CANCEL)), "which is idle"),
    "WINDOW_UPDATE of an idle stream": (sending(frames.window_update(9, 1)), "which is idle"),
    "a broken header block": (sending(frames.frame(frames.HEADERS, HEADERS, 1, b"\xff\xff\xff")), "COMPRESSION"),
    "a window that is too large": (sending(frames.window_update(0, 2**31 - 1)), "FLOW_CONTROL_ERROR"),
    "ENABLE_PUSH": (sending(Peer.settings({2: 1})), "ENABLE_PUSH"),
    "PING of 9 bytes": (sending(frames.frame(frames.PING, 0, 0, bytes(9))), "FRAME_SIZE_ERROR"),
    "GOAWAY of 7 bytes": (sending(frames.frame(frames.GOAWAY, 0, 0, bytes(7))), "FRAME_SIZE_ERROR"),
    "GOAWAY before the call": (sending(goaway_frame(0, ErrorCode.ENHANCE_YOUR_CALM, "too many")), "too many"),
    "headers without end": (
        sending(frames.frame(frames.HEADERS, 0, 1, b"\x88"), *[frames.frame(frames.CONTINUATION, 0, 1, b"")] * 20),
        "CONTINUATION",
    ),
    "headers far too large": (answering([*OK_HEADERS, *[("x", "y" * 9000)] * 16]), "ENHANCE_YOUR_CALM"),
}


@pytest.mark.parametrize(("script", "text"), BROKEN_CONNECTIONS.values(), ids=BROKEN_CONNECTIONS.keys())
@both_loops
async def test_the_connection_ends_and_says_why(script: Script_, text: str) -> None:
    async def then_leave(peer: Script) -> None:
        await script(peer)
        if text == "closed the connection":
            await peer.close()

    async with pretending(then_leave, {}) as address, connected(address) as connection:
        ends = Ends()
        connection.unary(method(connection), b"x", ends)
        connection.unary(method(connection), b"y", ends)
        # When the first lets us open a window too far, the second has not been sent: both fail alike.
        for message, status, details in await ends.all(2):
            assert (message, status) == (None, StatusCode.UNAVAILABLE)
            assert text in details
            assert address in details
        await wait_until(lambda: not connection.connected, "the end of the connection")


GREETINGS: dict[str, tuple[bytes, str]] = {
    "HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1"),
    "no SETTINGS": (frames.ping(bytes(8)), "no SETTINGS"),
    "an acknowledgement": (frames.frame(frames.SETTINGS, frames.ACK, 0), "no SETTINGS"),
    "wrong SETTINGS": (Peer.settings({4: 2**31}), "INITIAL_WINDOW_SIZE"),
    "half": (Peer.settings({4: 1})[:12], "closed the connection"),
}


@pytest.mark.parametrize(("greeting", "text"), GREETINGS.values(), ids=GREETINGS.keys())
@both_loops
async def test_greetings_that_are_none(greeting: bytes, text: str) -> None:
    async def greet(peer: Script) -> None:
        peer.send(greeting)
        if text == "closed the connection":
            await asyncio.sleep(0)
            peer.writer.close()

    async with pretending(greet) as address:
        with pytest.raises(UnavailableError, match=text) as failed:
            await connect(address)
        assert address in str(failed.value)


@both_loops
async def test_a_server_that_says_nothing() -> None:
    async def nothing(peer: Script) -> None:
        return

    async with pretending(nothing) as address:
        with pytest.raises(UnavailableError, match=f"{address}: no HTTP/2 server answered within 0.05 s"):
            await connect(address, seconds=0.05)


@both_loops
async def test_goaway_refuses_later_streams_only() -> None:
    async def script(peer: Script) -> None:
        for _ in range(3):
            await first_request(peer)
        peer.send(frames.goaway(3, ErrorCode.NO_ERROR, "moving"))
        peer.answer_with(1, b"one")
        peer.answer_with(3, b"two")

    async with pretending(script, {}) as address, connected(address) as connection:
        ends = [Ends(), Ends(), Ends()]
        calls: list[Call] = [connection.unary(method(connection), b"x", end) for end in ends]
        assert [(await end.one())[:2] for end in ends] == [
            (b"one", StatusCode.OK),
            (b"two", StatusCode.OK),
            (None, StatusCode.UNAVAILABLE),
        ]
        assert [call.refused for call in calls] == [False, False, True]
        assert "moving" in ends[2].seen[0][2]
        await wait_until(lambda: not connection.connected, "the connection to be closed when all is answered")


@both_loops
async def test_windows_of_the_server_are_kept() -> None:
    message = bytes(range(256)) * 40  # 10,240 bytes
    seen: list[int] = []

    async def script(peer: Script) -> None:
        found = await peer.until(frames.HEADERS)
        answer = peer.answers[found.stream_id]
        while len(answer.body) < len(message) + 5:
            await peer.until(frames.DATA)
            seen.append(len(answer.body))
            # Starved until asked: it may send 100 bytes, then 1,000 at a time.
            if len(answer.body) % 1000 == 100:
                peer.send(frames.window_update(1, 1000))
        await peer.answer(1)
        peer.answer_with(1, answer.body[5:])

    async with pretending(script, {4: 100}) as address, connected(address) as connection:
        assert await request(connection, method(connection), message) == message
        assert seen[0] == 100
        assert all(later - earlier <= 1000 for earlier, later in itertools.pairwise(seen))


@both_loops
async def test_settings_may_change_while_calls_run() -> None:
    async def script(peer: Script) -> None:
        # No table, no streams, then one at a time.
        await first_request(peer)
        peer.send(peer.settings({1: 0, 3: 1, 5: 20_000}))
        peer.answer_with(1, b"1")
        stream_id = await first_request(peer)
        assert len(peer.answers) == 3  # the connection's, and two streams: the others wait
        peer.answer_with(stream_id, b"2")
        peer.answer_with(await first_request(peer), b"3")

    async with pretending(script, {}) as address, connected(address) as connection:
        assert await request(connection, method(connection), b"a") == b"1"
        ends = Ends()
        connection.unary(method(connection), b"b", ends)
        connection.unary(method(connection), b"c", ends)
        assert [message for message, _, _ in await ends.all(2)] == [b"2", b"3"]


@both_loops
async def test_pings_are_answered_and_odd_frames_ignored() -> None:
    async def script(peer: Script) -> None:
        peer.send(
            frames.ping(b"are you?"), frames.frame(0x77, 0, 0, b"?"), frames.frame(frames.PRIORITY, 0, 1, bytes(5))
        )
        assert (await peer.until(frames.PING, ack=True)).payload == b"are you?"
        stream_id = await first_request(peer)
        peer.respond(stream_id, [(":status", "103"), ("link", "nothing")])
        peer.answer_with(stream_id, b"done")

    async with pretending(script, {}) as address, connected(address) as connection:
        assert await request(connection, method(connection), b"x") == b"done"


@both_loops
async def test_packed_answers_and_answers_in_pieces() -> None:
    message = b"squeeze me " * 10_000

    async def script(peer: Script) -> None:
        for packed in (True, False):
            stream_id = await first_request(peer)
            assert peer.answers[stream_id].headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"
            peer.respond(stream_id, [*OK_HEADERS, ("grpc-encoding", "gzip")])
            data = grpc_message(gzip.compress(message), 1) if packed else grpc_message(message)
            for start in range(0, len(data), 999):
                piece = data[start : start + 999]
                # Padded, now and then empty.
                peer.send(frames.frame(frames.DATA, frames.PADDED, stream_id, b"\4" + piece + bytes(4)))
                peer.send(peer.data(stream_id, b""))
            peer.respond(stream_id, OK_TRAILERS, end=True)

    async with pretending(script, {}) as address, connected(address) as connection:
        assert await request(connection, method(connection), b"x") == message
        assert await request(connection, method(connection), b"x") == message


@both_loops
async def test_an_unpacked_answer_has_a_limit() -> None:
    async def script(peer: Script) -> None:
        stream_id = await first_request(peer)
        peer.respond(stream_id, [*OK_HEADERS, ("grpc-encoding", "gzip")])
        peer.send(peer.data(stream_id, grpc_message(gzip.compress(bytes(10**6)), 1)))

    limits = Http2Limits(max_unpacked_bytes=10_000)
    async with pretending(script, {}) as address, connected(address, limits=limits) as connection:
        with pytest.raises(ServingError, match="Decompressed message larger than max") as failed:
            await request(connection, method(connection), b"x")
        assert failed.value.code is StatusCode.RESOURCE_EXHAUSTED


@both_loops
async def test_a_server_that_sends_beyond_its_window_loses_the_stream() -> None:
    async def script(peer: Script) -> None:
        stream_id = await first_request(peer)
        peer.respond(stream_id, OK_HEADERS)
        # The window grows only while a large message comes; this one holds many.
        for _ in range(5):
            peer.send(peer.data(stream_id, grpc_message(bytes(16_000))))
        assert (await peer.until(frames.RST_STREAM)).stream_id == stream_id

    limits = Http2Limits(stream_window=65_535, large_window=65_535)
    async with pretending(script, {}) as address, connected(address, limits=limits) as connection:
        ends, taken = Ends(), []
        call = connection.stream(method(connection), b"x", taken.append, ends)
        call.hold()
        _, status, details = await ends.one()
        assert status is StatusCode.INTERNAL
        assert "FLOW_CONTROL_ERROR" in details


@both_loops
async def test_an_answer_before_all_of_the_request_was_sent() -> None:
    async def script(peer: Script) -> None:
        found = await peer.until(frames.HEADERS)
        peer.respond(found.stream_id, [*OK_HEADERS, ("grpc-status", "8"), ("grpc-message", "too large")], end=True)
        assert (await peer.until(frames.RST_STREAM)).stream_id == found.stream_id

    async with pretending(script, {4: 100}) as address, connected(address) as connection:
        with pytest.raises(ServingError, match="too large"):
            await request(connection, method(connection), bytes(2**20))
        assert connection.output.queued == 0


# --- TLS ---


@both_loops
async def test_tls(certificates: Path) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    async with serving(tls=server_side) as (server, methods, _):
        trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        async with client(server, tls=trusting, server_name="localhost") as connection:
            message = bytes(3_000_000)
            assert await request(connection, method(connection, secure=True), message) == message
            assert methods.calls[-1].head.scheme == b"https"
        host, port = address_of(server)
        with pytest.raises(UnavailableError, match=f"{host}:{port}: cannot connect: .*CERTIFICATE"):
            await connect(f"{host}:{port}", tls=ssl.create_default_context(), server_name="localhost")
        with pytest.raises(UnavailableError, match=f"{host}:{port}"):
            await connect(f"{host}:{port}", seconds=5)


@both_loops
async def test_a_tls_server_that_does_not_speak_http_2(certificates: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")

    async def wait_for_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(wait_for_end, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()[:2]
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    try:
        with pytest.raises(UnavailableError, match="ALPN"):
            await connect(f"{host}:{port}", tls=trusting, server_name="localhost")
    finally:
        server.close()
        await server.wait_closed()


# --- against both transports of the real server ---


def predict(values: list[float], model: str = "half_plus_two") -> bytes:
    message = PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(to_proto(np.float32(values)))
    return bytes(message.SerializeToString())


PREDICT = "/tensorflow.serving.PredictionService/Predict"


@both_loops
async def test_a_real_server(grpc_server: SharedServer) -> None:
    async with connected(grpc_server.grpc_endpoint) as connection:
        headers = RequestHeaders(PREDICT, connection.authority)
        ends = Ends()
        for number in range(200):
            connection.unary(headers, predict([float(number)]), ends, timeout=60)
        outputs = set()
        for message, status, details in await ends.all(200):
            assert status is StatusCode.OK, details
            response = PredictResponse.FromString(message)
            outputs.add(float(to_array(response.outputs["y"])[0]))
        # Version 2 adds three.
        assert outputs == {number * 0.5 + 3 for number in range(200)}
        with pytest.raises(ServingError, match="nowhere") as failed:
            await request(connection, headers, predict([1.0], "nowhere"))
        assert failed.value.code is StatusCode.NOT_FOUND
        many = list(np.arange(400_000.0))
        response = PredictResponse.FromString(bytes(await request(connection, headers, predict(many), timeout=60)))
        assert to_array(response.outputs["y"]).tolist() == (np.float32(many) * 0.5 + 3).tolist()
        with pytest.raises(ServingError) as failed:
            await request(connection, headers, b"no message at all")
        assert failed.value.code in {StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT}
