"""`loadtest`: what users call; and `start`, the same without waiting for the end."""

from __future__ import annotations

import array
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from serving_workbench.client_stamps import HEADER, fresh_id
from serving_workbench.errors import WorkbenchError
from serving_workbench.handle import ServedModel
from serving_workbench.load import schedule as schedules
from serving_workbench.load.arguments import (
    MAX_CONNECTIONS,
    MAX_DRAIN,
    MAX_SECONDS,
    check_seconds,
    check_whole,
    pairs_of_text,
    warmup_seconds,
)
from serving_workbench.load.job import GRPC, REST, Job
from serving_workbench.load.loops import TICK
from serving_workbench.load.objective import Objective
from serving_workbench.load.payload import Payload, from_data, from_logs, from_signature, is_log
from serving_workbench.load.progress import LoadBar
from serving_workbench.load.result import LoadResult
from serving_workbench.load.running import LiveView, Sender
from serving_workbench.load.schedule import Schedule
from serving_workbench.load.stamping import keep_stamps
from serving_workbench.load.summary import Setup
from serving_workbench.load.target import Target, resolve

__all__ = ["MAX_IN_FLIGHT", "LoadRun", "loadtest", "start"]

#: In flight at once, unless told otherwise: of an open loop over gRPC and REST (one connection each).
MAX_IN_FLIGHT: Final = 1024
_MAX_IN_FLIGHT_REST: Final = 64
#: gRPC connections, unless told otherwise: enough to keep any server's threads busy.
_CONNECTIONS: Final = 4
#: Requests per second for which a closed loop's ledger has room.
_FASTEST: Final = 200_000
_MAX_TICKS: Final = 200_000
#: Largest burst of the warm-up.
_MAX_BURST: Final = 64


