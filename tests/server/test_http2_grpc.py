"""gRPC on our HTTP/2: its rules by raw frames, and real clients (grpcio, synchronous and asyncio)."""

from __future__ import annotations

import asyncio
import base64
import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop

from serving_server.errors import StatusCode
from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode, frame
from serving_server.http2.limits import Http2Limits
from serving_server.http2.server import Http2Server
from tests.http2_peer import DEADLINE, ECHO, Methods, Peer, both_loops, grpc_message, serving
from tests.http2_peer import wait_until as until
from tests.servers import wait_until

# --- rules, by raw frames -----------------------------------------------------------------------------------------


def headers(peer: Peer, fields: list[tuple[str, str]], *, end: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frame(frames.HEADERS, flags, 1, peer.encoder.encode(fields))


PLAIN = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), ("content-type", "application/grpc")]


def replaced(name: str, value: str) -> list[tuple[str, str]]:
    return [(n, value if n == name else v) for n, v in PLAIN]


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc;x=y"])
@both_loops
async def test_content_types_of_grpc(content_type: str) -> None:
    async with serving() as (_, _, peer):
        peer.send(headers(peer, replaced("content-type", content_type)), peer.data(1, grpc_message(b"x"), end=True))
        answer = await peer.answer(1)
        assert answer.messages == [b"x"]
        assert answer.headers == {b":status": b"200", b"content-type": b"application/grpc"}


@pytest.mark.parametrize("content_type", ["application/json", "application/grpcx", "application/grpc-web", ""])
@both_loops
async def test_other_content_types(content_type: str) -> None:
    async with serving() as (_, methods, peer):
        peer.send(headers(peer, replaced("content-type", content_type)), peer.data(1, grpc_message(b"x"), end=True))
        answer = await peer.answer(1)
        assert answer.headers[b":status"] == b"415"
        assert answer.headers[b"accept-post"] == b"application/grpc"
        assert methods.calls == []


@both_loops
async def test_other_http_methods() -> None:
    async with serving() as (_, _, peer):
        peer.send(headers(peer, replaced(":method", "GET"), end=True))
        answer = await peer.answer(1)
        assert answer.headers[b":status"] == b"405"
        assert answer.headers[b"allow"] == b"POST"


@pytest.mark.parametrize("ended", [False, True])
@both_loops
async def test_an_unknown_method_is_answered_at_once_by_trailers_only(ended: bool) -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1, "/t.T/No"), peer.data(1, grpc_message(b"x"), end=True) if ended else b"")
        answer = await peer.answer(1)
        assert answer.headers[b":status"] == b"200"
        assert answer.headers[b"content-type"] == b"application/grpc"
        assert (answer.status, answer.text) == (StatusCode.UNIMPLEMENTED, "Method not found!")
        assert answer.trailers == {}
        peer.send(peer.request(3))
        await peer.answer(3)


BAD_MESSAGES = {
    "none": (b"", "The request holds no message"),
    "half a prefix": (b"\0\0", "The request holds a message that is cut short"),
    "half a message": (grpc_message(b"abcdef")[:-1], "The request holds a message that is cut short"),
    "compressed by nothing": (grpc_message(b"x", 1), "Compression bit set but no encoding configured"),
    "an unknown flag": (grpc_message(b"x", 2), "a message with the flag 2; 0 and 1 have a meaning"),
}


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("name", BAD_MESSAGES)
@both_loops
async def test_bodies_that_hold_no_message(name: str, pieces: int) -> None:
    body, text = BAD_MESSAGES[name]
    async with serving() as (_, methods, peer):
        peer.send(peer.headers(1))
        middle = len(body) // pieces
        if pieces == 2 and middle:
            peer.send(peer.data(1, body[:middle]))
        peer.send(peer.data(1, body[middle if pieces == 2 else 0 :], end=True))
        answer = await peer.answer(1)
        assert (answer.status, answer.text) == (StatusCode.INTERNAL, text)
        assert methods.calls == []


@both_loops
async def test_a_request_without_a_body() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1, end=True))
        assert (await peer.answer(1)).status is StatusCode.INTERNAL


@both_loops
async def test_what_follows_the_first_message_of_a_unary_call_is_ignored() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1), peer.data(1, grpc_message(b"a") + grpc_message(b"b"), end=True))
        assert (await peer.answer(1)).messages == [b"a"]


