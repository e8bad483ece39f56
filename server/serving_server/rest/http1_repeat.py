"""Requests whose head repeats: most clients send the same bytes again, but for the length of the body.

A head that the parser has read once need not be parsed again when the very same bytes come; all that may differ is the
number in Content-Length. This costs a tenth of parsing a handful of header fields.
"""

from __future__ import annotations

import re
from typing import Final, Self

from serving_server.rest.http1_messages import Request

__all__ = ["RepeatedHead"]

#: Longer heads are parsed each time; the bytes are kept per connection.
_MAX_HEAD: Final = 4096
#: More digits than any body that we take has.
_MAX_DIGITS: Final = 10
#: Fields that change how the rest of the message is read.
_FRAMING: Final = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "trailer"})
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)


class RepeatedHead:
    """The head of a request that was read by the parser, and answered without closing the connection.

    Attributes
    ----------
    connection : bytes
        Value of the answer's Connection header, or empty.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_digits",
        "_headers",
        "_last",
        "_last_body",
        "_last_end",
        "_last_headers",
        "_method",
        "_target",
        "connection",
    )

    def __init__(self, before: bytes, digits: bytes | None, behind: bytes, request: Request, connection: bytes) -> None:
        self._before = before  # up to the number of Content-Length, or all of it
        self._digits = digits
        self._behind = behind
        self._method = request.method
        self._target = request.target
        self._headers = request.headers
        self.connection = connection
        # The whole head as it came last: a client whose bodies are of one length sends just this again.
        self._last = before if digits is None else before + digits + behind
        self._last_body = len(self._last)
        self._last_end = self._last_body + (0 if digits is None else int(digits))
        self._last_headers = request.headers

    @classmethod
    def learn(cls, data: bytes, request: Request, connection: bytes) -> Self | None:
        """Return the head of a request, or None when it is not safe to go without the parser next time.

        Parameters
        ----------
        data : bytes
            From which the parser has read this one request, and nothing is left over.
        request : Request
        connection : bytes
            Kept for the answer.
        """
        headers = request.headers
        size = len(data) - len(request.body)
        if size > _MAX_HEAD or request.repeated is not None or not _FRAMING.isdisjoint(headers):
            return None
        # What lies in front of the body is the head and nothing else: it has one blank line, at its end, and the parser
        # has not been lenient about line ends. Blank lines before the request or after the body end up here.
        if data.find(b"\r\n\r\n", 0, size) != size - 4 or data.count(b"\n", 0, size) != data.count(b"\r\n", 0, size):
            return None
        head = data[:size]
        length = headers.get("content-length")
        if length is None:
            return None if request.body else cls(head, None, b"", request, connection)
        found = _LENGTH.search(head)
        if found is None or int(found[1]) != len(request.body):
            return None
        return cls(head[: found.start(1)], found[1], head[found.end(1) :], request, connection)

    def only(self, data: bytes, max_body: int) -> Request | None:
        """Return the request that `data` is from its first byte to its last; None unless its head is this one."""
        if len(data) == self._last_end and data.startswith(self._last):
            return Request(self._method, self._target, self._last_headers, data[self._last_body :])
        found = self.match(data, 0, max_body)
        if found is None or found[1] != len(data):
            return None
        request = found[0]
        self._last_headers = request.headers
        self._last_end = len(data)
        self._last_body = len(data) - len(request.body)
        self._last = data[: self._last_body]
        return request

    def match(self, data: bytes, at: int, max_body: int) -> tuple[Request, int] | None:
        """Return the whole request that begins at `at` and the offset behind it; None unless its head is this one."""
        before = self._before
        if not data.startswith(before, at):
            return None
        at += len(before)
        digits = self._digits
        if digits is None:
            return Request(self._method, self._target, self._headers, b""), at
        end = data.find(b"\r", at, at + _MAX_DIGITS + 1)
        number = data[at:end]
        if end < 0 or not number.isdigit() or not data.startswith(self._behind, end):
            return None
        size = int(number)
        start = end + len(self._behind)
        stop = start + size
        if stop > len(data) or size > max_body:
            return None
        headers = self._headers
        if number != digits:
            headers = {**headers, "content-length": number.decode("ascii")}
        return Request(self._method, self._target, headers, data[start:stop]), stop
