"""All versions of a model with their notes, as a table to search: also without a server, from their folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from serving_server.wire.messages import SavedModel
from serving_workbench.digest import content_digest
from serving_workbench.errors import ControlError, ModelNotServedError
from serving_workbench.instance_name import chosen_instance
from serving_workbench.notes import Notes, read_notes
from serving_workbench.publish import versions_on_disk
from serving_workbench.rejected import rejected_versions
from serving_workbench.savedmodel import MODEL_FILE
from serving_workbench.server import Server

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["folder_history", "history"]

_FIRST: Final = ("version", "state", "serving", "published", "user", "note")
_LAST: Final = ("origin", "model", "rejected", "digest", "intact", "size", "path")


def history(
    name: str | Path, *, root: str | Path | None = None, instance: str | None = None, verify: bool = False
) -> pd.DataFrame:
    """Return all versions of a model that are on disk, the newest first, with the notes of their makers.

    Parameters
    ----------
    name : str or Path
        Model name; a `Path` is the folder of its versions.
    root : str or Path, optional
        Folder of all models. By default the model's folder is asked of the server; without a server ``./models``.
    instance : str, optional
        Name of the server that is asked, if it runs, where the model is and what state its versions are in.
    verify : bool
        Compute the digests again: all files are read.

    Returns
    -------
    pandas.DataFrame
        ``version``, ``state`` (the server's; ``ON DISK`` when it does not know the version, ``REJECTED`` when a deploy
        withdrew it), ``serving``, ``published`` (UTC), ``user``, ``note``, a column ``metrics.<name>`` for each
        metric, ``origin`` (notebook or script), ``model``, ``rejected`` (the reason), ``digest``, ``intact`` (None
        unless verified), ``size`` (bytes), ``path``, and ``libraries.<name>``. A version that came without notes shows
        what its files tell.
        Displayed are the first ones, metrics, and what is wrong; the rest is there.

    Raises
    ------
    ModelNotServedError
        There is no such model; naming the folder that was looked for.
    PublishError
        The folder cannot be read.
    """
    server = Server.find(chosen_instance(instance))
    known: dict[str, Any] | None = None
    folder: Path
    if server is not None and isinstance(name, str):
        known = _describe(server, name)
    if isinstance(name, Path):
        folder = name.expanduser().absolute()
    elif root is not None:
        folder = Path(root).expanduser().absolute() / name
    elif known is not None:
        folder = Path(known["base_path"])
    else:
        folder = ((server.root if server is not None else None) or Path("models").absolute()) / name
    if not folder.is_dir():
        raise ModelNotServedError(
            f"There is no model '{name}' in '{folder.parent}'.",
            hint="Name the folder of all models with root=.",
        )
    same = known is not None and Path(known["base_path"]) == folder
    return folder_history(folder, known if same else None, verify=verify)


def _describe(server: Server, name: str) -> dict[str, Any] | None:
    try:
        return server.control.model(name)
    except ControlError as error:
        if error.code in {"NOT_FOUND", "UNAVAILABLE"}:
            return None
        raise


def folder_history(folder: Path, model: Mapping[str, Any] | None = None, *, verify: bool = False) -> pd.DataFrame:
    """Return the history of a model's folder; `model` is what the control channel says of it.

    Raises
    ------
    PublishError
        The folder cannot be read.
    """
    import pandas as pd  # 0.5 s: only for those who ask

    from serving_workbench.history_frame import HistoryFrame

    states = {} if model is None else {version["version"]: version["state"] for version in model["versions"]}
    serving = None if model is None else model["serving_version"]
    rows = []
    for version in versions_on_disk(folder):
        row = _row(version, folder / str(version), verify=verify)
        rows.append({**row, "state": states.get(version, "ON DISK"), "serving": version == serving})
    for found in rejected_versions(folder):
        row = _row(found.version, Path(found.path), verify=verify)
        rows.append({**row, "state": "REJECTED", "serving": False, "rejected": found.reason})
    rows.sort(key=lambda row: (row["version"], row["published"] or ""), reverse=True)
    prefixes = ("metrics.", "libraries.")
    metrics, libraries = (sorted({key for row in rows for key in row if key.startswith(p)}) for p in prefixes)
    frame = HistoryFrame(rows, columns=pd.Index([*_FIRST, *metrics, *_LAST, *libraries]))
    frame["published"] = pd.to_datetime(frame["published"], utc=True, errors="coerce", format="ISO8601")
    return frame


def _row(version: int, path: Path, *, verify: bool) -> dict[str, Any]:
    notes = read_notes(path)
    return {
        "version": version,
        "published": notes.published or _written(path),
        "user": notes.user,
        "note": notes.note,
        "origin": notes.origin,
        "model": notes.model,
        "digest": notes.digest,
        "intact": _is_intact(path, notes) if verify else None,
        "size": _size(path),
        "path": str(path),
        **{f"metrics.{name}": value for name, value in notes.metrics.items()},
        **{f"libraries.{name}": text for name, text in (notes.libraries or _exported_with(path)).items()},
    }


def _is_intact(path: Path, notes: Notes) -> bool | None:
    """Whether the content is what was published; None when no digest was noted."""
    if notes.digest is None:
        return None
    try:
        return content_digest(path) == notes.digest
    except OSError:  # a file that cannot be read any more
        return False


def _written(path: Path) -> str | None:
    try:
        return datetime.fromtimestamp((path / MODEL_FILE).stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None


def _exported_with(path: Path) -> dict[str, str]:
    try:
        model = SavedModel.FromString((path / MODEL_FILE).read_bytes())
    except (OSError, DecodeError):
        return {}
    version = next((graph.meta_info_def.tensorflow_version for graph in model.meta_graphs), "")
    return {"tensorflow": version} if version else {}


def _size(path: Path) -> int | None:
    try:
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError:
        return None
