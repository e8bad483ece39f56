"""What a process' surroundings mean for it: whether its kernel is somewhere else, which versions it meets.

Nothing here stops anything: what does not fit is said once, as a warning.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import warnings
from importlib.metadata import version
from typing import Final

import psutil

from serving_workbench.errors import RemoteKernelWarning, VersionSkewWarning
from serving_workbench.ownership import in_kernel
from serving_workbench.records import Record

__all__ = ["remote_hint", "remote_kernel", "warn_about", "warn_about_extension"]

#: Commands that start kernels for Jupyter servers elsewhere.
_GATEWAYS: Final = ("kernelgateway", "enterprisegateway", "enterprise_gateway")
#: Texts of this process' warnings so far.
_said: set[str] = set()


def remote_kernel() -> str | None:
    """Return by what this kernel is seen to run on another machine than its Jupyter server; None when it is not.

    A kernel cannot know where its browser is. These are signs that each mean it: what started it is no process here, or
    is a gateway, or came over SSH; its sockets listen for clients elsewhere.
    """
    if not in_kernel():
        return None
    parent = os.environ.get("JPY_PARENT_PID", "")
    if parent.isdecimal():
        try:
            command = " ".join(psutil.Process(int(parent)).cmdline())
        except psutil.NoSuchProcess:
            return "what started it is no process of this machine"
        except psutil.Error:
            command = ""  # another user's, as a hub's may be
        if any(name in command for name in _GATEWAYS):
            return "a kernel gateway started it"
    elif "SSH_CONNECTION" in os.environ:
        return "it was started over SSH"
    address = _kernel_address()
    if address is not None and not address.is_loopback:
        return f"it listens for clients elsewhere, on {address}"
    return None


def _kernel_address() -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    application = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    if application is None or not application.initialized():
        return None
    try:
        return ipaddress.ip_address(application.instance().ip)
    except ValueError:  # a name, or the path of a unix socket
        return None


def remote_hint() -> str | None:
    """Return a sentence about what a remote kernel sees; None in one that is not."""
    reason = remote_kernel()
    if reason is None:
        return None
    return f"This kernel runs on '{socket.gethostname()}' ({reason}) and sees the servers of that machine only."


def warn_about(record: Record) -> None:
    """Warn when a server that was found or started has another version, or is out of reach for others."""
    ours = version("serving-workbench")
    if record.server_version != ours:
        _warn(
            f"The server '{record.name}' runs version {record.server_version} of serving-workbench, this process has "
            f"{ours}. What both know works; stop it and serve again to have one version.",
            VersionSkewWarning,
        )
    reason = remote_kernel()
    if reason is not None:
        _warn(
            f"This kernel runs on '{socket.gethostname()}' ({reason}), and so does the server '{record.name}'. Its "
            "addresses are reached from that machine only: ask it from this notebook, or forward its ports, as with "
            "ssh -L.",
            RemoteKernelWarning,
        )


def warn_about_extension(theirs: str) -> None:
    """Warn when the extension of the Jupyter server has another version than this process."""
    ours = version("serving-workbench")
    if theirs != ours:
        _warn(
            f"The Jupyter server has version {theirs} of serving-workbench loaded, this kernel {ours}. Restart Jupyter "
            "to have one version.",
            VersionSkewWarning,
        )


def _warn(text: str, category: type[Warning]) -> None:
    # Python's own memory is by place, and each cell of a notebook is another one.
    if text not in _said:
        _said.add(text)
        warnings.warn(text, category, stacklevel=4)
