"""HTTP/1.1 over real sockets: order, limits, disconnects and rubbish, on both event loops."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import random
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from serving_server.rest.http1 import HttpServer, Limits, Request, Response
from serving_server.rest.http1_messages import gunzip
from serving_server.rest.http1_reader import RequestReader

DEADLINE = 40.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    def runner(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(main, 3 * DEADLINE)

        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(bounded())

    return runner


class Handler:
    """Answers with what it got; targets below `/hold` wait until the test answers them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.held: dict[str, Callable[[Response], None]] = {}
        self.cancelled: list[str] = []
        self.changed = asyncio.Event()

    def __call__(self, request: Request, answer: Callable[[Response], None]) -> Callable[[], None] | None:
        self.requests.append(request)
        self.changed.set()
        if request.target.startswith("/hold"):
            self.held[request.target] = answer

            def cancel() -> None:
                self.cancelled.append(request.target)
                self.changed.set()

            return cancel
        if request.target == "/fail":
            raise ZeroDivisionError
        if request.target.startswith("/big"):
            answer(Response(200, b"x" * int(request.target.partition("=")[2]), "text/plain"))
        elif request.target == "/empty":
            answer(Response(204))
        else:
            body = f"{request.method} {request.target} ".encode() + request.body
            answer(Response(200, body, "text/plain", [("X-Test", "yes")]))
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def left(server: HttpServer, count: int) -> None:
    """Wait until no more than `count` connections are left."""
    async with asyncio.timeout(DEADLINE):
        while len(server.connections) > count:  # noqa: ASYNC110 - nothing tells when one is gone
            await asyncio.sleep(0.01)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        if not self.writer.transport.is_closing():  # the server may have closed before it got everything
            self.writer.write(data)

    async def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(DEADLINE):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            body = b"" if head else await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), headers, body

    async def end(self) -> bytes:
        """Return what comes until the server closes."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b"reset"


@asynccontextmanager
async def serving(
    **limits: Any,
) -> AsyncIterator[tuple[Handler, Callable[[], Coroutine[Any, Any, Client]], HttpServer]]:
    handler = Handler()
    server = HttpServer(handler, limits=Limits(**limits))
    ((host, port),) = await server.start_tcp("127.0.0.1", 0)
    clients: list[Client] = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection(host, port))
        clients.append(client)
        return client

    try:
        yield handler, connect, server
    finally:
        for client in clients:
            client.writer.close()
        await server.stop(DEADLINE)
        assert not server.connections
        for client in clients:
            try:
                await client.writer.wait_closed()
            except ConnectionError:
                continue  # the server reset it, as the test wanted


def test_keeps_a_connection_alive_and_answers_each_method(run: Run) -> None:
    async def main() -> None:
        async with serving() as (_, connect, _server):
            client = await connect()
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                client.send(f"{method} /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                status, headers, body = await client.answer()
                assert (status, body) == (200, f"{method} /a?b=c ".encode())
                assert headers["content-type"] == "text/plain"
                assert headers["x-test"] == "yes"
                assert "connection" not in headers
                assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
            client.send(b"HEAD /a HTTP/1.1\r\n\r\n")
            status, headers, _ = await client.answer(head=True)
            assert (status, headers["content-length"]) == (200, "8")
            client.send(b"GET /empty HTTP/1.1\r\n\r\n")
            status, headers, body = await client.answer()
            assert (status, body) == (204, b"")
            assert "content-length" not in headers

    run(main())


def test_standard_client_in_another_thread(run: Run) -> None:
    def talk(port: int) -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        bodies = []
        for body in (b"one", iter([b"two", b"chunks"]), None):
            connection.request("POST", "/x", body=body)
            bodies.append(connection.getresponse().read())
        connection.close()
        return bodies

    async def main() -> None:
        async with serving() as (_, _connect, server):
            ((_, port),) = await server.start_tcp("127.0.0.1", 0)
            assert await asyncio.to_thread(talk, port) == [b"POST /x one", b"POST /x twochunks", b"POST /x "]

    run(main())


def test_pipelined_answers_leave_in_the_order_of_requests(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, _):
            client = await connect()
            client.send(b"".join(b"GET /%b HTTP/1.1\r\n\r\n" % name for name in (b"hold1", b"now", b"hold2", b"now2")))
            await handler.until(lambda: len(handler.requests) == 4)
            handler.held["/hold2"](Response(200, b"second"))
            handler.held["/hold1"](Response(200, b"first"))
            assert [(await client.answer())[2] for _ in range(4)] == [b"first", b"GET /now ", b"second", b"GET /now2 "]

    run(main())


def test_no_more_than_the_allowed_number_of_pipelined_requests_run(run: Run) -> None:
    async def main() -> None:
        async with serving(max_pipelined=4) as (handler, connect, _):
            client = await connect()
            client.send(b"".join(b"GET /hold%d HTTP/1.1\r\n\r\n" % i for i in range(50)))
            await handler.until(lambda: len(handler.requests) == 4)
            for i in range(50):
                await handler.until(lambda name=f"/hold{i}": name in handler.held)
                assert len(handler.requests) <= i + 4
                handler.held[f"/hold{i}"](Response(200, b"%d" % i))
                assert (await client.answer())[2] == b"%d" % i

    run(main())


def test_no_more_than_the_allowed_bytes_of_pipelined_requests_are_held(run: Run) -> None:
    async def main() -> None:
        async with serving(max_pipelined_bytes=300_000) as (handler, connect, _):
            client = await connect()
            body = bytes(200_000)
            head = b"POST /hold%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
            client.send(b"".join(head % (i, len(body)) + body for i in range(40)))
            for i in range(40):
                await handler.until(lambda name=f"/hold{i}": name in handler.held)
                # Two of them are over the limit; of what was read together with them, more may be here.
                assert len(handler.requests) <= i + 4
                handler.held[f"/hold{i}"](Response(200, b"%d" % i))
                assert (await client.answer())[2] == b"%d" % i

    run(main())


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_bodies_arrive_whole_however_they_are_cut(run: Run, size: int) -> None:
    wire = (
        b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\r\n"
        b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        b"GET /c HTTP/1.1\r\nX: 1\r\nx: 2\r\nConnection: close\r\n\r\n"
    )
    if size > len(wire):
        wire += b"ignored"

    async def main() -> None:
        async with serving() as (handler, connect, _):
            client = await connect()
            for at in range(0, len(wire), size):
                client.send(wire[at : at + size])
                if size < len(wire):
                    await asyncio.sleep(0)
            answers = [await client.answer() for _ in range(3)]
            assert [body for _, _, body in answers] == [b"POST /a hello", b"POST /b abcde", b"GET /c "]
            assert answers[2][1]["connection"] == "close"
            assert handler.requests[2].headers["x"] == "1, 2"
            assert "trailer" not in handler.requests[1].headers
            assert await client.end() in {b"", b"reset"}

    run(main())


@pytest.mark.parametrize(
    ("request_line", "connection", "closes"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "close", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive", False),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "close", True),
        (b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", "keep-alive", False),
    ],
)
def test_who_closes_a_connection(run: Run, request_line: bytes, connection: str, closes: bool) -> None:
    async def main() -> None:
        async with serving() as (_, connect, _server):
            client = await connect()
            client.send(request_line)
            assert (await client.answer())[1]["connection"] == connection
            if closes:
                assert await client.end() == b""
            else:
                client.send(b"GET /again HTTP/1.1\r\n\r\n")
                assert (await client.answer())[2] == b"GET /again "

    run(main())


def test_expect_continue_waits_for_its_turn(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, _):
            client = await connect()
            client.send(
                b"GET /hold HTTP/1.1\r\n\r\nPOST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            )
            await handler.until(lambda: len(handler.requests) == 1)
            handler.held["/hold"](Response(200, b"first"))
            assert (await client.answer())[2] == b"first"
            assert (await client.answer())[0] == 100
            client.send(b"abc")
            assert (await client.answer())[2] == b"POST /x abc"
            client.send(b"POST /x HTTP/1.1\r\nExpect: miracles\r\nContent-Length: 3\r\n\r\n")
            assert (await client.answer())[0] == 417

    run(main())


def test_upgrade_offers_are_ignored(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, _):
            client = await connect()
            client.send(
                b"POST /x HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
                b"Content-Length: 4\r\n\r\nbo"
            )
            client.send(b"dyGET /y HTTP/1.1\r\n\r\n")
            assert (await client.answer())[2] == b"POST /x body"
            assert (await client.answer())[2] == b"GET /y "
            client.send(b"CONNECT host:80 HTTP/1.1\r\n\r\n")
            assert (await client.answer())[0] == 400
            assert len(handler.requests) == 2

    run(main())


def test_gzip_bodies_are_unpacked(run: Run) -> None:
    packed = gzip.compress(b"hello")
    bomb = gzip.compress(bytes(1001))

    async def main() -> None:
        async with serving(max_unpacked_bytes=1000) as (_, connect, _server):
            client = await connect()
            for body, expected in [(packed, b"hello"), (packed[:-1], b""), (b"not gzip", b""), (bomb, b"")]:
                client.send(
                    b"POST / HTTP/1.1\r\nContent-Encoding: x-gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                assert (await client.answer())[2] == b"POST / " + expected

    run(main())
    assert gunzip(gzip.compress(bytes(1000)), 1000) == bytes(1000)
    assert gunzip(packed + packed, 1000) == b""


@pytest.mark.parametrize(
    ("wire", "status", "text"),
    [
        (b"NONSENSE\r\n\r\n", 400, "Malformed HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "Malformed HTTP request"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "Malformed HTTP request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Malformed HTTP request"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431, "larger than 1000 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n", 431, "larger than 1000 bytes"),
        (b"GET /" + b"a" * 2000, 431, "larger than 1000 bytes"),
        (b"GET / HTTP/1.1\r\nX" + b"a" * 2000, 431, "larger than 1000 bytes"),
        (b"\r\n" * 1000, 431, "larger than 1000 bytes"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2001\r\n\r\n", 413, "larger than 2000 bytes"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d1\r\n" + b"a" * 2001, 413, "larger than 2000 bytes"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 5000, 431, "larger than 1000 bytes"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 5000, 431, "larger than 1000 bytes"),
    ],
)
@pytest.mark.parametrize("cut", [100, 100_000])
def test_refused_requests_are_told_why_behind_earlier_answers(
    run: Run, wire: bytes, status: int, text: str, cut: int
) -> None:
    async def main() -> None:
        async with serving(max_header_bytes=1000, max_body_bytes=2000) as (handler, connect, _):
            client, healthy = await connect(), await connect()
            client.send(b"GET /hold HTTP/1.1\r\n\r\n")
            await handler.until(lambda: "/hold" in handler.held)
            for at in range(0, len(wire), cut):
                client.send(wire[at : at + cut])
                await asyncio.sleep(0)
            healthy.send(b"GET /fine HTTP/1.1\r\n\r\n")
            assert (await healthy.answer())[2] == b"GET /fine "
            client.send(b"x" * 100_000)  # more than is read: the answer must get through all the same
            handler.held["/hold"](Response(200, b"first"))
            assert (await client.answer())[2] == b"first"
            got, headers, body = await client.answer()
            assert (got, headers["connection"]) == (status, "close")
            assert text in body.decode()
            client.writer.close()

    run(main())


def test_time_limits(run: Run) -> None:
    async def main() -> None:
        limits = {"idle_timeout": 0.3, "receive_timeout": 0.3, "linger_timeout": 0.3}
        async with serving(**limits) as (handler, connect, _):
            idle, slow, waiting, used = [await connect() for _ in range(4)]
            slow.send(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
            waiting.send(b"GET /hold HTTP/1.1\r\n\r\n")
            used.send(b"GET /a HTTP/1.1\r\n\r\n")
            assert (await used.answer())[0] == 200
            status, _, body = await slow.answer()
            assert (status, b"0.3 s" in body) == (408, True)
            for client in (idle, used, slow):
                assert await client.end() == b""
            # A running request has no limit here: its deadline is the handler's.
            handler.held["/hold"](Response(200, b"late"))
            assert (await waiting.answer())[2] == b"late"
            assert await waiting.end() == b""

    run(main())


def test_a_reader_that_stops_is_dropped_and_its_requests_wait(run: Run) -> None:
    async def main() -> None:
        async with serving(send_timeout=0.5) as (handler, connect, server):
            client = await connect()
            client.send(b"GET /big=8000000 HTTP/1.1\r\n\r\n" * 50)
            await handler.until(lambda: bool(handler.requests))
            await left(server, 0)
            assert len(handler.requests) < 10

    run(main())


def test_a_slow_reader_gets_everything(run: Run) -> None:
    async def main() -> None:
        async with serving() as (_, connect, _server):
            client = await connect()
            client.send(b"GET /big=3000000 HTTP/1.1\r\n\r\n" * 6)
            for _ in range(6):
                status, _, body = await client.answer()
                assert (status, len(body)) == (200, 3_000_000)

    run(main())


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_away_cancels_its_requests_only(run: Run, reset: bool) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, _):
            client, other = await connect(), await connect()
            client.send(b"GET /hold/a HTTP/1.1\r\n\r\nGET /now HTTP/1.1\r\n\r\nGET /hold/b HTTP/1.1\r\n\r\n")
            other.send(b"GET /hold/c HTTP/1.1\r\n\r\n")
            await handler.until(lambda: len(handler.requests) == 4)
            if reset:
                client.writer.transport.abort()
            else:
                client.writer.close()
            await handler.until(lambda: len(handler.cancelled) == 2)
            assert handler.cancelled == ["/hold/a", "/hold/b"]
            handler.held["/hold/a"](Response(200, b"dropped"))
            handler.held["/hold/c"](Response(200, b"kept"))
            assert (await other.answer())[2] == b"kept"

    run(main())


def test_a_failing_handler_answers_500_and_keeps_the_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as (_, connect, _server):
            client = await connect()
            client.send(b"GET /fail HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n")
            assert (await client.answer())[0] == 500
            assert (await client.answer())[0] == 200

    run(main())
    assert "Handling GET /fail failed" in caplog.text


def test_answering_twice_is_an_error(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, _):
            client = await connect()
            client.send(b"GET /hold HTTP/1.1\r\n\r\n")
            await handler.until(lambda: "/hold" in handler.held)
            handler.held["/hold"](Response(200))
            with pytest.raises(RuntimeError, match="answered twice"):
                handler.held["/hold"](Response(200))

    run(main())


def test_stop_lets_requests_end_and_closes_the_rest(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, server):
            idle, running = await connect(), await connect()
            idle.send(b"GET /a HTTP/1.1\r\n\r\n")
            await idle.answer()
            running.send(b"GET /hold HTTP/1.1\r\n\r\n")
            await handler.until(lambda: "/hold" in handler.held)
            stop = asyncio.create_task(server.stop(DEADLINE))
            assert await idle.end() == b""
            with pytest.raises(ConnectionRefusedError):
                await connect()
            assert not stop.done()
            handler.held["/hold"](Response(200, b"done"))
            _, headers, body = await running.answer()
            assert (headers["connection"], body) == ("close", b"done")
            await stop
            await server.stop(0)
            assert handler.cancelled == []

    run(main())


def test_stop_drops_what_outlives_the_grace(run: Run) -> None:
    async def main() -> None:
        async with serving() as (handler, connect, server):
            client, half = await connect(), await connect()
            client.send(b"GET /hold HTTP/1.1\r\n\r\n")
            half.send(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
            await handler.until(lambda: "/hold" in handler.held)
            await server.stop(0.05)
            assert handler.cancelled == ["/hold"]
            assert await client.end() in {b"", b"reset"}

    run(main())


def test_addresses(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving() as (_, _connect, server):
            ((host, port),) = await server.start_tcp("127.0.0.1", 0)
            with pytest.raises(OSError) as in_use:  # noqa: PT011 - the errno tells, and differs by system
                await HttpServer(Handler()).start_tcp(host, port)
            assert in_use.value.errno in {48, 98}
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
                given = await server.start_tcp(None, 0, sock=bound.dup())
                assert given == [bound.getsockname()]
            path = tmp_path / "s"
            await server.start_unix(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            client = Client(*await asyncio.open_unix_connection(path))
            client.send(b"GET /u HTTP/1.1\r\n\r\n")
            assert (await client.answer())[2] == b"GET /u "
            client.writer.close()
            await client.writer.wait_closed()
            with pytest.raises(OSError, match="in use"):
                await server.start_unix(path)
            await server.stop(DEADLINE)
            assert not path.exists()

    run(main())


def test_small_answers_are_not_delayed(run: Run) -> None:
    async def main() -> None:
        async with serving() as (_, connect, server):
            client = await connect()
            client.send(b"GET /a HTTP/1.1\r\n\r\n")
            await client.answer()
            (connection,) = server.connections
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(main())


#: Pieces that make random streams reach further than the first byte.
_PIECES = [
    b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 5\r\n", b"\r\n", b"hello",
    b"Transfer-Encoding: chunked\r\n", b"5\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
    b"Connection: Upgrade\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"PRI * HTTP/2.0\r\n\r\n",
    b"\x00", b"\xff\xfe", b"HTTP/1.0\r\n", b" ", b":", b"99999999999999999999\r\n",
]  # fmt: skip


def _noise(generator: random.Random) -> bytes:
    pieces = [
        generator.choice(_PIECES) if generator.random() < 0.9 else generator.randbytes(generator.randrange(40))
        for _ in range(generator.randrange(1, 30))
    ]
    return b"".join(pieces)


def test_noise_never_breaks_the_reader() -> None:
    generator = random.Random(20240229)
    for _ in range(3000):
        reader = RequestReader(Limits(max_header_bytes=300, max_body_bytes=1000))
        wire = _noise(generator)
        at = 0
        while at < len(wire):
            step = generator.randrange(1, 60)
            reader.feed(wire[at : at + step])
            at += step
        assert reader.refusal is None or 400 <= reader.refusal.status < 500
        reader.close()


def test_noise_on_one_connection_never_touches_another(run: Run) -> None:
    async def main() -> None:
        generator = random.Random(7)
        async with serving(linger_timeout=0.05, max_header_bytes=2000) as (_, connect, server):
            healthy = await connect()
            for round_number in range(40):
                noisy = [await connect() for _ in range(5)]
                for client in noisy:
                    client.send(_noise(generator))
                healthy.send(b"POST /%d HTTP/1.1\r\nContent-Length: 2\r\n\r\nok" % round_number)
                assert (await healthy.answer())[2] == b"POST /%d ok" % round_number
                for client in noisy:
                    client.writer.close()
            await left(server, 1)

    run(main())


#: Whole requests, and what may stand between them, that a head read earlier must not be taken for.
_WHOLE = [
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n" + 3 * b"\r\n\r\n",
    b"POST /x HTTP/1.1\r\nContent-Length:  05 \r\nHost: a\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /x HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"GET /x HTTP/1.0\r\n\r\n",
    b"GET /x HTTP/1.1\n\n",
    b"POST /x HTTP/1.1\nContent-Length: 8\n\n\r\n\r\n\r\n\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"hello",
]


def _read(pieces: list[bytes]) -> tuple[list[tuple[Request, bool, bytes]], tuple[int, str] | None, bool]:
    reader = RequestReader(Limits(max_header_bytes=300, max_body_bytes=1000))
    found = []
    for piece in pieces:
        reader.feed(piece)
        found += [(each.request, each.keep_alive, each.connection) for each in reader.complete]
        reader.complete.clear()
    refusal = reader.refusal and (reader.refusal.status, reader.refusal.message.partition(":")[0])
    ended = reader.ended
    reader.close()
    return found, refusal, ended


def test_a_repeated_head_means_the_same_however_it_arrives() -> None:
    """Byte by byte nothing is whole in one piece, so that every head goes through the parser."""
    generator = random.Random(20261123)
    for _ in range(4000):
        few = generator.sample(_WHOLE, 3)
        wire = [generator.choice(few) for _ in range(generator.randrange(2, 9))]
        while len(wire) > 1 and generator.random() < 0.5:  # pipelined
            at = generator.randrange(len(wire) - 1)
            wire[at : at + 2] = [wire[at] + wire[at + 1]]
        if generator.random() < 0.3:
            at = generator.randrange(len(wire))
            cut = generator.randrange(len(wire[at]) + 1)
            wire[at : at + 1] = [wire[at][:cut], wire[at][cut:]]
        stream = b"".join(wire)
        assert _read(wire) == _read([stream[at : at + 1] for at in range(len(stream))]), wire


def test_a_repeated_head_with_another_length() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAccept: *\r\n\r\n"
    bodies = [b"x" * size for size in (3, 3, 0, 12, 999, 7)]
    found, refusal, _ = _read([head % len(body) + body for body in bodies])
    assert refusal is None
    assert [request.body for request, _, _ in found] == bodies
    assert [request.headers["content-length"] for request, _, _ in found] == [str(len(body)) for body in bodies]
