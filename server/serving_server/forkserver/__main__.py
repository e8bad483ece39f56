"""The forkserver process: `python -m serving_server.forkserver <fd>`; started by `serving_server.forkserver.client`.

Messages from the front: ``{"op": "fork", "id": n, "spec": {...}}`` with the worker's descriptors. To the front:
``ready``, ``forked`` (id, pid), ``fork_failed`` (id, error), ``exit`` (pid, status as `os.waitpid` gives it).
The process ends when the front's end of the socket closes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from serving_server.channel.lines import BlockingLines


def _preload(sock: socket.socket) -> dict[str, Any]:
    """Import everything that a worker needs, so that forks share it."""
    started = time.monotonic()
    done = threading.Event()
    # The import takes seconds; a front that is killed meanwhile must not leave us behind. The thread ends before the
    # first fork: only a process with one thread can be forked safely.
    watcher = threading.Thread(target=_leave_with_the_front, args=(sock, done), daemon=True)
    watcher.start()
    try:
        with _without_keras():
            import tensorflow as tf

        from serving_server.worker import main as worker_main  # noqa: F401
        from serving_server.worker import remote_files  # noqa: F401
    finally:
        done.set()
        watcher.join()

    # Objects alive now are never garbage; without this the first collection in each worker would copy their pages.
    gc.collect()
    gc.freeze()
    return {"pid": os.getpid(), "tensorflow": tf.__version__, "seconds": time.monotonic() - started}


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Let imports of Keras fail meanwhile, as TensorFlow allows for.

    It imports Keras at its end, so that optimizers are known to those who load models as Python objects. We run graphs
    in sessions; Keras, with the plots and estimators that it looks for, is two fifths of the time and 140 MB.
    """
    absent = [name for name in ("keras", "tf_keras") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: there is no such module
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _leave_with_the_front(sock: socket.socket, done: threading.Event) -> None:
    poll = select.poll()
    poll.register(sock, 0)  # a hang-up is reported whatever is asked for, and also behind data that waits
    while not done.is_set():
        if poll.poll(100):
            os._exit(0)


def _become_worker(spec: dict[str, Any], fds: list[int]) -> None:
    """Run the worker in the forked child; never returns to the caller's loop."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from serving_server.worker import main as worker_main
        from serving_server.worker import remote_files

        status = remote_files.run(spec, fds) if spec.get("role") == "remote_files" else worker_main.run(spec, fds)
    except BaseException:  # noqa: BLE001 - the last line of a process: nothing may fly on into the forkserver's stack
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reap(lines: BlockingLines) -> None:
    with contextlib.suppress(ChildProcessError):  # no children at all
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            lines.send({"event": "exit", "pid": pid, "status": status})


def _fork(lines: BlockingLines, wakeup: tuple[int, int], message: dict[str, Any], fds: list[int]) -> None:
    try:
        pid = os.fork()
    except OSError as error:  # no memory, or too many processes
        lines.send({"event": "fork_failed", "id": message["id"], "error": str(error)})
        pid = -1
    if pid == 0:
        lines.sock.close()
        for fd in wakeup:
            os.close(fd)
        _become_worker(message["spec"], fds)
    for fd in fds:
        os.close(fd)
    if pid > 0:
        lines.send({"event": "forked", "id": message["id"], "pid": pid})


def main() -> int:
    """Serve fork requests until the front is gone."""
    # The front decides when we end, by closing the socket. A Ctrl-C or a service manager's SIGTERM reaches the whole
    # group at once; obeying it here would kill workers that the front still wants to drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lines = BlockingLines(socket.socket(fileno=int(sys.argv[1])))
    wakeup = os.pipe()
    for fd in wakeup:
        os.set_blocking(fd, False)
    try:
        lines.send({"event": "ready", **_preload(lines.sock)})
        # TensorFlow's import may install handlers of its own, so ours come after it.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup[1], warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([lines.sock.fileno(), wakeup[0]], [], [])
            if wakeup[0] in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup[0], 4096)
                _reap(lines)
            if lines.sock.fileno() in readable:
                request = lines.receive()
                if request is None:
                    return 0
                _fork(lines, wakeup, *request)
                # A second message may have come with the first one's bytes; it would not wake select again.
                while lines.pending():
                    request = lines.receive()
                    if request is not None:
                        _fork(lines, wakeup, *request)
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the front is gone


if __name__ == "__main__":
    sys.exit(main())
