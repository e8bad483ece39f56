"""Windows in both directions, large messages, and what a peer that does not read can cost."""

from __future__ import annotations

import pytest

from serving_server.errors import StatusCode
from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode
from serving_server.http2.limits import Http2Limits
from tests.http2_peer import Peer, both_loops, grpc_message, serving, wait_until

BIG = "/t.T/Big"


# --- what we send ---------------------------------------------------------------------------------------------------


@both_loops
async def test_an_answer_stops_at_the_streams_window_and_goes_on() -> None:
    async with serving(settings={4: 10}) as (_, _, peer):
        peer.send(peer.request(1, BIG, message=b"100"))
        await peer.until(frames.DATA, 1)
        await peer.ping()
        assert len(peer.answers[1].body) == 10
        peer.send(frames.window_update(1, 50))
        await peer.ping()
        assert len(peer.answers[1].body) == 60
        peer.send(frames.window_update(1, 1000))
        answer = await peer.answer(1)
        assert answer.messages == [bytes(100)]
        assert answer.status is StatusCode.OK


@both_loops
async def test_an_answer_stops_at_the_connections_window() -> None:
    async with serving(settings={4: 2**31 - 1}) as (_, _, peer):
        peer.send(peer.request(1, BIG, message=b"40000"), peer.request(3, BIG, message=b"40000"))
        await peer.ping()
        assert len(peer.answers[1].body) + len(peer.answers[3].body) == 65_535
        # What needs no window still passes.
        peer.send(peer.request(5, "/t.T/Fail", message=b"no"))
        assert (await peer.answer(5)).status is StatusCode.INVALID_ARGUMENT
        peer.send(frames.window_update(0, 100_000))
        await wait_for_answers(peer, 1, 3)
        assert peer.answers[1].messages == peer.answers[3].messages == [bytes(40_000)]


async def wait_for_answers(peer: Peer, *streams: int) -> None:
    for stream in streams:
        if not peer.answers.get(stream) or not peer.answers[stream].trailers:
            await peer.answer(stream)


@both_loops
async def test_settings_move_the_windows_of_open_streams_below_zero_even() -> None:
    async with serving(settings={4: 1000}) as (_, _, peer):
        peer.send(peer.request(1, BIG, message=b"5000"))
        await peer.ping()
        assert len(peer.answers[1].body) == 1000
        peer.send(peer.settings({4: 100}), frames.window_update(1, 850))  # 1000 - 900 + 850 - 1000 = -50
        await peer.ping()
        assert len(peer.answers[1].body) == 1000
        peer.send(frames.window_update(1, 51))
        await peer.ping()
        assert len(peer.answers[1].body) == 1001
        peer.send(peer.settings({4: 100_000}))
        assert (await peer.answer(1)).messages == [bytes(5000)]


@both_loops
async def test_an_initial_window_that_overflows_an_open_stream() -> None:
    async with serving() as (_, _, peer):
        peer.send(peer.request(1, "/t.T/Hold"), frames.window_update(1, 1000), peer.settings({4: 2**31 - 500}))
        assert (await peer.broken())[0] is ErrorCode.FLOW_CONTROL_ERROR


@both_loops
async def test_frames_keep_to_the_peers_size() -> None:
    async with serving(settings={4: 2**31 - 1}) as (_, _, peer):
        peer.send(frames.window_update(0, 2**30), peer.request(1, BIG, message=b"50000"))
        answer = await peer.answer(1)
        assert answer.data_frames == 4
        peer.send(peer.settings({5: 2**20}), peer.request(3, BIG, message=b"50000"))
        assert (await peer.answer(3)).data_frames == 1


@both_loops
async def test_blocked_streams_take_turns() -> None:
    async with serving(settings={4: 2**31 - 1}) as (_, _, peer):
        peer.send(*(peer.request(stream, BIG, message=b"1000000") for stream in (1, 3, 5)))
        await peer.ping()
        peer.send(frames.window_update(0, 600_000))
        await peer.ping()
        sizes = [len(peer.answers[stream].body) for stream in (1, 3, 5)]
        assert sum(sizes) == 665_535
        assert max(sizes) - min(sizes) <= 64 * 1024