@both_loops
async def test_a_message_too_large_behind_the_first_of_a_unary_call_is_ignored_too() -> None:
    # Found by the generated streams.
    async with serving(Http2Limits(max_message_bytes=1000)) as (_, _, peer):
        peer.send(peer.headers(1), peer.data(1, grpc_message(b"a") + b"\0\0\1\0\0more", end=True))
        assert (await peer.answer(1)).messages == [b"a"]
        peer.send(peer.headers(3, "/t.T/Chat"), peer.data(3, grpc_message(b"a") + b"\0\0\1\0\0more", end=True))
        answer = await peer.answer(3)
        assert answer.messages == [b"a"]
        assert answer.status is StatusCode.RESOURCE_EXHAUSTED


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("size", [0, 10, 100_000, 5_000_000])
@pytest.mark.parametrize("encoding", PACKERS)
@both_loops
async def test_compressed_requests(encoding: str, size: int) -> None:
    message = bytes(range(250)) * (size // 250) if size > 250 else b"x" * size
    async with serving(settings={4: 2**31 - 1}) as (_, _, peer):
        peer.send(frames.window_update(0, 2**30))
        for stream, flag, body in ((1, 1, PACKERS[encoding](message)), (3, 0, message[:1000])):
            peer.send(peer.headers(stream, ECHO, ("grpc-encoding", encoding)))
            peer.send(peer.data(stream, grpc_message(body, flag), end=True))
        assert (await peer.answer(3)).messages == [message[:1000]]  # a large one leaves turns to others
        answer = peer.answers.get(1)
        if answer is None or not answer.trailers:
            answer = await peer.answer(1)
        assert answer.messages == [message]


DAMAGED = {
    "no gzip": (b"abcdef", "Decompression failed due to zlib error"),
    "cut": (gzip.compress(b"abcdef")[:-4], "Decompression failed due to data error"),
    "more behind it": (gzip.compress(b"abcdef") + b"xx", "Decompression failed due to not all input consumed"),
}


@pytest.mark.parametrize("name", DAMAGED)
@both_loops
async def test_damaged_compressed_requests(name: str) -> None:
    packed, text = DAMAGED[name]
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1, ECHO, ("grpc-encoding", "gzip")), peer.data(1, grpc_message(packed, 1), end=True))
        answer = await peer.answer(1)
        assert (answer.status, answer.text) == (StatusCode.INTERNAL, text)


@both_loops
async def test_a_bomb_is_unpacked_in_steps_and_only_to_the_limit() -> None:
    async with serving(Http2Limits(max_unpacked_bytes=50_000_000)) as (_, methods, peer):
        bomb = grpc_message(gzip.compress(bytes(60_000_000), 9), 1)
        peer.send(peer.headers(1, ECHO, ("grpc-encoding", "gzip")), peer.data(1, bomb, end=True))
        peer.send(peer.request(3, message=b"meanwhile"))
        assert (await peer.answer(3)).messages == [b"meanwhile"]
        answer = peer.answers[1] if 1 in peer.answers else await peer.answer(1)
        assert answer.status is StatusCode.RESOURCE_EXHAUSTED
        assert [call.stream_id for call in methods.calls] == [3]


@both_loops
async def test_bombs_are_unpacked_one_after_the_other_as_memory_allows() -> None:
    limits = Http2Limits(max_held_bytes=1_000_000)
    async with serving(limits) as (server, methods, peer):
        bomb = grpc_message(gzip.compress(bytes(1_500_000), 9), 1)
        for stream in range(1, 13, 2):
            peer.send(peer.headers(stream, "/t.T/Hold", ("grpc-encoding", "gzip")), peer.data(stream, bomb, end=True))
        peer.send(peer.request(13, message=b"meanwhile"))
        assert (await peer.answer(13)).messages == [b"meanwhile"]
        (connection,) = (c for c in server.connections if c.calls)
        for number, stream in enumerate((1, 3, 5), start=1):
            await until(lambda number=number: len(methods.held) == number, "the next one")
            await peer.ping()
            assert len(methods.held) == number
            assert connection._held_bytes < 1_600_000
            if stream == 5:
                peer.send(frames.rst_stream(7, ErrorCode.CANCEL))  # while it waits
                await peer.ping()
            methods.held[-1].answer(b"")
            await peer.answer(stream)
        for stream in (9, 11):
            await until(lambda stream=stream: methods.held[-1].stream_id == stream, "those behind the cancelled")
            methods.held[-1].answer(b"")
        await peer.answer(11)
        assert connection._held_bytes == connection._packed_bytes == 0


