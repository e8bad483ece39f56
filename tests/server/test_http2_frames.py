"""RFC 9113 byte by byte: what is answered, what is ignored, and which error each broken rule costs."""

from __future__ import annotations

import asyncio
import struct

import pytest

from serving_server.errors import StatusCode
from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode, frame
from serving_server.http2.limits import Http2Limits
from tests.http2_peer import Peer, both_loops, grpc_message, serving, wait_until

E = ErrorCode


# --- what works ---------------------------------------------------------------------------------------------------


@both_loops
async def test_the_server_begins_with_its_settings_and_acknowledges_ours() -> None:
    async with serving() as (server, _, peer):
        settings = await peer.until(frames.SETTINGS)
        values = dict(struct.iter_unpack(">HI", settings.payload))
        limits = server.limits
        assert values[3] == limits.max_concurrent_streams
        assert values[4] == limits.stream_window
        assert values[5] == limits.max_frame_size
        assert values[6] == limits.max_header_list
        await peer.until(frames.SETTINGS, ack=True)


@both_loops
async def test_bytes_may_come_one_by_one() -> None:
    async with serving() as (server, _, _peer):
        peer = await Peer.connect(server, preface=False)
        out = frames.PREFACE + peer.settings({3: 100}) + peer.request(1, message=b"slow") + peer.request(3)
        for byte in out:
            peer.send(bytes((byte,)))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert (await peer.answer(1)).messages == [b"slow"]
        assert (await peer.answer(3)).messages == [b""]
        await peer.close()


@both_loops
async def test_many_requests_in_one_write_are_answered_in_one() -> None:
    async with serving() as (_, _, peer):
        peer.send(*(peer.request(stream, message=b"%d" % stream) for stream in range(1, 401, 2)))
        for stream in range(1, 401, 2):
            if not peer.answers.get(stream, None) or not peer.answers[stream].trailers:
                await peer.answer(stream)
            assert peer.answers[stream].messages == [b"%d" % stream]
            assert peer.answers[stream].status is StatusCode.OK


@both_loops
async def test_continuation_padding_and_priority() -> None:
    async with serving() as (_, _, peer):
        block = peer.block()
        pieces = [block[index : index + 7] for index in range(0, len(block), 7)]
        headers = bytes((3,)) + struct.pack(">IB", 0, 200) + pieces[0] + b"\0\0\0"
        peer.send(frame(frames.HEADERS, frames.PADDED | frames.WEIGHTED, 1, headers))
        peer.send(*(frame(frames.CONTINUATION, 0, 1, piece) for piece in pieces[1:-1]))
        peer.send(frame(frames.CONTINUATION, frames.END_HEADERS, 1, pieces[-1]))
        peer.send(frame(frames.PRIORITY, 0, 1, struct.pack(">IB", 0, 1)))
        message = grpc_message(b"padded")
        peer.send(frame(frames.DATA, frames.PADDED, 1, bytes((255,)) + message[:4] + bytes(255)))
        peer.send(frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, bytes((0,)) + message[4:]))
        assert (await peer.answer(1)).messages == [b"padded"]


@both_loops
async def test_a_request_may_end_with_trailers() -> None:
    async with serving() as (_, _, peer):
        trailers = peer.encoder.encode([("x-checksum", "1")])
        peer.send(peer.headers(1), peer.data(1, grpc_message(b"m")))
        peer.send(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, trailers))
        assert (await peer.answer(1)).messages == [b"m"]


@both_loops
async def test_unknown_frames_settings_and_flags_are_ignored() -> None:
    async with serving(settings={0x99: 7, 0x2: 0}) as (_, _, peer):
        peer.send(frame(0x77, 0xFF, 0, b"what"), frame(0x78, 0, 5, b""))
        peer.send(frame(frames.PING, 0xFE, 0, b"12345678"))
        peer.send(peer.headers(1), frame(frames.DATA, frames.END_STREAM | 0xF0, 1, grpc_message(b"x")))
        assert (await peer.answer(1)).messages == [b"x"]


