"""Other versions of Jupyter's packages, laid in front of the environment's own: small folders, no second TensorFlow.

A package index that does not answer is tried again; when it stays silent, tests that need it fail in CI and are skipped
elsewhere, with pip's own words either way.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from serving_workbench.locks import lock_file

__all__ = ["oldest", "overlay", "python_path"]

_ATTEMPTS = 3
_PAUSE_SECONDS = 5.0
_INSTALL_SECONDS = 120.0
_PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def oldest(*names: str) -> list[str]:
    """Return the oldest versions that `pyproject.toml` allows of some dependencies: ``["ipython==8.20"]``."""
    project = tomllib.loads(_PYPROJECT.read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = {}
    for line in lines:
        named = re.match(r"([A-Za-z0-9._-]+)>=([0-9.]+)", line)
        if named:
            found[named[1]] = f"{named[1]}=={named[2]}"
    return [found[name] for name in names]


def overlay(cache: Path, *requirements: str) -> Path:
    """Return a folder for `PYTHONPATH` that holds just these packages, without what they depend on; made once."""
    key = hashlib.sha256(repr((sys.version_info[:2], sorted(requirements))).encode()).hexdigest()[:16]
    folder = cache / key
    with lock_file(cache / f"{key}.lock", _ATTEMPTS * (_INSTALL_SECONDS + _PAUSE_SECONDS)) as lock:
        assert lock.held, "somebody else has been installing for minutes"
        if not folder.is_dir():
            _install(folder, requirements)
    return folder


def _install(folder: Path, requirements: tuple[str, ...]) -> None:
    draft = folder.with_suffix(".draft")
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--target", str(draft))
    command = [sys.executable, "-m", "pip", "install", *options, *requirements]
    said = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)  # between two requests to somebody else's server
        shutil.rmtree(draft, ignore_errors=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            said = f"nothing for {_INSTALL_SECONDS:g} s"
            continue
        if done.returncode == 0:
            draft.rename(folder)
            return
        said = done.stderr[-2000:]
    reason = f"pip could not install {', '.join(requirements)} in {_ATTEMPTS} attempts; it says:\n{said}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def python_path(folder: Path) -> dict[str, str]:
    """Return environment variables that put an overlay first."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{before}" if before else str(folder)}
