"""Publish a version: written under a hidden name, made durable, then renamed into the server's sight.

TensorFlow Serving's version source takes every child of the base path whose name is a number, complete or not. So a
version gets its number only by a rename of a finished, fsynced folder on the same file system. In a model's folder:

==================================  ================================================================
``<n>``                             a published version
``.reserved-<n>``                   a deployer holds number n until its deploy is over; the file says which process
``.publishing-<n>-<pid>-<random>``  a version being written
``.rejected-<n>-<time>``            a version that failed its load or proof (`serving_workbench.rejected`)
==================================  ================================================================
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from serving_workbench.errors import PublishError
from serving_workbench.files import disk_errors, fsync_folder, fsync_tree
from serving_workbench.interrupts import uninterrupted

__all__ = [
    "Deployer",
    "Publication",
    "abandoned",
    "check_model_name",
    "deployers",
    "is_reserved",
    "next_version",
    "published_by",
    "versions_on_disk",
]

MAX_NAME_LENGTH = 128
MAX_VERSION = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"[0-9]+")
_TAKEN = re.compile(r"\.(?:publishing|reserved|rejected)-([0-9]+)(?:-.*)?")
_PUBLISHING = re.compile(r"\.publishing-[0-9]+-([0-9]+)-[0-9a-f]+")
#: Simultaneous deployers of one model that are waited out before giving up.
_RESERVATION_ATTEMPTS = 100


def check_model_name(name: object) -> str:
    """Return the name when it works as a folder, in a URL, in a gRPC message and in a config file.

    Raises
    ------
    PublishError
        Saying what is allowed: 1 to 128 of the ASCII letters, digits, ``_``, ``-``, ``.``; the first a letter, digit or
        ``_``.
    """
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name):
        return name
    shown = repr(name) if len(repr(name)) <= 60 else f"{repr(name)[:56]}...'"
    if not isinstance(name, str):
        problem = f"is a {type(name).__name__}, not a string"
    elif not name:
        problem = "is empty"
    elif len(name) > MAX_NAME_LENGTH:
        problem = f"has {len(name)} characters"
    elif not _NAME.match(name):
        problem = f"begins with {name[0]!r}"
    else:
        odd = next(c for c in name if not _NAME.fullmatch(f"a{c}"))
        problem = f"contains {odd!r}"
    raise PublishError(
        f"Model name {shown} {problem}.",
        step="publish",
        hint=f"A name has 1 to {MAX_NAME_LENGTH} letters (A-Z, a-z), digits, '_', '-' or '.', and begins with a "
        "letter, a digit or '_': it becomes a folder and part of a URL.",
    )


def versions_on_disk(folder: Path) -> list[int]:
    """Return the published version numbers of a model's folder, lowest first (empty when there is no folder)."""
    if not folder.is_dir():
        return []
    with disk_errors(folder, "list the model's versions in"):
        return sorted({int(c.name) for c in folder.iterdir() if _VERSION.fullmatch(c.name) and c.is_dir()})


def next_version(folder: Path) -> int:
    """Return one more than the highest number ever taken here: published, being written, reserved or rejected.

    A rejected number is not used again: clients and logs may have seen it.
    """
    if not folder.is_dir():
        return 1
    with disk_errors(folder, "list the model's versions in"):
        names = [child.name for child in folder.iterdir()]
    taken = [int(n) for n in names if _VERSION.fullmatch(n)]
    taken += [int(found[1]) for found in map(_TAKEN.fullmatch, names) if found]
    return max(taken, default=0) + 1


@dataclass(frozen=True)
class Deployer:
    """A process that holds a version number: it writes that version, or has the server load and prove it.

    Attributes
    ----------
    version : int
    pid : int
    notebook : str
        Of the Jupyter session, as its path; empty for others.
    """

    version: int
    pid: int
    notebook: str = ""

    def __str__(self) -> str:
        return f"notebook '{self.notebook}' (process {self.pid})" if self.notebook else f"process {self.pid}"


