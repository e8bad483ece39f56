"""Where a model lies: a folder of this machine, or a URI that TensorFlow's file systems know (``gs://bucket/model``).

The front, which never imports TensorFlow, reads folders itself and asks `serving_server.remote_files` about URIs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving_server.errors import InvalidArgumentError

__all__ = ["Place", "RemotePath", "is_remote", "to_place"]

#: tensorflow/core/platform/path.cc: ParseURI.
_SCHEME: Final = re.compile(r"([a-zA-Z][0-9a-zA-Z.]*)://")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A URI without slashes at its end; `/` appends to it as to a `Path`."""

    uri: str

    def __truediv__(self, name: str | Path) -> RemotePath:
        return RemotePath(f"{self.uri}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.uri.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rpartition("/")[2]


Place = Path | RemotePath


def is_remote(text: str) -> bool:
    """Whether a text names something outside of this machine's folders."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() != "file"


def to_place(text: str) -> Place:
    """Return what a text names; ``file:///folder`` is the folder.

    Raises
    ------
    InvalidArgumentError
        For a file on another machine.
    """
    found = _SCHEME.match(text)
    if found is None:
        return Path(text)
    if found[1].lower() != "file":
        head, rest = found[0], text[found.end() :]
        return RemotePath(head + rest.rstrip("/"))
    host, slash, rest = text[found.end() :].partition("/")
    if host not in {"", "localhost"} or not slash:
        raise InvalidArgumentError(f"{text} names no folder of this machine; write file:///folder, or /folder")
    return Path("/" + rest)
