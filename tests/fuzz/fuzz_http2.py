"""HTTP/2: a connection of the server on a transport of memory."""

from __future__ import annotations

import random
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import hpack

from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode, frame
from serving_server.http2.limits import Http2Limits
from serving_server.http2.server_connection import ServerConnection
from tests.fuzz.harness import MemoryTransport, Step, SteppedLoop, no_faults, pack_steps, take_steps
from tests.http2_peer import Answer, Methods, Peer, grpc_message

__all__ = ["HELLO", "LIMITS", "SEEDS", "TOKENS", "Outcome", "check", "mutate", "run", "same_outcome"]

#: Small enough to be reached.
LIMITS = Http2Limits(
    max_concurrent_streams=8,
    max_frame_size=16_384,
    max_header_list=2000,
    max_header_block=4000,
    max_continuations=5,
    max_message_bytes=50_000,
    connection_window=65_535,
    stream_window=65_535,
    large_window=65_535,
    max_partial_bytes=20_000,
    max_held_bytes=20_000,
    max_queued_bytes=20_000,
    write_buffer=30_000,
    resets_per_second=20,
    pings_per_second=20,
    settings_per_second=20,
    empty_frames_per_second=20,
    idle_frames_per_second=20,
)

HELLO = frames.PREFACE + Peer.settings({4: 40_000})

#: Behind a step: nothing, the socket is full, it is free again, time passes, a held call is answered.
_EVENTS = 8
_PAUSE, _RESUME, _TIME, _ANSWER = 4, 5, 6, 7


class MemoryServer:
    """A server's side without a loop: its clock stands still and its flushes happen when they are asked for."""

    def __init__(self) -> None:
        self.methods = Methods()
        self.routes = {path: route for path, route in self.methods.routes.items() if path != b"/t.T/Crash"}
        self.limits = LIMITS
        self.connections: set[ServerConnection] = set()
        self.time = 1000.0

    def arrived(self, connection: ServerConnection) -> None:
        self.connections.add(connection)

    def left(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)

    def now(self) -> float:
        return self.time

    def flush_soon(self, output: Any) -> None:
        output.flush()

    def expire_at(self, time: float) -> None:
        pass


class Outcome:
    """What a connection answered to a stream of bytes."""

    def __init__(self, written: bytes) -> None:
        self.answers: dict[int, Answer] = {}
        self.goaway: list[ErrorCode] = []
        decoder = hpack.Decoder()
        position = 0
        if written.startswith(b"HTTP/1.1 505 "):
            return
        while position < len(written):
            word, flags, stream_id = frames.unpack_header(written, position)
            kind, size = word & 0xFF, word >> 8
            payload = written[position + 9 : position + 9 + size]
            assert len(payload) == size, "a frame of the server is cut"
            position += 9 + size
            answer = self.answers.setdefault(stream_id, Answer())
            if kind == frames.HEADERS:
                fields = dict(decoder.decode(payload, raw=True))
                assert not answer.trailers
                if answer.headers:
                    assert flags & frames.END_STREAM
                    answer.trailers = fields
                else:
                    answer.headers = fields
            elif kind == frames.DATA:
                assert answer.headers
                assert not answer.trailers
                answer.body += payload
            elif kind == frames.RST_STREAM:
                answer.reset = ErrorCode(int.from_bytes(payload, "big"))
            elif kind == frames.GOAWAY:
                self.goaway.append(ErrorCode(struct.unpack_from(">II", payload)[1]))

    def used_a_closed_stream(self) -> bool:
        closed = ErrorCode.STREAM_CLOSED
        return closed in self.goaway or any(answer.reset is closed for answer in self.answers.values())

    def served(self) -> dict[int, tuple[dict[bytes, bytes], bytes, dict[bytes, bytes]]]:
        return {n: (a.headers, a.body, a.trailers) for n, a in self.answers.items() if a.headers}


def _unfinished(headers: dict[bytes, bytes], _body: bytes, trailers: dict[bytes, bytes]) -> bool:
    return not trailers and b"grpc-status" not in headers


