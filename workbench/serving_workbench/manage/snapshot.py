"""What the panel shows, as data: asked of the server, with rates made of its counters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving_workbench import logfile
from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError, PublishError
from serving_workbench.notes import metrics_text, read_notes
from serving_workbench.publish import versions_on_disk
from serving_workbench.rejected import rejected_versions
from serving_workbench.server import Server

__all__ = ["Line", "Reader", "Snapshot"]

#: Rates are those of the last seconds.
RATE_SECONDS: Final = 5.0

#: Seconds that the server may take to answer.
_TIMEOUT: Final = 3.0

#: Lines of the log that are shown, and their size at most.
_LOG_LINES: Final = 40
_LOG_CHARACTERS: Final = 6000

#: Of a model, so many of the versions that are only on disk; the highest.
_ON_DISK: Final = 10

#: By model and version: requests, and those of them that failed.
_Counts = dict[tuple[str, int], tuple[int, int]]


@dataclass(frozen=True)
class Line:
    """One version of one model.

    Attributes
    ----------
    state : str
        The server's word, or ``ON DISK`` (not loaded since it started), or ``REJECTED`` (withdrawn by a deploy).
    answers : bool
        Whether requests that name no version go to it, or part of them.
    share : float or None
        Part of the requests that name no version, from 0 to 1; None without a split.
    rate, failing : float or None
        Requests per second, and those of them that fail; None while not known.
    requests, errors : int or None
        Since it was loaded.
    memory : int or None
        Of its worker, in bytes.
    trouble : str or None
        Why it does not answer, or the step at which its load is.
    """

    model: str
    version: int
    state: str
    answers: bool = False
    held: bool = False
    labels: tuple[str, ...] = ()
    share: float | None = None
    rate: float | None = None
    failing: float | None = None
    requests: int | None = None
    errors: int | None = None
    memory: int | None = None
    in_flight: int = 0
    restarts: int = 0
    trouble: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A server at one moment.

    Attributes
    ----------
    uptime : float
        Seconds.
    memory : int
        Of the front process, in bytes.
    tensorflow : str
        State of the process that has TensorFlow imported: ``ready`` when models can be loaded.
    log : str or None
        End of the log, when it was asked for.
    """

    instance: str
    pid: int
    endpoints: Mapping[str, str]
    uptime: float
    memory: int
    tensorflow: str
    lines: tuple[Line, ...]
    problems: tuple[str, ...] = ()
    log: str | None = None

    def models(self) -> list[str]:
        """Return the names of the models, sorted."""
        return sorted({line.model for line in self.lines})

    def of(self, model: str | None) -> list[Line]:
        """Return the versions of a model, highest first."""
        return [line for line in self.lines if line.model == model]


