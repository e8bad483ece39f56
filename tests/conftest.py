"""Fixtures of all tests: nothing is left behind, models are built once, servers are real processes.

The hooks set up a session of its own: a private Jupyter runtime folder, IPython and Jupyter settings of nobody, and a
mark on every process that a test starts (`tests.leaks`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leaks, models
from tests.browser import Browser, missing
from tests.certificates import make_certificates
from tests.servers import DEFAULT_TRANSPORT, TRANSPORTS, ServerProcess, SharedServer


def pytest_configure(config: pytest.Config) -> None:
    # Started in the background by a script, this process ignores SIGINT, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest keeps the `tmp_path` folders of the last three runs, so they stay outside of the folder that is watched.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    watch = leaks.start_session()
    os.environ["JUPYTER_RUNTIME_DIR"] = str(watch.runtime_dir)
    os.environ["JUPYTER_CONFIG_DIR"] = str(watch.folder / "config")
    os.environ["IPYTHONDIR"] = str(watch.folder / "ipython")
    os.environ["TMPDIR"] = tempfile.tempdir = str(watch.temporary_dir)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(leaks.the_watch().folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_by_the_session() -> Iterator[None]:
    """Fails at the end of the session when a server of a wide fixture, or anything else, is still there."""
    watch = leaks.the_watch()
    before = watch.snapshot()
    yield
    watch.allowed.clear()
    watch.allowed_paths.clear()
    _fail_on_leaks(watch, before, "The test session", leaks.FDS_PER_SESSION)


@pytest.fixture(autouse=True)
def nothing_left(nothing_left_by_the_session: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves processes, shared memory, files, sockets or threads behind, and removes them."""
    watch = leaks.the_watch()
    before = watch.snapshot()
    yield
    _fail_on_leaks(watch, before, request.node.nodeid, leaks.FDS_PER_TEST)


def _fail_on_leaks(watch: leaks.Watch, before: leaks.Snapshot, who: str, fds: int) -> None:
    left = watch.leaks(before, leaks.DEADLINE, fds)
    if left:
        watch.clean(before)
        lines = "\n".join(f"  {line}" for line in left)
        pytest.fail(f"{who} left behind, {leaks.DEADLINE:g} s after it ended:\n{lines}", pytrace=False)


@pytest.fixture(scope="session")
def models_dir(pytestconfig: pytest.Config) -> Path:
    """Folder of the SavedModels of `tests.models`: `<models_dir>/<name>/<version>/`. Read-only: copy to change."""
    assert pytestconfig.cache is not None
    return models.cached(pytestconfig.cache.mkdir("serving-models"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `tests.certificates.make_certificates`: `<name>.pem` and `<name>.key`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def model_copy(models_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """`model_copy(name, version=1, as_version=None, base=None)` publishes a version as an export does.

    It copies to `<base>/<as_version>`, where base is `<tmp_path>/models/<name>` unless given, and returns the version's
    folder. The base path of the model is its parent.
    """

    def copy(name: str, version: int = 1, as_version: int | None = None, base: Path | None = None) -> Path:
        base = base or tmp_path / "models" / name
        return models.copy_version(models_dir / name / str(version), base / str(as_version or version))

    return copy


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """`server(*flags, **options)` starts a `ServerProcess` of its own; all are stopped when the test ends."""
    started: list[ServerProcess] = []

    def start(*flags: str, **options: object) -> ServerProcess:
        process = ServerProcess(*flags, directory=tmp_path / f"server-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(process)
        return process.start()

    yield start
    for process in reversed(started):
        process.stop()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, one for the session: `JupyterLab(folder).open(browser, "x.ipynb")` of `tests.browser`.

    A test that asks for it is marked `browser`. Where there is none it is skipped, but not with CI=true.
    """
    reason = missing()
    if reason is not None and os.environ.get("CI") != "true":
        pytest.skip(f"no browser: {reason}")
    assert reason is None, reason
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        leaks.allow(started.pid)
        yield started


@pytest.fixture(scope="session")
def shared_servers(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., SharedServer]]:
    """`shared_servers("own")` is the session's server on that gRPC transport, started when first asked for.

    Without an argument it is on the transport that a server has by default. Servers of another `use` are others.
    """
    started: dict[str, SharedServer] = {}
    with contextlib.ExitStack() as stack:

        def get(transport: str = DEFAULT_TRANSPORT, use: str = "") -> SharedServer:
            if transport + use not in started:
                directory = tmp_path_factory.mktemp(f"shared-server-{transport}{use}")
                monitoring = directory / "monitoring.pbtxt"
                monitoring.write_text("prometheus_config { enable: true }\n")
                flags = (
                    f"--grpc_transport={transport}",
                    f"--grpc_socket_path={directory / 'grpc.sock'}",
                    f"--monitoring_config_file={monitoring}",
                    "--enable_grpc_healthcheck_service",
                )
                process = SharedServer(models_dir, *flags, directory=directory)
                stack.callback(process.stop)
                process.start()
                leaks.allow(process.pid)
                process.serve("half_plus_two")
                started[transport + use] = process
            return started[transport + use]

        yield get


@pytest.fixture(scope="session")
def shared_server(shared_servers: Callable[..., SharedServer]) -> SharedServer:
    """One server for all tests that only ask: `shared_server.serve("multi")` loads a model when first needed.

    half_plus_two (versions 1 and 2, both reachable) is there from the start. Tests that change models, settings or
    processes start their own by the fixture `server`. Tests of gRPC itself take `grpc_server`.
    """
    return shared_servers()


@pytest.fixture(scope="session")
def both_servers(shared_servers: Callable[..., SharedServer]) -> dict[str, SharedServer]:
    """Two servers by their transport, for tests that compare them: nothing else may have happened to either."""
    return {transport: shared_servers(transport, "compared") for transport in TRANSPORTS}


@pytest.fixture(scope="session", params=TRANSPORTS)
def grpc_server(request: pytest.FixtureRequest, shared_servers: Callable[..., SharedServer]) -> SharedServer:
    """`shared_server` once on each gRPC transport: every test that is about gRPC runs on both."""
    return shared_servers(request.param)


@pytest.fixture(scope="session", params=TRANSPORTS)
def configured_server(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server started with an empty list of models, on each transport; its tests give it models by reloads."""
    directory = tmp_path_factory.mktemp(f"configured-{request.param}")
    file = directory / "models.config"
    file.write_text("model_config_list {}")
    flags = (f"--model_config_file={file}", "--max_num_load_retries=0", f"--grpc_transport={request.param}")
    with ServerProcess(*flags, directory=directory) as process:
        leaks.allow(process.pid)
        yield process