def same_outcome(one: Outcome, other: Outcome) -> None:
    """Require that one stream, cut in two ways, was answered alike."""
    if one.used_a_closed_stream() or other.used_a_closed_stream():
        return  # whether our answer has closed it already is a matter of time, and so is what it costs
    if ErrorCode.NO_ERROR in one.goaway + other.goaway:
        return  # the client says goodbye: when the last call has ended, what still comes is not looked at
    resets = any(answer.reset for outcome in (one, other) for answer in outcome.answers.values())
    if resets and ErrorCode.ENHANCE_YOUR_CALM in one.goaway + other.goaway:
        return  # what comes behind a reset is counted as idle; in one piece it comes before the reset has been sent
    if set(one.goaway) ^ set(other.goaway) == {ErrorCode.FLOW_CONTROL_ERROR}:
        return  # whether the connection's window overflows depends on what has left before
    assert one.goaway == other.goaway
    if not one.goaway:
        # An answer that was begun before a reset may have left or not.
        reset = {stream for outcome in (one, other) for stream, answer in outcome.answers.items() if answer.reset}
        served, again = ({n: a for n, a in o.served().items() if n not in reset} for o in (one, other))
        for mine, theirs in ((served, again), (again, served)):
            # While an answer waits for its window, requests behind it may wait to be started: a window that shrinks.
            assert mine.keys() >= theirs.keys() or any(_unfinished(*answer) for answer in mine.values())
        for stream in served.keys() & again.keys():
            headers, body, trailers = served[stream]
            other_headers, other_body, other_trailers = again[stream]
            assert headers == other_headers
            if trailers and other_trailers:
                assert (body, trailers) == (other_body, other_trailers)
            else:  # what a window that shrinks lets out before is a matter of time
                assert body.startswith(other_body) or other_body.startswith(body)


def run(steps: Sequence[Step]) -> Outcome:
    """Feed a connection, then let time pass and lose it; everything must be given back."""
    loop = SteppedLoop()
    with no_faults(), loop.running():
        server = MemoryServer()
        connection, transport = ServerConnection(server), MemoryTransport()
        connection.connection_made(transport)
        paused = False
        for event, data in steps:
            connection.data_received(data)
            loop.turn()
            if transport.closed:
                break
            paused = _happen(event, server, connection, paused=paused)
            loop.turn()
        outcome = Outcome(bytes(transport.written))
        _check_books(connection)
        if paused and not transport.closed:
            connection.resume_writing()
        for _ in range(3):
            server.time += 100
            if not transport.closed:
                connection.expire(server.time)
                connection.check_time(server.time)
                loop.turn()
        connection.connection_lost(None)
        loop.turn()
        assert not connection.calls
        assert not server.connections
        assert connection._partial_bytes == connection._held_bytes == connection.output.queued == 0
        cancelled = [call.stream_id for call in server.methods.cancelled]
        assert len(cancelled) == len(set(cancelled))
        assert set(cancelled) <= {call.stream_id for call in server.methods.held}
        for call in server.methods.held:
            call.answer(b"too late")
    return outcome


def _happen(event: int, server: MemoryServer, connection: ServerConnection, *, paused: bool) -> bool:
    """Let something else happen; returns whether the socket is full."""
    if event == _PAUSE and not paused:
        connection.pause_writing()
        return True
    if event == _RESUME and paused:
        connection.resume_writing()
        return False
    if event == _TIME:
        server.time += 0.3
        connection.expire(server.time)
        connection.check_time(server.time)
    elif event == _ANSWER and server.methods.held:
        server.methods.held[-1].answer(b"held")
    return paused


def _check_books(connection: ServerConnection) -> None:
    assert connection._partial_bytes <= 8 * 65_535
    assert connection._partial_bytes == sum(call.body.held for call in connection._bodies if call.body is not None)
    assert connection._held_bytes == sum(call.held for call in connection.calls.values())
    assert connection.output.queued == sum(c.outbox.size for c in connection.calls.values() if c.outbox is not None)
    assert len(connection.calls) <= LIMITS.max_concurrent_streams
    assert len(connection._carry) <= LIMITS.max_frame_size + 9
    assert len(connection._block) <= LIMITS.max_header_block


