"""Calls for who would rather wait than be called: a future each, so not for the hot path."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Self

from serving_server.errors import ServingError, StatusCode
from serving_server.http2_client.call import Message
from serving_server.http2_client.connection import ClientConnection
from serving_server.http2_client.request_headers import RequestHeaders

__all__ = ["MessageStream", "request"]

#: Messages that may wait for their reader before the server is asked for no more.
_MAX_AHEAD: Final = 64


async def request(
    connection: ClientConnection,
    headers: RequestHeaders,
    message: Message,
    timeout: float | None = None,  # noqa: ASYNC109 - it travels to the server, too
) -> Message:
    """Send a unary request and return its answer. Cancelling the wait cancels the call.

    Raises
    ------
    ServingError
        With the status and the details of any other end than OK.
    """
    done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def on_done(answer: Message | None, status: StatusCode, details: str) -> None:
        if done.done():
            return
        if answer is not None:
            done.set_result(answer)
        else:
            done.set_exception(ServingError(details, status))

    call = connection.unary(headers, message, on_done, timeout)
    try:
        return await done
    finally:
        call.cancel()


class MessageStream:
    """The messages of a streamed answer: ``async with MessageStream(...) as messages: async for message in messages``.

    The server is asked for more as they are taken. Leaving the block cancels the call.

    Parameters
    ----------
    connection, headers, message, timeout
        See `sending.RequestSender.unary`.
    """

    def __init__(
        self, connection: ClientConnection, headers: RequestHeaders, message: Message, timeout: float | None = None
    ) -> None:
        self._messages: deque[Message] = deque()
        self._news = asyncio.Event()
        self._end: tuple[StatusCode, str] | None = None
        self.call = connection.stream(headers, message, self._on_message, self._on_done, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.call.cancel()

    def _on_message(self, message: Message) -> None:
        self._messages.append(message)
        if len(self._messages) >= _MAX_AHEAD:
            self.call.hold()
        self._news.set()

    def _on_done(self, message: Message | None, status: StatusCode, details: str) -> None:
        self._end = (status, details)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message.

        Raises
        ------
        ServingError
            The stream ended otherwise than by OK.
        """
        while not self._messages:
            if self._end is not None:
                status, details = self._end
                if status is StatusCode.OK:
                    raise StopAsyncIteration
                raise ServingError(details, status)
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        if not self._messages and not self.call.reading:
            self.call.resume()
        return message
