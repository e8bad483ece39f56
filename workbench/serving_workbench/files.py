"""Folders and their troubles: permissions in words, errors of the disk in words, durable writes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving_workbench.errors import PublishError

__all__ = [
    "can",
    "describe_access",
    "disk_errors",
    "ensure_free_space",
    "fsync_folder",
    "fsync_tree",
    "human_bytes",
    "no_space_error",
    "shown_path",
]


def human_bytes(count: int) -> str:
    """Return a size as people read it, in powers of 1024: ``1.5 MiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def shown_path(path: str) -> str:
    """Return a path as people read it: relative when it lies below the present folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if "://" not in path and Path(path).is_relative_to(here) else path


def can(path: Path, mode: int) -> bool:
    """Whether the effective user may use a path; plain `os.access` asks for the real one."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def describe_access(path: Path) -> str:
    """Say who may use a path: the first part of it that stands in the way, with its bits and owner.

    Returns
    -------
    str
        Such as ``'/data/models' is drwx------ (0700), owned by uid 0; this process runs as uid 1000``.
    """
    blocked = path
    for folder in reversed(path.absolute().parents):
        # Without x on a folder nothing below it can even be looked at.
        if folder.exists() and not can(folder, os.X_OK):
            blocked = folder
            break
    try:
        info = blocked.stat()
    except OSError as error:
        return f"'{blocked}': {error.strerror}"
    bits = f"{stat.filemode(info.st_mode)} ({stat.S_IMODE(info.st_mode):04o})"
    user = os.geteuid() if hasattr(os, "geteuid") else "this user"
    return f"'{blocked}' is {bits}, owned by uid {info.st_uid}; this process runs as uid {user}"


def no_space_error(path: Path, detail: str = "") -> PublishError:
    """Return the error for a full disk or an exhausted quota."""
    try:
        free = f"{human_bytes(shutil.disk_usage(path if path.exists() else path.parent).free)} are free there"
    except OSError:
        free = "its free space cannot be read"
    return PublishError(
        f"No space left to write '{path}' ({free}{f'; {detail}' if detail else ''}).",
        step="publish",
        hint="Free some space (old version folders are safe to delete once unloaded) or pass root=<a folder on "
        "another disk>.",
    )


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `PublishError` that names the path and what to try.

    Parameters
    ----------
    path : Path
        What is being written; the error's own file name wins where there is one.
    doing : str
        Completes "Cannot ...": ``create the version folder``.
    """
    try:
        yield
    except OSError as error:
        raise _explained(error, Path(error.filename) if error.filename else path, doing) from error


def _explained(error: OSError, path: Path, doing: str) -> PublishError:
    elsewhere = "Pass root=<a folder you can write>."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return no_space_error(path)
        case errno.EROFS:
            return PublishError(
                f"Cannot {doing}: '{path}' is on a read-only file system.", step="publish", hint=elsewhere
            )
        case errno.EACCES | errno.EPERM:
            place = path if path.exists() else path.parent
            return PublishError(
                f"Cannot {doing} '{path}': permission denied. {describe_access(place)}.", step="publish", hint=elsewhere
            )
        case errno.ENOTDIR | errno.EEXIST:
            return PublishError(
                f"Cannot {doing}: '{path}' is in the way ({error.strerror}).",
                step="publish",
                hint="Move it away, or choose another name or root.",
            )
    return PublishError(f"Cannot {doing} '{path}': {error.strerror or error}.", step="publish", hint=elsewhere)


def ensure_free_space(folder: Path, needed: int) -> None:
    """Raise `PublishError` when a folder's disk has less than `needed` bytes (plus a small margin) free."""
    margin = 1 << 20
    free = shutil.disk_usage(folder).free
    if free < needed + margin:
        raise no_space_error(folder, f"about {human_bytes(needed)} are needed")


def fsync_tree(folder: Path) -> None:
    """Force every file and folder of a tree to the disk, so that a rename publishes whole files or nothing."""
    for current, _, files in os.walk(folder):
        for name in files:
            _fsync(Path(current) / name)
        _fsync(Path(current))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Force a folder's own entries (a rename just made in it) to the disk."""
    _fsync(folder)
