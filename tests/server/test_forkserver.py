"""The front's side of the forkserver: what it makes of the messages, without a process."""

from __future__ import annotations

import asyncio
from typing import Any

from serving_server.forkserver.client import ForkServer


class _Lines:
    """Stand in for the channel: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], fds: object) -> None:
        self.sent.append(message)


def _started(monkeypatch: Any) -> tuple[ForkServer, _Lines]:
    server, lines = ForkServer(), _Lines()
    monkeypatch.setattr(server, "_lines", lines)
    return server, lines


async def _forked(server: ForkServer, lines: _Lines, pid: int) -> int:
    request = asyncio.create_task(server.fork({}, []))
    await asyncio.sleep(0)
    server._on_message({"event": "forked", "id": lines.sent[-1]["id"], "pid": pid})
    return await request


async def test_an_end_before_anyone_asks_is_told_when_someone_does(monkeypatch: Any) -> None:
    server, lines = _started(monkeypatch)
    assert await _forked(server, lines, 7) == 7
    server._on_message({"event": "exit", "pid": 7, "status": 9})
    reasons: list[str] = []
    server.on_exit(7, reasons.append)
    assert reasons == ["killed by signal 9 (SIGKILL) (the system may have run out of memory)"]


async def test_the_end_of_a_cancelled_worker_is_not_told_of_another_with_its_pid(monkeypatch: Any) -> None:
    server, lines = _started(monkeypatch)
    request = asyncio.create_task(server.fork({}, []))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    server._on_message({"event": "forked", "id": lines.sent[-1]["id"], "pid": 7})
    server._on_message({"event": "exit", "pid": 7, "status": 0})
    assert await _forked(server, lines, 7) == 7
    reasons: list[str] = []
    server.on_exit(7, reasons.append)
    assert reasons == []
