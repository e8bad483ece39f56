"""Files in protobuf's text format, which flags name: read with the line of what is wrong.

TensorFlow Serving's parser prints ``Error parsing text-format <message>: <line>:<column>: ...``; Python's gives the
same facts in another order, and quotes the whole line, however long.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf import text_format

from serving_server.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ServingError,
    StatusCode,
)
from serving_server.place import is_remote

__all__ = ["MAX_BYTES", "TextFormatError", "check_size", "parse_bytes", "parse_text", "read_bytes", "read_text_proto"]

#: Of a file. 200 models are about 40 kB; beyond this it is another file by mistake.
MAX_BYTES: Final = 16 * 2**20

#: For a file that a URI names: an import of TensorFlow, and a store that answers slowly.
_REMOTE_SECONDS: Final = 180.0

#: Of what the parser says: it quotes the line, which in a binary file may be all of it.
_MAX_CAUSE: Final = 300

T = TypeVar("T")


class TextFormatError(InvalidArgumentError):
    """A file that is no text format of its message; the text names file, line and column."""


def read_bytes(path: str) -> bytes:
    """Return what a file holds; one that a URI names (``gs://bucket/file``) is read by a process with TensorFlow.

    Raises
    ------
    NotFoundError, PermissionDeniedError, InvalidArgumentError
        Naming the file.
    ServingError
        As TensorFlow's file system says.
    """
    if is_remote(path):
        return check_size(path, _read_remote(path))
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path}; No such file or directory") from None
    except PermissionError:
        raise PermissionDeniedError(f"{path}; Permission denied") from None
    except OSError as error:
        raise InvalidArgumentError(f"{path}; {error.strerror or error}") from None
    return check_size(path, data)


def _read_remote(uri: str) -> bytes:
    """Read by a process of its own: flags are read before there is a front with a forkserver to ask."""
    command = [sys.executable, "-m", "serving_server.worker.remote_files", uri, str(MAX_BYTES)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_REMOTE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceededError(f"{uri} could not be read within {_REMOTE_SECONDS:g} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise InternalError(f"the process that was to read {uri} ended with code {done.returncode}") from None
    if "code" in answer:
        raise ServingError(f"{uri}; {answer['message']}", StatusCode(answer["code"]))
    return base64.b64decode(answer["data"])


def check_size(path: str, data: bytes) -> bytes:
    """Return what a file holds when it is no longer than `MAX_BYTES`.

    Raises
    ------
    InvalidArgumentError
        Naming the file.
    """
    if len(data) > MAX_BYTES:
        raise InvalidArgumentError(f"{path} is larger than {MAX_BYTES} bytes; is it the right file?")
    return data


def parse_bytes(path: str, name: str, data: bytes, parse: Callable[[str], T]) -> T:
    """Return what `parse` makes of the text in `data`, the content of `path`: a message called `name`.

    Raises
    ------
    TextFormatError
        Naming file, line and column.
    ServingError
        What `parse` raises.
    """
    prefix = f"Error parsing text-format {name}: {path}"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        found = f"byte 0x{data[error.start]:02x} is not UTF-8 ({error.reason})"
        raise TextFormatError(f"{prefix}:{line}:{column}: {found}") from None
    try:
        return parse(text)
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        cause = str(error).removeprefix(f"{line}:{column} :").strip()
        if len(cause) > _MAX_CAUSE:
            cause = f"{cause[: _MAX_CAUSE // 2]} ... {cause[-_MAX_CAUSE // 2 :]}"
        raise TextFormatError(f"{prefix}:{line}:{column}: {cause}") from None
    except ServingError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        # What the parser lets through for some values, without a place.
        raise TextFormatError(f"{prefix}: {type(error).__name__}: {str(error)[:_MAX_CAUSE]}") from None


def parse_text(path: str, name: str, parse: Callable[[str], T]) -> T:
    """Return what `parse` makes of the file `path` with a message called `name`; see `read_bytes`, `parse_bytes`."""
    return parse_bytes(path, name, read_bytes(path), parse)


def read_text_proto(path: str, message: Any) -> Any:
    """Fill a message from a text-format file and return it; see `read_bytes` and `parse_bytes` for the errors."""
    return parse_text(path, message.DESCRIPTOR.full_name, lambda text: text_format.Parse(text, message))
