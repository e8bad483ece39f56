"""The command line: TensorFlow Serving's flag names, syntax and messages, and a few flags of our own.

Only ``--name=value`` is understood; a boolean may also be bare. A bad value prints the usage and exits with 255; an
unknown argument is named, with the usage, and the server starts all the same (tensorflow/core/util/command_line_flags).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from serving_server import __version__
from serving_server.build_info import tensorflow_version
from serving_server.errors import ServingError
from serving_server.flags import FLAGS, FlagValueError, describe_unknown, parse_flags, usage
from serving_server.flags_to_options import build_options
from serving_server.text_files import TextFormatError

__all__ = ["main"]

#: What TensorFlow Serving exits with when it cannot start (-1 as a byte).
_FAILURE: Final = 255


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to end; return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if sys.platform == "win32":
        print(
            "serving-server needs fork, unix sockets and descriptor passing, which Windows lacks; use WSL 2 or Linux.",
            file=sys.stderr,
        )
        return _FAILURE
    try:
        values, unknown = parse_flags(given)
    except FlagValueError as error:
        _say(f"{error}\n{usage()}\n\n{error}")  # once more, where it is seen
        return _FAILURE
    if values["help"]:
        _say(usage())
        return _FAILURE
    if values["version"]:
        _say(_versions())
        return 0
    if unknown:
        _say("\n".join([*map(describe_unknown, unknown), usage()]))
    _configure_logging()
    for flag in FLAGS:
        if flag.note and flag.name in values["given"]:
            logging.getLogger(__name__).warning("--%s %s", flag.name, flag.note)
    try:
        options = build_options(values)
    except ServingError as error:
        return _failed(error)
    from serving_server.front import run_server  # after the flags: a typing error is answered without the imports

    try:
        run_server(options)
    except ServingError as error:
        return _failed(error)
    return 0


def _failed(error: ServingError) -> int:
    if isinstance(error, TextFormatError):
        print(error.message, file=sys.stderr)  # there, as of TensorFlow Serving's parser
    _say(f"Failed to start server. Error: {error.code.name}: {error.message}")
    return _FAILURE


def _say(text: str) -> None:
    """Print; a reader that has left, such as ``head``, has read enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still in the buffer would raise once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _versions() -> str:
    return f"TensorFlow ModelServer: {__version__} (Serving Workbench)\nTensorFlow Library: {tensorflow_version()}"


def _configure_logging() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", force=True
    )


if __name__ == "__main__":
    sys.exit(main())
