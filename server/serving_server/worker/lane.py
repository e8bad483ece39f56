"""The worker's end of a lane: one thread that receives a batch, runs it in the same thread, and answers."""

from __future__ import annotations

import logging
import mmap
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.packets import (
    MAX_PACKET,
    TensorPlace,
    pack_answer,
    pack_error,
    place_tensors,
    read_strings,
    unpack_define,
    unpack_run,
    view_tensor,
    write_tensor,
)
from serving_server.errors import ServingError
from serving_server.tensors import Array, by_numpy
from serving_server.worker import marks
from serving_server.worker.model import as_serving_error
from serving_server.worker.runner import Runnable, Runner

__all__ = ["Lane", "string_bytes"]

log = logging.getLogger(__name__)


def string_bytes(array: Array) -> int:
    """Return the room that a string tensor takes in a shared buffer, in bytes."""
    return 8 * (array.size + 1) + sum(map(len, array.ravel().tolist()))


class Lane:
    """Serves one lane until the front closes it.

    Parameters
    ----------
    model : Runner
    sock : socket.socket
        Packet socket, blocking.
    requests, responses : SharedBuffer
    """

    def __init__(self, model: Runner, sock: socket.socket, requests: SharedBuffer, responses: SharedBuffer) -> None:
        self._model = model
        self._sock = sock
        self._requests = requests
        self._responses = responses
        self._runnables: dict[int, tuple[Runnable, bool] | ServingError] = {}

    def serve(self) -> None:
        """Receive and run until the socket ends; the body of the lane's thread."""
        while True:
            packet = self._sock.recv(MAX_PACKET)
            if not packet:
                return
            if packet[:1] == b"D":
                callable_id, feeds, fetches = unpack_define(packet)
                try:
                    self._runnables[callable_id] = self._model.runnable(feeds, fetches)
                except ServingError as error:
                    self._runnables[callable_id] = error  # told with the run that follows
                continue
            self._sock.send(self._answer(packet))

    def _answer(self, packet: bytes) -> bytes:
        began = 0
        try:
            callable_id, places = unpack_run(packet)
            found = self._runnables[callable_id]
            if isinstance(found, ServingError):
                raise found
            runnable, keeps_feeds = found
            feeds = self._feeds(places, copy=keeps_feeds)
            # Of one scale with the front's stamps: the clock of `perf_counter` is the machine's, not the process's.
            began = time.perf_counter_ns()
            outputs = marks.run_batch(runnable, feeds, began) if marks.wanted else runnable(*feeds)
            run_ns = time.perf_counter_ns() - began
            return pack_answer(began, run_ns, self._write(outputs))
        except Exception as error:
            known = as_serving_error(error)
            if known is not error and not hasattr(error, "error_code"):
                log.exception("a batch failed outside TensorFlow")
            return pack_error(known.code, known.message, began, time.perf_counter_ns() - began if began else 0)

    def _feeds(self, places: Sequence[TensorPlace], *, copy: bool) -> list[Array]:
        memory = self._requests.readable(max((p.offset + p.nbytes for p in places), default=0))
        feeds = []
        for place in places:
            if place.dtype.is_string:
                feeds.append(read_strings(memory, place))
            else:
                view = view_tensor(memory, place)
                feeds.append(view.copy() if copy else view)
        return feeds

    def _write(self, outputs: Sequence[Any]) -> list[TensorPlace]:
        arrays = [np.asarray(output) for output in outputs]
        sizes = []
        for array in arrays:
            dtype = by_numpy(array.dtype)
            sizes.append((dtype, array.shape, string_bytes(array) if dtype.is_string else array.nbytes))
        places, end = place_tensors(sizes)
        memory: mmap.mmap = self._responses.writable(end)
        for place, array in zip(places, arrays, strict=True):
            write_tensor(memory, place, array)
        return places