@both_loops
async def test_the_reserved_bit_is_ignored() -> None:
    async with serving() as (_, _, peer):
        bit = 1 << 31
        peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1 | bit, peer.block()))
        peer.send(frame(frames.DATA, frames.END_STREAM, 1 | bit, grpc_message(b"x")))
        peer.send(frame(frames.WINDOW_UPDATE, 0, bit, struct.pack(">I", 5 | bit)))
        assert (await peer.answer(1)).messages == [b"x"]


@both_loops
async def test_ping_is_answered_with_its_payload() -> None:
    async with serving() as (_, _, peer):
        await peer.ping(b"\0\1\2\3\4\5\6\7")


@both_loops
async def test_header_compression_of_every_kind() -> None:
    async with serving() as (_, methods, peer):
        # Literals that enter the table, references to them, a table that shrinks and grows, never-indexed fields.
        peer.send(peer.request(1, "/t.T/Echo", ("x-a", "1"), ("x-b", "2")))
        peer.send(peer.request(3, "/t.T/Echo", ("x-a", "1"), ("x-b", "2")))
        peer.encoder.header_table_size = 0
        peer.send(peer.request(5, "/t.T/Echo", ("x-a", "3")))
        peer.encoder.header_table_size = 4096
        peer.send(peer.request(7, "/t.T/Echo", ("x-a", "4")))
        peer.send(peer.request(9, "/t.T/Echo", ("x-a", "4")))
        peer.send(peer.request(11, "/t.T/Echo", ("x-a", "4")))
        await peer.answer(11)
        seen = [dict(call.metadata).get("x-a") for call in methods.calls]
        assert seen == ["1", "1", "3", "4", "4", "4"]


@both_loops
async def test_a_remembered_block_means_what_the_table_says_now() -> None:
    async with serving() as (_, methods, peer):
        # The same bytes: index 62 is the newest entry of the table, whatever that is.
        plain = [(":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo"), ("content-type", "application/grpc")]
        peer.encoder.encode(plain)
        static = b"\x83\x86" + b"\x04\x09/t.T/Echo" + b"\x0f\x10\x10application/grpc"
        enter = [b"\x40\x03x-a\x01" + value for value in (b"1", b"2")]

        def request(stream: int, block: bytes) -> bytes:
            return frame(frames.HEADERS, frames.END_HEADERS, stream, block) + peer.data(
                stream, grpc_message(b""), end=True
            )

        peer.send(request(1, static + enter[0]), request(3, static + b"\xbe"), request(5, static + b"\xbe"))
        peer.send(request(7, static + enter[1]), request(9, static + b"\xbe"), request(11, static + b"\xbe"))
        await peer.answer(11)
        assert [dict(call.metadata)["x-a"] for call in methods.calls] == ["1", "1", "1", "2", "2", "2"]


@both_loops
async def test_a_reset_of_a_closed_stream_and_late_window_updates_are_ignored() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.request(1))
        await peer.answer(1)
        peer.send(frames.rst_stream(1, E.CANCEL), frames.window_update(1, 10), frame(frames.PRIORITY, 0, 1, bytes(5)))
        await peer.ping()
        peer.send(peer.request(3, message=b"on"))
        assert (await peer.answer(3)).messages == [b"on"]


# --- what ends the connection ---------------------------------------------------------------------------------------


def _settings(*entries: tuple[int, int]) -> bytes:
    return frame(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *entry) for entry in entries))


def _open(peer: Peer) -> bytes:
    return frame(frames.HEADERS, 0, 1, peer.block())


