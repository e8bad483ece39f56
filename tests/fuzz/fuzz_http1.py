"""HTTP/1.1: a connection of the REST server on a transport of memory."""

from __future__ import annotations

import gzip
import re
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from serving_server.rest.http1 import Limits, Request, Response
from serving_server.rest.http1_connection import Connection
from tests.fuzz.harness import MemoryTransport, Step, SteppedLoop, no_faults, pack_steps, take_steps

__all__ = ["LIMITS", "SEEDS", "TOKENS", "Outcome", "check", "parse_answers", "run"]

#: Small enough to be reached.
LIMITS = Limits(max_header_bytes=600, max_body_bytes=3000, max_unpacked_bytes=5000, max_pipelined=4)

_EVENTS = 8
#: Behind a step: nothing, the client is gone, the socket is full or free again, time passes, a request is answered.
_LOSE, _PAUSE, _RESUME, _TIME, _ANSWER = 3, 4, 5, 6, 7

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\nContent-Type: [a-z/]+\r\nDate: [^\r\n]+\r\n(X-Test: yes\r\n)?"
    rb"(?:Connection: (close|keep-alive)\r\n)?Content-Length: (\d+)\r\n\r\n"
)
_METHOD = re.compile(r"[A-Z-]{3,20}")
_TARGET = re.compile(r"[^\x00-\x20\x7f]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(r"[^\r\n\0]*")


class _Seen(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class MemoryServer:
    """A server's side without a loop. Its handler answers at once, but below ``/hold`` when it is told to."""

    def __init__(self) -> None:
        self.handler = self.handle
        self.limits = LIMITS
        self.stopping = False
        self.time = 1000.0
        self.seen: list[_Seen] = []
        self.held: dict[int, Callable[[Response], None]] = {}
        self.cancelled: list[int] = []
        self.connections: set[Connection] = set()
        self.unsent: list[Connection] = []

    def handle(self, request: Request, answer: Callable[[Response], None]) -> Callable[[], None] | None:
        self.seen.append(_Seen(request.method, request.target, dict(request.headers), bytes(request.body)))
        _check_request(request)
        if not request.target.startswith("/hold"):
            answer(_echo(request))
            return None
        number = len(self.seen)
        self.held[number] = answer
        return lambda: self.cancelled.append(number)

    def arrived(self, connection: Connection) -> None:
        self.connections.add(connection)

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def now(self) -> float:
        return self.time

    def send_soon(self, connection: Connection) -> None:
        self.unsent.append(connection)

    def send(self) -> None:
        unsent, self.unsent = self.unsent, []
        for connection in unsent:
            connection.send_answer(self.now())


def _echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.target} ".encode("latin-1") + request.body, "text/plain")


def _check_request(request: Request) -> None:
    headers = request.headers
    assert _METHOD.fullmatch(request.method), request
    assert _TARGET.fullmatch(request.target), request
    for name, value in headers.items():
        assert _NAME.fullmatch(name), request
        assert _VALUE.fullmatch(value), request
    assert len(request.target) + sum(map(len, headers.items())) <= LIMITS.max_header_bytes
    assert len(request.body) <= max(LIMITS.max_body_bytes, LIMITS.max_unpacked_bytes)
    # What another server on the way could read in another way (RFC 9112 sections 6.1 and 6.3).
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    assert length is None or coding is None, request
    assert coding is None or coding.rpartition(",")[2].strip(" \t").lower() == "chunked", request
    if length is not None:
        assert length.isascii(), request
        assert length.isdigit(), request
        assert "gzip" in headers.get("content-encoding", "") or int(length) == len(request.body), request


class Outcome(NamedTuple):
    """What a connection made of a stream of bytes."""

    seen: list[_Seen]
    answers: list[tuple[int, bytes, bytes]]


def parse_answers(written: bytes, methods: Sequence[str]) -> list[tuple[int, bytes, bytes]]:
    """Return status, value of Connection and body of each answer; `methods` are those of the requests, in order.

    Anything that is not an answer of this server is an AssertionError.
    """
    found: list[tuple[int, bytes, bytes]] = []
    at = 0
    while at < len(written):
        if written.startswith(_CONTINUE, at):
            at += len(_CONTINUE)
            continue
        head = _HEAD.match(written, at)
        assert head is not None, written[at : at + 300]
        at = head.end()
        bodiless = len(found) < len(methods) and methods[len(found)] == "HEAD"
        size = 0 if bodiless else int(head[4])
        body = bytes(written[at : at + size])
        assert len(body) == size, "an answer is cut"
        at += size
        found.append((int(head[1]), head[3] or b"", body))
    return found


def run(steps: Sequence[Step]) -> Outcome:
    """Feed a connection, then answer what is held, let time pass and lose it; everything must be given back."""
    loop = SteppedLoop()
    with no_faults(), loop.running():
        server = MemoryServer()
        connection, transport = Connection(server), MemoryTransport()
        connection.connection_made(transport)
        paused, event = False, 0
        for event, data in steps:
            if data:
                connection.data_received(data)
            server.send()
            paused = _happen(event, server, connection, paused=paused)
            server.send()
            _check_books(connection)
            if transport.closed or event == _LOSE:
                break
        if event != _LOSE:
            _finish(server, connection, transport, paused=paused)
        connection.connection_lost(None)
        assert not server.connections
        assert not connection._slots
        assert not connection._waiting
        assert connection._reader._parser is None
        assert not connection._reader._parts
        assert sorted(server.cancelled) == sorted(server.held), "all that was still running is cancelled, once"
        for answer in server.held.values():
            answer(Response(200, b"too late"))
        seen = server.seen
        answers = parse_answers(bytes(transport.written), [one.method for one in seen])
        _check_answers(seen, answers)
        there = weakref.ref(connection)
        server.held.clear()
        answer = None  # type: ignore[assignment]
        del connection
        assert there() is None, "a connection that is gone is part of a reference cycle"
    return Outcome(seen, answers)


def _happen(event: int, server: MemoryServer, connection: Connection, *, paused: bool) -> bool:
    """Let something else happen; returns whether the socket is full."""
    if event == _PAUSE and not paused:
        connection.pause_writing()
        return True
    if event == _RESUME and paused:
        connection.resume_writing()
        return False
    if event == _TIME:
        server.time += 0.3
        connection.check_time(server.time)
    elif event == _ANSWER:
        _answer_last(server)
    return paused


def _answer_last(server: MemoryServer) -> None:
    if server.held:
        number = max(server.held)
        one = server.seen[number - 1]
        server.held.pop(number)(_echo(Request(*one)))


def _finish(server: MemoryServer, connection: Connection, transport: MemoryTransport, *, paused: bool) -> None:
    if paused and not transport.closed:
        connection.resume_writing()
    while server.held:
        _answer_last(server)
        server.send()
    _check_books(connection)
    if not transport.closed:
        assert not connection._slots, "all is answered, and something still waits"
    for _ in range(3):
        server.time += 150
        if not transport.closed:
            connection.check_time(server.time)
            server.send()
    assert transport.closed, "an idle connection outlives its time"


def _check_books(connection: Connection) -> None:
    reader = connection._reader
    assert reader._body_bytes <= LIMITS.max_body_bytes + _LARGEST_STEP
    assert connection._ready_bytes >= 0
    assert connection._ready_bytes == sum(
        sum(map(len, slot.wire)) for slot in connection._slots if slot.wire is not None
    )
    assert not reader.complete


#: A limit is looked at behind each step.
_LARGEST_STEP = 1 << 16


def _check_answers(seen: list[_Seen], answers: list[tuple[int, bytes, bytes]]) -> None:
    """Each answer belongs to the request in its place; a refusal comes last, and closes."""
    refused = [answer for answer in answers if answer[0] != 200]
    assert len(refused) <= 1
    assert not refused or answers[-1] is refused[0]
    assert not refused or refused[0][1] == b"close"
    assert len(answers) - len(refused) <= len(seen)
    for request, (status, connection, body) in zip(seen, answers, strict=False):
        if status == 200 and request.method != "HEAD":
            assert body == f"{request.method} {request.target} ".encode("latin-1") + request.body
        if connection == b"close":
            assert answers[-1] == (status, connection, body)


def _in_pieces(stream: bytes) -> list[Step]:
    """Cut a stream into single bytes, a long one into as many pieces as are quick."""
    size = 1 + len(stream) // 300
    return [Step(0, stream[start : start + size]) for start in range(0, len(stream), size)]


def _by_request(stream: bytes) -> list[Step]:
    """Cut a stream where a request seems to begin, as most clients' writes are."""
    return [Step(0, part) for part in re.split(rb"(?=(?:GET|POST|HEAD|OPTIONS) /)", stream) if part]


def check(data: bytes) -> None:
    """One input: how to cut (see `take_steps`), then a stream."""
    steps, stream = take_steps(data, _EVENTS)
    outcome = run(steps)
    if not stream or any(step.event >= _LOSE for step in steps):
        return
    # In small pieces all goes through the parser, whole requests may not (see `http1_repeat`): two ways of that.
    for other in (run([Step(0, stream)]), run(_in_pieces(stream)), run(_by_request(stream))):
        if any(answer[0] == 431 for answer in outcome.answers + other.answers):
            continue  # it is counted per step what comes without progress
        assert outcome.seen == other.seen
        assert [a[:2] for a in outcome.answers] == [a[:2] for a in other.answers]


# --- inputs that reach deep ---------------------------------------------------------------------------------------


def _post(body: bytes, *fields: str, target: str = "/v1/models/m:predict", length: bool = True) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: localhost:8501", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _seeds() -> list[bytes]:
    # As curl 8 and python-requests send them.
    curl = "User-Agent: curl/8.5.0", "Accept: */*", "Content-Type: application/x-www-form-urlencoded"
    requests = "Accept-Encoding: gzip, deflate", "Connection: keep-alive", "Content-Type: application/json"
    body = b'{"instances": [[1.0, 2.0]]}'
    get = b"GET /v1/models/m HTTP/1.1\r\nHost: h\r\n\r\n"
    post, held = _post(body, *curl), _post(body, target="/hold")
    chunked = _post(b"", "Transfer-Encoding: chunked", length=False)
    packed = gzip.compress(body, mtime=0)
    long = "X: " + "y" * 500
    parts = [
        get,
        post,
        post + _post(body + b"  ", *curl) + get + post,
        _post(body, *requests) * 3,
        get * 3 + b"HEAD / HTTP/1.1\r\n\r\n" + get,
        chunked + b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-Trailer: z\r\n\r\n" + get,
        chunked + b"0\r\n\r\n" + post,
        chunked + b"ffffffffffffffff\r\n",
        _post(packed, "Content-Encoding: gzip") + get,
        _post(b"no gzip", "Content-Encoding: gzip") + get,
        _post(gzip.compress(bytes(6000), mtime=0), "Content-Encoding: gzip"),
        _post(body, "Expect: 100-continue") + get,
        _post(body, "Expect: tea"),
        held + get + held + post + get + get,
        get.replace(b"1.1", b"1.0"),
        get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + get,
        get.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n") + get,
        _post(body, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk") + get,
        b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n" + get,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _post(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", "Transfer-Encoding: chunked"),
        _post(body, "Transfer-Encoding: chunked, identity"),
        _post(body, "Transfer-Encoding : chunked"),
        _post(body, "Content-Length: 5"),
        _post(body, "Content-Length: +5", length=False),
        _post(body, "Content-Length: 5, 5", length=False),
        _post(bytes(3001)),
        _post(body, long),
        _post(body, long, long),
        _post(body, "X: a\r\n b"),
        _post(body, "X: a\nY: b\r\n"),
        b"\r\n\r\n" + get + b"\r\n" + post,
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        _post(b"\xff" * 40, "X: \xff\xfe", target="/%00?a=%ff"),
    ]
    edges = [(0, 10), (_PAUSE, 70), (_TIME, 80), (_RESUME, 95), (_ANSWER, 150), (0, 180)]
    return [pack_steps(part) for part in parts] + [pack_steps(part, edges) for part in (*parts[2:8], parts[13])]


SEEDS = _seeds()

TOKENS = [
    *[b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"/hold", b"\r\n\r\n"],
    *[b"\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"0\r\n\r\n"],
    *[b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: h2c\r\n"],
    *[
        b"Host: h\r\n",
        b"Trailer: x\r\n",
        b"identity",
        b"chunked",
        b", ",
        b";",
        b"\t",
        b"\x0b",
        b"\r",
        b"\n",
        b"\0",
        b"*",
    ],
]
