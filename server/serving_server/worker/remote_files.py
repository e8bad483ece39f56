"""The helper process of `serving_server.remote_files`: lists and reads by TensorFlow's file systems.

Questions are ``{"op": "look", "id": n, "uri": "...", "failed": {version: uri}}`` and ``{"op": "read", "id": n, "uri":
"...", "limit": bytes}``; each has one answer, in any order, with the same id: what was found, or ``code`` and
``message``. `python -m serving_server.worker.remote_files <uri> <limit>` answers one "read" on stdout, without an id.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import tensorflow as tf

from serving_server.channel.lines import BlockingLines, Message
from serving_server.errors import FailedPreconditionError, ServingError, UnimplementedError
from serving_server.worker.model import as_serving_error, load_op_libraries

__all__ = ["answer", "run"]

#: Questions at once: one that an object store lets wait must not hold up those about other models.
_THREADS: Final = 16

#: Of a fingerprint. A SavedModel has a few dozen files, and each costs a request.
_MAX_FILES: Final = 1000


def run(spec: Mapping[str, Any], fds: list[int]) -> int:
    """Answer until the front closes the socket; then end at once, whatever threads wait for.

    Parameters
    ----------
    spec : mapping
        ``op_libraries``: shared libraries that may bring file systems.
    fds : list of int
        The socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lines = BlockingLines(socket.socket(fileno=fds[0]))
    broken: ServingError | None = None
    try:
        load_op_libraries(spec["op_libraries"])
    except ServingError as error:
        broken = error
    sending = threading.Lock()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="remote-files")
    while True:
        received = lines.receive()
        if received is None:
            os._exit(0)
        pool.submit(_reply, lines, sending, received[0], broken)


def _reply(lines: BlockingLines, sending: threading.Lock, question: Message, broken: ServingError | None) -> None:
    found = _answer(question, broken)
    try:
        with sending:  # a long answer goes in several pieces
            lines.send({**found, "id": question["id"]})
    except OSError:
        os._exit(0)  # the front is gone


def _answer(question: Message, broken: ServingError | None = None) -> Message:
    try:
        if broken is not None:
            raise broken
        return answer(question)
    except Exception as error:  # noqa: BLE001 - whatever it is, whoever has asked must hear of it
        known = as_serving_error(error)
        return {"code": int(known.code), "message": known.message}


def answer(question: Message) -> Message:
    """Return what a question is answered with, without its id.

    Raises
    ------
    UnimplementedError
        TensorFlow has no file system for the URI.
    Exception
        Whatever TensorFlow raises.
    """
    uri: str = question["uri"]
    try:
        if question["op"] == "read":
            return _read(uri, question["limit"])
        return _look(uri, question["failed"])
    except tf.errors.UnimplementedError as error:
        scheme = uri.partition("://")[0]
        # What flags name is read before libraries are loaded.
        plugin = ", or load TensorFlow's plugin for it by --custom_op_libraries" if question["op"] == "look" else ""
        raise UnimplementedError(
            f"TensorFlow {tf.__version__} has no file system for {scheme}:// here; mount the store as a folder{plugin}"
        ) from error


def _read(uri: str, limit: int) -> Message:
    with tf.io.gfile.GFile(uri, "rb") as file:
        return {"data": base64.b64encode(file.read(limit + 1)).decode()}


def _look(uri: str, failed: Mapping[str, str]) -> Message:
    if not tf.io.gfile.stat(uri).is_directory:
        raise FailedPreconditionError(f"{uri} is not a folder")
    names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(uri))
    return {"names": names, "prints": {number: _fingerprint(place) for number, place in failed.items()}}


def _fingerprint(uri: str) -> tuple[str, float]:
    """Return a digest of names, sizes and times of what lies under a URI, and the latest time in unix s."""
    digest = hashlib.blake2b(digest_size=16)
    newest = 0.0
    for name in _files(uri):
        try:
            info = tf.io.gfile.stat(name)
        except tf.errors.OpError:
            digest.update(f"{name}\0unreadable\n".encode())
            continue
        digest.update(f"{name}\0{info.length}\0{info.mtime_nsec}\n".encode())
        newest = max(newest, info.mtime_nsec / 1e9)
    return digest.hexdigest(), newest


def _files(uri: str) -> Iterator[str]:
    count = 0
    for folder, _, names in tf.io.gfile.walk(uri):
        for name in sorted(names):
            yield f"{folder.rstrip('/')}/{name}"
            count += 1
            if count >= _MAX_FILES:
                return


if __name__ == "__main__":
    print(json.dumps(_answer({"op": "read", "uri": sys.argv[1], "limit": int(sys.argv[2])})))
