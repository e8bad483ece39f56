"""One HTTP/1.1 connection: bytes to requests, answers to bytes, in order, within the limits.

Everything happens in callbacks of the event loop: a request costs no task, future or timer. Requests queue as slots in
the order they came; an answer leaves when all slots before it have left, and neighbours leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from serving_server.rest.http1_messages import CONTINUE, Limits, Request, Response, encode_response
from serving_server.rest.http1_reader import RequestReader
from serving_server.rest.json_out import encode_error

__all__ = ["Connection", "Handler", "Owner"]

logger = logging.getLogger(__name__)

#: Called once for each request; it answers through its second argument, at once or later, exactly once. What it returns
#: is called when the client goes away first.
Handler = Callable[[Request, Callable[[Response], None]], Callable[[], None] | None]

#: Up to here head and body are copied into one buffer; larger bodies are handed to the transport as they are.
_JOIN_BYTES = 64 * 1024
#: With more than this in answers that wait for their turn, no further request of the connection is started.
_READY_BYTES = 256 * 1024


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    stopping: bool

    def arrived(self, connection: Connection) -> None:
        """Take note of a new connection."""

    def left(self, connection: Connection) -> None:
        """Forget a connection that is gone."""

    def send_soon(self, connection: Connection) -> None:
        """Call `Connection.send_answer` at the end of this turn of the loop."""

    def now(self) -> float:
        """Return the loop's time in seconds."""


class _Slot:
    """One request and, once there is one, its answer."""

    __slots__ = ("answered", "cancel", "connection", "head_only", "keep_alive", "owner", "request", "wire")

    def __init__(self, owner: Connection, request: Request | None, keep_alive: bool, connection: bytes) -> None:
        self.owner = owner
        self.request = request
        self.head_only = request is not None and request.method == "HEAD"
        self.keep_alive = keep_alive
        self.connection = connection
        self.answered = False
        self.wire: tuple[bytes, bytes] | None = None
        self.cancel: Callable[[], None] | None = None

    def answer(self, response: Response) -> None:
        """Take the handler's answer; after a disconnect it is dropped."""
        if self.answered:
            raise RuntimeError(f"request answered twice, the second time with status {response.status}")
        self.answered = True
        self.cancel = self.request = None
        if not self.owner.lost:
            self.owner.finish(self, response)


