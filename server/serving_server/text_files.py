"""Text-format messages in files that flags name: read whole, and every mistake told with its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format

from serving_server.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError

__all__ = ["parse_text", "read_text_proto"]

T = TypeVar("T")


def read_text_proto(path: str, message: Any) -> Any:
    """Fill a message from a text-format file and return it.

    Raises
    ------
    NotFoundError, PermissionDeniedError, InvalidArgumentError
        Naming the file, and the line where the text is wrong.
    """
    return parse_text(path, message.DESCRIPTOR.full_name, lambda text: text_format.Parse(text, message))


def parse_text(path: str, name: str, parse: Callable[[str], T]) -> T:
    """Return what `parse` makes of a file with a message called `name`; see `read_text_proto` for the errors."""
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path}; No such file or directory") from None
    except PermissionError:
        raise PermissionDeniedError(f"{path}; Permission denied") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"Error parsing text-format {name}: {path}: {error}") from None
    try:
        return parse(text)
    except text_format.ParseError as error:
        raise InvalidArgumentError(f"Error parsing text-format {name}: {path}:{error}") from None
