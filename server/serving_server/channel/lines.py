"""Rare messages between our own processes: JSON lines on a stream socket, with descriptors when needed.

Used by the front towards the forkserver and towards each worker's main thread (loading, ending). Batches never come
this way.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = ["BlockingLines", "LineChannel"]

_CHUNK: Final = 1 << 16
_MAX_FDS: Final = 250  # the kernel passes at most 253 in one message (SCM_MAX_FD)

Message = dict[str, Any]


class LineChannel:
    """The asyncio end. All calls on the loop that made it.

    Parameters
    ----------
    sock : socket.socket
        One end of a stream socket pair; owned from now on.
    on_message : callable
        Gets each decoded message.
    on_closed : callable
        Called once when the other side is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._outgoing: deque[tuple[bytes, Sequence[int]]] = deque()
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message; descriptors must stay open until it is gone (they are sent at once unless the pipe is full).

        After the other side is gone this does nothing: `on_closed` has told.
        """
        if self._closed:
            return
        if len(fds) > _MAX_FDS:
            msg = f"{len(fds)} descriptors do not fit into one message"
            raise ValueError(msg)
        # The count travels too: the kernel may hand over one message's bytes together with the next one's descriptors.
        self._outgoing.append((json.dumps({**message, "fds": len(fds)}).encode() + b"\n", fds))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self._gone()
                return
            if sent < len(data):
                self._outgoing[0] = (data[sent:], ())
                continue
            self._outgoing.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        self._incoming += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming = bytearray(rest)
        for line in lines:
            self._on_message(json.loads(line))

    def _gone(self) -> None:
        if not self._closed:
            self.close()
            self._on_closed()

    def close(self) -> None:
        """Close our end. Idempotent; does not call `on_closed`."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()


class BlockingLines:
    """The blocking end, for processes without a loop; one thread reads, any may send short messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming = b""
        self._fds: list[int] = []

    def send(self, message: Message) -> None:
        """Send one message."""
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors; None when the other side is gone."""
        while b"\n" not in self._incoming:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, _CHUNK, _MAX_FDS)
            except ConnectionError:
                return None
            if not data:
                return None
            self._incoming += data
            self._fds += fds
        line, self._incoming = self._incoming.split(b"\n", 1)
        message = json.loads(line)
        count = message["fds"]
        fds, self._fds = self._fds[:count], self._fds[count:]
        return message, fds

    def pending(self) -> bool:
        """Whether a whole message is waiting in our own buffer."""
        return b"\n" in self._incoming
