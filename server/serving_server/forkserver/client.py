"""The front's side of the forkserver: starts it, asks it for workers, hears how they end, restarts it if it dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from serving_server.channel.lines import LineChannel, Message
from serving_server.errors import InternalError, UnavailableError

__all__ = ["ForkServer", "describe_exit"]

log = logging.getLogger(__name__)

_MAX_STARTS: Final = 5

#: A fork takes milliseconds, but the first waits for the import of TensorFlow, which a cold disk makes long. Seconds.
_FORK_SECONDS: Final = 180.0


def describe_exit(status: int) -> str:
    """Say in words how a process ended, from its `os.waitpid` status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        hint = " (the system may have run out of memory)" if number == signal.SIGKILL else ""
        return f"killed by signal {number} ({name}){hint}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"


class ForkServer:
    """Owner of the forkserver process. All calls on the loop.

    The process starts at once and imports TensorFlow in the background; requests made meanwhile wait for it.

    Attributes
    ----------
    state : str
        ``starting``, ``ready``, ``failed`` or ``stopped``.
    error : str or None
        Why it failed.
    """

    def __init__(self) -> None:
        self.state = "stopped"
        self.error: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: LineChannel | None = None
        self._ids = itertools.count(1)
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, Callable[[str], None]] = {}
        self._early_exits: dict[int, str] = {}
        self._starts = 0
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; returns at once."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            fd = theirs.fileno()
            # `-m` with the folder of this very package: the front may have been started from anywhere.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving_server.forkserver", str(fd)],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")},
            )
        self._starts += 1
        self.state = "starting"
        self._lines = LineChannel(ours, self._on_message, self._on_closed)

    async def fork(self, spec: dict[str, Any], fds: Sequence[int]) -> int:
        """Fork a worker and return its pid. The descriptors stay the caller's to close.

        Raises
        ------
        UnavailableError
            When the forkserver cannot be (re)started, hangs, or the system refuses another process.
        """
        if self._closing:
            msg = "the server is shutting down"
            raise UnavailableError(msg)
        if self._lines is None:
            self.start()
        assert self._lines is not None
        number = next(self._ids)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forks[number] = future
        try:
            self._lines.send({"op": "fork", "id": number, "spec": spec}, fds)
            async with asyncio.timeout(_FORK_SECONDS):
                return await future
        except TimeoutError:
            what = "has been importing TensorFlow" if self.state == "starting" else "has not answered"
            msg = f"cannot start a worker: the forkserver (pid {self.pid}) {what} for {_FORK_SECONDS:g} s"
            log.error("%s", msg)
            raise UnavailableError(msg) from None
        finally:
            self._forks.pop(number, None)

    def on_exit(self, pid: int, callback: Callable[[str], None]) -> None:
        """Call back with a description when that worker ends; at once if it has already."""
        early = self._early_exits.pop(pid, None)
        if early is not None:
            callback(early)
        else:
            self._exits[pid] = callback

    def _on_message(self, message: Message) -> None:
        event = message["event"]
        if event == "ready":
            self.state = "ready"
            self._starts = 0
            log.info("TensorFlow %s imported in %.1f s", message["tensorflow"], message["seconds"])
        elif event in {"forked", "fork_failed"}:
            future = self._forks.pop(message["id"], None)
            wanted = future is not None and not future.done()
            if event == "forked":
                # Pids come again: what was noted of this one's last life is not about the new worker.
                self._early_exits.pop(message["pid"], None)
                if not wanted:  # cancelled meanwhile, so nobody will ask how it ended
                    self._exits[message["pid"]] = _ignore
            if future is None or future.done():
                return
            if event == "forked":
                future.set_result(message["pid"])
            else:
                future.set_exception(UnavailableError(f"cannot fork a worker: {message['error']}"))
        elif event == "exit":
            reason = describe_exit(message["status"])
            callback = self._exits.pop(message["pid"], None)
            if callback is None:
                # It ended before whoever asked for it could register.
                self._early_exits[message["pid"]] = reason
            else:
                callback(reason)
        else:
            msg = f"forkserver sent an unknown event {event!r}"
            raise InternalError(msg)

    def _on_closed(self) -> None:
        """React to the end of the process: nothing of ours stops it but `close`."""
        process, self._process, self._lines = self._process, None, None
        assert process is not None
        try:
            reason = describe_exit_code(process.wait(timeout=0.2))
        except subprocess.TimeoutExpired:  # it closed its socket but hangs
            process.kill()
            try:
                reason = describe_exit_code(process.wait(timeout=0.2))
            except subprocess.TimeoutExpired:
                reason = "hangs in the kernel, killed but not gone"
        self.error = f"the forkserver {reason}"
        log.error("%s", self.error)
        forks, self._forks = self._forks, {}
        # Workers live on and their own sockets tell of their end; only the exit status is lost with their parent.
        self._exits.clear()
        self._early_exits.clear()
        for future in forks.values():
            if not future.done():
                future.set_exception(UnavailableError(f"cannot start a worker: {self.error}; see the server's log"))
        if self._closing:
            self.state = "stopped"
        elif self._starts < _MAX_STARTS:
            self.start()
        else:
            self.state = "failed"

    async def close(self) -> None:
        """End the process and wait for it (bounded). Idempotent. Workers are closed by their owners before."""
        self._closing = True
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)
        self.state = "stopped"


def describe_exit_code(code: int) -> str:
    """Say how a `subprocess` ended, from its return code."""
    return describe_exit(-code if code < 0 else code << 8)


def _ignore(reason: str) -> None:
    """Hear the end of a worker that nobody waits for."""


def _end(process: subprocess.Popen[bytes]) -> None:
    # While it imports TensorFlow it does not look at its socket, so it is not given long.
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