class Connection(asyncio.Protocol):
    """Protocol of one client; see `Limits` for what bounds it.

    A client that closes its side while requests run counts as gone: they are cancelled and the connection is dropped.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._reader = RequestReader(owner.limits)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._slots: deque[_Slot] = deque()  # in order of arrival: running, answered, waiting
        self._waiting: deque[_Slot] = deque()  # the tail of them that no handler has seen yet
        self.lost = False
        self._lingering = False
        self._read_paused = False
        self._write_paused = False
        self._unsent = 0
        self._ready_bytes = 0  # of answers that wait for their turn
        self._busy = False  # inside _pump, which sends what is answered meanwhile
        self._answer = b""  # the last one, about to be sent
        self._due = False  # others are
        self._deadline = math.inf
        self._now = owner.now
        self._idle_timeout = owner.limits.idle_timeout
        self._may_pipeline = owner.limits.max_pipelined > 1

    # --- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.arrived(self)
        self._deadline = self._now() + self._limits.idle_timeout

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._owner.left(self)
        self._reader.close()
        slots, self._slots = self._slots, deque()
        self._waiting.clear()
        for slot in slots:
            if slot.cancel is not None:
                try:
                    slot.cancel()
                except Exception:
                    logger.exception("Cancelling a request of a client that went away failed")

    def eof_received(self) -> bool:
        self.send_answer(self._now())
        return False  # closes the transport, hence connection_lost: see the class

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._deadline = self._now() + self._limits.send_timeout
        self._pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader.ended:
            return  # the rest of a refused request, or bytes behind the last one
        if self._answer:
            self.send_answer(self._now())
        quiet = self._may_pipeline and not (self._slots or self._write_paused)
        if quiet:
            found = reader.read_only(data)
            if found is not None:
                self._start_only(_Slot(self, found[0], True, found[1]))
                return
        begun = reader.begun
        reader.feed(data)
        complete = reader.complete
        if quiet and len(complete) == 1 and not reader.receiving and reader.refusal is None:
            incoming = complete.pop()
            self._start_only(_Slot(self, incoming.request, incoming.keep_alive, incoming.connection))
            return
        self._take()
        if reader.receiving and reader.begun != begun:
            self._deadline = self._now() + self._limits.receive_timeout
        self._pump()

    # --- requests and answers

    def _start_only(self, slot: _Slot) -> None:
        """Start the one request of a quiet connection, the usual case: `_take` and `_pump` for just this."""
        self._slots.append(slot)
        self._deadline = math.inf
        self._start(slot)  # an answer at once finds nothing else to be done, so it goes the way of a later one

    def _take(self) -> None:
        """Queue what the reader has read."""
        reader = self._reader
        for incoming in reader.complete:
            slot = _Slot(self, incoming.request, incoming.keep_alive, incoming.connection)
            self._slots.append(slot)
            self._waiting.append(slot)
        reader.complete.clear()
        if reader.refusal is not None:
            # Answered in turn, behind the requests that came before.
            slot = _Slot(self, None, False, b"close")
            slot.answered = True
            response = Response(reader.refusal.status, encode_error(reader.refusal.message))
            slot.wire = encode_response(response, head_only=False, connection=b"close")
            self._ready_bytes += sum(map(len, slot.wire))
            self._slots.append(slot)
            self._lingering = True

    def finish(self, slot: _Slot, response: Response) -> None:
        """Encode the answer of `slot` and send what is next in turn."""
        if self._owner.stopping and slot is self._slots[-1] and not self._reader.receiving:
            slot.keep_alive, slot.connection = False, b"close"
            self._reader.ended = True
        wire = encode_response(response, head_only=slot.head_only, connection=slot.connection)
        slots = self._slots
        if (
            len(slots) == 1
            and slot.keep_alive
            and not wire[1]
            and not (self._busy or self._read_paused or self._write_paused or self._lingering or self._reader.receiving)
        ):
            # The usual case: nothing else is on its way; what follows is `_pump` for just this.
            slots.clear()
            self._answer = wire[0]
            self._owner.send_soon(self)
            return
        slot.wire = wire
        self._ready_bytes += len(wire[0]) + len(wire[1])
        if not (self._busy or self._due):
            # Not at once either: the stamp of an answer that was written comes before the client has it.
            self._due = True
            self._owner.send_soon(self)

    def send_answer(self, now: float) -> None:
        """Send what `finish` has left to be sent.

        Parameters
        ----------
        now : float
            The loop's time in seconds.
        """
        answer = self._answer
        if answer:
            self._answer = b""
            transport = self._transport
            if not (self.lost or transport.is_closing()):
                transport.write(answer)
                if not self._write_paused:
                    self._deadline = now + self._idle_timeout
        elif self._due:
            self._due = False
            self._pump()

    def _pump(self) -> None:
        """Start what may run, send what is ready, and settle what to read and to wait for."""
        if self._busy or self.lost:
            return
        self._busy = True
        try:
            while self._start_waiting() or self._send_ready():
                pass
        finally:
            self._busy = False
        if not self._transport.is_closing():
            self._settle()

    def _start_waiting(self) -> bool:
        started = False
        waiting = self._waiting
        while waiting and not self._write_paused:
            if len(self._slots) - len(waiting) >= self._limits.max_pipelined or self._ready_bytes > _READY_BYTES:
                break
            started = True
            self._start(waiting.popleft())
        return started

    def _start(self, slot: _Slot) -> None:
        request = slot.request
        assert request is not None
        try:
            cancel = self._owner.handler(request, slot.answer)
        except Exception:
            logger.exception("Handling %s %s failed", request.method, request.target)
            if not slot.answered:
                slot.answer(Response(500, encode_error("The server failed to handle the request.")))
        else:
            if not slot.answered:
                slot.cancel = cancel

    def _send_ready(self) -> bool:
        """Write the answers whose turn it is; whether there were any."""
        slots = self._slots
        pieces: list[bytes] = []
        last = False
        while slots and slots[0].wire is not None and not last:
            slot = slots.popleft()
            pieces += cast("tuple[bytes, bytes]", slot.wire)
            last = not slot.keep_alive
        if not pieces or self._transport.is_closing():
            return False
        size = sum(map(len, pieces))
        self._ready_bytes -= size
        if size <= _JOIN_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            # Not `writelines`: in asyncio of Python 3.12 to 3.13.0 it never pauses the protocol, so an answer to a
            # reader that has stopped would stay in memory for ever.
            for piece in pieces:
                if piece:
                    self._transport.write(piece)
        if last:
            self._end()
        return True

    def _end(self) -> None:
        """Close after the last answer, which is on its way."""
        self._reader.ended = True
        if self._lingering and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._lingering = False
            self._transport.close()

    def _settle(self) -> None:
        now = self._now()
        if self._lingering and not self._slots:
            self._resume_reading()  # and discard, so that the client can finish sending and read its answer
            self._deadline = now + self._limits.linger_timeout
            return
        if self._write_paused:
            return
        if self._waiting or self._has_enough():
            self._pause_reading()
            return
        if self._read_paused:
            self._resume_reading()
            if self._reader.receiving:
                self._deadline = now + self._limits.receive_timeout
        if self._reader.continue_due and not self._slots:
            self._reader.continue_due = False
            self._transport.write(CONTINUE)
        if not self._reader.receiving:
            if self._slots:
                self._deadline = math.inf
            elif self._owner.stopping:
                self._transport.close()
            else:
                self._deadline = now + self._limits.idle_timeout

    def _has_enough(self) -> bool:
        slots, limits = self._slots, self._limits
        if len(slots) >= limits.max_pipelined:
            return True
        bodies = sum(len(slot.request.body) for slot in slots if slot.request is not None) if slots else 0
        return bodies > limits.max_pipelined_bytes

    def _pause_reading(self) -> None:
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # --- the server's side

    def check_time(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now < self._deadline or self.lost:
            return
        if self._write_paused:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent = unsent
                self._deadline = now + self._limits.send_timeout
            else:
                self._transport.abort()
        elif self._reader.receiving and not self._read_paused:
            self._reader.refuse(408, f"The request did not arrive within {self._limits.receive_timeout:g} s.")
            self._take()
            self._pump()
        elif not self._slots:
            if self._lingering:
                self._transport.abort()
            else:
                self._transport.close()

    def drain(self) -> None:
        """Close now if no request runs or arrives, else after the last answer; the server is stopping."""
        self.send_answer(self._now())
        if not self._slots and not self._reader.receiving and not self._lingering:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection and whatever runs on it."""
        self._transport.abort()
