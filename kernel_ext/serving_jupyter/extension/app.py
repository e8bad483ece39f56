"""Where Jupyter enters: settings, routes, start and end of the extension."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float, Int, Unicode, default

from serving_jupyter.extension.answers import RefusedError
from serving_jupyter.extension.handlers import API_ROUTES
from serving_jupyter.extension.proxy import PROXY_ROUTE
from serving_jupyter.extension.summary import Summaries
from serving_jupyter.extension.supervisor import Settings, Supervisor
from serving_jupyter.extension.upstream import Pool
from serving_workbench.errors import WorkbenchError
from serving_workbench.instance_name import INSTANCE_VARIABLE, chosen_instance

__all__ = ["ServingExtension"]

#: Deploys at once, and clients that follow a log at once.
_MAX_DEPLOYS: Final = 4
_MAX_FOLLOWERS: Final = 16


class ServingExtension(ExtensionApp):
    """Serving processes of a Jupyter server: ``<base_url>serving/api/...`` and ``<base_url>serving/<instance>/v1/...``.

    Settings go into ``jupyter_serving_jupyter_config.py`` or any configuration of the Jupyter server, as
    ``c.ServingExtension.<name>``.
    """

    name = "serving_jupyter"
    description = "Serving processes for TensorFlow models, started, watched and stopped by the Jupyter server."

    warm_start = Bool(
        False,
        help="Start the server of `warm_instance`, without models, when Jupyter starts: TensorFlow is then imported "
        "before the first deploy. It takes about 300 MB.",
    ).tag(config=True)
    warm_instance = Unicode(
        help=f"Instance name that `warm_start` starts: by default what the environment names ({INSTANCE_VARIABLE}), "
        "else 'default'."
    ).tag(config=True)
    max_instances = Int(8, min=1, help="Serving processes that this API starts at most, each under its name.").tag(
        config=True
    )
    max_restarts = Int(
        5, min=0, help="Crashes within `restart_window` after which a server is restarted again by itself; 0: never."
    ).tag(config=True)
    restart_window = Float(600.0, min=1.0, help="Seconds within which crashes count for `max_restarts`.").tag(
        config=True
    )
    restart_backoff = Float(
        1.0, min=0.0, help="Seconds between the first crash and the start; doubled for each that follows, up to 30."
    ).tag(config=True)
    poll_interval = Float(
        2.0, min=0.1, help="Seconds between two looks at servers: for new ones, their models and their traffic."
    ).tag(config=True)
    launch_timeout = Float(60.0, min=1.0, help="Seconds for a server to bind its ports.").tag(config=True)
    drain_timeout = Float(
        3.0, min=0.0, help="Seconds for running requests when Jupyter stops; then the process is killed."
    ).tag(config=True)
    stop_timeout = Float(
        6.0, min=0.1, help="Seconds that this extension may take when Jupyter stops; then Jupyter goes on without it."
    ).tag(config=True)
    activity_seconds = Float(
        300.0,
        min=0.0,
        help="A server that answered requests within these seconds counts as activity, so that a culler leaves Jupyter "
        "alone; 0: a server that runs always counts.",
    ).tag(config=True)
    proxy_max_request_bytes = Int(
        256 * 1024 * 1024, min=1, help="Largest body of a request that the proxy passes on."
    ).tag(config=True)
    proxy_max_answer_bytes = Int(1024 * 1024 * 1024, min=1, help="Largest answer that the proxy passes back.").tag(
        config=True
    )
    proxy_timeout = Float(
        300.0, min=0.1, help="Seconds that the proxy waits for an answer to begin, and for each further piece of it."
    ).tag(config=True)
    proxy_max_requests = Int(256, min=1, help="Requests that the proxy passes on at once.").tag(config=True)

    @default("warm_instance")
    def _chosen_instance(self) -> str:
        return chosen_instance()

    supervisor: Supervisor
    summaries: Summaries
    pool: Pool
    _warming: asyncio.Task[None] | None = None
    _last_traffic: datetime | None = None
    _followers = 0

    def initialize_settings(self) -> None:
        """Make what the handlers need."""
        settings = Settings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)})
        self.supervisor = Supervisor(settings, self.log, self._had_traffic)
        self.summaries = Summaries(self.supervisor)
        self.pool = Pool(self.proxy_max_requests)
        self._deploys: set[asyncio.Task[Any]] = set()

    def initialize_handlers(self) -> None:
        """Name the routes; the API comes before the proxy."""
        self.handlers.extend([*API_ROUTES, PROXY_ROUTE])

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self.supervisor.open()
        if self.warm_start:
            # Not waited for: Jupyter is ready before it.
            self._warming = asyncio.get_running_loop().create_task(self._warm())

    async def _warm(self) -> None:
        try:
            await self.supervisor.start(self.warm_instance)
        except WorkbenchError as error:
            self.log.warning("The serving process could not be started in advance: %s", error)

    async def stop_extension(self) -> None:
        """End what belongs to this Jupyter server; never raises, never takes long: Jupyter would wait for ever.

        Lifeline pipes end what this leaves.
        """
        if self._warming is not None:
            self._warming.cancel()
        try:
            async with asyncio.timeout(self.stop_timeout):
                for deploy in self._deploys:
                    deploy.cancel()
                await asyncio.gather(*self._deploys, return_exceptions=True)
                await self.supervisor.close()
        except TimeoutError:
            self.log.warning("Serving processes took longer than %g s to end; they follow.", self.stop_timeout)
        except Exception:  # a stop hook that raises keeps the Jupyter server from ending
            self.log.exception("Serving processes could not be stopped; they end with this process.")
        finally:
            self.pool.close()

    # --- what cullers ask ---

    def _had_traffic(self) -> None:
        self._last_traffic = datetime.now(UTC)
        # Jupyter's status, which a hub's culler reads, tells the latest of the settings with such a name.
        assert self.serverapp is not None
        self.serverapp.web_app.settings["serving_jupyter_last_activity"] = self._last_traffic

    def current_activity(self) -> dict[str, Any] | None:
        """Return the servers that keep Jupyter busy, by name; None when there are none."""
        busy = {instance.name: instance.describe() for instance in self.supervisor.instances() if instance.is_ours}
        if not busy or self.activity_seconds == 0:
            return busy or None
        quiet = self._last_traffic is None or (
            (datetime.now(UTC) - self._last_traffic).total_seconds() > self.activity_seconds
        )
        return None if quiet else busy

    # --- for the handlers ---

    def public_settings(self) -> dict[str, Any]:
        """Settings by name."""
        return {name: getattr(self, name) for name in sorted(self.class_own_traits(config=True))}

    def absolute_path(self, text: str) -> Path:
        """Return a path that a client gave; a relative one is below the folder that Jupyter shows."""
        assert self.serverapp is not None
        return Path(self.serverapp.root_dir, Path(text).expanduser()).absolute()

    @contextlib.contextmanager
    def follower(self) -> Iterator[None]:
        """Count a client that follows a log; refuse it when there are too many."""
        if self._followers >= _MAX_FOLLOWERS:
            raise RefusedError(429, f"{_MAX_FOLLOWERS} clients follow logs already.")
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    @contextlib.asynccontextmanager
    async def deploying(self) -> AsyncIterator[None]:
        """Count a deploy; refuse it when there are too many."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._deploys) >= _MAX_DEPLOYS:
            raise RefusedError(429, f"{_MAX_DEPLOYS} deploys run already.")
        self._deploys.add(task)
        try:
            yield
        finally:
            self._deploys.discard(task)
