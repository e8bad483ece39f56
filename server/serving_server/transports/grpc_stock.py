"""gRPC by the `grpcio` package: the stock stack, kept as the reference for our own transport."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from serving_server.errors import StatusCode, UnavailableError
from serving_server.stamps.fields import REQUEST_ID, WANTS_TIMING
from serving_server.tls import TlsConfig
from serving_server.transports.services import Method, OpenStream, Services

__all__ = ["GrpcioTransport"]

_CODES: Final = {StatusCode(code.value[0]): code for code in grpc.StatusCode}

#: Messages of a stream's answer that may wait for the client before no more of its requests are read.
_MAX_UNSENT: Final = 16


class GrpcioTransport:
    """A grpc.aio server of `Services`. All calls on the loop.

    Parameters
    ----------
    services : Services
        The methods.
    arguments : sequence of (name, value)
        Channel arguments of gRPC core, from ``--grpc_channel_arguments``.
    tls : TlsConfig, optional
        For all addresses.
    """

    def __init__(
        self, services: Services, *, arguments: Sequence[tuple[str, int | str]] = (), tls: TlsConfig | None = None
    ) -> None:
        options: dict[str, int | str] = {
            "grpc.max_receive_message_length": 2**31 - 1,
            "grpc.max_send_message_length": -1,
            # By default a second server could bind the same port and take half of the connections.
            "grpc.so_reuseport": 0,
            **dict(arguments),
        }
        self._server = grpc.aio.server(options=list(options.items()))
        self._server.add_generic_rpc_handlers((_Methods(services),))
        self._credentials = None if tls is None else _credentials(tls)

    async def bind(self, address: str) -> int:
        """Bind ``host:port`` or ``unix:path`` and return the port.

        Raises
        ------
        UnavailableError
            When the address is taken or not ours.
        """
        try:
            if self._credentials is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, self._credentials))
        except RuntimeError as error:
            msg = f"cannot serve gRPC on {address}: the address is in use or not on this machine"
            raise UnavailableError(msg) from error

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Accept nothing more and let calls end for up to `grace` seconds. Idempotent."""
        await self._server.stop(grace)


def _credentials(tls: TlsConfig) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.server_key, tls.server_cert)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds the method of a call by its path."""

    def __init__(self, services: Services) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(_unary(method)) for path, method in services.unary.items()
        }
        self._handlers |= {
            path: grpc.stream_stream_rpc_method_handler(_stream(open_call))
            for path, open_call in services.streaming.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


class _CallError(Exception):
    """A call ends with an error."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = _CODES[code]
        self.text = text


def _header(context: Any, name: bytes) -> bytes | None:
    wanted = name.decode("ascii")
    for found, value in context.invocation_metadata() or ():
        if found == wanted:
            return value if isinstance(value, bytes) else str(value).encode("latin-1")
    return None


class _UnaryCall:
    """A call whose answer a coroutine waits for."""

    def __init__(self, context: Any, loop: asyncio.AbstractEventLoop) -> None:
        left = context.time_remaining()
        self.deadline = None if left is None else loop.time() + left
        self._context = context
        self.result: asyncio.Future[bytes] = loop.create_future()
        self.trailers: list[tuple[str, str]] = []

    @property
    def asks(self) -> bool:
        return self.header(REQUEST_ID) is not None or self.header(WANTS_TIMING) is not None

    def add_trailer(self, name: bytes, value: bytes) -> None:
        self.trailers.append((name.decode("ascii"), value.decode("ascii")))
        self._context.set_trailing_metadata(self.trailers)

    def header(self, name: bytes) -> bytes | None:
        return _header(self._context, name)

    def answer(self, message: bytes | bytearray | memoryview) -> None:
        if not self.result.done():
            self.result.set_result(bytes(message))

    def fail(self, code: StatusCode, text: str) -> None:
        if not self.result.done():
            self.result.set_exception(_CallError(code, text))


def _unary(method: Method) -> Callable[[bytes, Any], Any]:
    async def run(data: bytes, context: Any) -> bytes:
        call = _UnaryCall(context, asyncio.get_running_loop())
        cancel = method(data, call)
        try:
            return await call.result
        except _CallError as error:
            await context.abort(error.code, error.text)
            raise AssertionError from None  # `abort` always raises
        except asyncio.CancelledError:
            if cancel is not None:
                cancel()
            raise

    return run


class _StreamCall:
    """A call whose answers wait in a queue until a coroutine has sent them."""

    def __init__(self, context: Any, loop: asyncio.AbstractEventLoop) -> None:
        left = context.time_remaining()
        self.deadline = None if left is None else loop.time() + left
        self._context = context
        #: Messages, then None for OK or an error.
        self.queue: asyncio.Queue[bytes | _CallError | None] = asyncio.Queue()
        self.room = asyncio.Event()
        self.room.set()
        self._ended = False
        self.trailers: list[tuple[str, str]] = []

    @property
    def asks(self) -> bool:
        return False  # streams are of services that compute nothing

    def add_trailer(self, name: bytes, value: bytes) -> None:
        self.trailers.append((name.decode("ascii"), value.decode("ascii")))
        self._context.set_trailing_metadata(self.trailers)

    def header(self, name: bytes) -> bytes | None:
        return _header(self._context, name)

    def send(self, message: bytes | bytearray | memoryview) -> None:
        self._put(bytes(message))

    def finish(self) -> None:
        self._put(None)

    def answer(self, message: bytes | bytearray | memoryview) -> None:
        self.send(message)
        self.finish()

    def fail(self, code: StatusCode, text: str) -> None:
        self._put(_CallError(code, text))

    def _put(self, item: bytes | _CallError | None) -> None:
        if not self._ended:
            self._ended = not isinstance(item, bytes)
            self.queue.put_nowait(item)
            if self.queue.qsize() >= _MAX_UNSENT:
                self.room.clear()

    async def sent(self) -> AsyncIterator[bytes]:
        """Yield each message to send; ends with OK or by `_CallError`."""
        while (item := await self.queue.get()) is not None:
            if isinstance(item, _CallError):
                raise item
            if self.queue.qsize() < _MAX_UNSENT:
                self.room.set()
            yield item


def _stream(open_call: OpenStream) -> Callable[[Any, Any], Any]:
    async def run(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        call = _StreamCall(context, asyncio.get_running_loop())
        receiver = open_call(call)

        async def read() -> None:
            async for message in requests:
                receiver.message(message)
                await call.room.wait()
            receiver.end()

        reader = asyncio.create_task(read())
        try:
            async for message in call.sent():
                yield message
        except _CallError as error:
            await context.abort(error.code, error.text)
        except BaseException:
            receiver.cancel()
            raise
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    return run
