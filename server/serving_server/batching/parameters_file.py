"""Batching parameters in text files: one for the server, or one in the folder of each version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from google.protobuf import text_format

from serving_server.batching.parameters import BatchingParameters
from serving_server.errors import NotFoundError
from serving_server.place import Place, RemotePath
from serving_server.text_files import MAX_BYTES, check_size, parse_bytes, read_bytes
from serving_server.wire import messages

__all__ = ["of_version", "read_batching_file"]

#: In the folder of a version (servables/tensorflow/saved_model_bundle_factory.cc).
_VERSION_FILE: Final = "batching_params.pbtxt"


def read_batching_file(path: str) -> BatchingParameters:
    """Return the parameters in a text `BatchingParameters` file (see `read_text_proto` for the errors)."""
    return _parsed(path, read_bytes(path))


def _parsed(path: str, data: bytes) -> BatchingParameters:
    message = messages.BatchingParameters()
    parse_bytes(path, message.DESCRIPTOR.full_name, data, lambda text: text_format.Parse(text, message))
    return BatchingParameters.from_proto(message)


async def of_version(folder: Place, read_remote: Callable[[str, int], Awaitable[bytes]]) -> BatchingParameters | None:
    """Return the parameters that a version brings along; None, no batching, when it brings none.

    Parameters
    ----------
    folder : Path or RemotePath
        Of the version.
    read_remote : callable
        ``read_remote(uri, limit)`` reads the file of a `RemotePath`.

    Raises
    ------
    ServingError
        When the file cannot be read.
    """
    file = folder / _VERSION_FILE
    try:
        if isinstance(file, RemotePath):
            return _parsed(str(file), check_size(str(file), await read_remote(str(file), MAX_BYTES)))
        return read_batching_file(str(file))
    except NotFoundError:
        return None
