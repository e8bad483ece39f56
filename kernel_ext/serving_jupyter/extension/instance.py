"""One serving process as the extension sees it, and what of it is told to clients."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving_workbench.known_models import Models
from serving_workbench.records import Record

__all__ = ["VERSION", "Instance", "State"]

#: Of the distribution that this Jupyter server has; a serving process that a kernel started may have another.
VERSION = version("serving-workbench")


class State(Enum):
    """Where an instance is. From STOPPED and FAILED only a start leads on."""

    STARTING = "starting"
    RUNNING = "running"
    #: Between a crash and the next start.
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    #: It did not start, or crashed too often.
    FAILED = "failed"


@dataclass
class Instance:
    """One instance name; changed by `serving_jupyter.extension.supervisor` only, on the event loop.

    Attributes
    ----------
    record : Record or None
        Of the process, while RUNNING; believed by `serving_workbench.discovery`.
    ports : tuple of int or None
        For gRPC and REST, of the process that ran last: the next one gets them, unless somebody has taken one.
    supervised : bool
        Whether it is restarted after a crash: it ends with us, or with nobody.
    models : dict
        What the process was last seen to know: the next one is told the same.
    crashes : deque of float
        Loop times of crashes within the window that bounds restarts.
    restarts : int
        Since this Jupyter server knows the instance.
    error : str or None
        Why it is FAILED or RESTARTING, or what could not be put back after a restart.
    lock : asyncio.Lock
        Held by whoever starts, stops or restarts it.
    """

    name: str
    state: State = State.STOPPED
    record: Record | None = None
    ports: tuple[int, int] | None = None
    root: Path | None = None
    keep: bool = False
    supervised: bool = False
    models: Models = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    crashes: deque[float] = field(default_factory=deque)
    restarts: int = 0
    error: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    watch: asyncio.Task[None] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it ends with this Jupyter server."""
        return self.record is not None and self.record.owner_pid == os.getpid()

    def describe(self) -> dict[str, Any]:
        """Return it as JSON; never with the token of its control channel."""
        record = self.record
        description: dict[str, Any] = {
            "name": self.name,
            "state": self.state.value,
            "error": self.error,
            "restarts": self.restarts,
            "supervised": self.supervised,
            "instance_id": None,
            "extension_version": VERSION,
        }
        if record is not None:
            description |= {
                "instance_id": record.instance_id,
                "pid": record.pid,
                "started_at": record.started_at,
                "endpoints": record.endpoints,
                "root": record.root,
                "owner": "jupyter" if self.is_ours else "nobody" if record.owner_pid is None else "other",
                "owner_pid": record.owner_pid,
                "server_version": record.server_version,
                "versions_differ": record.server_version != VERSION,
            }
        return description
