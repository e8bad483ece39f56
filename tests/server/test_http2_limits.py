"""Each limit of `Http2Limits`: what a peer beyond it gets, and that nobody else notices (`serving` looks)."""

from __future__ import annotations

import pytest

from serving_server.errors import StatusCode
from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode, frame
from serving_server.http2.limits import Http2Limits
from tests.http2_peer import Peer, both_loops, grpc_message, serving, wait_until

CALM = ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent_streams": 0},
        {"max_frame_size": 16_383},
        {"max_frame_size": 2**24},
        {"stream_window": 65_534},
        {"connection_window": 2**31},
        {"large_window": 65_535},
    ],
)
def test_limits_that_the_protocol_does_not_have(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Http2Limits(**wrong)  # type: ignore[arg-type]


# --- sizes --------------------------------------------------------------------------------------------------------


@both_loops
async def test_streams_beyond_the_limit_are_refused() -> None:
    async with serving(Http2Limits(max_concurrent_streams=2)) as (_, methods, peer):
        peer.send(*(peer.request(stream, "/t.T/Hold") for stream in (1, 3, 5)))
        assert (await peer.answer(5)).reset is ErrorCode.REFUSED_STREAM
        methods.held[0].answer(b"")
        await peer.answer(1)
        peer.send(peer.request(7, "/t.T/Hold"))
        await peer.ping()
        assert [call.stream_id for call in methods.held] == [1, 3, 7]


@both_loops
async def test_a_header_list_over_the_limit_costs_its_request() -> None:
    async with serving(Http2Limits(max_header_list=1000)) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Echo", ("x-large", "v" * 1000)), peer.request(3))
        answer = await peer.answer(1)
        assert answer.status is StatusCode.RESOURCE_EXHAUSTED
        assert "metadata size exceeds limit" in answer.text
        await peer.answer(3)
        assert len(methods.calls) == 1


@both_loops
async def test_a_header_list_that_is_small_only_when_compressed() -> None:
    async with serving(Http2Limits(max_header_list=1000)) as (_, _, peer):
        # A field of 3000 bytes in the table, and then one byte for each use of it.
        big = b"\x40\x01x\x7f\xb9\x16" + b"v" * 3000
        peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, big + b"\xbe" * 5000))
        assert (await peer.broken())[0] is CALM


@pytest.mark.parametrize("split", [False, True])
@both_loops
async def test_a_header_block_over_the_limit(split: bool) -> None:
    async with serving(Http2Limits(max_header_block=20_000)) as (_, _, peer):
        block = b"\x00\x01x\x01y" * 5000
        if split:
            peer.send(frame(frames.HEADERS, 0, 1, block[:15_000]), frame(frames.CONTINUATION, 0, 1, block[:15_000]))
        else:
            # Told by its length alone, before its bytes are here.
            peer.send(frame(frames.HEADERS, frames.END_HEADERS, 1, block)[:1000])
        assert (await peer.broken())[0] is CALM


@both_loops
async def test_continuations_over_the_limit() -> None:
    async with serving(Http2Limits(max_continuations=8)) as (_, _, peer):
        peer.send(frame(frames.HEADERS, 0, 1, b""), *[frame(frames.CONTINUATION, 0, 1, b"\x88")] * 9)
        assert await peer.broken() == (CALM, "over 8 CONTINUATIONs")


@both_loops
async def test_a_message_over_the_limit_is_refused_at_its_first_bytes() -> None:
    async with serving(Http2Limits(max_message_bytes=1000)) as (_, methods, peer):
        peer.send(peer.headers(1), peer.data(1, grpc_message(bytes(1001))[:8]))
        answer = await peer.answer(1)
        assert answer.status is StatusCode.RESOURCE_EXHAUSTED
        assert answer.text == "SERVER: Received message larger than max (1001 vs. 1000)"
        assert (await peer.until(frames.RST_STREAM, 1)).payload == bytes(4)
        peer.send(peer.data(1, bytes(2000)))  # on its way already
        peer.send(peer.request(3, message=bytes(1000)), peer.request(5, message=bytes(1001)))
        assert (await peer.answer(3)).messages == [bytes(1000)]
        assert (await peer.answer(5)).status is StatusCode.RESOURCE_EXHAUSTED
        assert len(methods.calls) == 1


# --- rates ----------------------------------------------------------------------------------------------------------

