"""The image of mybinder.org: its files, and the environment that they make, built and used in a clean place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest

from tests import leaks
from tests.kernel_ext.extension import ask
from tests.kernel_ext.jupyter import TOKEN, JupyterServer
from tests.memory import PeakMemory

ROOT = Path(__file__).parent.parent
BINDER = ROOT / "binder"
QUICKSTART = "notebooks/01_quickstart.ipynb"

#: What Binder gives a visitor, in MB.
MEMORY = 2000.0


def test_the_files_are_those_that_repo2docker_reads() -> None:
    # The first two make the environment; the scripts are run when they may be executed, and each must stop at an error.
    assert re.fullmatch(r"python-3\.1[123]\n", (BINDER / "runtime.txt").read_text())
    assert ".[demo]" in (BINDER / "requirements.txt").read_text().splitlines(), (
        "the root's pyproject.toml is not looked at"
    )
    for name in ("postBuild", "start"):
        assert os.access(BINDER / name, os.X_OK)
        lines = [line for line in (BINDER / name).read_text().splitlines() if line and not line.startswith("#")]
        assert lines[0] == "set -euo pipefail"
        assert (BINDER / name).read_text().startswith("#!/bin/bash\n")
    assert lines[-1] == 'exec "$@"'


def test_what_opens_is_there() -> None:
    config = json.loads((BINDER / "jupyter_server_config.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert "https://mybinder.org/badge_logo.svg" in readme
    (linked,) = re.findall(r"https://mybinder\.org/v2/gh/<owner>/<repository>/HEAD\?urlpath=(\S+)", readme)
    for url in (config["ServerApp"]["default_url"], config["LabApp"]["default_url"], f"/{linked}"):
        assert (ROOT / url.removeprefix("/lab/tree/")).is_file()


@dataclass(frozen=True)
class Image:
    """What repo2docker makes of the repository: its files, and an environment.

    Attributes
    ----------
    repository : Path
        The committed files, and nothing else.
    variables : dict of str to str
        A home of its own, and the environment's programs first.
    """

    repository: Path
    variables: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in the repository."""
        environment = {**os.environ, **self.variables}
        return subprocess.run(
            command, cwd=self.repository, env=environment, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("binder")
    repository, environment, home = folder / "repository", folder / "environment", folder / "home"
    for each in (repository, home):
        each.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(repository)], input=archive.stdout, check=True)
    subprocess.run([python_of(repository / "binder/runtime.txt"), "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "-r", "binder/requirements.txt"]
    installed = subprocess.run(pip, cwd=repository, capture_output=True, text=True, timeout=900, check=False)
    assert installed.returncode == 0, installed.stderr[-3000:]
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    yield Image(repository, {"PATH": path, "HOME": str(home), "NB_PYTHON_PREFIX": str(environment)})
    shutil.rmtree(environment)  # two gigabytes; pytest would keep those of three runs


def python_of(runtime: Path) -> str:
    """An interpreter of the version that the file names."""
    version = runtime.read_text().strip().removeprefix("python-")
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None and os.environ.get("CI") != "true":
        pytest.skip(f"no Python {version} on this machine")
    assert found is not None, f"no Python {version}"
    return found


class Launched(JupyterServer):
    """JupyterLab as Binder starts it: by the image's start script."""

    def __init__(self, image: Image, *flags: str) -> None:
        self.program = ("binder/start", "jupyter")
        self.command = ("lab", f"--IdentityProvider.token={TOKEN}")
        super().__init__(image.repository, *flags, environment=image.variables)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_quickstart_in_an_environment_that_is_made_of_these_files_alone(
    image: Image, record_property: pytest.RecordProperty
) -> None:
    built = image.run("./binder/postBuild")
    assert built.returncode == 0, built.stdout + built.stderr

    with Launched(image) as jupyter:
        leaks.allow(jupyter.pid)
        family = [psutil.Process(jupyter.pid)]
        first = ask(jupyter, "GET", "/")
        assert (first.status, first.headers["location"].rstrip("?")) == (302, f"/lab/tree/{QUICKSTART}")
        config = ask(jupyter, "GET", "/serving/api/config").json
        assert config["prefix"] == image.variables["NB_PYTHON_PREFIX"], "the extension of this environment"
        assert "serving-workbench" in ask(jupyter, "GET", "/lab").body.decode(), "JupyterLab's part"

        with PeakMemory(jupyter.pid) as memory:
            kernel = jupyter.start_kernel(QUICKSTART)
            try:
                assert "%serve" in kernel.run("%serve --help"), "the magics are there before anybody loads them"
                cells = nbformat.read(image.repository / QUICKSTART, as_version=4).cells
                said = "".join(kernel.run(cell.source, 180) for cell in cells if cell.cell_type == "code")
                family += family[0].children(recursive=True)
            finally:
                kernel.close()
        assert re.search(r"failed: 0\b", said), said[-3000:]
        assert "version 2 stays" in said
        assert sorted(path.name for path in (image.repository / "notebooks/models/digits").iterdir()) == ["1", "2"]

    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    parts = ", ".join(f"{name} {taken:.0f}" for name, taken in sorted(memory.by_process.items()))
    print(f"Peak of Jupyter, the kernel and the serving process: {memory.peak:.0f} MB ({parts})")
    record_property("peak_mb", round(memory.peak))
    assert memory.peak < MEMORY, parts


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_an_image_without_the_extension_is_not_built(image: Image) -> None:
    enabled = Path(image.variables["NB_PYTHON_PREFIX"]) / "etc/jupyter/jupyter_server_config.d/serving_jupyter.json"
    content = enabled.read_bytes()
    enabled.unlink()
    try:
        assert image.run("./binder/postBuild").returncode != 0
    finally:
        enabled.write_bytes(content)
