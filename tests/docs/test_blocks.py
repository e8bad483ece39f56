"""Every block of commands in README.md and the guide is executed as it stands.

Cells and commands of a terminal run in one kernel of a real Jupyter server, page after page, as readers do it: first
the page Start, whose model the others go on with. Ports and folders of examples become those of the tests, and
durations are shortened by `SHORTENED`. Lines that start a server in the foreground start one each.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests import leaks
from tests.docs.pages import PAGES, RUNNABLE, Block, blocks
from tests.kernel_ext.jupyter import TOKEN, JupyterServer, Kernel
from tests.models import copy_version
from tests.servers import ServerProcess, SharedServer

#: The page that the others go on from.
START: Final = "workbench/docs/guide/start.md"
#: What is written for readers -> what is quick.
SHORTENED: Final = (
    (r"\bepochs=20\b", "epochs=2"),
    (r"\bseconds=(10|5|300)\b", "seconds=1"),
    (r"--for (10s|5min)", "--for 1s"),
    (
        r'sw\.tune\("digits", p99="20ms"\)',
        'sw.tune("digits", p99="100ms", seconds=4, repeats=2, sizes=(1, 8), timeouts=(0,), threads=(1,), trials=1)',
    ),
    (r'sw\.switchback\("digits", 1, 2\)', 'sw.switchback("digits", 1, 2, blocks=20, seconds=0.05)'),
    (r'(sw\.profile\("digits"(?:, \d)?)\)', r"\1, batches=3, batch_sizes=(1, 8))"),
    (r"(?m)^%profile digits$", "%profile digits --batches 3"),
    (r"data=pixels\b(?!\[)", "data=pixels[:200]"),
    (r"labels=labels\b", "labels=labels[:200]"),
    (r"--data pixels --labels labels", "--data {pixels[:200]} --labels {labels[:200]}"),
)
_SERVER: Final = re.compile(r"^(?:python -m serving_server|serving-server) (--model.*)$", re.MULTILINE)


def commands(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUNNABLE and not block.reason]


def shortened(text: str) -> str:
    for written, quick in SHORTENED:
        text = re.sub(written, quick, text)
    return text


@dataclass
class Story:
    """A kernel that runs pages, beside a server of half_plus_two on what the pages call 8500 and 8501."""

    folder: Path
    jupyter: JupyterServer
    kernel: Kernel
    server: SharedServer

    def tell(self, page: str) -> None:
        """Run the blocks of a page; AssertionError with what was shown when one fails."""
        for block in blocks(page):
            if block.file:
                path = self.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.here(block.text))
        for block in commands(page):
            try:
                self.run(block)
            except AssertionError as error:
                raise AssertionError(f"{block}\n{error}") from error

    def run(self, block: Block) -> None:
        text = shortened(self.here(block.text))
        if block.language == "shell":
            text = _SERVER.sub(":", text)
            # In a kernel, so that it finds what the cells have started.
            self.kernel.run(f"%%bash\nset -e\n{text}")
        elif block.language == "javascript":
            self.run_javascript(text)
        else:
            self.kernel.run(text)

    def run_javascript(self, text: str) -> None:
        node = shutil.which("node")
        if node is None:
            return  # CI has it
        script = self.folder / "page.mjs"
        script.write_text(text)
        done = subprocess.run([node, str(script)], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr

    def here(self, text: str) -> str:
        """What is written with this story's ports, folders and token."""
        for written, meant in (
            ("http://127.0.0.1:8501", self.server.rest_url),
            ("127.0.0.1:8500", self.server.grpc_endpoint),
            ("https://hub.example/user/ada", self.jupyter.url),
            ("<token>", TOKEN),
        ):
            text = text.replace(written, meant)
        return text


@pytest.fixture(scope="module")
def story(shared_server: SharedServer, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A notebook at the end of the page Start."""
    folder = tmp_path_factory.mktemp("pages")
    # What the page about terminals serves: a model of one number, as the request there says.
    copy_version(models_dir / "half_plus_two" / "1", folder / "exported" / "prices")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with JupyterServer(folder, environment={"PATH": programs}) as jupyter:
        leaks.allow(jupyter.pid)
        kernel = jupyter.start_kernel()
        try:
            told = Story(folder, jupyter, kernel, shared_server)
            told.tell(START)
            yield told
        finally:
            kernel.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(400)  # a kernel that imports Keras, and three deploys, before the first page
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_blocks_of_a_page_run_as_they_stand(story: Story, page: str) -> None:
    if page != START:
        story.tell(page)


#: Each line once, though several pages have it.
SERVERS = {flags: page for page in PAGES for block in blocks(page) for flags in _SERVER.findall(block.text)}


@pytest.mark.parametrize(("flags", "page"), SERVERS.items(), ids=range(len(SERVERS)))
def test_commands_that_start_a_server_start_one(
    flags: str, page: str, server: Callable[..., ServerProcess], models_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    for name in ("digits", "half_plus_two"):
        shutil.copytree(models_dir / name, folder / name)
    (tmp_path / "logs").mkdir()
    for block in blocks(page):
        if block.file.startswith("/models/"):
            (folder / block.file.removeprefix("/models/")).write_text(_moved(block.text, tmp_path))
    given = [
        word for word in shlex.split(_moved(flags, tmp_path)) if not word.startswith(("--port=", "--rest_api_port="))
    ]
    process = server(*given)
    names = re.findall(r"--model_name=(\w+)", flags) or ["digits", "half_plus_two"]
    for name in names:
        process.wait_available(name)


def _moved(text: str, tmp_path: Path) -> str:
    return text.replace("/var/log/models/", f"{tmp_path}/logs/").replace("/models/", f"{tmp_path}/models/")
