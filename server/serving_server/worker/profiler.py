"""Profiles of this worker on request, one at a time, each on a thread of its own.

Nothing is started before the first request, and nothing listens on a port: what ``tf.profiler.experimental.server``
would open is a port on all interfaces for each worker.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import tensorflow as tf

from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.lines import BlockingLines
from serving_server.errors import AlreadyExistsError, FailedPreconditionError, UnimplementedError
from serving_server.worker.memory_profile import profile_memory
from serving_server.worker.model import Model, as_serving_error
from serving_server.worker.op_profile import collect, profile_ops
from serving_server.worker.profile_inputs import Loaded
from serving_server.worker.runner import Runner

__all__ = ["Profiler"]

log = logging.getLogger(__name__)

#: How long a profile waits for the end of one that was stopped and still writes. Seconds.
_PATIENCE: Final = 1.0


class Profiler:
    """Runs one profile at a time.

    Parameters
    ----------
    control : BlockingLines
        Where the end of a profile is told: ``{"event": "profiled", "id": .., "size": bytes}``, or with ``code`` and
        ``message`` of an error.
    """

    def __init__(self, control: BlockingLines) -> None:
        self._control = control
        self._busy = threading.Lock()
        self._ends: dict[int, threading.Event] = {}
        self._model: Runner | None = None
        self._loaded: Loaded | None = None

    def attach(self, model: Runner, loaded: Loaded) -> None:
        """Tell what has been loaded; called once, before any profile of it."""
        self._model = model
        self._loaded = loaded

    def start(self, request: dict[str, Any], fds: list[int]) -> None:
        """Begin a profile.

        Parameters
        ----------
        request : dict
            ``op``, ``id``, and of a trace (``profile``) ``seconds``, ``path`` of the file to write (what TensorFlow's
            file system layer knows, as ``gs://``) and ``options``, the tracers' levels; of a profile of ops or
            memory (``profile_ops``, ``profile_memory``) what `serving_server.version_profiles` asks for.
        fds : list of int
            The buffer for the result as JSON; none for a trace.
        """
        # Each has an end of its own: one that was stopped before it had begun must not miss it when another follows.
        end = self._ends[request["id"]] = threading.Event()
        buffer = SharedBuffer(fds[0]) if fds else None
        threading.Thread(target=self._run, args=(request, buffer, end), name="profiler", daemon=True).start()

    def stop(self, number: int) -> None:
        """End a profile before its time; what it has seen is kept."""
        end = self._ends.get(number)
        if end is not None:
            end.set()

    def _run(self, request: dict[str, Any], buffer: SharedBuffer | None, end: threading.Event) -> None:
        answer: dict[str, Any] = {"event": "profiled", "id": request["id"]}
        free = self._busy.acquire(timeout=_PATIENCE)
        try:
            if not free:
                raise AlreadyExistsError("another profile of this version is running; ask again when it has ended")
            if buffer is None:
                answer["size"] = _trace(request, end)
            else:
                answer["size"] = _write(buffer, self._profiled(request, end))
        except Exception as error:  # noqa: BLE001 - told to the front
            known = as_serving_error(error)
            log.warning("profiling failed: %s", known.message)
            answer |= {"code": int(known.code), "message": known.message}
        finally:
            if free:
                self._busy.release()
            if buffer is not None:
                buffer.close()
            del self._ends[request["id"]]
        self._control.send(answer)

    def _profiled(self, request: dict[str, Any], end: threading.Event) -> dict[str, Any]:
        if self._loaded is None:
            raise FailedPreconditionError("the version is not loaded yet")
        if not isinstance(self._model, Model):
            raise UnimplementedError("TensorFlow's profiler does not see inside TensorFlow Lite models")
        return _KINDS[request["op"]](self._model, self._loaded, request, end)


#: What makes a profile, by the message that asks for it.
_KINDS: Final[dict[str, Callable[[Model, Loaded, dict[str, Any], threading.Event], dict[str, Any]]]] = {
    "profile_ops": profile_ops,
    "profile_memory": profile_memory,
}


def _write(buffer: SharedBuffer, result: dict[str, Any]) -> int:
    data = json.dumps(result).encode()
    buffer.writable(len(data))[: len(data)] = data
    return len(data)


def _trace(request: dict[str, Any], end: threading.Event) -> int:
    def wait() -> None:
        end.wait(request["seconds"])

    trace = collect(wait, request["options"])
    path = request["path"]
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    # Under another name first: whoever lists the folder shall see whole files.
    with tf.io.gfile.GFile(f"{path}.part", "wb") as file:
        file.write(trace)
    tf.io.gfile.rename(f"{path}.part", path, overwrite=True)
    return len(trace)
