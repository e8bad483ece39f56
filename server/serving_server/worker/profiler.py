"""Profiles of this worker on request: TensorFlow's profiler runs for a while, and its trace goes to a file.

Nothing is started before the first request, and nothing listens on a port: what ``tf.profiler.experimental.server``
would open is a port on all interfaces for each worker.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.profiler.internal import _pywrap_profiler

from serving_server.channel.lines import BlockingLines
from serving_server.worker.model import as_serving_error

__all__ = ["Profiler"]

log = logging.getLogger(__name__)


class Profiler:
    """Runs one profile at a time, on a thread of its own.

    Parameters
    ----------
    control : BlockingLines
        Where the end of a profile is told: ``{"event": "profiled", "id": .., "size": bytes}``, or with ``code`` and
        ``message`` of an error.
    """

    def __init__(self, control: BlockingLines) -> None:
        self._control = control
        self._end = threading.Event()

    def start(self, request: dict[str, Any]) -> None:
        """Begin a profile.

        Parameters
        ----------
        request : dict
            ``id``, ``seconds``, ``path`` (of the file to write; what TensorFlow's file system layer knows, as ``gs://``)
            and ``options``: the tracers' levels.
        """
        # Each has an end of its own: one that was stopped before it had begun must not miss it when another follows.
        self._end = threading.Event()
        threading.Thread(target=self._run, args=(request, self._end), name="profiler", daemon=True).start()

    def stop(self) -> None:
        """End a profile before its time; what it has seen is kept."""
        self._end.set()

    def _run(self, request: dict[str, Any], end: threading.Event) -> None:
        answer: dict[str, Any] = {"event": "profiled", "id": request["id"]}
        try:
            answer["size"] = self._profile(request, end)
        except Exception as error:  # noqa: BLE001 - told to the front
            known = as_serving_error(error)
            log.warning("profiling failed: %s", known.message)
            answer |= {"code": int(known.code), "message": known.message}
        self._control.send(answer)

    def _profile(self, request: dict[str, Any], end: threading.Event) -> int:
        # `stop` returns the events of the trace viewer; what TensorBoard reads, an XSpace, is only ever exported.
        with tempfile.TemporaryDirectory(prefix="serving-profile-") as folder:
            session = _pywrap_profiler.ProfilerSession()
            session.start(folder, request["options"])
            try:
                end.wait(request["seconds"])
            finally:
                session.export_to_tb()
            (exported,) = Path(folder).rglob("*.xplane.pb")
            trace = exported.read_bytes()
        path = request["path"]
        tf.io.gfile.makedirs(path.rpartition("/")[0])
        # Under another name first: whoever lists the folder shall see whole files.
        with tf.io.gfile.GFile(f"{path}.part", "wb") as file:
            file.write(trace)
        tf.io.gfile.rename(f"{path}.part", path, overwrite=True)
        return len(trace)