FLOODS = {
    "PING": ("pings_per_second", lambda p, n: frames.ping(bytes(8)) * n),
    "PING that answers nothing": ("pings_per_second", lambda p, n: frames.ping(bytes(8), ack=True) * n),
    "SETTINGS": ("settings_per_second", lambda p, n: p.settings({}) * n),
    "PRIORITY": ("idle_frames_per_second", lambda p, n: frame(frames.PRIORITY, 0, 1, bytes(5)) * n),
    "unknown types": ("idle_frames_per_second", lambda p, n: frame(0x55, 0, 0, b"") * n),
    "resets of closed streams": (
        "idle_frames_per_second",
        lambda p, n: p.request(1) + frames.rst_stream(1, ErrorCode.CANCEL) * n,
    ),
    "data of refused streams": ("idle_frames_per_second", lambda p, n: p.headers(1, "/t.T/No") + p.data(1, b"x") * n),
    "empty DATA": ("empty_frames_per_second", lambda p, n: p.headers(1) + p.data(1, b"") * n),
    "DATA of padding only": (
        "empty_frames_per_second",
        lambda p, n: p.headers(1) + frame(frames.DATA, frames.PADDED, 1, b"\x03abc") * n,
    ),
    "empty CONTINUATION": (
        "empty_frames_per_second",
        lambda p, n: frame(frames.HEADERS, 0, 1, b"\x83") + frame(frames.CONTINUATION, 0, 1, b"") * n,
    ),
    "rapid reset": (
        "resets_per_second",
        lambda p, n: b"".join(
            p.request(s, "/t.T/Hold") + frames.rst_stream(s, ErrorCode.CANCEL) for s in range(1, 2 * n, 2)
        ),
    ),
    "rapid reset before the body": (
        "resets_per_second",
        lambda p, n: b"".join(p.headers(s) + frames.rst_stream(s, ErrorCode.CANCEL) for s in range(1, 2 * n, 2)),
    ),
    "faults that make us reset": (
        "resets_per_second",
        lambda p, n: b"".join(p.request(s, "/t.T/Hold") + frames.window_update(s, 0) for s in range(1, 2 * n, 2)),
    ),
    "streams beyond the limit": (
        "resets_per_second",
        lambda p, n: b"".join(p.request(s, "/t.T/Hold") for s in range(1, 2 * n + 8, 2)),
    ),
}


@pytest.mark.parametrize("name", FLOODS)
@both_loops
async def test_a_flood(name: str) -> None:
    limit, make = FLOODS[name]
    limits = Http2Limits(max_continuations=1000, max_concurrent_streams=4, **{limit: 40})  # type: ignore[arg-type]
    async with serving(limits) as (server, methods, peer):
        await peer.until(frames.SETTINGS, ack=True)
        peer.send(make(peer, 45))
        code, text = await peer.broken()
        assert code is CALM
        assert text.startswith("over 40 ")
        await wait_until(lambda: len(server.connections) == 1, "the end of the flood")
        assert len(methods.cancelled) == len(methods.held)


@both_loops
async def test_as_much_as_the_limit_is_no_flood() -> None:
    async with serving(Http2Limits(pings_per_second=40, resets_per_second=40)) as (_, methods, peer):
        peer.send(frames.ping(bytes(8)) * 36)
        for stream in range(1, 80, 2):
            peer.send(peer.request(stream, "/t.T/Hold"), frames.rst_stream(stream, ErrorCode.CANCEL))
        await peer.ping()
        assert len(methods.cancelled) == len(methods.held) == 40


# --- time -----------------------------------------------------------------------------------------------------------

SHORT = 0.3

UNFINISHED = {
    "nothing": b"",
    "half a preface": frames.PREFACE[:10],
    "a preface without settings": frames.PREFACE,
    "half a frame of settings": frames.PREFACE + Peer.settings({1: 4096})[:5],
}


@pytest.mark.parametrize("name", UNFINISHED)
@both_loops
async def test_a_client_that_does_not_begin(name: str) -> None:
    async with serving(Http2Limits(preface_timeout=SHORT)) as (server, _, _peer):
        peer = await Peer.connect(server, preface=False)
        peer.send(UNFINISHED[name])
        assert (await peer.broken())[0] is ErrorCode.SETTINGS_TIMEOUT


SLOW = {
    "half a frame header": lambda p: frames.ping(bytes(8))[:5],
    "half a frame": lambda p: p.request(1) + frames.ping(bytes(8))[:12],
    "half a padded frame": lambda p: p.headers(1) + frame(frames.DATA, frames.PADDED, 1, b"\x01ab")[:-1],
    "half a header block": lambda p: frame(frames.HEADERS, 0, 1, b"\x83"),
}


@pytest.mark.parametrize("name", SLOW)
@both_loops
async def test_a_frame_or_block_that_does_not_end(name: str) -> None:
    async with serving(Http2Limits(frame_timeout=SHORT)) as (_, _, peer):
        peer.send(SLOW[name](peer))
        assert (await peer.broken())[0] is CALM


