"""The front process: owns every socket, the queues, the lifecycle and the metrics, on one event loop.

It never imports TensorFlow, so its ports are open a moment after its start and say "loading" until a version serves;
and no load, however slow, can stall a request.
"""

from __future__ import annotations

import asyncio
import gc
import glob
import logging
import os
import resource
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from serving_server import __version__
from serving_server.catalog import Catalog
from serving_server.control import Control
from serving_server.errors import UnavailableError
from serving_server.example_inference import ExampleInference
from serving_server.inference import Inference
from serving_server.last_resort import LastResort
from serving_server.listening import everywhere
from serving_server.metrics.registry import Metrics
from serving_server.metrics.requests import Requests
from serving_server.options import ServerOptions
from serving_server.owner import OwnerWatch
from serving_server.record import Record
from serving_server.rest.http1 import HttpServer
from serving_server.rest.monitoring import metrics_page
from serving_server.rest.server import RestApi
from serving_server.transports.health import HEALTH_SERVICE, Health
from serving_server.transports.profiler import PROFILER_SERVICE, Profiler
from serving_server.transports.reflection import Reflection
from serving_server.transports.services import MODEL_SERVICE, PREDICTION_SERVICE, MethodGroup, Services

if TYPE_CHECKING:
    from serving_server.transports.grpc_http2 import GrpcHttp2Transport
    from serving_server.transports.grpc_stock import GrpcioTransport

__all__ = ["Front", "run_server"]

log = logging.getLogger(__name__)

#: How long running requests may take when the server ends. Seconds.
_DRAIN_SECONDS: Final = 5.0

#: All of the end, bounded: after this the process leaves, whatever still hangs. Seconds.
_STOP_SECONDS: Final = 20.0

#: A unix socket's path must fit into sockaddr_un (108 bytes on Linux, 104 on macOS), with room for the name.
_MAX_SOCKET_PATH: Final = 100

#: Exit code of a server that failed, as of `serving_server.cli`.
_FAILURE: Final = 255

_RECORD_SCHEMA: Final = 1

#: Open files that this process asks for; many systems give 1024 or, on macOS, 256.
_OPEN_FILES: Final = 65_536

#: Requests make few reference cycles, so looking for them at Python's default pace (every 700 objects) only costs: with
#: these, a one-row request takes 18 % less CPU at 64 in flight, as much as with the collector off.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