def deployers(folder: Path, *, besides: int | None = None) -> list[Deployer]:
    """Return who deploys into a model's folder at this moment, lowest version first, but for one version."""
    found = []
    for path in folder.glob(".reserved-*"):
        owner = _living_owner(path)
        number = _TAKEN.fullmatch(path.name)
        if isinstance(owner, dict) and number is not None and int(number[1]) != besides:
            found.append(Deployer(int(number[1]), int(owner["pid"]), str(owner.get("notebook") or "")))
    return sorted(found, key=lambda each: each.version)


def is_reserved(folder: Path, version: int) -> bool:
    """Whether the deploy of a version is not over, or was killed before it was."""
    return (folder / f".reserved-{version}").exists()


class Publication:
    """One version on its way: a context manager that leaves either a complete version or nothing.

    Parameters
    ----------
    folder : Path
        The model's base path, ``<root>/<name>``; created when missing.
    version : int, optional
        The number to publish; by default the next free one.
    above : int
        The next free one is greater than this too: a number that a server knows is not given to other files.

    Attributes
    ----------
    version : int
        The number, reserved until ``__exit__``: no other deployer gets it, and others see that we are at it.
    staging : Path
        Hidden folder on the same file system, to be filled before `commit`.
    final : Path
        Where `commit` puts it.
    others : list of Deployer
        Who else was deploying into this folder on ``__enter__``.
    abandoned : list of int
        Versions there whose deployers were killed before they were done: nobody has said that they are good.

    Examples
    --------
    >>> with Publication(Path("models/digits")) as publication:  # doctest: +SKIP
    ...     write_saved_model(publication.staging)
    ...     publication.commit()
    """

    def __init__(self, folder: Path, version: int | None = None, *, above: int = 0) -> None:
        self.folder = folder.absolute()
        self._wanted = version
        self._above = above
        self._created: list[Path] = []
        self._reservation: Path | None = None
        self.version = 0
        self.staging = self.folder
        self.final = self.folder
        self.others: list[Deployer] = []
        self.abandoned: list[int] = []

    def __enter__(self) -> Self:
        try:
            with uninterrupted():
                self._begin()
        except BaseException:
            self._withdraw()
            raise
        return self

    def _begin(self) -> None:
        self._create_folder()
        self.abandoned = _clean_abandoned(self.folder)
        self.version = self._reserve()
        self.others = deployers(self.folder, besides=self.version)
        self.final = self.folder / str(self.version)
        self.staging = self.folder / f".publishing-{self.version}-{os.getpid()}-{secrets.token_hex(4)}"
        with disk_errors(self.staging, "create the hidden folder"):
            self.staging.mkdir()

    def _create_folder(self) -> None:
        missing = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        with disk_errors(self.folder, "create the model's folder"):
            for path in reversed(missing):
                with suppress(FileExistsError):  # another deployer was faster
                    path.mkdir()
                    self._created.append(path)
            if not self.folder.is_dir():
                raise PublishError(
                    f"Cannot publish into '{self.folder}': it is a file.",
                    step="publish",
                    hint="Move it away, or choose another name or root.",
                )

    def _reserve(self) -> int:
        wanted = self._wanted
        if wanted is not None:
            self._check_wanted(wanted)
            if not self._try_reserve(wanted):
                raise PublishError(
                    f"Version {wanted} of '{self.folder.name}' is being published by another process.",
                    step="publish",
                    hint="Leave version= out to get the next free number.",
                )
            return wanted
        for _ in range(_RESERVATION_ATTEMPTS):
            number = max(next_version(self.folder), self._above + 1)
            if self._try_reserve(number):
                return number
        raise PublishError(
            f"No version number could be reserved in '{self.folder}' in {_RESERVATION_ATTEMPTS} attempts: other "
            "processes publish there all the time.",
            step="publish",
        )

    def _check_wanted(self, wanted: object) -> None:
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 < wanted <= MAX_VERSION:
            raise PublishError(
                f"version={wanted!r} is not a version number.",
                step="publish",
                hint=f"A version is an integer from 1 to {MAX_VERSION}.",
            )
        if wanted in versions_on_disk(self.folder):
            raise PublishError(
                f"Version {wanted} of '{self.folder.name}' exists already in '{self.folder}'.",
                step="publish",
                hint="A published version is never overwritten: leave version= out to get the next free number.",
            )

    def _try_reserve(self, number: int) -> bool:
        path = self.folder / f".reserved-{number}"
        owner = {
            "pid": os.getpid(),
            "create_time": psutil.Process().create_time(),
            "notebook": os.environ.get("JPY_SESSION_NAME"),  # as Jupyter's server tells its kernels
        }
        with disk_errors(path, "reserve a version number in"):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            self._reservation = path
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(owner, file)
        # Somebody may have published this number and dropped its reservation since we looked.
        if (self.folder / str(number)).exists():
            self._drop_reservation()
            return False
        return True

    def commit(self) -> Path:
        """Make the staged files durable and publish them under the version number, in one rename.

        Returns
        -------
        Path
            The version's folder.

        Raises
        ------
        PublishError
            Nothing was published.
        """
        with disk_errors(self.staging, "write"):
            fsync_tree(self.staging)
        with disk_errors(self.final, "publish"):
            if self.final.exists():
                raise PublishError(
                    f"'{self.final}' appeared while the version was being written.",
                    step="publish",
                    hint="Deploy again to get the next free number.",
                )
            self.staging.rename(self.final)
            fsync_folder(self.folder)
        self._created.clear()
        return self.final

    def take_back(self) -> None:
        """Undo `commit`: out of the server's sight in one rename; ``__exit__`` removes the files. Idempotent."""
        if self.final.exists() and not self.staging.exists():
            with disk_errors(self.final, "take back"):
                self.final.rename(self.staging)
                fsync_folder(self.folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            self._withdraw()

    def _withdraw(self) -> None:
        """Remove whatever is not published; harmless after `commit`."""
        if self.staging != self.folder and self.staging.exists():
            # A leftover is hidden from the server and removed by the next deploy, so it must not hide the real error.
            shutil.rmtree(self.staging, ignore_errors=True)
        self._drop_reservation()
        for path in reversed(self._created):
            with suppress(OSError):  # not empty: somebody else uses it now
                path.rmdir()
        self._created.clear()

    def _drop_reservation(self) -> None:
        if self._reservation is not None:
            self._reservation.unlink(missing_ok=True)
            self._reservation = None


def abandoned(folder: Path) -> list[Path]:
    """Return what deployers left in a model's folder that were killed: reservations, half-written versions."""
    with disk_errors(folder, "look into"):
        return [child for child in sorted(folder.iterdir()) if _is_abandoned(child)]


def _is_abandoned(child: Path) -> bool:
    if child.name.startswith(".reserved-"):
        return _TAKEN.fullmatch(child.name) is not None and _living_owner(child) is None
    found = _PUBLISHING.fullmatch(child.name)
    return found is not None and not psutil.pid_exists(int(found[1]))


def published_by(reservation: Path) -> int | None:
    """Return the number of an abandoned reservation whose version is on disk: nobody has said that it is good."""
    found = _TAKEN.fullmatch(reservation.name)
    is_there = found is not None and (reservation.parent / found[1]).is_dir()
    return int(found[1]) if found is not None and is_there and reservation.name.startswith(".reserved-") else None


def _clean_abandoned(folder: Path) -> list[int]:
    """Remove what deployers left that were killed: reservations, half-written folders; return what they published."""
    published = []
    for path in abandoned(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            continue
        path.unlink(missing_ok=True)
        number = published_by(path)
        if number is not None:
            published.append(number)
    return published


def _living_owner(path: Path) -> dict[str, Any] | str | None:
    """Return what a reservation says of its process: None when that is gone, text when it cannot be judged."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        if abs(psutil.Process(owner["pid"]).create_time() - owner["create_time"]) < 1:
            return dict(owner)
        return None
    except (psutil.NoSuchProcess, FileNotFoundError):
        return None
    except (ValueError, KeyError, TypeError, OSError, psutil.AccessDenied):
        return "just created and not yet written, or another user's: taken as held"