def check(data: bytes) -> None:
    """One input: how to cut (see `take_steps`), then a stream; one that begins with a zero byte gets a preface."""
    steps, stream = take_steps(data, _EVENTS)
    if stream.startswith(b"\0\0"):  # a frame that is not gigantic, where a preface should be
        steps.insert(0, Step(0, HELLO))
    outcome = run(steps)
    if stream and all(step.event < _PAUSE for step in steps):
        same_outcome(outcome, run([Step(0, b"".join(step.data for step in steps))]))


def leaves_no_cycle(stream: bytes) -> None:
    """Require that a connection is freed by its last reference, as the server may run without the cycle collector."""
    server = MemoryServer()
    del server.routes[b"/t.T/Chat"]  # it makes a class for each call, and classes are cycles
    connection = ServerConnection(server)
    connection.connection_made(MemoryTransport())
    connection.data_received(stream)
    connection.connection_lost(None)
    there = weakref.ref(connection)
    server.methods.calls.clear()
    server.methods.held.clear()
    server.methods.cancelled.clear()
    del connection
    assert there() is None, "a connection that is gone is part of a reference cycle"


# --- inputs that reach deep ---------------------------------------------------------------------------------------


def _block(*extra: tuple[str, str], path: str = "/t.T/Echo", huffman: bool = True) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost:8500")]
    fields += [("content-type", "application/grpc"), ("te", "trailers"), *extra]
    return hpack.Encoder().encode(fields, huffman=huffman)


def _call(stream: int, block: bytes, *bodies: bytes, end: bool = True) -> bytes:
    parts = [frame(frames.HEADERS, frames.END_HEADERS | (0 if bodies else frames.END_STREAM), stream, block)]
    for index, body in enumerate(bodies):
        last = end and index == len(bodies) - 1
        parts.append(frame(frames.DATA, frames.END_STREAM if last else 0, stream, body))
    return b"".join(parts)


