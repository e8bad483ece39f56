"""The file of ``--model_config_file``: read at the start, and again every so often while the server runs.

A file that is broken, or that the server cannot follow, changes nothing: it is logged once, with its line, and the
server goes on with what it has.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection

from google.protobuf import text_format

from serving_server.errors import ServingError
from serving_server.model_config import ModelConfigError, models_of
from serving_server.options import ModelOptions
from serving_server.text_files import parse_bytes, read_bytes
from serving_server.wire.messages import ModelServerConfig

__all__ = ["ConfigFilePoll", "read_model_config"]

log = logging.getLogger(__name__)

Models = tuple[ModelOptions, ...]

#: Where entries of the list begin: ``config {``, ``config: {`` or with ``<``, outside of comments.
_ENTRY = re.compile(rb"""#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\b(config)\b\s*:?\s*[{<]""")


def read_model_config(path: str) -> Models | None:
    """Return the models of a text `ModelServerConfig` file; None when it says nothing.

    Raises
    ------
    ServingError
        With the file's name, and line and column where it is no text format; what is wrong with an entry has TensorFlow
        Serving's text alone, and the line is logged.
    """
    data = read_bytes(path)
    try:
        return _models(path, data, ())
    except ModelConfigError as error:
        log.error("%s", _placed(path, data, error))
        raise


def _models(path: str, data: bytes, known: Collection[str]) -> Models | None:
    config = ModelServerConfig()
    parse_bytes(path, config.DESCRIPTOR.full_name, data, lambda text: text_format.Parse(text, config))
    return models_of(config, known=known)


def _placed(path: str, data: bytes, error: ServingError) -> str:
    """Return an error's text behind the file and, for one of an entry, the line where that begins."""
    if not isinstance(error, ModelConfigError):
        return error.message if path in error.message else f"{path}: {error.message}"
    starts = [match.start(1) for match in _ENTRY.finditer(data) if match.group(1)]
    if error.index >= len(starts):
        return f"{path}: {error.message}"
    line = data.count(b"\n", 0, starts[error.index]) + 1
    return f"{path}:{line}: {error.message}"


class ConfigFilePoll:
    """Follows the file.

    Parameters
    ----------
    path : str
    read : callable
        Returns what the file holds, or raises ServingError.
    seconds : float
        Pause between looks.
    configured : callable
        Returns the models that the server was last told to serve by a whole list (a file or a request), None for never.
    apply : callable
        Has the server serve a list of models, or raises ServingError and changes nothing.
    """

    def __init__(
        self,
        path: str,
        read: Callable[[], Awaitable[bytes]],
        seconds: float,
        configured: Callable[[], Models | None],
        apply: Callable[[Models], None],
    ) -> None:
        self._path = path
        self._read = read
        self._seconds = seconds
        self._configured = configured
        self._apply = apply
        self._data: bytes | None = None
        self._models: Models | None = None
        self._told: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"poll {self._path}")

    async def close(self) -> None:
        """End it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self._look()
            except ServingError as error:
                self._tell(error)
            except Exception:  # a bug must not end the polling
                log.exception("polling %s failed", self._path)

    async def _look(self) -> None:
        data = await self._read()
        if data != self._data:
            self._data, self._models = data, None
            # In a thread: a large file takes a while to parse.
            self._models = await asyncio.to_thread(_models, self._path, data, _names(self._configured()))
            self._told = None
        # As TensorFlow Serving, which applies the file at each look: it also overrules a request's list. What was
        # refused before may be right now, such as a label whose version has come.
        if self._models is not None and self._models != self._configured():
            self._apply(self._models)
            self._told = None
            log.info("%s: the models are now %s", self._path, ", ".join(_names(self._models)) or "none")

    def _tell(self, error: ServingError) -> None:
        text = _placed(self._path, self._data or b"", error)
        if text != self._told:
            self._told = text
            log.error("the models stay as they were: %s", text)


def _names(models: Models | None) -> list[str]:
    return [model.name for model in models or ()]
