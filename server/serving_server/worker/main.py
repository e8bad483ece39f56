"""The worker's life: load, warm up, say ready, run batches until the front closes the control socket."""

from __future__ import annotations

import base64
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from serving_server.channel.buffers import SharedBuffer
from serving_server.channel.lines import BlockingLines
from serving_server.errors import ServingError
from serving_server.place import Place, to_place
from serving_server.signatures import INIT_SIGNATURES, Signature, parse_signatures
from serving_server.tensors import Array
from serving_server.worker import files, warmup
from serving_server.worker.lane import Lane
from serving_server.worker.model import Model, as_serving_error, load_op_libraries
from serving_server.worker.profile_inputs import Loaded
from serving_server.worker.profiler import Profiler
from serving_server.worker.runner import Runner
from serving_server.worker.startup import Stopwatch

__all__ = ["run"]

log = logging.getLogger(__name__)

#: Warmup records that frozen answers are compared on; each runs twice.
_MAX_SAMPLES: Final = 20


def run(spec: dict[str, Any], fds: list[int]) -> int:
    """Run a worker in this freshly forked process.

    Parameters
    ----------
    spec : dict
        ``model``, ``version``, ``path``, ``tags``, ``session`` (a `tensorflow.ConfigProto` in base64), ``warmup``,
        ``warmup_iterations``, ``check_method_names``, ``freeze``, ``tflite``,
        ``op_libraries``.
    fds : list of int
        The control socket, then three per lane: packet socket, request buffer, response buffer.

    Returns
    -------
    int
        The exit code: 0 after an orderly end, 1 when loading failed (told to the front).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s worker %(message)s", force=True
    )
    # TensorFlow's own handler would write each of its lines a second time.
    logging.getLogger("tensorflow").handlers.clear()
    control = BlockingLines(socket.socket(fileno=fds[0]))
    additions: list[list[int]] = []
    loaded = threading.Event()
    profiler = Profiler(control)
    # A thread of its own watches the front: while a load or a long run holds all others, the front's end must still
    # end this process.
    watcher = threading.Thread(target=_watch, args=(control, additions, loaded, profiler), name="control", daemon=True)
    watcher.start()
    stopwatch = Stopwatch()
    path = to_place(spec["path"])
    try:
        control.send({"event": "step", "step": "load"})
        session_config = base64.b64decode(spec["session"])
        load_op_libraries(spec["op_libraries"])
        stopwatch.lap("op libraries")
        model: Runner
        if spec["tflite"] and files.exists(path / "model.tflite"):
            from serving_server.worker.tflite import TfliteModel  # few servers have one

            model = TfliteModel(path, session_config)
            stopwatch.lap("read model")
        else:
            model = Model(path, spec["tags"], session_config, stopwatch)
        definitions = model.signature_defs()
        signatures = parse_signatures(definitions.signature_def)
        requests: list[warmup.WarmupRequest] = []
        if spec["warmup"]:
            check = spec["check_method_names"]
            requests = warmup.read(signatures, definitions.signature_def, path, check_method_names=check)
        stopwatch.lap("read warmup")
        frozen: tuple[str, ...] = ()
        if spec["freeze"] and isinstance(model, Model):
            frozen = _freeze(model, signatures, requests)
        stopwatch.lap("freeze")
        control.send({"event": "step", "step": "warmup"})
        warmup.replay(model, requests, spec["warmup_iterations"])
        if requests:
            stopwatch.lap("warm up")
            log.info("replayed %d warmup records of %s %d times", len(requests), path, spec["warmup_iterations"])
    except Exception as error:
        known = as_serving_error(error)
        if not isinstance(error, ServingError):
            log.exception("loading %s failed", path)
        control.send({"event": "failed", "code": int(known.code), "message": known.message})
        return 1
    # The loader leaves a graph full of reference cycles that live as long as the process.
    gc.collect()
    gc.freeze()
    _trim()
    _add_lanes(model, fds[1:])
    profiler.attach(
        model, Loaded(signatures, definitions.signature_def, path, check_method_names=spec["check_method_names"])
    )
    stopwatch.lap("hand over")
    control.send(
        {
            "event": "ready",
            "frozen": list(frozen),
            "startup": stopwatch.to_json(),
            "variable_bytes": _variable_bytes(path),
            "warmup_records": len(requests),
            "signatures": base64.b64encode(definitions.SerializeToString()).decode(),
        }
    )
    while True:
        loaded.wait()
        loaded.clear()
        while additions:
            _add_lanes(model, additions.pop(0))


def _freeze(
    model: Model, signatures: dict[str, Signature], requests: Sequence[warmup.WarmupRequest]
) -> tuple[str, ...]:
    samples: dict[str, list[dict[str, Array]]] = {}
    for request in requests[:_MAX_SAMPLES]:
        samples.setdefault(request.signature.name, []).append(request.inputs)
    try:
        frozen = model.freeze(signatures, samples)
    except Exception:
        # It is an optimization: a graph that the converter does not understand is served as it is.
        log.exception("freezing failed; the variables are served as they are")
        return ()
    for name, reason in frozen.reasons.items():
        if name not in INIT_SIGNATURES:
            log.info('signature "%s" is not frozen: %s', name, reason)
    return frozen.signatures


def _variable_bytes(path: Place) -> int | None:
    """Return the size of the files of variables, in bytes; None of a remote place, as asking takes a while."""
    if not isinstance(path, Path):
        return None
    return sum(file.stat().st_size for file in (path / "variables").glob("variables.data-*"))


def _trim() -> None:
    """Give back what loading has freed. Freezing passes the weights from graph to graph, and glibc keeps the holes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; elsewhere there is nothing to do
    if trim is not None:
        trim(0)


def _add_lanes(model: Runner, fds: list[int]) -> None:
    for index in range(0, len(fds), 3):
        sock, requests, responses = fds[index : index + 3]
        lane = Lane(model, socket.socket(fileno=sock), SharedBuffer(requests), SharedBuffer(responses))
        threading.Thread(target=lane.serve, name=f"lane-{index // 3}", daemon=True).start()


def _watch(control: BlockingLines, additions: list[list[int]], wake: threading.Event, profiler: Profiler) -> None:
    while True:
        received = control.receive()
        if received is None:
            # At once and without tidying up: destructors of a large graph take seconds, and nobody waits for them.
            os._exit(0)
        message, fds = received
        if message["op"] == "lanes":
            additions.append(fds)
            wake.set()
        elif message["op"] == "end_profile":
            profiler.stop(message["id"])
        else:
            profiler.start(message, fds)
