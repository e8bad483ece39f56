"""Clients that import TensorFlow: `tests/foreign/clients/with_tensorflow.py` runs them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Self

import psutil

__all__ = ["CLIENTS", "TensorFlowClients", "environment"]

CLIENTS = Path(__file__).with_name("clients")

#: Seconds for the import, or for one client to do all.
TIMEOUT = 120


def environment() -> dict[str, str]:
    """Ours without a proxy, which is not for this machine's own address."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


class TensorFlowClients:
    """A process that has imported TensorFlow and runs one client after the other, each in a fork of its own.

    Parameters
    ----------
    folder : Path
        For what the clients write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, CLIENTS / "with_tensorflow.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env=environment(),
        )
        self._next_line()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, script: str, *arguments: str) -> str:
        """Run a script of `clients`; returns what it wrote, and AssertionError with that when it failed."""
        assert self._process.stdin is not None
        self._count += 1
        written = self._folder / f"{self._count}-{script}.txt"
        print(json.dumps([str(CLIENTS / script), arguments, str(written)]), file=self._process.stdin)
        code = int(self._next_line())
        text = written.read_text()
        assert code == 0, f"{script} ended with {code}:\n{text}"
        return text

    def _next_line(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], TIMEOUT)[0]:
            self.stop()
            raise AssertionError(f"Waited {TIMEOUT} s in vain for a client with TensorFlow; see {self._folder}.")
        line = self._process.stdout.readline()
        assert line, (self._folder / "log").read_text()[-3000:]
        return line

    def stop(self) -> None:
        """End it, and a client that still runs. Idempotent."""
        if self._process.poll() is None:
            for process in [*psutil.Process(self.pid).children(recursive=True), self._process]:
                process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
