"""The front's end of a lane: hands one batch at a time to a thread of the worker, and hears the answer on the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.packets import MAX_PACKET, Answer, TensorPlace, pack_define, pack_run, unpack_answer

__all__ = ["FrontLane"]

#: Room in the socket for one definition and one batch, whatever their size.
_SOCKET_BUFFER: Final = 2 * MAX_PACKET

# Whole packets, in order, and an end of file: SOCK_SEQPACKET. macOS has it not for unix sockets; there datagrams on a
# connected pair keep packets whole too.
_SOCKET_TYPE: Final = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)


class FrontLane:
    """One lane. Made before its worker; all calls on the loop.

    Attributes
    ----------
    requests : SharedBuffer
        Write a batch here while the lane is free.
    responses : SharedBuffer
        Read an answer's tensors here, inside the callback only.
    on_answer : callable
        Called with the lane and each answer.
    on_closed : callable
        Called once when the worker's end is gone.
    """

    def __init__(self, on_answer: Callable[[FrontLane, Answer], None], on_closed: Callable[[FrontLane], None]) -> None:
        self.requests = SharedBuffer()
        self.responses = SharedBuffer()
        self._on_answer = on_answer
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._defined: set[int] = set()
        self._sock, self._theirs = _packet_pair()
        self._open = True
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def worker_fds(self) -> list[int]:
        """Return the descriptors that the worker must get, in its order."""
        return [self._theirs.fileno(), self.requests.fd, self.responses.fd]

    def handed_over(self) -> None:
        """Close the worker's end on our side once the worker has it: only then does its end show as an end of file."""
        self._theirs.close()

    def run(self, callable_id: int, names: tuple[Sequence[str], Sequence[str]], places: Sequence[TensorPlace]) -> None:
        """Run the batch that lies in `requests`.

        Parameters
        ----------
        callable_id : int
        names : (feeds, fetches)
            Tensor names; sent once per lane and id.
        places : sequence of TensorPlace
            In feed order.

        Raises
        ------
        ValueError
            When the description does not fit into a packet.
        OSError
            When the worker's end is gone; `on_closed` follows or was called.
        """
        if callable_id not in self._defined:
            self._sock.send(pack_define(callable_id, *names))
            self._defined.add(callable_id)
        self._sock.send(pack_run(callable_id, places))

    def _readable(self) -> None:
        try:
            packet = self._sock.recv(MAX_PACKET)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            packet = b""
        if packet:
            self._on_answer(self, unpack_answer(packet))
        else:
            self.close()
            self._on_closed(self)

    def close(self) -> None:
        """Close our end and the buffers. Idempotent; does not call `on_closed`."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._theirs.close()
            self.requests.close()
            self.responses.close()


def _packet_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, _SOCKET_TYPE)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    ours.setblocking(False)
    return ours, theirs
