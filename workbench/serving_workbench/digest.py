"""One number for the content of a SavedModel, which anybody can compute again.

The digest is the SHA-256 of a list with a line per file, as `sha256sum` prints it, sorted by the bytes of the path:

    <SHA-256 of the content, hexadecimal>  <path relative to the SavedModel, with />

All files count but those that are no part of the model: those under ``assets.extra/`` (notes, warm-up requests),
``rejected.json``, which says why a version was withdrawn, and ``fingerprint.pb``, in which TensorFlow writes a number
that is drawn anew for each export. Times, owners and modes do not count, nor do empty folders; links count as what they
point to. So equal content has an equal digest anywhere::

    find -L . -type f ! -path './assets.extra/*' ! -path ./rejected.json ! -path ./fingerprint.pb -printf '%P\\n' |
        LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from serving_workbench.rejected import REASON_FILE

__all__ = ["EXTRA_FOLDER", "content_digest"]

EXTRA_FOLDER = "assets.extra"
_LEFT_OUT = {"fingerprint.pb", REASON_FILE}


def content_digest(savedmodel: Path) -> str:
    """Return the digest of a SavedModel's folder: 64 hexadecimal digits.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    lines = hashlib.sha256()
    for name, path in sorted(_files(savedmodel)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        lines.update(_line(content, name))
    return lines.hexdigest()


def _files(folder: Path) -> Iterator[tuple[bytes, Path]]:
    def refuse(error: OSError) -> None:
        raise error

    for current, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(current)
        if here == folder and EXTRA_FOLDER in folders:
            folders.remove(EXTRA_FOLDER)
        for name in files:
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if relative not in _LEFT_OUT:
                yield os.fsencode(relative), path


def _line(content: str, name: bytes) -> bytes:
    if b"\\" in name or b"\n" in name:  # `sha256sum` marks such lines and escapes the names
        escaped = name.replace(b"\\", rb"\\").replace(b"\n", rb"\n")
        return b"\\%b  %b\n" % (content.encode(), escaped)
    return b"%b  %b\n" % (content.encode(), name)
