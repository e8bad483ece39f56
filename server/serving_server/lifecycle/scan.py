"""Looks at the disk: the versions under a base path, why it cannot be read, and whether a folder changed.

Plain blocking functions; the version source runs them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving_server.place import Place

__all__ = ["Fingerprint", "Scan", "choose_names", "explain_denied", "fingerprint", "parse_version", "scan"]

_MAX_VERSION = 2**63 - 1
_MAX_ENTRIES = 10_000  # of a fingerprint: a SavedModel has a few dozen files


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """State of a folder: equal digests mean that nothing in it changed. `newest` is the latest ctime in unix s."""

    digest: str
    newest: float


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at a base path found.

    `identity` (device, inode) tells a folder from another one of the same name later; None if it is unreadable, or no
    folder of this machine.
    `duplicates` are the names that lost to another name of the same number.
    """

    versions: Mapping[int, Place]
    problem: str | None
    identity: tuple[int, int] | None
    duplicates: tuple[str, ...] = ()
    fingerprints: dict[int, Fingerprint] = field(default_factory=dict)


def parse_version(name: str) -> int | None:
    """Return the version that a child's name stands for: ``00000123`` is 123; None if it is not one."""
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name) if len(name) <= 4000 else _MAX_VERSION + 1  # int() refuses longer texts
    return number if number <= _MAX_VERSION else None


def choose_names(names: Iterable[str]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the versions among sorted names, and the names that lose to a later one of the same number."""
    found: dict[int, str] = {}
    duplicates = []
    for name in names:
        number = parse_version(name)
        if number is not None:
            if number in found:
                duplicates.append(found[number])
            found[number] = name
    return found, tuple(duplicates)


def scan(base_path: Path, failed: Mapping[int, Place] | None = None) -> Scan:
    """List the versions under `base_path`, and take the fingerprints of the `failed` ones.

    Plain files with a number as their name count too, as in TF Serving; loading them fails with a clear message.
    """
    try:
        names = sorted(child.name for child in base_path.iterdir())
        info = base_path.stat()
    except FileNotFoundError:
        return Scan({}, _explain_missing(base_path), None)
    except NotADirectoryError:
        return Scan({}, f"base path {base_path} is not a folder", None)
    except PermissionError:
        return Scan({}, explain_denied(base_path), None)
    except OSError as error:
        return Scan({}, f"cannot list {base_path}: {error.strerror or error}", None)
    found, duplicates = choose_names(names)
    versions = {number: base_path / name for number, name in found.items()}
    prints = {number: fingerprint(path) for number, path in (failed or {}).items() if isinstance(path, Path)}
    return Scan(versions, None, (info.st_dev, info.st_ino), duplicates, prints)


def fingerprint(path: Path) -> Fingerprint:
    """Digest the names, sizes, modes and times of everything under `path`, up to a bounded number of entries.

    The ctime is among the times: ``cp -p`` sets an old mtime, and a repaired permission changes nothing else.
    """
    digest = hashlib.blake2b(digest_size=16)
    newest = 0.0
    for count, (name, info) in enumerate(_walk(path)):
        if info is None:
            digest.update(f"{name}\0unreadable\n".encode(errors="surrogateescape"))
        else:
            facts = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            digest.update(f"{name}\0{facts}\n".encode(errors="surrogateescape"))
            newest = max(newest, info.st_ctime)
        if count >= _MAX_ENTRIES:
            break
    return Fingerprint(digest.hexdigest(), newest)


def _walk(path: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    try:
        info = path.stat()
    except OSError:
        yield str(path), None
        return
    yield str(path), info
    if not stat.S_ISDIR(info.st_mode):
        return
    try:
        children = sorted(path.iterdir())
    except OSError:
        yield str(path), None
        return
    for child in children:
        if child.is_symlink() and child.is_dir():
            yield str(child), None  # not followed: a link to a parent would never end
        else:
            yield from _walk(child)


def explain_denied(path: Path) -> str:
    """Say which folder on the way to `path` refuses this process, which permission bits it lacks, and the remedy."""
    uid, groups = os.geteuid(), {os.getegid(), *os.getgroups()}
    target = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would need the very permission that is missing
    for folder in [*reversed(target.parents), target]:
        try:
            info = folder.stat()
        except OSError:
            break
        # A folder on the way must be searchable; only the last one is listed.
        needed = "rx" if folder == target else "x"
        if info.st_uid == uid:
            who, shift = "u", 6
        elif info.st_gid in groups:
            who, shift = "g", 3
        else:
            who, shift = "o", 0
        bits = info.st_mode >> shift
        missing = "".join(bit for bit, value in (("r", 4), ("x", 1)) if bit in needed and not bits & value)
        if missing:
            which = "the folder" if folder == target else f"the folder {folder} on the way to it"
            return (
                f"cannot list {path}: permission denied; {which} has mode {stat.S_IMODE(info.st_mode):#o} and belongs "
                f"to uid {info.st_uid}, the server runs as uid {uid}: chmod {who}+{missing} {folder}, or run the "
                "server as that user"
            )
    return (
        f"cannot list {path}: permission denied to uid {uid}, though the permission bits would allow it: look at "
        "access control lists, mount options and security modules"
    )


def _explain_missing(base_path: Path) -> str:
    target = Path(os.path.abspath(base_path))  # noqa: PTH100 - as above
    missing = target
    for parent in target.parents:
        if parent.exists():
            break
        missing = parent
    first = "" if missing == target else f" ({missing} is the first folder of it that is missing)"
    return f"base path {base_path} does not exist{first}; it is picked up when it appears"
