"""Listening, TLS, draining and stopping; and a peer that shares no code with us (the `h2` package)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import uvloop

from serving_server.http2 import frames
from serving_server.http2.frames import ErrorCode
from serving_server.http2.limits import Http2Limits
from serving_server.http2.server import Http2Server
from tests.http2_peer import DEADLINE, ECHO, Methods, Peer, address_of, both_loops, grpc_message, serving, wait_until

# --- stopping -----------------------------------------------------------------------------------------------------


@both_loops
async def test_stop_lets_calls_end_and_takes_those_on_their_way() -> None:
    async with serving(witness=False) as (server, methods, peer):
        idle = await Peer.connect(server)
        peer.send(peer.request(1, "/t.T/Hold"))
        await peer.ping()
        stop = asyncio.ensure_future(server.stop(DEADLINE))
        assert (await peer.goaway())[1] == 2**31 - 1
        ping = await peer.until(frames.PING, ack=False)
        peer.send(peer.request(3, "/t.T/Hold"), frames.ping(ping.payload, ack=True))
        assert (await peer.goaway())[1] == 3
        for call in methods.held:
            call.answer(b"done")
        await peer.answer(3)
        assert peer.answers[1].messages == peer.answers[3].messages == [b"done"]
        await peer.gone()
        await idle.gone()  # told after a moment, though it never answered the PING
        await stop
        await server.stop(0.0)
        assert not server.connections


@both_loops
async def test_stop_cuts_what_does_not_end() -> None:
    async with serving(witness=False) as (server, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"))
        await peer.ping()
        await asyncio.gather(server.stop(0.1), server.stop(0.1))
        assert not server.connections
        assert methods.cancelled == methods.held


@both_loops
async def test_a_client_that_says_goodbye_gets_its_answers_first() -> None:
    async with serving() as (server, methods, peer):
        peer.send(peer.request(1, "/t.T/Hold"), frames.goaway(0, ErrorCode.NO_ERROR))
        assert (await peer.goaway())[:2] == (ErrorCode.NO_ERROR, 1)
        methods.held[0].answer(b"done")
        assert (await peer.answer(1)).messages == [b"done"]
        await peer.gone()
        await wait_until(lambda: len(server.connections) == 1, "its end")


@both_loops
async def test_a_port_or_socket_in_use_fails(tmp_path: Path) -> None:
    async with serving() as (server, _, peer):
        other = Http2Server(server.routes)
        with pytest.raises(OSError, match="in use"):
            await other.start_tcp("127.0.0.1", peer.writer.get_extra_info("peername")[1])
        await server.start_unix(tmp_path / "s")
        with pytest.raises(OSError, match="a server listens"):
            await other.start_unix(tmp_path / "s")
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OSError, match="in use"):
            await other.start_unix(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"
        await other.stop(0.0)
        assert (tmp_path / "s").exists()


@both_loops
async def test_a_unix_socket_replaces_a_dead_one_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    methods = Methods()
    server = Http2Server(methods.routes)
    umask = os.umask(0o022)
    try:
        await server.start_unix(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    peer = Peer(*await asyncio.open_unix_connection(str(path)))
    peer.send(frames.PREFACE, peer.settings({}), peer.request(1, message=b"by file"))
    assert (await peer.answer(1)).messages == [b"by file"]
    assert methods.calls[0].peer == "unix:"
    await peer.close()
    Peer.opened.clear()
    await server.stop(0.0)
    assert not path.exists()


@both_loops
async def test_a_fault_of_ours_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as (server, _, peer):
        await peer.ping()
        connection = next(c for c in server.connections if c.peer.endswith(f":{port_of(peer)}"))
        monkeypatch.setattr(connection, "_on_ping", lambda payload, ack: 1 / 0)
        peer.send(frames.ping(bytes(8)))
        assert (await peer.broken())[0] is ErrorCode.INTERNAL_ERROR
        assert "failed inside this process" in caplog.text


def port_of(peer: Peer) -> int:
    port: int = peer.writer.get_extra_info("sockname")[1]
    return port


# --- TLS ----------------------------------------------------------------------------------------------------------


def server_context(certificates: Path, *, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if mutual:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificates: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@both_loops
async def test_tls(certificates: Path) -> None:
    async with serving(tls=server_context(certificates)) as (server, _, _):
        context = client_context(certificates, "h2")
        peer = await Peer.connect(server, settings={4: 2**31 - 1}, ssl=context, server_hostname="localhost")
        peer.send(frames.window_update(0, 2**30), peer.request(1, message=b"secret"))
        assert (await peer.answer(1)).messages == [b"secret"]
        peer.send(peer.request(3, "/t.T/Big", message=b"5000000"))
        assert (await peer.answer(3)).messages == [bytes(5_000_000)]
        peer.send(frames.ping(b"x"))
        assert (await peer.broken())[0] is ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
@both_loops
async def test_tls_without_h2_by_alpn_is_closed(certificates: Path, protocols: tuple[str, ...]) -> None:
    async with serving(tls=server_context(certificates)) as (server, _, _):
        context = client_context(certificates, *protocols)
        peer = await Peer.connect(server, ssl=context, server_hostname="localhost")
        assert await peer.frame() is None


@both_loops
async def test_a_handshake_that_does_not_end(certificates: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")
    async with serving(Http2Limits(handshake_timeout=0.3), tls=server_context(certificates)) as (server, _, _):
        peer = await Peer.connect(server, preface=False)
        peer.send(b"\x16\x03\x01")
        assert await peer.frame() is None


class TlsThread:
    """A TLS server in a thread, for clients that block."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.port = 0
        self._context = context
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = Http2Server(Methods().routes, tls=self._context)
        self.port = (await server.start_tcp("127.0.0.1", 0))[0][1]
        self._ready.set()
        await self._end.wait()
        await server.stop(1.0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(DEADLINE)


@pytest.fixture
def mutual_tls(certificates: Path) -> Iterator[TlsThread]:
    server = TlsThread(server_context(certificates, mutual=True))
    yield server
    server.close()


def test_grpcio_by_mutual_tls(certificates: Path, mutual_tls: TlsThread) -> None:
    read = {name: (certificates / name).read_bytes() for name in ("ca.pem", "client.pem", "client.key")}
    known = grpc.ssl_channel_credentials(read["ca.pem"], read["client.key"], read["client.pem"])
    with grpc.secure_channel(f"localhost:{mutual_tls.port}", known) as channel:
        assert channel.unary_unary(ECHO)(b"x" * 100_000, timeout=DEADLINE) == b"x" * 100_000
    with grpc.secure_channel(f"localhost:{mutual_tls.port}", grpc.ssl_channel_credentials(read["ca.pem"])) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(ECHO)(b"", timeout=DEADLINE)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


# --- the h2 package as a peer ---------------------------------------------------------------------------------------


class H2Client:
    """A client on `h2`, which checks every rule of the server's side."""

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.bodies: dict[int, bytes] = {}
        self.headers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*address_of(self.server))
        self.connection.initiate_connection()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.connection.close_connection()
        self.flush()
        self.writer.close()
        await self.writer.wait_closed()

    def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())

    def start(self, path: str, **extra: str) -> int:
        stream = self.connection.get_next_available_stream_id()
        fields = {":method": "POST", ":scheme": "http", ":authority": "x", ":path": path}
        fields |= {"content-type": "application/grpc", "te": "trailers", **extra}
        self.connection.send_headers(stream, list(fields.items()))
        return int(stream)

    async def send(self, stream: int, body: bytes, padding: int | None = None) -> None:
        while body:
            room = self.connection.local_flow_control_window(stream) - (padding or 0) - 1
            if room <= 0:
                await self.receive()
                continue
            size = min(len(body), room, self.connection.max_outbound_frame_size - 300)
            self.connection.send_data(stream, body[:size], pad_length=padding)
            self.flush()
            body = body[size:]
        self.connection.end_stream(stream)
        self.flush()

    async def receive(self) -> None:
        data = await asyncio.wait_for(self.reader.read(65_536), DEADLINE)
        assert data, "the server closed the connection"
        for event in self.connection.receive_data(data):
            self.take(event)
        self.flush()

    def take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.headers.setdefault(event.stream_id, {}).update(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        else:
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event

    async def finish(self, *streams: int) -> None:
        while not self.ended.issuperset(streams):
            await self.receive()


@pytest.mark.parametrize("padding", [None, 0, 200])
@pytest.mark.parametrize("size", [0, 100, 16_384, 100_000, 3_000_000])
@both_loops
async def test_h2_calls(size: int, padding: int | None) -> None:
    async with serving() as (server, _, _peer), H2Client(server) as client:
        message = os.urandom(size)
        streams = [client.start(ECHO), client.start(ECHO)]
        for stream in streams:
            await client.send(stream, grpc_message(message), padding)
        await client.finish(*streams)
        for stream in streams:
            assert client.bodies[stream] == grpc_message(message)
            assert client.headers[stream][":status"] == "200"
            assert client.headers[stream]["grpc-status"] == "0"


@both_loops
async def test_h2_changes_its_settings_while_it_receives() -> None:
    async with serving() as (server, _, _peer), H2Client(server) as client:
        codes = h2.settings.SettingCodes
        streams = []
        for window, frame_size, table in (
            (1, 16_384, 0),
            (100_000, 2**20, 4096),
            (0, 16_384, 100),
            (70_000, 2**24 - 1, 9),
        ):
            client.connection.update_settings(
                {
                    codes.INITIAL_WINDOW_SIZE: window,
                    codes.MAX_FRAME_SIZE: frame_size,
                    codes.HEADER_TABLE_SIZE: table,
                }
            )
            streams.append(client.start("/t.T/Big"))
            await client.send(streams[-1], grpc_message(b"300000"))
        await client.finish(*streams)
        for stream in streams:
            assert client.bodies[stream] == grpc_message(bytes(300_000))


@both_loops
async def test_h2_many_streams_and_resets() -> None:
    async with serving() as (server, methods, _peer), H2Client(server) as client:
        held = [client.start("/t.T/Hold") for _ in range(50)]
        echoes = [client.start(ECHO) for _ in range(50)]
        for stream in (*held, *echoes):
            client.connection.send_data(stream, grpc_message(b"x"), end_stream=True)
        for stream in held:
            client.connection.reset_stream(stream, ErrorCode.CANCEL)
        client.flush()
        await client.finish(*echoes)
        assert len(methods.cancelled) == 50
