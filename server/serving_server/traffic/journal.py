"""What ramps did, event by event: in memory, and as JSON lines in a file that outlives the server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

__all__ = ["Journal"]

log = logging.getLogger(__name__)

#: Events that are remembered, of all models.
EVENTS: Final = 2000
#: Bytes of the file, from which on it begins anew; the one before is kept as ``<name>.1``.
MAX_BYTES: Final = 4 * 1024 * 1024


class Journal:
    """Events of ramps.

    Parameters
    ----------
    path : Path or None
        The file; None: memory only. Its events of before are read, those that can be, and first those of the file
        before it: right after it began anew, a ramp's beginning is there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        for each in () if path is None else (_rotated(path), path):
            try:
                lines = each.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("The journal of ramps %s cannot be read: %s", each, error)
                continue
            for line in lines:
                with contextlib.suppress(ValueError):  # the end of a server cut it
                    event = json.loads(line)
                    if isinstance(event, dict) and event.keys() >= {"model", "ramp", "event"}:
                        self._events.append(event)

    def add(self, model: str, ramp: int, event: str, **fields: Any) -> None:
        """Note an event, now. A file that cannot be written is logged, and stops nothing."""
        found = {"time": time.time(), "model": model, "ramp": ramp, "event": event, **fields}
        self._events.append(found)
        log.info("Model %s: ramp: %s%s", model, event, f": {fields['reason']}" if "reason" in fields else "")
        if self._path is None:
            return
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                self._path.replace(_rotated(self._path))
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
                file.write(json.dumps(found) + "\n")
        except OSError as error:
            log.warning("The journal of ramps %s cannot be written: %s", self._path, error)

    def of(self, model: str) -> list[dict[str, Any]]:
        """Return the events of a model, oldest first."""
        return [event for event in self._events if event["model"] == model]

    def models(self) -> set[str]:
        """Return the models that there are events of."""
        return {event["model"] for event in self._events}


def _rotated(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