@pytest.mark.parametrize("sent", [b"", grpc_message(bytes(1000))[:100]])
@both_loops
async def test_a_request_that_does_not_grow(sent: bytes) -> None:
    async with serving(Http2Limits(slow_sender_seconds=SHORT)) as (_, _, peer):
        peer.send(peer.headers(1), peer.data(1, sent) if sent else b"")
        answer = await peer.answer(1)
        assert answer.status is StatusCode.ABORTED
        assert "the request grew by " in answer.text
        peer.send(peer.request(3))
        await peer.answer(3)


@both_loops
async def test_a_request_that_drips_is_too_slow_and_one_that_flows_is_not() -> None:
    limits = Http2Limits(slow_sender_seconds=SHORT, slow_sender_bytes=100_000, pings_per_second=10**6)
    async with serving(limits) as (_, _, peer):
        body = grpc_message(bytes(10**6))
        peer.send(peer.headers(1, "/t.T/Hold"), peer.headers(3, "/t.T/Hold"))
        drips = sent = 0
        while 1 not in peer.answers or not peer.answers[1].headers:
            size = min(256 * 1024 + peer.granted[3] - sent, len(body) - sent, 16_384)
            peer.send(peer.data(1, body[drips : drips + 1]))
            if size:
                peer.send(peer.data(3, body[sent : sent + size], end=sent + size == len(body)))
            drips += 1
            sent += size
            await peer.ping()
        assert peer.answers[1].status is StatusCode.ABORTED
        assert 3 not in peer.answers or not peer.answers[3].headers


@both_loops
async def test_a_peer_that_opens_no_window_loses_its_stream() -> None:
    async with serving(Http2Limits(send_timeout=SHORT), settings={4: 10}) as (server, _, peer):
        peer.send(peer.request(1, "/t.T/Big", message=b"1000"))
        assert (await peer.answer(1)).reset is ErrorCode.CANCEL
        assert not any(c.output.queued for c in server.connections)


@both_loops
async def test_a_peer_that_does_not_read_its_socket_is_dropped() -> None:
    limits = Http2Limits(send_timeout=SHORT, write_buffer=65_536)
    async with serving(limits) as (server, _, _peer):
        peer = await Peer.connect(server, settings={4: 2**31 - 1})
        peer.writer.transport.pause_reading()
        peer.send(frames.window_update(0, 2**30), peer.request(1, "/t.T/Big", message=b"50000000"))
        await wait_until(lambda: any(c.calls for c in server.connections), "its call")
        await wait_until(lambda: len(server.connections) == 2, "its end")


@both_loops
async def test_an_idle_connection_is_closed_in_order() -> None:
    async with serving(Http2Limits(idle_timeout=1.0)) as (server, _, peer):
        other = await Peer.connect(server)
        other.send(other.request(1, "/t.T/Hold"))  # not idle
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 2**31 - 1)
        peer.send(frames.ping((await peer.until(frames.PING)).payload, ack=True))
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 0)
        await peer.gone()
        await other.ping()


@both_loops
async def test_a_peer_that_stays_after_its_error_is_cut() -> None:
    async with serving(Http2Limits(linger_timeout=SHORT)) as (server, _, peer):
        peer.send(frame(frames.PING, 0, 0, bytes(7)))
        assert (await peer.goaway())[0] is ErrorCode.FRAME_SIZE_ERROR
        # It has read why, and closes nothing.
        await wait_until(lambda: len(server.connections) == 1, "the end of its connection")
        assert not peer.writer.is_closing()


@both_loops
async def test_a_peer_that_does_not_answer_the_last_ping_is_not_waited_for() -> None:
    limits = Http2Limits(max_age=SHORT, drain_ping_timeout=SHORT)
    async with serving(limits, witness=False) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 2**31 - 1)
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 1)
        methods.held[0].answer(b"done")
        assert (await peer.answer(1)).messages == [b"done"]
        await peer.gone()


@both_loops
async def test_a_silent_peer_is_pinged_and_dropped() -> None:
    limits = Http2Limits(keepalive_time=SHORT, keepalive_timeout=SHORT)
    async with serving(limits, witness=False) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        ping = await peer.until(frames.PING)
        peer.send(frames.ping(ping.payload, ack=True))  # alive, so nothing happens
        again = await peer.until(frames.PING)
        assert not methods.cancelled
        assert again.payload == ping.payload
        await peer.gone()
        assert len(methods.cancelled) == 1


@both_loops
async def test_an_old_connection_drains_and_is_cut_after_its_grace() -> None:
    async with serving(Http2Limits(max_age=SHORT, age_grace=SHORT), witness=False) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 2**31 - 1)
        ping = await peer.until(frames.PING)
        peer.send(peer.request(3, message=b"was on its way"), frames.ping(ping.payload, ack=True))
        assert (await peer.answer(3)).messages == [b"was on its way"]
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 3)
        peer.send(peer.request(5, message=b"too late"))
        await peer.gone()
        assert 5 not in peer.answers
        assert [call.stream_id for call in methods.cancelled] == [1]