class LoadRun:
    """A load test under way. `wait` for its result, or `stop` it; it is a context manager that closes itself.

    Attributes
    ----------
    setup : Setup
    """

    def __init__(self, setup: Setup, sender: Sender, stamped: int, stamp: str) -> None:
        self.setup = setup
        self._sender = sender
        self._stamped, self._stamp = stamped, stamp
        self._result: LoadResult | None = None

    @property
    def pid(self) -> int | None:
        """Of the sending process; None when it has ended."""
        process = self._sender.process
        return None if process is None else process.pid

    @property
    def began(self) -> bool:
        """Whether the warm-up is over."""
        return self._sender.began

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self._result is not None

    def live(self) -> LiveView:
        """Return how it goes: rates and percentiles of the last second."""
        if self._result is not None:
            raise WorkbenchError("The load test has ended: look at its result.")
        return self._sender.live()

    def poll(self, seconds: float = 0.0) -> bool:
        """Wait up to so many seconds; return whether it has ended.

        Raises
        ------
        LoadError
            It could not begin: the first request got no good answer.
        """
        return self._result is not None or self._sender.poll(seconds)

    def wait(self) -> LoadResult:
        """Wait for the end and return the result; safe to call again."""
        while not self.poll(1.0):
            continue
        return self._finish()

    def stop(self) -> LoadResult:
        """End it now, and return what was found until then. Safe to call again."""
        if self._result is None:
            self._sender.stop()
        return self._finish()

    def _finish(self) -> LoadResult:
        if self._result is None:
            records = self._sender.records()
            if self._stamped:
                keep_stamps(records, self._stamped, self._stamp)
            self._result = LoadResult(self.setup, records)
            self.close()
        return self._result

    def close(self) -> None:
        """End its process, if it has not ended; idempotent."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start(
    target: str | ServedModel,
    *,
    rate: float | tuple[float, float] | None = None,
    concurrency: int | None = None,
    seconds: float = 10.0,
    arrivals: Any = None,
    data: Any = None,
    rows: int = 1,
    protocol: str = GRPC,
    model: str | None = None,
    signature: str | None = None,
    version: int | None = None,
    instance: str = "default",
    seed: int = 0,
    burstiness: float = 0.25,
    slo: str | float | Objective | None = None,
    warmup: float | str | None = "auto",
    connections: int | None = None,
    max_in_flight: int | None = None,
    max_backlog: int | None = None,
    drain: float = 10.0,
    tls: bool | str | Path | None = None,
    metadata: Mapping[str, str] | list[tuple[str, str]] | None = None,
    stamped: int | None = None,
) -> LoadRun:
    """Begin a load test and return at once; the parameters are those of `loadtest`.

    Returns
    -------
    LoadRun
        Close it, or use it as a context manager.
    """
    objective = Objective.parse(slo)
    check_whole(
        rows=rows,
        concurrency=concurrency,
        connections=connections,
        max_in_flight=max_in_flight,
        max_backlog=max_backlog,
        seed=seed,
        stamped=stamped,
    )
    check_seconds("seconds", seconds, MAX_SECONDS, least=1e-9)
    check_seconds("drain", drain, MAX_DRAIN)
    sent_along = pairs_of_text(metadata)
    if stamped is not None and any(name.lower() == HEADER for name, _ in sent_along):
        raise WorkbenchError(f"Both stamped= and metadata with {HEADER} are given.", hint="Give one of them.")
    stamp = fresh_id()
    cut = warmup_seconds(warmup)
    window = seconds + (cut or 0.0)
    whom = resolve(target, model=model, protocol=protocol, version=version, instance=instance, tls=tls)
    payload = _payload(whom, signature, data, rows)
    plan = _plan(arrivals, rate, concurrency, window, seed, burstiness, payload)
    window = plan.seconds if plan is not None else window
    is_replay = plan is not None and plan.kind == "replay"
    most = max_in_flight or (MAX_IN_FLIGHT if protocol == GRPC else _MAX_IN_FLIGHT_REST)
    links = _connections(protocol, connections, concurrency, most)
    if protocol == REST:
        most = min(most, links)
    size = len(plan.times) if plan is not None else min(schedules.MAX_REQUESTS, math.ceil(window * _FASTEST) + 1)
    ticks = min(_MAX_TICKS, math.ceil((window + drain) / TICK) + 100)
    backlog = max_backlog or max(1000, math.ceil(3 * plan.rate) if plan is not None else 0)
    setup = Setup(
        target=whom.address,
        model=whom.model,
        protocol=protocol,
        version=version,
        signature=signature,
        arrivals="closed" if plan is None else plan.kind,
        rate=None if plan is None else float(rate) if isinstance(rate, int | float) and not is_replay else plan.rate,
        concurrency=concurrency,
        seconds=window,
        warmup=cut,
        seed=seed,
        connections=links,
        max_in_flight=concurrency or most,
        rows=payload.rows,
        data=payload.what,
        slo=objective,
    )

    def make_job(ledger_fd: int) -> Job:
        return Job(
            protocol=protocol,
            address=whom.address,
            tls=whom.tls,
            metadata=sent_along,
            seconds=window,
            concurrency=concurrency or 0,
            connections=links,
            max_in_flight=most,
            max_backlog=backlog,
            drain=drain,
            warmup=_bursts(min(concurrency or most, links if protocol == REST else _MAX_BURST)),
            ledger_fd=ledger_fd,
            capacity=size,
            max_ticks=ticks,
            times=array.array("d", plan.times.tobytes() if plan is not None else b""),
            requests=payload.requests,
            stamped=stamped or 0,
            stamp=stamp,
        )

    times: NDArray[np.float64] | None = None if plan is None else plan.times
    return LoadRun(setup, Sender(make_job, size, ticks, times, str(whom)), stamped or 0, stamp)


def loadtest(target: str | ServedModel, *, progress: bool = True, **options: Any) -> LoadResult:
    """Load a model and tell how it answers.

    With `rate`, requests come at given times whatever the server does (open loop): latencies are then what users wait,
    from the scheduled time on. With `concurrency`, so many are always in flight (closed loop): the throughput is then
    what the server can do, and latencies are service times.

    Parameters
    ----------
    target : ServedModel or str
        A handle, the name of a model on the running instance, or ``host:port`` of any server with TensorFlow Serving's
        protocols (then with `model`).
    rate : float, optional
        Requests per second; ``(from, to)`` with ``arrivals="ramp"``.
    concurrency : int, optional
        Requests in flight. Give this or `rate`.
    seconds : float
        Length of the run, 10 by default.
    arrivals : str or array_like
        ``poisson`` (default), ``constant``, ``gamma`` (bursts, see `burstiness`), ``ramp``; ``recorded``: as the
        requests of a log came; or times to be replayed, in seconds or as dates.
    data : array_like, dict, DataFrame, Series or path
        What to send, as `ServedModel.predict` takes it, cut into requests of `rows` rows; or request logs (files, or a
        folder of ``*.tfrecord``). By default values that fit the signature.
    rows : int
        Rows per request, 1 by default.
    protocol : str
        ``grpc`` (default) or ``rest``.
    model, signature : str, optional
        By default the target's, and ``serving_default`` or the only one.
    version : int, optional
        By default the version that answers requests without one.
    instance : str
        Where a model's name is looked for.
    seed : int
        The same seed gives the same arrivals.
    burstiness : float
        Of gamma: 1 is Poisson, smaller is burstier.
    slo : str, float or Objective, optional
        ``"p99 20ms"``: a verdict is given, by the binomial rule, and the goodput.
    warmup : float or "auto"
        Seconds at the beginning that are sent, but do not count, in addition to `seconds`; ``auto``: MSER-5 finds them.
    connections : int, optional
        4 for gRPC, as many as requests in flight for REST.
    max_in_flight : int, optional
        Of an open loop: 1024 for gRPC, 64 for REST. Beyond, requests wait in the client; their latency counts from the
        scheduled time all the same.
    max_backlog : int, optional
        An open loop ends early when more are due and not answered; by default what comes in 3 s, at least 1000.
    drain : float
        Seconds for the last answers.
    tls : bool or path, optional
        True, or a file of certificates to trust (PEM).
    metadata : list of (str, str) or dict, optional
        Sent with each request: gRPC metadata, HTTP headers.
    stamped : int, optional
        Of so many requests one gets an ``x-request-id``, by which `ServedModel.requests` finds its times in the client;
        the last 10,000 are remembered.
    progress : bool
        Show a bar.

    Returns
    -------
    LoadResult
        Also after Ctrl-C, or when the server died: what was found until then, and `complete` is False.

    Raises
    ------
    LoadError
        The server does not answer, or answers the first request with an error.
    WorkbenchError
        An argument is wrong.
    """
    run = start(target, **options)
    with run:
        try:
            with LoadBar(run.setup, enabled=progress) as bar:
                while not run.poll(0.25):
                    bar.show(run.live())
        except KeyboardInterrupt:
            if not run.began:
                raise  # there is nothing to keep
            return run.stop()
        return run.wait()


def _payload(whom: Target, signature: str | None, data: Any, rows: int) -> Payload:
    if isinstance(data, Payload):
        return data
    if is_log(data):
        return from_logs(whom, data)
    found = whom.signature(signature)
    return from_signature(whom, found, rows) if data is None else from_data(whom, found, data, rows)


def _plan(
    arrivals: Any,
    rate: float | tuple[float, float] | None,
    concurrency: int | None,
    seconds: float,
    seed: int,
    burstiness: float,
    payload: Payload,
) -> Schedule | None:
    """Return the schedule; None for a closed loop."""
    if concurrency is not None:
        if rate is not None or arrivals is not None:
            raise WorkbenchError(
                "Both concurrency= (closed loop) and rate= or arrivals= (open loop) are given.",
                hint="Give one of them.",
            )
        return None
    if arrivals is None:
        if rate is None:
            raise WorkbenchError(
                "A load test needs rate= (requests per second: an open loop) or concurrency= (a closed loop)."
            )
        arrivals = "poisson"
    if isinstance(arrivals, str) and arrivals == "recorded":
        if payload.times is None:
            raise WorkbenchError("arrivals='recorded': the data are no request log with times.")
        arrivals = payload.times
    return schedules.make(arrivals, rate, seconds, seed, burstiness)


def _connections(protocol: str, connections: int | None, concurrency: int | None, most: int) -> int:
    if protocol == REST:
        # One request at a time on each: no more can be in flight than there are.
        return min(concurrency or connections or most, MAX_CONNECTIONS)
    return min(connections or _CONNECTIONS, concurrency or MAX_CONNECTIONS)


def _bursts(most: int) -> list[int]:
    """Return powers of two: requests that come together become batches of about each size."""
    return [2**power for power in range(int(math.log2(most)) + 1)]
