"""Generated HTTP/1.1 streams through the sockets of a running server: it answers in HTTP or hangs up, in time, keeps
nothing, and serves a healthy client rightly all the while.

Connections on a transport of memory, many more of them, are the business of `tests.fuzz`.
`SERVING_FUZZ_EXAMPLES` sets how many streams each test sends.
"""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_http1 import SEEDS
from tests.fuzz.harness import take_steps
from tests.memory import tree_pss
from tests.servers import SharedServer, wait_until

EXAMPLES = int(os.environ.get("SERVING_FUZZ_EXAMPLES", "250"))

#: Seconds until a server has hung up.
DEADLINE = 60.0

#: Memory that the server may keep, in MB, whatever came: arenas, caches of heads and routes.
KEPT = 48

BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

PATH = "/v1/models/half_plus_two/versions/1:predict"


class Server:
    """The server under attack, and the healthy client beside."""

    def __init__(self, server: SharedServer) -> None:
        url = urlsplit(server.rest_url)
        assert url.hostname
        assert url.port
        self.address = (url.hostname, url.port)
        self.process = psutil.Process(server.pid)
        self._healthy = http.client.HTTPConnection(*self.address, timeout=DEADLINE)
        self._count = 0
        self.check_healthy()

    def check_healthy(self) -> None:
        """Ask on the one connection that stays open, with other numbers each time."""
        self._count += 1
        given = [1.0, float(self._count)]
        self._healthy.request("POST", PATH, json.dumps({"instances": given}))
        response = self._healthy.getresponse()
        assert response.status == 200
        assert json.loads(response.read()) == {"predictions": [x / 2 + 2 for x in given]}

    def attack(self, stream: bytes, cuts: list[int]) -> bytes:
        """Send a stream in pieces, close our side, and return what comes until the server has closed its own."""
        places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
        received = b""
        with closing(socket.create_connection(self.address, timeout=DEADLINE)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for start, stop in itertools.pairwise(places):
                    sock.sendall(stream[start:stop])
                self.check_healthy()
                sock.shutdown(socket.SHUT_WR)
                while part := sock.recv(65536):  # TimeoutError: it hangs
                    received += part
            except (ConnectionResetError, BrokenPipeError):
                pass  # it hung up on a stream that goes on
            except OSError as error:
                if error.errno != 107:  # ENOTCONN: as above, seen by `shutdown`
                    raise
        check_answers(received)
        return received

    def fds(self) -> set[tuple[str, str]]:
        """What the server has open, by number and what it is; buffers that it keeps for batches left out."""
        found = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                what = str(entry.readlink())
                if "memfd:serving-lane" not in what:
                    found.add((entry.name, what))
        return found

    def close(self) -> None:
        self._healthy.close()


_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n((?:[A-Za-z-]+: [^\r\n]*\r\n)*)\r\n")
_LENGTH = re.compile(rb"(?m)^Content-Length: (\d+)\r$")


def check_answers(received: bytes) -> None:
    """Require well-formed answers, of which the last may be cut, and a server that never says it failed."""
    at = 0
    while at < len(received):
        head = _HEAD.match(received, at)
        assert head is not None, received[at : at + 400]
        assert head[1] not in {b"500", b"502"}, received[at : at + 400]
        at = head.end()
        length = _LENGTH.search(head[2])
        size = int(length[1]) if length is not None else 0
        if size and received[at : at + 9] == b"HTTP/1.1 ":
            continue  # of HEAD
        at += size


@pytest.fixture
def server(shared_server: SharedServer) -> Iterator[Server]:
    """The shared server; what it holds afterwards is what it held before, but for a bounded rest."""
    server = Server(shared_server)
    server.attack(b"GET / HTTP/1.1\r\n\r\n", [])
    fds, memory = server.fds(), tree_pss(server.process.pid)
    try:
        yield server
        wait_until(
            lambda: len(server.fds()) <= len(fds), what=lambda: f"the server to close {sorted(server.fds() - fds)}"
        )
        assert tree_pss(server.process.pid) - memory < KEPT
        server.check_healthy()
    finally:
        server.close()


# --- streams of requests, mostly right ----------------------------------------------------------------------------

numbers = st.lists(st.sampled_from([1.0, 2, -3, 1e300, 0.1]), max_size=5)
json_bodies = st.one_of(
    numbers.map(lambda n: json.dumps({"instances": n}).encode()),
    numbers.map(lambda n: json.dumps({"inputs": n}).encode()),
    numbers.map(lambda n: json.dumps({"inputs": {"x": n}}).encode()),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=8,
    ).map(lambda value: json.dumps({"instances": value}).encode()),
    st.sampled_from([b"", b"{", b'{"instances": [', b"[" * 3000, b'{"inputs": [1' + b"e" * 300, b"\xff", b"null"]),
    st.binary(max_size=100),
)
targets = st.sampled_from(
    [
        *[PATH, PATH, PATH, "/v1/models/half_plus_two", "/v1/models/half_plus_two/metadata", "/v1/models/none"],
        *["/v1/models/half_plus_two:predict", "/v1/models/half_plus_two/versions/99999999999999999999:predict"],
        *["/", "*", "/v1/models/%00:predict", "http://elsewhere/v1/models/half_plus_two", "/" + "x" * 3000],
        *[
            "/v1/models/half_plus_two:classify",
            "/v1/models/half_plus_two/labels/stable:predict",
            "/%ff%fe?" + "a=b&" * 40,
        ],
    ]
)
methods = st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "PRI", "post"])
extra_fields = st.lists(
    st.sampled_from(
        [
            *["Expect: 100-continue", "Expect: tea", "Connection: close", "Connection: keep-alive", "Connection: ,,x"],
            *["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "Content-Encoding: gzip", "Content-Encoding: br"],
            *["Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding: chunked, chunked"],
            *[
                "Transfer-Encoding : chunked",
                "Transfer-Encoding:\x0bchunked",
                "Content-Length: 3",
                "Content-Length: -1",
            ],
            *[
                "Content-Length: -1",
                "Content-Length: 3, 3",
                "Content-Length: 0x3",
                "Content-Length: 99999999999999999999",
                ": x",
            ],
            *["X: " + "y" * 300, "X: " + "y" * 70_000, "Y" * 400 + ": 1", "X: a\r\n folded", "X: \xff", "X: \0", "X"],
            *["X: a\rY: b", "X: a\nContent-Length: 2", "Accept-Encoding: gzip", "Origin: http://x", "Trailer: X"],
        ]
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request; its body goes by a length, in chunks or packed, and sometimes the head says otherwise."""
    body = draw(json_bodies)
    fields = ["Host: localhost", *draw(extra_fields)]
    how = draw(st.sampled_from(["length", "length", "length", "chunked", "gzip", "bomb", "wrong", "none"]))
    if how in {"gzip", "bomb"}:
        fields.append("Content-Encoding: gzip")
        body = gzip.compress(bytes(2_000_000) if how == "bomb" else body, mtime=0)
    if how == "chunked":
        fields.append("Transfer-Encoding: chunked")
        size = draw(st.integers(1, 40))
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        extension = draw(st.sampled_from([b"", b"", b";a=b", b" ", b";" + b"x" * 500]))
        last = draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"-1\r\n", b"f" * 17 + b"\r\n"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + last
    elif how != "none":
        wrong = draw(st.integers(0, 2000)) if how == "wrong" else len(body)
        fields.append(f"Content-Length: {wrong}")
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.12", ""]))
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    head = end.join([f"{draw(methods)} {draw(targets)} {version}", *fields, "", ""])
    return head.encode("latin-1") + body


streams = st.lists(requests(), min_size=1, max_size=5).map(b"".join)
cuts = st.lists(st.integers(0, 20_000), max_size=4)

SMUGGLED = (
    f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    "0\r\n\r\nGET /v1/models/half_plus_two HTTP/1.1\r\nHost: h\r\n\r\n"
).encode()


@BOUNDED
@given(stream=streams, where=cuts)
@example(stream=SMUGGLED, where=[])
def test_generated_requests(server: Server, stream: bytes, where: list[int]) -> None:
    received = server.attack(stream, where)
    if stream is SMUGGLED:
        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1 ") == 1


@BOUNDED
@given(stream=streams, seed=st.integers(0, 2**32 - 1), count=st.integers(1, 8), where=cuts)
def test_damaged_requests(server: Server, stream: bytes, seed: int, count: int, where: list[int]) -> None:
    damaged = bytearray(stream)
    chance = random.Random(seed)
    for _ in range(count):
        place = chance.randrange(len(damaged) + 1)
        new = chance.choice(
            [chance.randbytes(chance.randrange(6)), b"\r\n", b"\r", b"\n", b"\0", b":", b"0\r\n\r\n", b" "]
        )
        damaged[place : place + chance.choice([0, 0, 1, 20])] = new
    server.attack(bytes(damaged), where)


@BOUNDED
@given(stream=st.one_of(st.binary(max_size=300), st.sampled_from([take_steps(s, 1)[1] for s in SEEDS])), where=cuts)
def test_rubbish(server: Server, stream: bytes, where: list[int]) -> None:
    server.attack(stream, where)
