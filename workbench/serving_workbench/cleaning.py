"""Remove what servers and deploys that ended by force have left behind; never what a user has published.

=========================================  =============================================================================
what                                       removed
=========================================  =============================================================================
record and socket of a server that is gone  always
its logs; ``<log>.old`` of one that runs   always
reservation, half-written version          when its process is gone
``.rejected-<n>-<time>``                   only when asked for: a version that failed its proof or load, kept for a look
``<n>``                                    never
=========================================  =============================================================================

Lock files stay: a process that waits for one would go on to hold a file that nobody else sees.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_workbench import logfile
from serving_workbench.errors import PublishError, RecordError, WorkbenchError
from serving_workbench.publish import abandoned, published_by
from serving_workbench.records import (
    delete_if_stale_locked,
    is_alive,
    known_instances,
    read_record,
    record_path,
    runtime_folder,
    start_lock,
)
from serving_workbench.rejected import rejected_versions
from serving_workbench.server import Server
from serving_workbench.tables import Table

__all__ = ["clean_up"]


@dataclass(frozen=True)
class _Item:
    """Something to remove."""

    what: str
    path: Path


def clean_up(roots: Iterable[Path], *, quarantined: bool, dry_run: bool) -> Table:
    """Remove leftovers; return what they were, one row each.

    Parameters
    ----------
    roots : iterable of Path
        Folders of all models, besides those of the servers that run.
    quarantined : bool
        Remove versions that were rejected, too.
    dry_run : bool
        Remove nothing.

    Returns
    -------
    Table
        ``what``, ``path``, ``bytes``, ``done`` (``removed``, ``would be removed``, ``kept: <reason>``).
    """
    rows: list[dict[str, Any]] = []
    for instance in known_instances():
        rows += _clean_instance(instance, dry_run)
    for folder in _model_folders([*roots, *_roots_of_servers()]):
        try:
            # A reservation of a version that is on disk says that nobody has proved it: the next deploy needs that.
            left = [path for path in abandoned(folder) if published_by(path) is None]
            bad = [_Item("rejected version", Path(found.path)) for found in rejected_versions(folder)]
        except PublishError:
            continue  # a folder that we may not read holds nothing of ours
        rows += [_remove(_Item("abandoned deploy", path), dry_run) for path in left]
        rows += [_remove(item, dry_run) if quarantined else _row(item, "kept: not asked for") for item in bad]
    removed = [row for row in rows if row["done"] in {"removed", "would be removed"}]
    size = sum(row["bytes"] for row in removed)
    verb = "would be removed" if dry_run else "removed"
    count = f"{len(removed)} leftover{'' if len(removed) == 1 else 's'}"
    title = f"{count} {verb}, {size:,} bytes" if rows else "nothing to clean up"
    return Table(rows, ("what", "path", "bytes", "done"), title, rows)


def _clean_instance(instance: str, dry_run: bool) -> Iterator[dict[str, Any]]:
    path = record_path(instance)
    with start_lock(instance, wait=0) as held:
        if not held:
            return  # a server of this name starts at this moment
        log = logfile.log_path(path)
        old = log.with_name(f"{log.name}.old")
        try:
            record = read_record(path)
        except RecordError as error:
            yield _row(_Item("record", path), f"kept: {error.message}")
            return
        if record is not None and is_alive(record.pid, record.create_time):
            logs = [old]
        else:
            logs = [log, old]
            if record is not None:
                row = _row(_Item("record of a server that is gone", path), "would be removed")
                if not dry_run:
                    row["done"] = "removed" if delete_if_stale_locked(path) else "kept: its server runs"
                yield row
            sockets = runtime_folder().glob(f"{path.stem}-*.sock")
            # Names may begin alike: `a` and `a-b` are two instances.
            ours = re.compile(rf"{re.escape(path.stem)}-[0-9a-f]+\.sock")
            for socket in sockets:
                if ours.fullmatch(socket.name) and socket.is_socket():
                    yield _remove(_Item("socket of a server that is gone", socket), dry_run)
        for each in logs:
            if each.exists():
                yield _remove(_Item("old log", each), dry_run)


def _roots_of_servers() -> Iterator[Path]:
    for instance in known_instances():
        try:
            server = Server.find(instance)
            if server is None:
                continue
            if server.root is not None:
                yield server.root
            for model in server.status().data["models"].values():
                yield Path(model["base_path"]).parent
        except WorkbenchError:
            continue  # of a record that is not trusted `_clean_instance` tells; a server that ends has no roots


def _model_folders(roots: Iterable[Path]) -> list[Path]:
    folders = set()
    for root in {root.absolute() for root in roots}:
        try:
            folders |= {child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")}
        except OSError:
            continue  # not there, or not ours
    return sorted(folders)


def _remove(item: _Item, dry_run: bool) -> dict[str, Any]:
    row = _row(item, "would be removed")
    if dry_run:
        return row
    try:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
    except OSError as error:
        row["done"] = f"kept: {error.strerror}"
    else:
        row["done"] = "removed"
    return row


def _row(item: _Item, done: str) -> dict[str, Any]:
    return {"what": item.what, "path": str(item.path), "bytes": _size(item.path), "done": done}


def _size(path: Path) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
        return path.lstat().st_size
    except OSError:
        return 0