@both_loops
async def test_several_messages_of_one_answer() -> None:
    async with serving(settings={4: 7}) as (_, _, peer):
        peer.send(peer.request(1, "/t.T/Stream", message=b"abcdef"))
        await peer.ping()
        assert peer.answers[1].body == grpc_message(b"a") + b"\0"
        peer.send(frames.window_update(1, 1000))
        answer = await peer.answer(1)
        assert answer.messages == [b"a", b"b", b"c", b"d", b"e", b"f"]
        assert answer.status is StatusCode.OK


@both_loops
async def test_a_streaming_handler_is_told_when_what_it_sent_has_left() -> None:
    async with serving(settings={4: 6}) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        await peer.ping()
        (call,) = methods.held
        left = iter((b"2", b"3"))

        def more() -> None:
            message = next(left, None)
            if message is None:
                call.finish()
            else:
                call.send(message)

        call.on_drain = more
        call.send(b"1")
        await peer.until(frames.DATA, 1)
        await peer.ping()
        assert peer.answers[1].messages == [b"1"]  # the second waits for the window
        peer.send(frames.window_update(1, 100))
        assert (await peer.answer(1)).messages == [b"1", b"2", b"3"]


@both_loops
async def test_resetting_a_blocked_answer_frees_it() -> None:
    async with serving(settings={4: 10}) as (server, methods, peer):
        peer.send(peer.request(1, BIG, message=b"1000000"))
        await peer.until(frames.DATA, 1)
        (connection,) = (c for c in server.connections if c.output.queued)
        peer.send(frames.rst_stream(1, ErrorCode.CANCEL))
        await peer.ping()
        assert connection.output.queued == 0
        assert not connection.calls
        assert methods.cancelled == []  # it was answered


@both_loops
async def test_requests_wait_while_too_much_is_queued_for_the_peers_windows() -> None:
    limits = Http2Limits(max_queued_bytes=100_000)
    async with serving(limits, settings={4: 0}) as (_, methods, peer):
        peer.send(*(peer.request(stream, BIG, message=b"60000") for stream in (1, 3)))
        peer.send(peer.request(5, message=b"waits"))
        await peer.ping()
        assert methods.calls == []
        peer.send(peer.settings({4: 2**20}), frames.window_update(0, 2**20))
        await wait_for_answers(peer, 1, 3, 5)
        assert peer.answers[5].messages == [b"waits"]


@both_loops
async def test_memory_stays_bounded_when_a_peer_does_not_read_its_socket() -> None:
    limits = Http2Limits(write_buffer=256 * 1024, max_queued_bytes=4 * 2**20)
    async with serving(limits) as (server, _, _peer):
        peer = await Peer.connect(server, settings={4: 2**31 - 1})
        peer.writer.transport.pause_reading()
        peer.send(frames.window_update(0, 2**31 - 1 - 65_535))
        (connection,) = (c for c in server.connections if c.peer.endswith(str(port_of(peer))))
        size = 2**20
        for stream in range(1, 401, 2):  # 200 MB of answers
            peer.send(peer.request(stream, BIG, message=b"%d" % size))
        await wait_until(lambda: connection.output.paused, "the socket to be full")
        held = connection.output.queued + connection._transport.get_write_buffer_size()
        assert held < 4 * 2**20 + 3 * size
        assert connection._reading_paused
        # It reads at last, and gets everything.
        peer.writer.transport.resume_reading()
        for stream in range(1, 401, 2):
            if not peer.answers.get(stream) or not peer.answers[stream].trailers:
                await peer.answer(stream)
            assert len(peer.answers[stream].body) == size + 5
            peer.answers[stream].body = b""
        assert connection.output.queued == 0