BREAKS = {
    "data on stream 0": (E.PROTOCOL_ERROR, lambda p: p.data(0, b"x", end=True)),
    "data on stream 0, unended": (E.PROTOCOL_ERROR, lambda p: p.data(0, b"x")),
    "data on an idle stream": (E.PROTOCOL_ERROR, lambda p: p.data(1, b"x")),
    "headers on stream 0": (E.PROTOCOL_ERROR, lambda p: p.headers(0)),
    "headers on an even stream": (E.PROTOCOL_ERROR, lambda p: p.headers(2)),
    "headers on a lower stream": (E.STREAM_CLOSED, lambda p: p.request(5) + p.headers(3)),
    "headers on a finished stream": (E.STREAM_CLOSED, lambda p: p.request(1) + p.headers(1)),
    "reset on stream 0": (E.PROTOCOL_ERROR, lambda p: frames.rst_stream(0, E.CANCEL)),
    "data on a stream of ours": (E.PROTOCOL_ERROR, lambda p: p.request(5) + p.data(2, b"x")),
    "reset of a stream of ours": (E.PROTOCOL_ERROR, lambda p: p.request(5) + frames.rst_stream(2, E.CANCEL)),
    "window of a stream of ours": (E.PROTOCOL_ERROR, lambda p: p.request(5) + frames.window_update(2, 1)),
    "reset of an idle stream": (E.PROTOCOL_ERROR, lambda p: frames.rst_stream(7, E.CANCEL)),
    "window of an idle stream": (E.PROTOCOL_ERROR, lambda p: frames.window_update(7, 1)),
    "window by 0": (E.PROTOCOL_ERROR, lambda p: frames.window_update(0, 0)),
    "window over the top": (E.FLOW_CONTROL_ERROR, lambda p: frames.window_update(0, 2**31 - 1)),
    "settings on a stream": (E.PROTOCOL_ERROR, lambda p: frame(frames.SETTINGS, 0, 1)),
    "settings of 5 bytes": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.SETTINGS, 0, 0, bytes(5))),
    "settings ack with a payload": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.SETTINGS, frames.ACK, 0, bytes(6))),
    "enable push 2": (E.PROTOCOL_ERROR, lambda p: _settings((2, 2))),
    "initial window 2**31": (E.FLOW_CONTROL_ERROR, lambda p: _settings((4, 2**31))),
    "max frame 16383": (E.PROTOCOL_ERROR, lambda p: _settings((5, 16383))),
    "max frame 2**24": (E.PROTOCOL_ERROR, lambda p: _settings((5, 2**24))),
    "ping on a stream": (E.PROTOCOL_ERROR, lambda p: frame(frames.PING, 0, 1, bytes(8))),
    "ping of 7 bytes": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.PING, 0, 0, bytes(7))),
    "goaway on a stream": (E.PROTOCOL_ERROR, lambda p: frame(frames.GOAWAY, 0, 1, bytes(8))),
    "goaway of 4 bytes": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.GOAWAY, 0, 0, bytes(4))),
    "reset of 3 bytes": (E.FRAME_SIZE_ERROR, lambda p: p.headers(1) + frame(frames.RST_STREAM, 0, 1, bytes(3))),
    "window of 5 bytes": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.WINDOW_UPDATE, 0, 0, bytes(5))),
    "priority of 4 bytes": (E.FRAME_SIZE_ERROR, lambda p: frame(frames.PRIORITY, 0, 1, bytes(4))),
    "priority on stream 0": (E.PROTOCOL_ERROR, lambda p: frame(frames.PRIORITY, 0, 0, bytes(5))),
    "push promise": (E.PROTOCOL_ERROR, lambda p: frame(frames.PUSH_PROMISE, 4, 1, bytes(4) + p.block())),
    "continuation from nowhere": (E.PROTOCOL_ERROR, lambda p: frame(frames.CONTINUATION, 4, 1, p.block())),
    "a frame inside a block": (E.PROTOCOL_ERROR, lambda p: _open(p) + frames.ping(bytes(8))),
    "data inside a block": (E.PROTOCOL_ERROR, lambda p: _open(p) + p.data(1, b"", end=True)),
    "half a frame inside a block": (E.PROTOCOL_ERROR, lambda p: _open(p) + p.data(1, bytes(100))[:20]),
    "continuation of another stream": (E.PROTOCOL_ERROR, lambda p: _open(p) + frame(frames.CONTINUATION, 4, 3, b"")),
    "a frame too large": (E.FRAME_SIZE_ERROR, lambda p: p.headers(1) + struct.pack(">IBI", (2**24 - 1) << 8, 0, 1)),
    "a whole frame too large": (E.FRAME_SIZE_ERROR, lambda p: p.headers(1) + p.data(1, bytes(20_000), end=True)),
    "padding beyond the end": (
        E.PROTOCOL_ERROR,
        lambda p: p.headers(1) + frame(frames.DATA, frames.PADDED, 1, b"\x05abcd"),
    ),
    "padding of nothing": (E.FRAME_SIZE_ERROR, lambda p: p.headers(1) + frame(frames.DATA, frames.PADDED, 1, b"")),
    "headers shorter than their priority": (
        E.FRAME_SIZE_ERROR,
        lambda p: frame(frames.HEADERS, frames.WEIGHTED | frames.END_HEADERS, 1, b"\0\0"),
    ),
    "an index out of the table": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\xff\x50")),
    "a block that ends in a field": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\x83\x40")),
    "a bad Huffman code": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\x00\x84\xff\xff\xff\xff\0")),
    "an endless integer": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\x7f" + b"\xff" * 1000)),
    "a table over its size": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\x3f\xe2\x1f")),
    "a size change inside a block": (E.COMPRESSION_ERROR, lambda p: frame(frames.HEADERS, 4, 1, b"\x83\x20")),
    "a broken block of trailers": (
        E.COMPRESSION_ERROR,
        lambda p: p.headers(1) + frame(frames.HEADERS, 5, 1, b"\xff\x50"),
    ),
    "a header list far over the limit": (
        E.ENHANCE_YOUR_CALM,
        lambda p: p.headers(1, "/t.T/Echo", *[("x", "v" * 200)] * 3000),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
@both_loops
async def test_a_broken_rule_costs_the_connection(name: str) -> None:
    code, make = BREAKS[name]
    async with serving(Http2Limits(max_frame_size=16_384)) as (server, methods, peer):
        peer.send(make(peer))
        assert (await peer.broken())[0] is code
        await wait_until(lambda: len(server.connections) == 1, "the end of the broken connection")
        assert methods.held == []


@both_loops
async def test_running_calls_are_cancelled_once_when_their_connection_breaks() -> None:
    async with serving() as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"), peer.request(3, "/t.T/Hold"), frame(frames.PING, 0, 0, b""))
        assert (await peer.goaway())[:2] == (E.FRAME_SIZE_ERROR, 3)
        await peer.gone()
        assert sorted(call.stream_id for call in methods.cancelled) == [1, 3]
        methods.held[0].answer(b"too late")  # does nothing


@both_loops
async def test_what_comes_behind_an_error_is_not_looked_at() -> None:
    async with serving() as (_, methods, peer):
        peer.send(frame(frames.PING, 0, 0, b""), peer.request(1, "/t.T/Hold"))
        await peer.broken()
        assert methods.held == []


@pytest.mark.parametrize(
    "first",
    [b"GARBAGE", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", frames.PREFACE + frames.ping(bytes(8)), bytes(100)],
)
@both_loops
async def test_a_client_that_begins_wrongly(first: bytes) -> None:
    async with serving() as (server, _, _peer):
        peer = await Peer.connect(server, preface=False)
        peer.send(first)
        assert (await peer.broken())[0] is E.PROTOCOL_ERROR
        await peer.close()


@both_loops
async def test_a_client_of_http_1_is_told_where_it_is() -> None:
    async with serving() as (server, _, _peer):
        for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v1/models/m:predict HTTP/1.1\r\n\r\n{}"):
            peer = await Peer.connect(server, preface=False)
            peer.send(request)
            answer = await asyncio.wait_for(peer.reader.read(), 40)
            assert answer.startswith(b"HTTP/1.1 505 ")
            assert b"REST API has a port of its own" in answer
            await peer.close()


# --- what ends a stream ---------------------------------------------------------------------------------------------

GOOD = grpc_message(b"m")

MALFORMED = {
    "a name in upper case": {"extra": [("X-A", "1")]},
    "an empty name": {"extra": [("", "1")]},
    "a space in a name": {"extra": [("x a", "1")]},
    "a line break in a value": {"extra": [("x-a", "1\r\nx-b: 2")]},
    "a zero in a value": {"extra": [("x-a", "\0")]},
    "a value that begins with a space": {"extra": [("x-a", " 1")]},
    "a connection header": {"extra": [("connection", "close")]},
    "transfer-encoding": {"extra": [("transfer-encoding", "chunked")]},
    "te: gzip": {"extra": [("te", "gzip")]},
    "an unknown pseudo-header": {"extra": [(":what", "1")]},
    "a response's pseudo-header": {"pseudo": {"method": "POST"}, "first": [(":status", "200")]},
    "a pseudo-header behind a field": {"extra": [(":authority", "x")]},
    "a pseudo-header twice": {"first": [(":method", "POST")]},
    "no method": {"without": [":method"]},
    "no scheme": {"without": [":scheme"]},
    "no path": {"without": [":path"]},
    "an empty path": {"pseudo": {"path": ""}},
    "a content-length that is no number": {"extra": [("content-length", "+5")]},
    "two content-lengths": {"extra": [("content-length", "6"), ("content-length", "7")]},
    "a content-length too small": {"extra": [("content-length", "5")]},
    "a content-length too large": {"extra": [("content-length", "7")]},
}


@pytest.mark.parametrize("name", MALFORMED)
@both_loops
async def test_a_malformed_request_costs_its_stream(name: str) -> None:
    case = MALFORMED[name]
    async with serving() as (_, methods, peer):
        fields = [*case.get("first", []), (":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo")]
        fields = [(n, case.get("pseudo", {}).get(n[1:], v)) for n, v in fields if n not in case.get("without", [])]
        fields += [("content-type", "application/grpc"), *case.get("extra", [])]
        block = peer.encoder.encode(fields)
        peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, block), peer.data(1, GOOD, end=True))
        assert (await peer.answer(1)).reset is E.PROTOCOL_ERROR
        peer.send(peer.request(3, message=b"next"))
        assert (await peer.answer(3)).messages == [b"next"]
        assert [call.stream_id for call in methods.calls] == [3]


