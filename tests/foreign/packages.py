"""Packages of foreign clients that cannot lie in the tests' own environment: installed once, kept in pytest's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.foreign.tensorflow_clients import CLIENTS

__all__ = ["min_tfs_packages", "node_packages", "xprof_packages"]

#: Seconds that an installation may take.
_TIMEOUT = 150

#: Its modules were generated in 2020, which every protobuf since 4 refuses; it brings a `tensorflow` folder of its own,
#: so beside TensorFlow it would write into that.
_MIN_TFS = ("min-tfs-client==1.0.2", "protobuf==3.20.3")

_XPROF = ("xprof==2.24.2",)


def node_packages(config: pytest.Config) -> Path:
    """Folder with the packages of the Node.js clients."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        _cannot(f"{' and '.join(missing)} not installed (Debian: nodejs, npm)")
    wanted = (CLIENTS / "node" / "package.json").read_bytes()
    folder = _folder(config, "node", wanted)
    if not (folder / "installed").exists():
        (folder / "package.json").write_bytes(wanted)
        # No scripts of packages are run, and a registry out of reach is not waited for.
        quick = ["--fetch-timeout=20000", "--fetch-retries=1"]
        _install(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *quick], folder)
    return folder


def min_tfs_packages(config: pytest.Config) -> Path:
    """Folder with min-tfs-client, the protobuf it can be used with, grpcio and NumPy."""
    return _python_packages(config, "min-tfs", _MIN_TFS)


def xprof_packages(config: pytest.Config) -> Path:
    """Folder with xprof, TensorBoard's plugin that shows profiles, and what it needs (300 MB)."""
    return _python_packages(config, "xprof", _XPROF)


def _python_packages(config: pytest.Config, name: str, wanted: Sequence[str]) -> Path:
    folder = _folder(config, name, repr(wanted).encode())
    if not (folder / "installed").exists():
        quick = ["--quiet", "--disable-pip-version-check", "--no-input", "--timeout=20", "--retries=1"]
        _install(
            [sys.executable, "-m", "pip", "install", *quick, "--only-binary=:all:", "--target", str(folder), *wanted],
            folder,
        )
    return folder


def _folder(config: pytest.Config, name: str, wanted: bytes) -> Path:
    assert config.cache is not None
    return config.cache.mkdir(f"{name}-{hashlib.sha256(wanted).hexdigest()[:16]}")


def _install(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        _cannot(f"{command[0]} did not end within {_TIMEOUT} s")
    if done.returncode != 0:
        _cannot(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    (folder / "installed").touch()


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