class Front:
    """The whole server but its process. All calls on the loop.

    Parameters
    ----------
    options : ServerOptions
    record : Record or None
        Locked already; None: no control channel.
    """

    def __init__(self, options: ServerOptions, record: Record | None) -> None:
        self.options = options
        self.instance_id = secrets.token_hex(16)
        self._record = record
        self._token = secrets.token_hex(32)
        self._process = psutil.Process()
        self._started_at = time.time()
        self._stopping = asyncio.Event()
        self._catalog = Catalog(options)
        inference = Inference(self._catalog, check_method_names=options.check_method_names)
        examples = ExampleInference(
            inference.routed,
            check_method_names=options.check_method_names,
            request_logs=self._catalog.request_logs,
            mirrors=self._catalog.mirrors.by_model,
        )
        requests = Requests()
        metrics = Metrics(self._catalog, requests)
        self._health = Health(lambda: not inference.unready()) if options.grpc_health else None
        self._profiler = Profiler(self._catalog.loaded) if options.profiler else None
        services = Services(
            inference,
            examples,
            tensor_content=options.tensor_content,
            requests=requests,
            more=self._more_services(),
        )
        services.metrics = metrics.values
        self._grpc = _grpc_transport(options, services)
        pages = {options.metrics_path: metrics_page(options.metrics_path, metrics.page)} if options.metrics_path else {}
        self._rest = HttpServer(
            RestApi(
                inference,
                examples,
                timeout=options.rest_api_timeout,
                cors=options.rest_api_cors,
                requests=requests,
                pages=pages,
                keys=self._catalog.splits.keys,
            )
        )
        control = Control(self._catalog, self._token, self._identity, self._status, self.stop_soon)
        self._control = HttpServer(control.handle)
        self._owner = OwnerWatch(self.stop_soon)
        self._endpoints: dict[str, str] = {}

    def _more_services(self) -> list[MethodGroup]:
        names = [PREDICTION_SERVICE, MODEL_SERVICE]
        groups: list[MethodGroup] = []
        if self._health is not None:
            names.append(HEALTH_SERVICE)
            groups.append(self._health)
        if self._profiler is not None:
            names.append(PROFILER_SERVICE)
            groups.append(self._profiler)
        return [*groups, Reflection(names)]

    def stop_soon(self, reason: str) -> None:
        """Begin an orderly end."""
        if not self._stopping.is_set():
            log.info("stopping: %s", reason)
            self._stopping.set()
            if self._health is not None:
                self._health.stop()

    async def run(self) -> None:
        """Serve until told to stop.

        Raises
        ------
        ServingError
            When a port cannot be bound or, if told to wait for them, a model cannot be loaded; nothing is left running.
        """
        try:
            if self.options.wait_for_models:
                self._watch_owner()
                await self._catalog.start()
                if not await self._models_loaded():
                    return
            await self._bind()
            # Whatever lives now lives as long as the process; the collector need not look at it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            if not self.options.wait_for_models:
                await self._catalog.start()
                self._watch_owner()
            await self._stopping.wait()
        finally:
            await self._stop()

    # -- starting ------------------------------------------------------------------------------------------------------

    async def _models_loaded(self) -> bool:
        """Wait for the models of the start; return whether to go on."""
        stop = asyncio.ensure_future(self._stopping.wait())
        load = asyncio.ensure_future(self._catalog.wait_for_start(self.options.wait_for_models))
        try:
            await asyncio.wait([stop, load], return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                load.result()
        finally:
            stop.cancel()
            load.cancel()
        return not self._stopping.is_set()

    async def _bind(self) -> None:
        options = self.options
        host = options.bind_address
        if options.port or options.ephemeral_ports:
            port = await self._grpc.bind(_address(host, 0 if options.ephemeral_ports else options.port))
            self._endpoints["grpc"] = _address(_reachable(host), port)
        if options.grpc_socket_path:
            await self._grpc.bind(f"unix:{options.grpc_socket_path}")
            self._endpoints.setdefault("grpc", f"unix:{options.grpc_socket_path}")
        if options.rest_api_port and options.rest_api_port == options.port and not options.ephemeral_ports:
            # As TensorFlow Serving: gRPC has the port, the server runs on without REST.
            log.error("--rest_api_port is equal to --port (%d); REST is not served", options.port)
        elif options.rest_api_port or options.ephemeral_ports:
            await self._bind_rest(options.rest_bind_address, 0 if options.ephemeral_ports else options.rest_api_port)
        await self._grpc.start()
        for protocol, endpoint in self._endpoints.items():
            log.info("serving %s at %s%s", protocol, endpoint, self._security(protocol))
        if self._record is not None:
            address = await self._bind_control(self._record.path)
            self._record.write(self._record_content(address))

    def _security(self, protocol: str) -> str:
        tls = self.options.tls
        if tls is None:
            return ""
        if protocol == "rest":
            return " without TLS: --ssl_config_file is for gRPC, as in TensorFlow Serving"
        return " with TLS" if tls.client_ca is None else " with TLS; clients need a certificate"

    async def _bind_rest(self, host: str, port: int) -> None:
        try:
            bound = await self._rest.start_tcp(host, port, everywhere(port) if host == "::" else None)
        except OSError as error:
            where = _address(host, port)
            msg = f"cannot serve REST on {where}: {error.strerror or error}; is another server on that port?"
            raise UnavailableError(msg) from None
        reachable = "127.0.0.1" if host == "::" else _reachable(host)  # IPv4 is there in any case
        self._endpoints["rest"] = f"http://{_address(reachable, bound[0][1])}"

    async def _bind_control(self, record: Path) -> dict[str, Any]:
        for stale in record.parent.glob(f"{glob.escape(record.stem)}-????????.sock"):
            stale.unlink(missing_ok=True)  # of a killed server: the record's lock is ours, so nobody else uses them
        path = record.with_name(f"{record.stem}-{self.instance_id[:8]}.sock")
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            await self._control.start_unix(path)
            return {"unix": str(path)}
        bound = await self._control.start_tcp("127.0.0.1", 0)
        return {"tcp": list(bound[0])}

    def _record_content(self, control: dict[str, Any]) -> dict[str, Any]:
        return {
            "owner_pid": None,
            "log": None,
            "root": None,
            **self.options.record_extra,
            "schema": _RECORD_SCHEMA,
            "name": self.options.instance_name,
            **self._identity(),
            "started_at": self._started_at,
            "control": control,
            "token": self._token,
            "endpoints": self._endpoints,
        }

    def _watch_owner(self) -> None:
        if self.options.lifeline_fd is not None:
            self._owner.watch_pipe(self.options.lifeline_fd)
        if self.options.owner is not None:
            self._owner.watch_process(*self.options.owner)

    # -- what the control channel tells --------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "instance_id": self.instance_id,
            "pid": self._process.pid,
            "create_time": self._process.create_time(),
            "server_version": __version__,
        }

    def _status(self) -> dict[str, Any]:
        forkserver = self._catalog.forkserver
        return {
            **self._identity(),
            "started_at": self._started_at,
            "uptime_s": time.time() - self._started_at,
            "endpoints": self._endpoints,
            "forkserver": {"state": forkserver.state, "pid": forkserver.pid, "error": forkserver.error},
            "front": {"pid": self._process.pid, "rss_bytes": self._process.memory_info().rss},
        }

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Answer what runs, end the workers, take the record away. Bounded."""
        self._owner.close()
        if self._record is not None:
            self._record.close()  # first: nobody new shall find us
        try:
            if self._health is not None:
                self._health.stop()
            if self._profiler is not None:
                self._profiler.stop()
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.gather(self._grpc.stop(_DRAIN_SECONDS), self._rest.stop(_DRAIN_SECONDS))
                await self._catalog.close(_DRAIN_SECONDS)
                await self._control.stop(1.0)
        except TimeoutError:
            log.error("the server did not end within %g s; leaving what still hangs", _STOP_SECONDS)


def _grpc_transport(options: ServerOptions, services: Services) -> GrpcHttp2Transport | GrpcioTransport:
    # Only the one in use is imported.
    if options.grpc_transport == "own":
        from serving_server.transports.grpc_http2 import GrpcHttp2Transport

        return GrpcHttp2Transport(services, arguments=options.grpc_channel_arguments, tls=options.tls)
    from serving_server.transports.grpc_stock import GrpcioTransport

    return GrpcioTransport(services, arguments=options.grpc_channel_arguments, tls=options.tls)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str) -> str:
    """Return an address that clients on this machine can use for a bound one."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


async def _serve(options: ServerOptions, record: Record | None, last_resort: LastResort) -> None:
    code = _FAILURE
    try:
        await _run_front(options, record)
        code = 0
    finally:
        last_resort.begin(code)


async def _run_front(options: ServerOptions, record: Record | None) -> None:
    front = Front(options, record)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # started by nohup, to outlive its terminal
        loop.add_signal_handler(number, front.stop_soon, f"got {number.name}")
    await front.run()


def run_server(options: ServerOptions) -> None:
    """Run a server in this process until it is told to end, by a signal, the control channel or its owner's end.

    Raises
    ------
    ServingError
        When it cannot start.
    """
    _allow_descriptors()
    record = Record(options.record_file) if options.record_file is not None else None
    last_resort = LastResort()
    try:
        _runner()(_serve(options, record, last_resort))
    finally:
        last_resort.cancel()
        if record is not None:
            record.close()


def _allow_descriptors() -> None:
    """Raise the soft limit on open files: each client is one, and each loaded version three per lane."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _runner() -> Any:
    try:
        import uvloop
    except ImportError:  # no build for this platform
        log.info("uvloop is not installed; the standard event loop is slower")
        return asyncio.run
    return uvloop.run
