"""From bytes to complete HTTP/1.1 requests, within limits; what cannot be read becomes a refusal."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Final

import httptools

from serving_server.rest.http1_messages import Limits, Request, gunzip
from serving_server.rest.http1_repeat import RepeatedHead

__all__ = ["Incoming", "Refusal", "RequestReader"]

logger = logging.getLogger(__name__)

#: Between the values of a header that comes more than once (RFC 9110 section 5.2).
_JOINED: Final = ", "


@dataclasses.dataclass(slots=True)
class Incoming:
    """A complete request, and what the connection does after its answer."""

    request: Request
    keep_alive: bool
    connection: bytes  # value of the answer's Connection header, or empty


class Refusal(Exception):  # noqa: N818 - carries an answer out of the parser's callbacks
    """Why nothing more can be read from this client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RequestReader:
    """Parses the bytes of one connection.

    Attributes
    ----------
    complete : list of Incoming
        Requests read and not yet taken by the owner.
    refusal : Refusal or None
        Set once, behind the requests in `complete`; everything after it is ignored.
    ended : bool
        No further request will come: the client asked to close, or was refused.
    receiving : bool
        A request has begun and is not complete.
    continue_due : bool
        The client waits for ``100 Continue`` before it sends the body.
    begun : int
        Number of requests that have begun.
    """

    def __init__(self, limits: Limits) -> None:
        self.complete: list[Incoming] = []
        self.refusal: Refusal | None = None
        self.ended = False
        self.receiving = False
        self.continue_due = False
        self.begun = 0
        self._limits = limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._idle_bytes = 0  # fed without any progress: an endless header, trailer or blank line
        self._repeated: RepeatedHead | None = None
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._first: dict[str, str] | None = None  # of headers that came more than once
        self._head_bytes = 0
        self._head_done = False
        self._parts: list[bytes] = []
        self._body_bytes = 0

    def read_only(self, data: bytes) -> tuple[Request, bytes] | None:
        """Read `data` if it is exactly one request whose head has come before, and nothing else is under way.

        Returns
        -------
        request, connection
            The latter is the value of the answer's Connection header, or empty; the connection is kept. None when
            `feed` must look at the data: nothing has been read.
        """
        head = self._repeated
        if head is None or self.receiving or self._idle_bytes or self.complete:
            return None
        request = head.only(data, self._limits.max_body_bytes)
        if request is None:
            return None
        self.begun += 1
        return request, head.connection

    def feed(self, data: bytes) -> None:
        """Parse what came; never raises."""
        if self.ended:
            return
        fresh = not self.receiving and not self._idle_bytes  # the parser stands between two requests
        if fresh and self._repeated is not None:
            data = self._read_repeated(self._repeated, data)
            if not data:
                return
        self._idle_bytes += len(data)
        self._feed(data)
        if self._idle_bytes > self._limits.max_header_bytes and not self.ended:
            self.refuse(431, self._header_limit())
        elif fresh and len(self.complete) == 1 and not self.receiving and not self.ended:
            incoming = self.complete[0]
            self._repeated = RepeatedHead.learn(data, incoming.request, incoming.connection) or self._repeated

    def _read_repeated(self, head: RepeatedHead, data: bytes) -> bytes:
        """Read what needs no parser: whole requests whose head is that of an earlier one. Return the rest."""
        at = 0
        while (found := head.match(data, at, self._limits.max_body_bytes)) is not None:
            request, at = found
            self.begun += 1
            self.complete.append(Incoming(request, True, head.connection))
            if at == len(data):
                return b""
        return data[at:] if at else data

    def close(self) -> None:
        """Let go of the parser: it and this object hold each other, and the collector may be switched off."""
        self.ended = True
        self.receiving = False
        self._parser = self._repeated = None
        self._reset()

    def refuse(self, status: int, message: str) -> None:
        """Read nothing more."""
        self.refusal = Refusal(status, message)
        self.ended = True
        self.receiving = self.continue_due = False

    def _feed(self, data: bytes) -> None:
        rest: bytes | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            if not self.ended:
                if isinstance(error.__context__, Refusal):
                    self.refuse(error.__context__.status, error.__context__.message)
                else:
                    logger.error("Reading a request failed", exc_info=error.__context__)
                    self.refuse(500, "The server failed to read the request.")
        except httptools.HttpParserError as error:
            if not self.ended:
                self.refuse(400, f"Malformed HTTP request: {error}")
        if rest is not None:
            # Not in the handler above: there, an error of what follows would have the upgrade as its context.
            self._ignore_upgrade(rest)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Go on with a request that asked for another protocol (h2c, websocket) as if it had not."""
        if self.ended:
            return
        if self._parser.get_method() == b"CONNECT":
            self.refuse(400, "CONNECT is not supported: this server is no proxy.")
            return
        # llhttp stops in front of the body; a parser that never saw the Upgrade header reads it.
        headers = {k: v for k, v in self._headers.items() if k not in {"upgrade", "connection", "http2-settings"}}
        first = self._first or {}
        lines = []
        for name, value in headers.items():
            if name in first:
                lines.append(f"{name}: {first[name]}\r\n")
                value = value[len(first[name]) + len(_JOINED) :]
            lines.append(f"{name}: {value}\r\n")
        start = self._parser.get_method() + b" " + self._url + b" HTTP/1.1\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._feed(start + "".join(lines).encode("latin-1") + b"\r\n" + rest)

    # --- parser callbacks

    def on_message_begin(self) -> None:
        self._reset()
        self.receiving = True
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if self._head_done:
            return  # a trailer
        key = name.lower().decode("latin-1")
        text = value.decode("latin-1").strip(" \t")  # the parser leaves a tab behind the value
        earlier = self._headers.get(key)
        if earlier is None:
            self._headers[key] = text
            return
        self._headers[key] = earlier + _JOINED + text
        if self._first is None:
            self._first = {}
        self._first.setdefault(key, earlier)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_header_bytes:
            raise Refusal(431, self._header_limit())

    def _header_limit(self) -> str:
        return f"Request line and headers are larger than {self._limits.max_header_bytes} bytes."

    def on_headers_complete(self) -> None:
        self._head_done = True
        self._idle_bytes = self._head_bytes = 0
        length = self._headers.get("content-length")
        if length is not None and int(length) > self._limits.max_body_bytes:
            raise Refusal(413, self._body_limit())
        expect = self._headers.get("expect")
        if expect is not None and self._parser.get_http_version() == "1.1":
            if expect.lower() != "100-continue":
                raise Refusal(417, f"Unknown expectation: {expect}")
            self.continue_due = True

    def on_body(self, part: bytes) -> None:
        self._idle_bytes = 0
        self.continue_due = False  # it did not wait
        self._body_bytes += len(part)
        if self._body_bytes > self._limits.max_body_bytes:
            raise Refusal(413, self._body_limit())
        self._parts.append(part)

    def _body_limit(self) -> str:
        return f"The request body is larger than {self._limits.max_body_bytes} bytes."

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return  # see _ignore_upgrade
        self._idle_bytes = 0
        self.receiving = self.continue_due = False
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        headers = self._headers
        if body and "gzip" in headers.get("content-encoding", ""):
            body = gunzip(body, self._limits.max_unpacked_bytes)
        method = parser.get_method().decode("ascii")
        request = Request(method, self._url.decode("latin-1"), headers, body, self._first)
        keep_alive = parser.should_keep_alive()
        connection = b"keep-alive" if "connection" in headers else b""  # HTTP/1.0 clients need to read it
        self.complete.append(Incoming(request, keep_alive, connection if keep_alive else b"close"))
        self.ended = not keep_alive
        self._parts = []