@both_loops
async def test_an_encoding_that_we_do_not_know() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1, ECHO, ("grpc-encoding", "snappy")), peer.data(1, grpc_message(b"x", 1), end=True))
        answer = await peer.answer(1)
        assert answer.status is StatusCode.UNIMPLEMENTED
        assert "snappy" in answer.text
        assert answer.headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "1.5S", "1s"])
@both_loops
async def test_timeouts_that_are_none(text: str) -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.request(1, ECHO, ("grpc-timeout", text)))
        answer = await peer.answer(1)
        assert (answer.status, answer.text) == (StatusCode.INTERNAL, "Error parsing 'grpc-timeout' metadata")


@pytest.mark.parametrize(
    ("text", "seconds"), [("2H", 7200), ("3M", 180), ("4S", 4), ("5000m", 5), ("6000000u", 6), ("7000000000n", 7)]
)
@both_loops
async def test_the_handler_knows_the_deadline(text: str, seconds: float) -> None:
    async with serving() as (server, methods, peer):
        before = server.now()
        peer.send(peer.request(1, "/t.T/Hold", ("grpc-timeout", text)), peer.request(3, "/t.T/Hold"))
        await peer.ping()
        first, second = methods.held
        assert first.deadline is not None
        assert before + seconds <= first.deadline <= server.now() + seconds
        assert second.deadline is None


