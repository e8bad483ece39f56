"""``<base_url>serving/<instance>/v1/...``: the REST API of a serving process for clients that have Jupyter's token.

Narrow on purpose. The target is the REST port of an instance that the supervisor believes, never an address that a
client names; only the headers listed here travel, in either direction, so that no cookie, token or header of a hub
reaches the serving process, and nothing it says can set a cookie or send a browser elsewhere. Bodies stream both ways.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.auth.utils import HTTP_METHOD_TO_AUTH_ACTION
from tornado import web
from tornado.iostream import StreamClosedError

from serving_jupyter.extension.answers import RefusedError, ServingHandler, refusals
from serving_jupyter.extension.upstream import Connection, Pool, UpstreamError

__all__ = ["PROXY_ROUTE"]

_REQUEST_HEADERS: Final = (
    "Accept",
    "Accept-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Traceparent",
    "Tracestate",
    "User-Agent",
    "X-Request-Id",
)
_ANSWER_HEADERS: Final = frozenset({"allow", "content-encoding", "content-length", "content-type", "retry-after"})
#: Bytes beyond the limit that are read, and dropped, to say so.
_READ_BEYOND: Final = 1 << 20
#: Jupyter's own; whatever else is in the query belongs to the API.
_QUERY_OF_JUPYTER: Final = frozenset({"token", "_xsrf", "no_track_activity"})


@web.stream_request_body
class ProxyHandler(ServingHandler):
    """Passes one request on, and its answer back."""

    SUPPORTED_METHODS = ("GET", "POST", "OPTIONS")  # those of the REST API; Jupyter answers OPTIONS itself

    _address: tuple[str, int] = ("", 0)
    _connection: Connection | None = None
    _head: bytes = b""
    _received = 0
    _chunked = False
    _failure: RefusedError | None = None

    async def prepare(self) -> None:
        """Check everything before the first byte of the body is read, and before anything is sent on."""
        await super().prepare()
        if self.request.method == "OPTIONS":
            return
        if not self.current_user:
            raise web.HTTPError(403)
        action = HTTP_METHOD_TO_AUTH_ACTION[self.request.method]
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)):
            raise web.HTTPError(403)
        limit = self.extensionapp.proxy_max_request_bytes
        length = self.request.headers.get("Content-Length")
        if length is not None and not length.isdecimal():
            raise RefusedError(400, "Content-Length is no number.")
        # Beyond it Tornado breaks the connection; one piece more than the limit, so that we can say why before.
        self.request.connection.set_max_body_size(limit + _READ_BEYOND)
        if length is not None and int(length) > limit:
            refused = RefusedError(413, f"The body has {length} bytes; the limit is {limit}.")
            if int(length) > limit + _READ_BEYOND:
                raise refused
            self._failure = refused  # told when the body is over: many clients read no answer before
            return
        name, target = self._target()
        self._address = await self._find(name)
        try:
            self._connection = await self._pool.take(self._address)
        except UpstreamError as error:
            raise RefusedError(503, f"The server '{name}' cannot be reached: {error}.") from error
        self._chunked = length is None and "Transfer-Encoding" in self.request.headers
        self._head = self._connection.send_head(
            str(self.request.method), target, ":".join(map(str, self._address)), self._headers_on(length)
        )

    @property
    def _pool(self) -> Pool:
        found: Pool = self.extensionapp.pool
        return found

    def _target(self) -> tuple[str, str]:
        """Return instance name and the path to ask for, as the client wrote it but for what is Jupyter's."""
        tail = self.request.path[len(self.base_url) :]  # serving/<instance>/v1/...
        _, name, path = tail.split("/", 2)
        if any(unquote_plus(part) in {".", ".."} for part in path.split("/")):
            raise RefusedError(400, "The path must not have parts that are '.' or '..'.")
        kept = [
            pair
            for pair in self.request.query.split("&")
            if pair and unquote_plus(pair.partition("=")[0]) not in _QUERY_OF_JUPYTER
        ]
        return name, f"/{path}" + (f"?{'&'.join(kept)}" if kept else "")

    async def _find(self, name: str) -> tuple[str, int]:
        url = self.supervisor.endpoint(name)
        if url is None:
            with refusals():
                url = (await self.supervisor.running(name)).endpoints.get("rest")
        if url is None:
            raise RefusedError(404, f"The server '{name}' has no REST port.")
        parts = urlsplit(url)
        return str(parts.hostname), int(parts.port or 80)

    def _headers_on(self, length: str | None) -> list[tuple[str, str]]:
        given = self.request.headers
        headers = [(name, given[name]) for name in _REQUEST_HEADERS if name in given]
        if self._chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif length is not None or self.request.method == "POST":
            headers.append(("Content-Length", length or "0"))
        return headers

    async def data_received(self, chunk: bytes) -> None:
        """Pass a piece of the body on."""
        connection = self._connection
        if connection is None or self._failure is not None:
            return
        self._received += len(chunk)
        limit = self.extensionapp.proxy_max_request_bytes
        if self._received > limit:
            self._failure = RefusedError(413, f"The body is larger than the limit, {limit} bytes.")
            connection.abort()
            return
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        head, self._head = self._head, b""
        await connection.send(head + chunk)

    @web.authenticated
    @authorized
    async def get(self, *_: str) -> None:
        """Relay a status or a list."""
        await self._relay()

    @web.authenticated
    @authorized
    async def post(self, *_: str) -> None:
        """Relay a request for inference."""
        await self._relay()

    async def _relay(self) -> None:
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        if connection is None:
            raise RefusedError(503, "The request was given up.")
        timeout = self.extensionapp.proxy_timeout
        last = self._head + (b"0\r\n\r\n" if self._chunked else b"")
        try:
            if last:
                await connection.send(last)
            await connection.head(timeout)
            await self._answer(connection, timeout)
        except UpstreamError as error:
            connection.abort()
            if not self._headers_written:
                raise RefusedError(502, f"The serving process did not answer: {error}.") from error
            # The length or the end of the body tells the client that it is not whole.
            self.request.connection.stream.close()
        except StreamClosedError:
            connection.abort()

    async def _answer(self, connection: Connection, patience: float) -> None:
        self.set_status(connection.status)
        for name, value in connection.headers:
            if name in _ANSWER_HEADERS:
                self.set_header(name, value)
        kind = dict(connection.headers).get("content-type", "application/octet-stream")
        limit = self.extensionapp.proxy_max_answer_bytes
        sent = 0
        async for piece in connection.body(patience):
            sent += len(piece)
            if sent > limit:
                raise UpstreamError(f"the answer is larger than the limit, {limit} bytes")
            self.write(piece)
            if not connection.complete:
                await self.flush()
        self._give_back()
        self.finish(set_content_type=kind)

    def compute_etag(self) -> str | None:
        """No ETag: answers are not for caches, and hashing them costs."""
        return None

    @property
    def content_security_policy(self) -> str:
        """Jupyter's, and no origin: what the serving process answers is data, never a page of Jupyter's."""
        return f"{super().content_security_policy}; sandbox"

    def on_connection_close(self) -> None:
        """The client has left: so does its request."""
        if self._connection is not None:
            self._connection.abort()
        super().on_connection_close()

    def on_finish(self) -> None:
        """Give the connection back, however the request ended."""
        self._give_back()
        super().on_finish()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give(self._address, connection)


#: Behind the routes of the API. An instance name is checked again by the workbench.
PROXY_ROUTE: tuple[str, Any] = (r"/serving/[A-Za-z0-9_][A-Za-z0-9_.-]*/v1(?:/.*)?", ProxyHandler)
