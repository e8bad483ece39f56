"""Servers that the library itself starts, each stopped when its test or the session ends."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import serving_workbench as sw
from tests import leaks
from tests.models import VERSIONS, copy_version

# TensorFlow in this process computes on the CPU and stays quiet about it; both must be set before its import.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture
def instance() -> Iterator[str]:
    """The name of an instance of this test's own; whatever runs under it is stopped at the end."""
    name = f"t{uuid.uuid4().hex[:8]}"
    yield name
    sw.stop(name)
    for path in _files_of(name):
        path.unlink()


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An instance that runs for the whole session: for tests with model names of their own."""
    server = sw.Server.launch("warm", root=tmp_path_factory.mktemp("warm") / "models")
    leaks.allow(server.pid)
    for path in _files_of("warm"):
        leaks.allow_path(path)
    yield "warm"
    server.stop()
    for path in _files_of("warm"):
        path.unlink()


@pytest.fixture(scope="session")
def arms(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sw.ServedModel]:
    """The model `arms` on a server of its own: version 1 in service, all others on disk."""
    root = tmp_path_factory.mktemp("arms")
    server = sw.Server.launch("arms", root=root)
    leaks.allow(server.pid)
    for path in _files_of("arms"):
        leaks.allow_path(path)
    try:
        served = sw.serve(models_dir / "arms" / "1", name="arms", instance="arms", progress=False)
        served.config(policy={"specific": {"versions": [1]}})
        for version in VERSIONS["arms"][1:]:
            copy_version(models_dir / "arms" / str(version), root / "arms" / str(version))
        yield served
        served.close()
    finally:
        server.stop()
        for path in _files_of("arms"):
            path.unlink()


@pytest.fixture
def name() -> str:
    """A model name that no other test uses."""
    return f"m{uuid.uuid4().hex[:8]}"


@pytest.fixture
def source(models_dir: Path) -> Callable[[str, int], Path]:
    """`source(name, version=1)`: the folder of a built test model."""

    def path(name: str, version: int = 1) -> Path:
        return models_dir / name / str(version)

    return path


def _files_of(instance: str) -> list[Path]:
    from jupyter_core.paths import jupyter_runtime_dir

    return list(Path(jupyter_runtime_dir()).glob(f"serving-workbench-{instance}*"))