def port_of(peer: Peer) -> int:
    port: int = peer.writer.get_extra_info("sockname")[1]
    return port


# --- what we take ---------------------------------------------------------------------------------------------------


@both_loops
async def test_a_large_request_gets_its_windows_as_it_comes() -> None:
    async with serving() as (_, methods, peer):
        message = bytes(range(256)) * 20_000  # 5 MB
        body = grpc_message(message)
        sent = 0
        peer.send(peer.headers(1, "/t.T/Hold"))
        while sent < len(body):
            while (window := 256 * 1024 + peer.granted[1] - sent) == 0:
                await peer.until(frames.WINDOW_UPDATE, 1)
            size = min(window, len(body) - sent, 16_384)
            peer.send(peer.data(1, body[sent : sent + size], end=sent + size == len(body)))
            sent += size
        await peer.ping()
        (call,) = methods.held
        assert methods.messages == [message[:100]]
        updates = [f for f in peer.seen if f.kind == frames.WINDOW_UPDATE and f.stream_id == 1]
        assert len(updates) <= 4  # by megabytes, not by frames
        call.answer(b"ok")
        assert (await peer.answer(1)).messages == [b"ok"]


@both_loops
async def test_small_requests_cost_no_window_updates_of_their_streams() -> None:
    async with serving() as (_, _, peer):
        peer.send(frames.window_update(0, 2**30))
        for start in range(1, 2001, 200):
            peer.send(*(peer.request(stream, message=bytes(1000)) for stream in range(start, start + 200, 2)))
            await peer.answer(start + 198)
        assert {f.stream_id for f in peer.seen if f.kind == frames.WINDOW_UPDATE} <= {0}


@both_loops
async def test_the_connections_window_is_given_back() -> None:
    limits = Http2Limits(connection_window=65_535)
    async with serving(limits) as (_, _, peer):
        peer.send(frames.window_update(0, 2**30))
        for stream in range(1, 41, 2):
            peer.send(peer.request(stream, message=bytes(30_000)))
            await peer.answer(stream)
        assert peer.granted[0] >= 20 * 30_000 - 65_535


@both_loops
async def test_data_of_streams_that_are_gone_counts_for_the_connection_only() -> None:
    limits = Http2Limits(connection_window=65_535)
    async with serving(limits) as (_, _, peer):
        peer.send(peer.headers(1, "/t.T/No"))
        assert (await peer.answer(1)).status is StatusCode.UNIMPLEMENTED
        for _ in range(20):
            peer.send(peer.data(1, bytes(10_000)))
            await peer.ping()
        assert sum(f.kind == frames.WINDOW_UPDATE for f in peer.seen) >= 3


@pytest.mark.parametrize("padded", [False, True])
@both_loops
async def test_data_beyond_a_streams_window(padded: bool) -> None:
    limits = Http2Limits(stream_window=65_535, max_frame_size=2**17)
    async with serving(limits) as (_, _, peer):
        payload = grpc_message(bytes(100_000))[:65_536]
        flags = 0
        if padded:
            payload, flags = b"\xff" + payload[:65_280] + bytes(255), frames.PADDED
        peer.send(peer.headers(1), frames.frame(frames.DATA, flags, 1, payload))
        assert (await peer.answer(1)).reset is ErrorCode.FLOW_CONTROL_ERROR


@both_loops
async def test_a_whole_request_beyond_its_window() -> None:
    limits = Http2Limits(stream_window=65_535, max_frame_size=2**17)
    async with serving(limits) as (_, methods, peer):
        peer.send(peer.headers(1), peer.data(1, grpc_message(bytes(70_000)), end=True))
        assert (await peer.answer(1)).reset is ErrorCode.FLOW_CONTROL_ERROR
        assert methods.calls == []


