"""Send logged requests again, to any server that speaks TensorFlow Serving's gRPC, and compare the answers."""

from __future__ import annotations

import itertools
import os
import queue
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from serving_workbench.client import CHANNEL_OPTIONS
from serving_workbench.differences import DEFAULT_TOLERANCE, Array, difference, tolerance_pair
from serving_workbench.errors import PredictError, WorkbenchError
from serving_workbench.handle import ServedModel
from serving_workbench.logged_requests import LoggedRequest, answer_arrays, log_files, read_logs
from serving_workbench.replay_result import MAX_MISMATCHES, Mismatch, ReplayedRequest, ReplayResult

__all__ = ["replay"]

_SERVICE = "/tensorflow.serving.PredictionService/"

#: An output that differs: its name, how, the largest absolute and relative difference.
_Found = tuple[str, str, float | None, float | None]


def replay(
    logs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    target: str | ServedModel,
    model: str | None = None,
    version: int | None = None,
    *,
    speed: float | None = None,
    concurrency: int = 8,
    tolerance: tuple[float, float] | float | None = DEFAULT_TOLERANCE,
    limit: int | None = None,
    timeout: float = 30.0,
    credentials: grpc.ChannelCredentials | None = None,
) -> ReplayResult:
    """Send the requests of request logs to a server, and compare its answers with the logged ones.

    Parameters
    ----------
    logs : path, or several
        TFRecord files of `PredictionLog`, as request logs and warmup files are; a folder stands for its ``*.tfrecord``.
    target : str or ServedModel
        ``host:port`` of the gRPC endpoint.
    model : str, optional
        Whom to ask; by default the model that a record names.
    version : int, optional
        Which version; by default the one that answers requests without a version.
    speed : float, optional
        1 keeps the recorded pace, 2 is twice as fast... By default as fast as `concurrency` allows. Logs tell whole
        seconds, so the requests of a second are spread over it evenly.
    concurrency : int
        Requests under way at once.
    tolerance : tuple of float, float or None
        ``(rtol, atol)``, or rtol alone, for outputs of floats; everything else must be equal. None compares nothing.
    limit : int, optional
        Only this many requests.
    timeout : float
        Seconds for the connection, and for each answer.
    credentials : grpc.ChannelCredentials, optional
        For a server with TLS.

    Returns
    -------
    ReplayResult

    Raises
    ------
    WorkbenchError
        A log is not there, or an argument is wrong.
    PredictError
        No server answers at the target.
    """
    for name, value in (("concurrency", concurrency), ("limit", limit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise WorkbenchError(f"{name}={value!r} is not a whole number from 1 on.")
    if speed is not None and not 0 < speed < float("inf"):
        raise WorkbenchError(f"speed={speed!r} is not a positive number.", hint="1 is the recorded pace.")
    endpoint = target if isinstance(target, str) else target.grpc_endpoint
    limits = tolerance_pair(tolerance)
    files = log_files(logs)
    if credentials is None:
        channel = grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
    else:
        channel = grpc.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)
    with channel:
        _wait_ready(channel, endpoint, timeout)
        result = ReplayResult(endpoint)
        requests = itertools.islice(read_logs(files, model, version, result.unreadable), limit)
        run = _Run(channel, result, limits, concurrency, timeout)
        run.send_all(requests, None if speed is None else _Pace(files, speed))
    return result


def _wait_ready(channel: grpc.Channel, endpoint: str, timeout: float) -> None:
    ready = grpc.channel_ready_future(channel)
    try:
        ready.result(timeout)
    except grpc.FutureTimeoutError:
        raise PredictError(
            f"No server answered at {endpoint} within {timeout:g} s.",
            code="UNAVAILABLE",
            hint="Give the host:port of its gRPC endpoint; with TLS, credentials=.",
        ) from None
    finally:
        ready.cancel()


class _Pace:
    """When each request is due, in seconds since the first."""

    def __init__(self, files: list[Path], speed: float) -> None:
        # Logs hold whole seconds: how many share one must be known before the first of them is sent.
        self._in_second = Counter(request.second for request in read_logs(files, None, None, []))
        self._sent: Counter[int] = Counter()
        self._speed = speed
        self._first: int | None = None

    def due(self, second: int) -> float:
        if not second:
            return 0.0  # no time was logged
        if self._first is None:
            self._first = second
        place = self._sent[second] / self._in_second[second]
        self._sent[second] += 1
        return (second - self._first + place) / self._speed


class _Run:
    """Keeps up to `concurrency` requests under way; all but the callbacks in the caller's thread."""

    def __init__(
        self,
        channel: grpc.Channel,
        result: ReplayResult,
        tolerance: tuple[float, float] | None,
        concurrency: int,
        timeout: float,
    ) -> None:
        self._channel = channel
        self._result = result
        self._tolerance = tolerance
        self._concurrency = concurrency
        self._timeout = timeout
        self._stubs: dict[str, Any] = {}
        self._done: queue.SimpleQueue[tuple[Any, float]] = queue.SimpleQueue()
        self._under_way: dict[Any, tuple[LoggedRequest, float]] = {}

    def send_all(self, requests: Iterator[LoggedRequest], pace: _Pace | None) -> None:
        begin = time.perf_counter()
        try:
            for request in requests:
                due = begin + (0.0 if pace is None else pace.due(request.second))
                while len(self._under_way) >= self._concurrency:
                    self._take(None)
                while self._take(max(0.0, due - time.perf_counter())):
                    pass
                self._send(request)
            while self._under_way:
                self._take(None)
        finally:
            for call in self._under_way:
                call.cancel()
            self._result.seconds = time.perf_counter() - begin

    def _send(self, request: LoggedRequest) -> None:
        stub = self._stubs.get(request.method)
        if stub is None:
            stub = self._stubs[request.method] = self._channel.unary_unary(_SERVICE + request.method)
        call = stub.future(request.request, timeout=self._timeout)
        self._under_way[call] = (request, time.perf_counter())
        call.add_done_callback(lambda call: self._done.put((call, time.perf_counter())))

    def _take(self, patience: float | None) -> bool:
        """Take one answer, waiting for it `patience` seconds (None: till it comes); False when there is none."""
        if not self._under_way and not patience:
            return False
        with suppress(queue.Empty):
            call, ended = self._done.get(timeout=patience) if patience != 0 else self._done.get_nowait()
            request, started = self._under_way.pop(call)
            self._note(request, call, 1000 * (ended - started))
            return True
        return False

    def _note(self, request: LoggedRequest, call: Any, milliseconds: float) -> None:
        code = call.code().name
        same = None
        if code == "OK":
            same = self._compare(request, call.result())
        else:
            self._result.errors[code] += 1
            self._result.first_errors.setdefault(code, f"{request}: {call.details()}")
        row = (request.file.name, request.number, request.method, request.model, request.signature)
        self._result.requests.append(ReplayedRequest(*row, code, same, milliseconds))

    def _compare(self, request: LoggedRequest, answer: bytes) -> bool | None:
        if request.response is None or self._tolerance is None:
            return None
        try:
            served = answer_arrays(request.method, answer)
            logged = answer_arrays(request.method, request.response)
        except WorkbenchError as error:
            found: list[_Found] = [("", str(error), None, None)]
        else:
            found = list(_differences(served, logged, self._tolerance))
        for output, detail, max_abs, max_rel in found:
            if len(self._result.mismatches) < MAX_MISMATCHES:
                where = (str(request), request.method, request.model, request.signature)
                self._result.mismatches.append(Mismatch(*where, output, detail, max_abs, max_rel))
        return not found


def _differences(
    served: dict[str, Array], logged: dict[str, Array], tolerance: tuple[float, float]
) -> Iterator[_Found]:
    """Yield each output that differs."""
    for name in sorted(served.keys() | logged.keys()):
        if name not in served or name not in logged:
            yield name, "is missing" if name not in served else "was not logged", None, None
            continue
        now, then = served[name], logged[name]
        if now.dtype != then.dtype or now.shape != then.shape:
            yield name, f"is {now.dtype} {list(now.shape)}, logged was {then.dtype} {list(then.shape)}", None, None
            continue
        found = difference(now, then, tolerance)
        if found is not None:
            index = found.index
            values = f"at {list(index)} it is {now[index]!r}, logged was {then[index]!r}"
            yield name, f"{values}; {found}", found.max_abs, found.max_rel