STREAM_FAULTS = {
    "data behind the end": (E.STREAM_CLOSED, lambda p: p.request(1, "/t.T/Hold") + p.data(1, b"x")),
    "headers behind the end": (E.STREAM_CLOSED, lambda p: p.request(1, "/t.T/Hold") + p.headers(1, end=True)),
    "data on an answered stream": (E.STREAM_CLOSED, lambda p: p.request(1) + p.data(1, b"x", end=True)),
    "headers in the middle": (E.PROTOCOL_ERROR, lambda p: p.headers(1) + p.headers(1)),
    "pseudo-headers in trailers": (E.PROTOCOL_ERROR, lambda p: p.headers(1) + p.headers(1, end=True)),
    "window by 0": (E.PROTOCOL_ERROR, lambda p: p.request(1, "/t.T/Hold") + frames.window_update(1, 0)),
    "window over the top": (
        E.FLOW_CONTROL_ERROR,
        lambda p: p.request(1, "/t.T/Hold") + frames.window_update(1, 2**31 - 1),
    ),
    "a body where none was promised": (
        E.PROTOCOL_ERROR,
        lambda p: p.headers(1, "/t.T/Echo", ("content-length", "0")) + p.data(1, b"x"),
    ),
    "no body where one was promised": (
        E.PROTOCOL_ERROR,
        lambda p: p.headers(1, "/t.T/Echo", ("content-length", "5"), end=True),
    ),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
@both_loops
async def test_a_rule_broken_within_a_stream_costs_only_the_stream(name: str) -> None:
    code, make = STREAM_FAULTS[name]
    async with serving() as (_, methods, peer):
        peer.send(make(peer))
        while (found := await peer.until(frames.RST_STREAM)).stream_id != 1:
            continue
        assert int.from_bytes(found.payload, "big") == code
        peer.send(peer.request(3, message=b"next"))
        assert (await peer.answer(3)).messages == [b"next"]
        assert [call.stream_id for call in methods.cancelled] == [call.stream_id for call in methods.held]


@both_loops
async def test_what_was_on_its_way_to_a_stream_that_we_reset_is_ignored() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.headers(1), peer.headers(1), peer.data(1, bytes(1000)), peer.data(1, bytes(1000), end=True))
        assert (await peer.answer(1)).reset is E.PROTOCOL_ERROR
        await peer.ping()
        assert len([found for found in peer.seen if found.kind == frames.RST_STREAM]) == 1