class Reader:
    """Reads snapshots of the server of one instance name; one thread at a time.

    Parameters
    ----------
    instance : str
        Name of the server; another process of this name, after a restart, is found by itself.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.with_log = False
        self._server: Server | None = None
        self._control: ControlClient | None = None
        self._samples: deque[tuple[float, _Counts]] = deque()
        self._notes: dict[str, str | None] = {}

    def read(self) -> Snapshot:
        """Ask the server.

        Raises
        ------
        ServerNotRunningError
            None of that name runs.
        ControlError
            It does not answer.
        """
        server, control = self._found()
        try:
            status = control.status()
            statistics = control.statistics()["models"]
        except ControlError:
            self._server = None  # looked for again: it may have been restarted
            raise
        counts = _counts(statistics)
        rates = self._rates(counts)
        lines = [
            line for name in sorted(status["models"]) for line in self._lines(status["models"][name], counts, rates)
        ]
        return Snapshot(
            instance=self.instance,
            pid=status["pid"],
            endpoints=status["endpoints"],
            uptime=status["uptime_s"],
            memory=status["front"]["rss_bytes"],
            tensorflow=status["forkserver"]["state"],
            lines=tuple(lines),
            problems=tuple(
                f"{name}: {model['problem']}" for name, model in sorted(status["models"].items()) if model["problem"]
            ),
            log=self._log(server) if self.with_log else None,
        )

    def read_lines(self, model: Mapping[str, Any]) -> list[Line]:
        """Return the versions of one model, as the control channel has just described it; without rates."""
        return self._lines(model, {}, {})

    def _found(self) -> tuple[Server, ControlClient]:
        if self._server is None or self._control is None:
            self._server = Server.connect(self.instance)
            self._control = ControlClient.of(self._server.record, _TIMEOUT)
            self._samples.clear()  # another process counts from zero
        return self._server, self._control

    def _log(self, server: Server) -> str:
        if not server.record.log:
            return "This server writes its log elsewhere: it was not started by the workbench."
        return logfile.tail(Path(server.record.log), _LOG_LINES)[-_LOG_CHARACTERS:]

    def _rates(self, counts: _Counts) -> dict[tuple[str, int], tuple[float, float]]:
        now = time.monotonic()
        self._samples.append((now, counts))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        if now <= then:
            return {}
        found = {}
        for key, (requests, errors) in counts.items():
            old_requests, old_errors = before.get(key, (0, 0))
            if requests < old_requests:  # loaded anew meanwhile
                old_requests = old_errors = 0
            found[key] = ((requests - old_requests) / (now - then), max(0, errors - old_errors) / (now - then))
        return found

    def _lines(
        self, model: Mapping[str, Any], counts: _Counts, rates: Mapping[tuple[str, int], tuple[float, float]]
    ) -> list[Line]:
        name, folder = model["name"], Path(model["base_path"])
        traffic = model.get("traffic") or {}
        shares = {int(version): share for version, share in (traffic.get("shares") or {}).items()}
        if not traffic.get("weights"):
            shares = {}
        lines = {}
        for found in model["versions"]:
            version = found["version"]
            requests, errors = counts.get((name, version), (None, None))
            rate, failing = rates.get((name, version), (None, None))
            lines[version] = Line(
                model=name,
                version=version,
                state=found["state"],
                answers=shares.get(version, 0.0) > 0 if shares else version == model["serving_version"],
                held=found["held"],
                labels=tuple(sorted(label for label, to in model.get("labels", {}).items() if to == version)),
                share=shares.get(version),
                rate=rate,
                failing=failing,
                requests=requests,
                errors=errors,
                memory=found.get("rss_bytes"),
                in_flight=found["requests_in_flight"],
                restarts=found["restarts"],
                trouble=found["error_message"] or found["step"] or None,
                note=self._note(found["path"]),
            )
        for line in self._others(name, folder, set(lines)):
            if line.version not in lines or lines[line.version].state == "END":
                lines[line.version] = line
        return sorted(lines.values(), key=lambda line: -line.version)

    def _others(self, name: str, folder: Path, known: set[int]) -> list[Line]:
        """Return the versions of a folder that the server does not have: those on disk, and those withdrawn."""
        try:
            published = [version for version in versions_on_disk(folder) if version not in known]
            rejected = rejected_versions(folder)
        except PublishError:  # the server tells of it, too
            return []
        lines = [Line(name, v, "ON DISK", note=self._note(str(folder / str(v)))) for v in published[-_ON_DISK:]]
        for found in rejected:
            why = found.reason.partition("\n")[0]
            lines.append(Line(name, found.version, "REJECTED", trouble=why, note=self._note(found.path)))
        return lines

    def _note(self, path: str) -> str | None:
        """Return a version's note in few words; read once, as a published version does not change."""
        if path not in self._notes:
            notes = read_notes(Path(path))
            text = " ".join((notes.note or "").split())
            self._notes[path] = "; ".join(part for part in (text, metrics_text(notes.metrics)) if part) or None
        return self._notes[path]


def _counts(statistics: Mapping[str, Any]) -> _Counts:
    found: _Counts = {}
    for model, versions in statistics.items():
        for version, counters in versions.items():
            requests: dict[str, int] = counters["requests"]
            total = sum(requests.values())
            found[model, int(version)] = (total, total - requests.get("OK", 0))
    return found