@pytest.mark.parametrize("text", ["0n", "1n", "30m"])
@both_loops
async def test_a_deadline_that_passes(text: str) -> None:
    async with serving() as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold", ("grpc-timeout", text)), peer.request(3, "/t.T/Hold"))
        answer = await peer.answer(1)
        assert (answer.status, answer.text) == (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        assert [call.stream_id for call in methods.cancelled] == [call.stream_id for call in methods.held[:-1]]
        methods.held[0].answer(b"too late")
        peer.send(peer.request(5))
        await peer.answer(5)
        assert peer.answers[1].body == b""


@both_loops
async def test_a_deadline_that_passes_before_the_request_is_complete() -> None:
    async with serving() as (_, methods, peer):
        peer.send(peer.headers(1, "/t.T/Hold", ("grpc-timeout", "20m")), peer.data(1, b"\0"))
        assert (await peer.answer(1)).status is StatusCode.DEADLINE_EXCEEDED
        assert methods.held == []


@pytest.mark.parametrize("how", ["reset", "connection"])
@both_loops
async def test_cancellation_reaches_the_handler_once(how: str) -> None:
    async with serving() as (server, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        await peer.ping()
        if how == "reset":
            peer.send(frames.rst_stream(1, ErrorCode.CANCEL))
            await peer.ping()
        await peer.close()
        await until(lambda: len(server.connections) == 1)
        assert methods.cancelled == methods.held
        methods.held[0].answer(b"too late")
        methods.held[0].fail(StatusCode.INTERNAL, "too late")


@both_loops
async def test_an_answered_call_is_not_cancelled() -> None:
    async with serving() as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        await peer.ping()
        methods.held[0].answer(b"done")
        methods.held[0].answer(b"again")  # nothing
        peer.send(frames.rst_stream(1, ErrorCode.CANCEL))
        assert (await peer.answer(1)).messages == [b"done"]
        await peer.ping()
        assert methods.cancelled == []


@both_loops
async def test_errors_of_handlers(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, _, peer):
        text = "100% \u2013 \u00fc \U0001f600\n\x7f"
        peer.send(peer.request(1, "/t.T/Fail", message=text.encode()), peer.request(3, "/t.T/Crash"))
        crash = await peer.answer(3)
        answer = peer.answers[1]
        assert answer.status is StatusCode.INVALID_ARGUMENT
        assert answer.text == "100%25 %E2%80%93 %C3%BC %F0%9F%98%80%0A%7F"
        assert (crash.status, crash.text) == (StatusCode.INTERNAL, "ZeroDivisionError: by design")
        assert "handling /t.T/Crash failed" in caplog.text


@pytest.mark.parametrize(("limit", "most"), [(None, 7 * 1024), (1000, 500)])
@both_loops
async def test_long_error_texts_fit_what_the_client_takes(limit: int | None, most: int) -> None:
    async with serving(settings={} if limit is None else {6: limit}) as (_, _, peer):
        peer.send(peer.request(1, "/t.T/Fail", message=("\u00e9" * 10_000).encode()))
        text = (await peer.answer(1)).text
        assert most - 6 < len(text) <= most
        assert len(text) % 3 == 0  # cut between escapes


@both_loops
async def test_metadata() -> None:
    async with serving() as (_, methods, peer):
        raw = bytes(range(256))
        packed = base64.b64encode(raw).decode()
        extra = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", packed.rstrip("=")), ("x-c-bin", f"{packed},AQ==")]
        peer.send(peer.request(1, ECHO, *extra))
        await peer.answer(1)
        found = methods.calls[0].metadata
        assert [item for item in found if item[0].startswith("x-")] == [
            *[("x-a", "1"), ("x-a", "2"), ("x-b-bin", raw)],
            *[("x-c-bin", raw), ("x-c-bin", b"\x01")],
        ]
        assert methods.calls[0].peer.startswith("ipv4:127.0.0.1:")


@both_loops
async def test_a_streaming_method() -> None:
    async with serving() as (_, methods, peer):
        packed = grpc_message(gzip.compress(b"three"), 1)
        peer.send(peer.headers(1, "/t.T/Chat", ("grpc-encoding", "gzip")), peer.data(1, grpc_message(b"one")))
        await peer.ping()
        assert peer.answers[1].messages == [b"one"]
        body = grpc_message(b"two") + packed + grpc_message(bytes(500_000))
        for start in range(0, len(body), 16_000):
            while 256 * 1024 + peer.granted[1] < start + 16_100:
                await peer.until(frames.WINDOW_UPDATE, 1)
            peer.send(peer.data(1, body[start : start + 16_000]))
        peer.send(frames.window_update(0, 2**20), frames.window_update(1, 2**20), peer.data(1, b"", end=True))
        answer = await peer.answer(1)
        assert answer.messages == [b"one", b"two", b"three", bytes(500_000)]
        assert answer.status is StatusCode.OK
        assert [what for what, _ in methods.chats] == ["message"] * 4 + ["end"]


@both_loops
async def test_a_streaming_method_that_ends_badly() -> None:
    async with serving() as (_, methods, peer):
        peer.send(peer.headers(1, "/t.T/Chat"), peer.data(1, grpc_message(b"one")[:-1], end=True))
        assert (await peer.answer(1)).status is StatusCode.INTERNAL
        peer.send(
            peer.headers(3, "/t.T/Chat"), peer.data(3, grpc_message(b"one")), frames.rst_stream(3, ErrorCode.CANCEL)
        )
        peer.send(peer.headers(5, "/t.T/Chat", end=True))
        assert (await peer.answer(5)).status is StatusCode.OK
        assert [what for what, _ in methods.chats] == ["message", "cancel", "end"]


# --- real clients -------------------------------------------------------------------------------------------------


class Live:
    """A server on a loop in a thread of its own, for clients that block."""

    def __init__(self, limits: Http2Limits | None = None) -> None:
        self.methods = Methods()
        self.server = Http2Server(self.methods.routes, limits)
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="live-http2")

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.port = (await self.server.start_tcp("127.0.0.1", 0))[0][1]
        self._ready.set()
        await self._end.wait()
        await self.server.stop(1.0)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


@pytest.fixture
def live() -> Iterator[Live]:
    live = Live()
    live.start()
    yield live
    live.stop()


UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture
def channel(live: Live) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{live.port}", options=UNLIMITED) as channel:
        yield channel


def test_grpcio_calls(channel: grpc.Channel) -> None:
    echo = channel.unary_unary(ECHO)
    for size in (0, 1, 10, 16_379, 16_380, 65_535, 300_000):
        assert echo(b"x" * size, timeout=DEADLINE) == b"x" * size


def test_grpcio_large_messages_both_ways(channel: grpc.Channel) -> None:
    message = bytes(range(250)) * 200_000  # 50 MB
    assert channel.unary_unary(ECHO)(message, timeout=60) == message
    assert len(channel.unary_unary("/t.T/Big")(b"50000000", timeout=60)) == 50_000_000


def test_grpcio_sees_errors(channel: grpc.Channel) -> None:
    text = "100% \u2013 \u00fc \U0001f600"
    for path, message, code, details in (
        ("/t.T/Fail", text.encode(), grpc.StatusCode.INVALID_ARGUMENT, text),
        ("/t.T/No", b"", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
        ("/t.T/Crash", b"", grpc.StatusCode.INTERNAL, "ZeroDivisionError: by design"),
        ("/t.T/Fail", b"x" * 5000, grpc.StatusCode.INVALID_ARGUMENT, "x" * 5000),
    ):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(path)(message, timeout=DEADLINE)
        assert error.value.code() is code
        assert error.value.details() == details


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_grpcio_compressed(channel: grpc.Channel, compression: Any) -> None:
    message = b"compress me " * 100_000
    assert channel.unary_unary(ECHO)(message, compression=compression, timeout=DEADLINE) == message


def test_grpcio_deadline_and_cancel(live: Live, channel: grpc.Channel) -> None:
    hold = channel.unary_unary("/t.T/Hold")
    with pytest.raises(grpc.RpcError) as error:
        hold(b"1", timeout=0.2)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: len(live.methods.cancelled) == 1, DEADLINE, "the cancel of the deadline")
    call = hold.future(b"2", timeout=DEADLINE)
    wait_until(lambda: len(live.methods.held) == 2, DEADLINE, "the call")
    call.cancel()
    wait_until(lambda: len(live.methods.cancelled) == 2, DEADLINE, "the cancel")


def test_grpcio_metadata(live: Live, channel: grpc.Channel) -> None:
    metadata = [("x-text", "some text"), ("x-raw-bin", bytes(range(256)))]
    channel.unary_unary(ECHO)(b"", metadata=metadata, timeout=DEADLINE)
    found = dict(live.methods.calls[0].metadata)
    assert found["x-text"] == "some text"
    assert found["x-raw-bin"] == bytes(range(256))


def test_grpcio_streams(channel: grpc.Channel) -> None:
    stream = channel.unary_stream("/t.T/Stream")
    assert list(stream(b"a stream of bytes" * 100, timeout=DEADLINE)) == [
        bytes((byte,)) for byte in b"a stream of bytes" * 100
    ]
    chat = channel.stream_stream("/t.T/Chat")
    messages = [b"x" * size for size in (0, 1, 1000, 100_000, 1_000_000)]
    assert list(chat(iter(messages), timeout=DEADLINE)) == messages


def test_grpcio_many_streams(channel: grpc.Channel) -> None:
    echo = channel.unary_unary(ECHO)
    calls = [echo.future(b"%d" % index, timeout=DEADLINE) for index in range(2000)]
    assert [call.result() for call in calls] == [b"%d" % index for index in range(2000)]


def test_a_drained_connection_loses_no_call(live: Live, channel: grpc.Channel) -> None:
    echo = channel.unary_unary(ECHO)
    until = time.monotonic() + 1.0
    drained: set[int] = set()
    while time.monotonic() < until or len(drained) < 3:

        def drain() -> None:
            for connection in live.server.connections:
                if connection.calls or connection.last_stream_id > 200:
                    drained.add(id(connection))
                    connection.drain()

        live._loop.call_soon_threadsafe(drain)
        calls = [echo.future(b"%d" % index, timeout=DEADLINE) for index in range(300)]
        assert [call.result() for call in calls] == [b"%d" % index for index in range(300)]


def test_512_connections_of_grpc_aio(live: Live) -> None:
    async def main() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{live.port}", options=options) for _ in range(512)]
        try:
            for _ in range(2):
                calls = [
                    channel.unary_unary(ECHO)(b"%d" % index, timeout=60)
                    for index, channel in enumerate(channels)
                    for _ in range(8)
                ]
                answers = await asyncio.gather(*calls)
                assert answers == [b"%d" % (index // 8) for index in range(len(calls))]
            assert len(live.server.connections) == 512
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    asyncio.run(main())
    wait_until(lambda: not live.server.connections, DEADLINE, "the end of the connections")