@both_loops
async def test_data_beyond_the_connections_window() -> None:
    limits = Http2Limits(connection_window=65_535, stream_window=2**17, max_frame_size=2**17)
    async with serving(limits) as (server, _, peer):
        peer.send(peer.headers(1))
        await peer.ping()
        (connection,) = (c for c in server.connections if c.calls)
        connection.data_received(peer.data(1, bytes(65_536)))  # at once, before any of it can be given back
        assert (await peer.broken())[0] is ErrorCode.FLOW_CONTROL_ERROR


@both_loops
async def test_padding_uses_up_the_window_and_is_given_back() -> None:
    async with serving(Http2Limits(stream_window=65_535)) as (_, _, peer):
        # One byte of message in each frame: 2000 bytes of it take half a megabyte of window.
        body = grpc_message(bytes(1000))
        peer.send(peer.headers(1))
        for index, byte in enumerate(body):
            while 65_535 + peer.granted[1] < 257 * (index + 1):
                await peer.until(frames.WINDOW_UPDATE, 1)
            flags = frames.PADDED | (frames.END_STREAM if index == len(body) - 1 else 0)
            peer.send(frames.frame(frames.DATA, flags, 1, b"\xff" + bytes((byte,)) + bytes(255)))
        assert (await peer.answer(1)).messages == [bytes(1000)]


@both_loops
async def test_incomplete_messages_hold_a_bounded_amount_and_the_oldest_goes_on() -> None:
    limits = Http2Limits(max_partial_bytes=300_000, stream_window=65_535, large_window=65_535, max_frame_size=2**17)
    async with serving(limits) as (server, methods, peer):
        streams = (1, 3, 5, 7, 9)
        message = bytes(200_000)
        body = grpc_message(message)
        for stream in streams:
            peer.send(peer.headers(stream, "/t.T/Hold"), peer.data(stream, body[:65_000]))
        await peer.ping()
        (connection,) = (c for c in server.connections if c.calls)
        assert peer.granted[1]
        assert not peer.granted[9]
        # No more requests either.
        peer.send(peer.headers(11))
        assert (await peer.answer(11)).reset is ErrorCode.REFUSED_STREAM
        # The oldest is served to its end, then the next, and so on.
        for stream in streams:
            sent = 65_000
            while sent < len(body):
                while (window := 65_535 + peer.granted[stream] - sent) == 0:
                    await peer.until(frames.WINDOW_UPDATE, stream)
                size = min(window, len(body) - sent)
                peer.send(peer.data(stream, body[sent : sent + size], end=sent + size == len(body)))
                sent += size
            await peer.ping()
            assert methods.held[-1].stream_id == stream
        assert connection._partial_bytes == 0
        assert not connection._starved


@both_loops
async def test_the_window_stays_shut_while_messages_wait_for_answers() -> None:
    limits = Http2Limits(max_held_bytes=100_000, stream_window=2**20, connection_window=400_000)
    async with serving(limits) as (server, methods, peer):
        peer.send(*(peer.request(stream, "/t.T/Hold", message=bytes(20_000)) for stream in range(1, 35, 2)))
        await peer.ping()  # it is still read
        assert len(methods.held) == 17
        opened = peer.granted[0]
        for call in methods.held[:11]:
            peer.send(frames.rst_stream(call.stream_id, ErrorCode.CANCEL))
        await peer.ping()
        assert [call.stream_id for call in methods.cancelled] == list(range(1, 23, 2))
        assert peer.granted[0] == opened  # over 100,000 bytes are left
        for call in methods.held[11:]:
            call.answer(b"")
        await peer.answer(33)
        await peer.ping()
        assert peer.granted[0] >= opened + 200_000
        assert not any(c._held_bytes for c in server.connections)


