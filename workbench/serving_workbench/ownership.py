"""Who a serving process belongs to, so that it outlives a kernel restart but never its owner by accident.

=================================  =====================================================================================
launched from                      owner
=================================  =====================================================================================
a kernel                           what started the kernel: the Jupyter server (``JPY_PARENT_PID``), nbclient, VS Code.
                                   A kernel restart replaces the kernel process, so the kernel itself cannot be it. The
                                   server watches that process (pid and create time) and drains when it is gone.
a script or a terminal             that Python process. The server reads one end of a pipe whose other end only that
                                   process holds: however the process ends, SIGKILL included, the pipe closes.
either, with ``keep=True``         nobody: it runs until `stop`.
=================================  =====================================================================================
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import psutil

__all__ = ["Owner", "find_owner", "in_kernel"]


@dataclass(frozen=True)
class Owner:
    """The process that a server ends with.

    Attributes
    ----------
    pid : int
    create_time : float
        As psutil reports it; pids are reused.
    by_pipe : bool
        True when the owner is this process, which then holds the lifeline pipe.
    """

    pid: int
    create_time: float
    by_pipe: bool


def in_kernel() -> bool:
    """Whether this very process is an IPython kernel (a child of one, such as ``!python x.py``, is not)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def find_owner() -> Owner:
    """Return the owner for a server launched by this process."""
    if in_kernel():
        candidates = [os.environ.get("JPY_PARENT_PID", ""), str(os.getppid())]
        for text in candidates:
            pid = int(text) if text.isdecimal() else 0
            # 1 as a parent means that the real one is gone; as JPY_PARENT_PID it is a Jupyter server in a container.
            if pid > 1 or (pid == 1 and text == candidates[0]):
                try:
                    return Owner(pid, psutil.Process(pid).create_time(), by_pipe=False)
                except psutil.Error:
                    continue
    return Owner(os.getpid(), psutil.Process().create_time(), by_pipe=True)