def _seeds() -> list[bytes]:
    word = struct.Struct(">I").pack
    # As grpcio 1.85 sends it: user agent, accepted encodings, a deadline.
    grpcio = _block(
        ("user-agent", "grpc-python/1.85.0 grpc-c/52.0.0 (linux; chttp2)"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("grpc-timeout", "4999m"),
    )
    plain, hold, big = _block(huffman=False), _block(path="/t.T/Hold"), _block(path="/t.T/Big")
    chat, stream = _block(path="/t.T/Chat"), _block(path="/t.T/Stream")
    middle = len(plain) // 2
    trailers = hpack.Encoder().encode([("x-checksum", "1")])
    message = grpc_message(b"hello")
    parts = [
        b"",
        _call(1, grpcio, message) + _call(3, grpcio, grpc_message(b"again")),
        _call(1, plain, message[:3], message[3:]),
        frame(frames.HEADERS, 0, 1, plain[:middle])
        + frame(frames.CONTINUATION, 0, 1, plain[middle : middle + 2])
        + frame(frames.CONTINUATION, frames.END_HEADERS, 1, plain[middle + 2 :])
        + frame(frames.DATA, frames.END_STREAM, 1, message),
        frame(frames.HEADERS, 0x2C, 1, b"\x03" + word(0) + b"\x10" + plain + bytes(3))
        + frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x02" + message + bytes(2)),
        _call(1, hold, message) + frame(frames.RST_STREAM, 0, 1, word(8)) + _call(3, hold, message),
        _call(1, big, grpc_message(b"60000")) + frame(frames.WINDOW_UPDATE, 0, 1, word(70_000)),
        _call(1, big, grpc_message(b"60000")) + Peer.settings({4: 70_000}) + frame(8, 0, 0, word(90_000)),
        Peer.settings({1: 0, 3: 100, 4: 0, 5: 16_384, 6: 300}) + _call(1, plain, message),
        _call(1, chat, message, end=False) + frame(frames.DATA, frames.END_STREAM, 1, message + message),
        _call(1, stream, grpc_message(b"abc")) + frame(frames.PING, 0, 0, b"12345678"),
        _call(1, plain, message, end=False) + frame(frames.HEADERS, 5, 1, trailers),
        _call(1, _block(("grpc-encoding", "gzip")), grpc_message(_gzip(b"x" * 500), 1)),
        _call(1, _block(("grpc-encoding", "deflate")), grpc_message(b"no", 1)),
        _call(1, _block(("content-length", "10")), message),
        _call(1, _block(path="/t.T/Fail"), message) + _call(3, _block(path="/no"), message),
        frame(frames.GOAWAY, 0, 0, word(0) + word(0) + b"bye") + _call(1, plain, message),
        frame(2, 0, 1, word(0) + b"\x10") + frame(frames.PING, 1, 0, b"12345678") + frame(77, 0, 9, b"?"),
        frame(frames.HEADERS, 4, 1, b"\x3f\xe1\x1f" + plain) + frame(frames.DATA, 1, 1, grpc_message(bytes(16_000))),
        *[_call(n, hold, grpc_message(bytes(6000)), end=n % 4 == 1) for n in (1, 3, 5)],
    ]
    everything = b"".join(_call(n, block, message) for n, block in ((1, plain), (3, big), (5, hold), (7, chat)))
    seeds = [pack_steps(Peer.settings({}) + part) for part in (*parts, everything)]
    seeds += [pack_steps(HELLO + parts[1]), pack_steps(b"GET / HTTP/1.1\r\n\r\n"), pack_steps(b"PRI * HTTP/2.0\r\n")]
    interrupted = [(_PAUSE, 40), (_RESUME, 90), (_TIME, 110), (_ANSWER, 200), (0, 55)]
    seeds += [pack_steps(Peer.settings({}) + part, interrupted) for part in (*parts[5:8], everything)]
    return seeds


def _gzip(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


SEEDS = _seeds()

TOKENS = [
    *[path.encode() for path in ("/t.T/Echo", "/t.T/Hold", "/t.T/Big", "/t.T/Stream", "/t.T/Chat", "/t.T/Fail")],
    *[b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"content-length", b"te", b"trailers", b"gzip"],
    *[b":authority", b"host", b"connection", b"x-bin", b"application/grpc", b"1S", b"99999999H", b"\x7f\xff\xff\xff"],
    *[b"\x3f\xe1\x1f", b"\x20", b"\xff\xff\xff\xff\x0f", b"\x80\0\0\0"],
]


def mutate(data: bytes, max_size: int, chance: random.Random, bytewise: Callable[[bytes, int], bytes]) -> bytes:
    """Change one frame, or which frames there are, so that lengths stay true."""
    _, stream = take_steps(data, _EVENTS)
    control = data[: len(data) - len(stream)]
    cut, position = [], 0
    while position + 9 <= len(stream):
        size = 9 + int.from_bytes(stream[position : position + 3], "big")
        cut.append(stream[position : position + size])
        position += size
    if not cut or chance.random() < 0.2:
        return bytewise(data, max_size)
    index = chance.randrange(len(cut))
    head, payload = bytearray(cut[index][:9]), cut[index][9:]
    how = chance.randrange(8)
    if how == 0:
        del cut[index]
    elif how == 1:
        cut.insert(chance.randrange(len(cut) + 1), cut[index])
    elif how == 2:
        _, other = take_steps(chance.choice(SEEDS), _EVENTS)
        cut.insert(index, other[9:])
    elif how == 3:
        kind, flags = chance.randrange(11), chance.choice([0, 1, 4, 5, 8, 9, 0x20, 0x2D, head[4] ^ 1])
        cut[index] = frame(kind if chance.random() < 0.3 else head[3], flags, _stream_id(head), payload)
    elif how == 4:
        cut[index] = frame(head[3], head[4], chance.choice([0, 1, 3, 5, 7, 9, 11, 2, 2**31 - 1]), payload)
    elif how == 5:
        edge = bytes((chance.randrange(_EVENTS), *divmod(chance.randrange(len(stream)), 256)))
        control = bytes(((control[0] % 17 + 1) % 17,)) + edge + control[1:]
        control = control[: 1 + 3 * control[0]]
    else:
        payload = bytewise(payload or b"\0", 4000)
        cut[index] = frame(head[3], head[4], _stream_id(head), payload[:16_000])
    return (control + b"".join(cut))[:max_size]


def _stream_id(head: bytes | bytearray) -> int:
    return int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
