"""Batching parameters in text files: one for the server, or one in the folder of each version."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from serving_server.batching.parameters import BatchingParameters
from serving_server.errors import NotFoundError
from serving_server.text_files import read_text_proto
from serving_server.wire import messages

__all__ = ["of_version", "read_batching_file"]

#: In the folder of a version (servables/tensorflow/saved_model_bundle_factory.cc).
_VERSION_FILE: Final = "batching_params.pbtxt"


def read_batching_file(path: str) -> BatchingParameters:
    """Return the parameters in a text `BatchingParameters` file (see `read_text_proto` for the errors)."""
    return BatchingParameters.from_proto(read_text_proto(path, messages.BatchingParameters()))


def of_version(folder: Path, common: BatchingParameters) -> BatchingParameters | None:
    """Return the parameters that a version brings along; None, no batching, when it brings none.

    Parameters
    ----------
    folder : Path
        Of the version.
    common : BatchingParameters
        The server's: the number of batch threads is taken from there, whatever the version says.

    Raises
    ------
    ServingError
        When the file cannot be read.
    """
    try:
        own = read_batching_file(str(folder / _VERSION_FILE))
    except NotFoundError:
        return None
    return dataclasses.replace(own, num_batch_threads=common.num_batch_threads)