@both_loops
async def test_what_waits_and_is_cancelled_is_not_kept() -> None:
    limits = Http2Limits(max_queued_bytes=100_000, max_held_bytes=50_000)
    async with serving(limits, settings={4: 0}) as (server, methods, peer):
        peer.send(*(peer.request(stream, BIG, message=b"60000") for stream in (1, 3)))
        for stream in range(5, 45, 2):
            # Small, empty and large ones; each is reset before it has begun.
            peer.send(peer.request(stream, message=bytes((0, 100, 20_000)[stream % 3])))
            await peer.ping()
            (connection,) = (c for c in server.connections if c.calls)
            assert len(connection._waiting) == 1
            peer.send(frames.rst_stream(stream, ErrorCode.CANCEL))
            await peer.ping()
            assert not connection._waiting
            assert connection._held_bytes == 0
        assert methods.calls == []
        peer.send(peer.settings({4: 2**20}), frames.window_update(0, 2**20))
        await wait_for_answers(peer, 1, 3)


@both_loops
async def test_a_stream_that_asks_on_and_does_not_take_its_answers() -> None:
    limits = Http2Limits(max_queued_bytes=10_000)
    async with serving(limits, settings={4: 0}) as (server, methods, peer):
        peer.send(peer.headers(1, "/t.T/Chat"), peer.headers(3, "/t.T/Chat"))
        peer.send(*[peer.data(1, grpc_message(bytes(1000)))] * 50)
        peer.send(peer.data(3, grpc_message(b"its first")))
        await peer.ping()
        (connection,) = (c for c in server.connections if c.calls)
        assert connection.output.queued <= 12_000
        assert len(methods.chats) <= 12
        peer.send(peer.settings({4: 2**20}))
        await peer.answer(1)
        assert peer.answers[1].status is StatusCode.RESOURCE_EXHAUSTED
        assert "does not take its answers" in peer.answers[1].text
        peer.send(peer.data(3, b"", end=True))
        assert (await peer.answer(3)).messages == [b"its first"]


@both_loops
async def test_what_follows_a_refused_message_is_not_kept_while_the_refusal_waits() -> None:
    # Found by the generated streams: the refusal waits behind an answer that has no window, and more comes.
    async with serving(Http2Limits(max_message_bytes=1000), settings={4: 0}) as (server, _, peer):
        peer.send(peer.headers(1, "/t.T/Chat"), peer.data(1, grpc_message(b"one")), peer.data(1, b"\0\0\1\0\0more"))
        peer.send(*[peer.data(1, bytes(10_000))] * 10)
        await peer.ping()
        (connection,) = (c for c in server.connections if c.calls)
        assert connection._partial_bytes == 0
        assert connection.calls[1].body is None
        peer.send(frames.window_update(1, 1000))
        answer = await peer.answer(1)
        assert answer.messages == [b"one"]
        assert answer.status is StatusCode.RESOURCE_EXHAUSTED
        peer.send(peer.data(1, b"even more"), peer.request(3, "/t.T/Fail", message=b"next"))
        assert (await peer.answer(3)).text == "next"


@both_loops
async def test_a_refused_message_in_the_same_frame_as_a_good_one_holds_nothing() -> None:
    async with serving() as (server, _, peer):
        peer.send(peer.headers(1, "/t.T/Chat"), peer.data(1, grpc_message(b"one") + b"\2\0\0\0\0"))
        assert (await peer.answer(1)).status is StatusCode.INTERNAL
        await peer.ping()
        assert not any(c._partial_bytes or c._bodies for c in server.connections)


@both_loops
async def test_a_large_answer_to_a_large_request_gets_its_windows() -> None:
    # The connection's window is shut while the message is held; the answer's windows must be taken all the same.
    limits = Http2Limits(max_held_bytes=100_000, stream_window=2**20)
    async with serving(limits, settings={4: 65_535}) as (_, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold", message=bytes(200_000)))
        await wait_until(lambda: methods.held, "the call")
        for step in (methods.held[0].send, methods.held[0].answer):
            step(bytes(200_000))
            for _ in range(8):
                await peer.until(frames.DATA, 1)
                peer.send(frames.window_update(1, 65_535), frames.window_update(0, 65_535))
        answer = await peer.answer(1)
        assert [len(message) for message in answer.messages] == [200_000, 200_000]
