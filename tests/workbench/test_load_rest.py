"""Load tests over REST against a server that closes its connections now and then, or answers nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest

import serving_workbench as sw

_SPEC = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}], "unknown_rank": False}, "name": "x:0"}
_SIGNATURE = {"inputs": {"x": _SPEC}, "outputs": {"y": _SPEC}, "method_name": "tensorflow/serving/predict"}
METADATA = {"metadata": {"signature_def": {"signature_def": {"serving_default": _SIGNATURE}}}}


class RestStub:
    """Answers in a thread; `requests` are the bodies that came.

    Parameters
    ----------
    per_connection : int
        Requests after which a connection is closed.
    answer : bytes
        What each gets, head and body.
    """

    def __init__(self, per_connection: int = 10**9, answer: bytes = b"") -> None:
        self.requests: list[Any] = []
        self.connections = 0
        self.address = ""
        self._per_connection = per_connection
        self._answer = answer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in range(1, self._per_connection + 1):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                data = await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith("GET"):
                    body = json.dumps(METADATA).encode()
                else:
                    self.requests.append(json.loads(data))
                    body = b'{"predictions": [1.0]}'
                last = "Connection: close\r\n" if number == self._per_connection else ""
                answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{last}\r\n".encode() + body
                writer.write(self._answer if self._answer and data else answer)
                await writer.drain()


@pytest.fixture
def stub() -> Iterator[RestStub]:
    with RestStub(per_connection=20) as found:
        yield found


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"rate": 300}])
def test_connections_that_the_server_closes_are_replaced(stub: RestStub, load: dict[str, Any]) -> None:
    result = sw.loadtest(
        stub.address, model="m", data=[1.0, 2.0], protocol="rest", seconds=1, progress=False, connections=3, **load
    )
    assert result.complete
    assert set(result.summary.statuses) == {"OK"}
    assert stub.connections >= len(stub.requests) / 20
    assert {json.dumps(each) for each in stub.requests} == {'{"instances": [1.0]}', '{"instances": [2.0]}'}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", "UNKNOWN: HTTP 503: full"),
        (b"what?\r\n\r\n", "INTERNAL: not HTTP"),
    ],
)
def test_a_first_answer_that_is_none(answer: bytes, text: str) -> None:
    with RestStub(answer=answer) as stub, pytest.raises(sw.LoadError) as error:
        sw.loadtest(stub.address, model="m", rate=10, protocol="rest", progress=False)
    assert text in str(error.value)
