"""Versions that did not pass: moved out of the server's sight with the reason, looked at, removed.

A version whose load, warm-up or proof fails is renamed to ``.rejected-<n>-<time>``. No version source takes such a name
for a version, so it comes back by no restart; its number is not given to other files. ``rejected.json`` inside says
why. To try it once more, serve that folder: `sw.serve("<folder>", name)`.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from serving_workbench.errors import PublishError
from serving_workbench.files import disk_errors, fsync_folder

__all__ = ["REASON_FILE", "RejectedVersion", "clear_rejected", "quarantine", "rejected_versions"]

#: Not part of the model: a copy of a rejected version leaves it out.
REASON_FILE = "rejected.json"
_NAME = re.compile(r"\.rejected-([0-9]+)-([0-9]{8}T[0-9]{6})(?:-[0-9]+)?")
_UNKNOWN = "the reason was not written down"


@dataclass(frozen=True)
class RejectedVersion:
    """A version that was not put into service.

    Attributes
    ----------
    version : int
    path : str
        Where its files lie now.
    step : str
        Of the deploy, at which it failed.
    reason : str
    at : str
        When, as ``2026-11-25T23:59:59``, in the time of this machine.
    """

    version: int
    path: str
    step: str
    reason: str
    at: str


def quarantine(version_folder: Path, reason: str = _UNKNOWN, step: str = "") -> Path:
    """Move a published version out of the server's sight, with the reason; return its folder's new place.

    Raises
    ------
    PublishError
        It could not be moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    target = version_folder.with_name(f".rejected-{version_folder.name}-{stamp}")
    count = 1
    while target.exists():
        count += 1
        target = version_folder.with_name(f".rejected-{version_folder.name}-{stamp}-{count}")
    found = RejectedVersion(int(version_folder.name), str(target), step, reason, time.strftime("%Y-%m-%dT%H:%M:%S"))
    with disk_errors(version_folder, "move away the rejected version"):
        version_folder.rename(target)  # first: until then the server may load it
        fsync_folder(version_folder.parent)
    with suppress(OSError):  # a full disk may be why it failed: then its name has to do
        (target / REASON_FILE).write_text(json.dumps(asdict(found)), encoding="utf-8")
    return target


def rejected_versions(folder: Path) -> list[RejectedVersion]:
    """Return the rejected versions in a model's folder, in the order of their numbers and times."""
    return sorted(_rejected_in(folder), key=lambda found: (found.version, found.at, found.path))


def _rejected_in(folder: Path) -> Iterator[RejectedVersion]:
    if not folder.is_dir():
        return
    with disk_errors(folder, "list the rejected versions in"):
        children = [child for child in folder.iterdir() if child.name.startswith(".rejected-")]
    for child in children:
        name = _NAME.fullmatch(child.name)
        if name is None or not child.is_dir():
            continue
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.strptime(name[2], "%Y%m%dT%H%M%S"))
        step, reason = "", _UNKNOWN
        with suppress(OSError, ValueError):
            written = json.loads((child / REASON_FILE).read_text(encoding="utf-8"))
            if isinstance(written, dict):
                step, reason = str(written.get("step", "")), str(written.get("reason", _UNKNOWN))
        yield RejectedVersion(int(name[1]), str(child), step, reason, at)


def clear_rejected(folder: Path, version: int | None = None) -> list[int]:
    """Delete the rejected versions in a model's folder, or those of one number; return the numbers.

    Raises
    ------
    PublishError
        There is none of that number, or its files cannot be deleted.
    """
    found = rejected_versions(folder)
    chosen = [each for each in found if version in {None, each.version}]
    if version is not None and not chosen:
        known = ", ".join(str(each.version) for each in found) or "none"
        raise PublishError(f"'{folder.name}' has no rejected version {version}; rejected are: {known}.")
    for each in chosen:
        with disk_errors(Path(each.path), "delete the rejected version"):
            shutil.rmtree(each.path)
    return [each.version for each in chosen]
