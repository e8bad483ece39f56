"""TensorFlow's ProfilerService, which TensorBoard and ``tf.profiler.experimental.client.trace`` ask for traces.

A profile runs in the workers of all loaded versions at the same moment. Each writes a file of its own into the
session's folder, ``<host>_<model>_<version>.xplane.pb``, and TensorBoard shows each as a host. As with TensorFlow
Serving, the client names a folder that this machine can write to.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from serving_server.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnimplementedError,
)
from serving_server.profiles import WorkerProfiles
from serving_server.transports import predict_codec as codec
from serving_server.transports.services import Cancel, Method, OpenStream, UnaryCall, fail
from serving_server.wire.messages import message_class

__all__ = ["PROFILER_SERVICE", "Profiled", "Profiler"]

PROFILER_SERVICE: Final = "tensorflow.ProfilerService"

log = logging.getLogger(__name__)

#: Longest profile. A trace of one minute is hundreds of megabytes already.
_MAX_SECONDS: Final = 600.0

#: How long a worker may take to write a trace. Seconds.
_WRITE_SECONDS: Final = 300.0

#: Levels of the tracers, and what TensorFlow takes by itself. Only others are passed on: it warns of each.
_LEVELS: Final = {"host_tracer_level": 2, "device_tracer_level": 1, "python_tracer_level": 0}

#: What a name of a folder or file must not have.
_UNSAFE: Final = re.compile(r"[^\w.-]")

_ProfileRequest: Any = message_class("tensorflow.ProfileRequest")
_ProfileResponse: Any = message_class("tensorflow.ProfileResponse")
_TerminateRequest: Any = message_class("tensorflow.TerminateRequest")


class Profiled(Protocol):
    """A loaded version."""

    @property
    def model(self) -> str:
        """Name."""

    @property
    def version(self) -> int:
        """Number."""

    @property
    def profiles(self) -> WorkerProfiles:
        """Of its worker."""


class Profiler:
    """Profile and Terminate; Monitor is not implemented, as in TensorFlow's own server. All calls on the loop.

    Parameters
    ----------
    loaded : callable
        Returns the loaded versions.
    """

    def __init__(self, loaded: Callable[[], Sequence[Profiled]]) -> None:
        self._loaded = loaded
        self._session = ""
        self._targets: Sequence[Profiled] = ()
        self._task: asyncio.Task[None] | None = None

    @property
    def unary(self) -> Mapping[str, Method]:
        """Methods by path."""
        return {
            f"/{PROFILER_SERVICE}/Profile": self._profile,
            f"/{PROFILER_SERVICE}/Terminate": self._terminate,
            f"/{PROFILER_SERVICE}/Monitor": _monitor,
        }

    @property
    def streaming(self) -> Mapping[str, OpenStream]:
        """None."""
        return {}

    def stop(self) -> None:
        """End a running profile. Idempotent."""
        for target in self._targets:
            target.profiles.stop()

    def _profile(self, data: Any, call: UnaryCall) -> Cancel:
        request = codec.decode(_ProfileRequest, data)
        folder = _folder(request)
        targets = self._loaded()
        if not targets:
            raise FailedPreconditionError("no version is loaded, so there is nothing to profile")
        if self._task is not None:
            raise AlreadyExistsError(f"another profile is running: session {self._session}")
        self._session = request.session_id
        self._targets = targets
        task = asyncio.get_running_loop().create_task(self._run(request, folder, call), name="profile")
        self._task = task
        task.add_done_callback(self._ended)  # also of a call that was cancelled before its task began

        def cancel() -> None:
            task.cancel()

        return cancel

    async def _run(self, request: Any, folder: str, call: UnaryCall) -> None:
        seconds = (request.opts.duration_ms or request.duration_ms) / 1000
        levels = {name: getattr(request.opts, name) for name in _LEVELS} if request.HasField("opts") else {}
        options = {name: level for name, level in levels.items() if level != _LEVELS[name]}
        host = _safe(request.host_name or "server")
        log.info("profiling %d workers for %g s into %s", len(self._targets), seconds, folder)
        try:
            async with asyncio.timeout(seconds + _WRITE_SECONDS):
                found = await asyncio.gather(
                    *(
                        target.profiles.run(
                            f"{folder}/{host}_{_safe(target.model)}_{target.version}.xplane.pb", seconds, options
                        )
                        for target in self._targets
                    ),
                    return_exceptions=True,
                )
        except TimeoutError:
            fail(call, DeadlineExceededError(f"no trace within {_WRITE_SECONDS:g} s after the end of the profile"))
            return
        errors = [each for each in found if isinstance(each, BaseException)]
        for error in errors:
            log.warning("a worker could not be profiled: %s", error)
        if len(errors) == len(found):
            fail(call, errors[0])
            return
        sizes = [each for each in found if isinstance(each, int)]
        call.answer(_ProfileResponse(empty_trace=not any(sizes)).SerializeToString())

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._task = None
        self._targets = ()

    def _terminate(self, data: Any, call: UnaryCall) -> None:
        request = codec.decode(_TerminateRequest, data)
        if self._task is not None and request.session_id == self._session:
            self.stop()
        call.answer(b"")


def _monitor(_data: Any, _call: UnaryCall) -> None:
    raise UnimplementedError("unimplemented.")


def _folder(request: Any) -> str:
    """Return where a profile's files go.

    Raises
    ------
    ServingError
        Naming the field that is wrong.
    """
    root: str = request.repository_root
    if request.emit_xspace:
        raise UnimplementedError("emit_xspace is not supported: traces are written to repository_root")
    if not root.startswith("/") and "://" not in root:
        msg = f'repository_root "{root}" must be an absolute path or URI: this server has another working directory'
        raise InvalidArgumentError(msg)
    session: str = request.session_id
    if not session or _UNSAFE.search(session) or session.startswith("."):
        raise InvalidArgumentError(f'session_id "{session}" is no name of a folder')
    seconds = (request.opts.duration_ms or request.duration_ms) / 1000
    if not 0 < seconds <= _MAX_SECONDS:
        raise InvalidArgumentError(f"duration_ms is {seconds * 1000:g}; it must be from 1 to {_MAX_SECONDS * 1000:g}")
    return f"{root.rstrip('/')}/{session}"


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)
