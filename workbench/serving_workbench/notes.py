"""What is known of a version besides the model: who made it, when, from what, why, and how good it is.

The notes travel with the version, in ``assets.extra/serving_workbench.json`` of its SavedModel, a folder that is there
for files which TensorFlow itself does not read. They are written before the version is published, so a version never
lacks them for a moment; and they are no part of the content that the digest stands for. Others may have written the
file, so what is not as it should be in it is left out.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, Final

from serving_workbench.digest import EXTRA_FOLDER, content_digest
from serving_workbench.errors import PublishError
from serving_workbench.ownership import in_kernel

__all__ = ["NOTES_FILE", "Notes", "check_note", "metrics_text", "read_notes", "write_notes"]

NOTES_FILE: Final = f"{EXTRA_FOLDER}/serving_workbench.json"

#: Limits on what is given, and on the file that is read.
MAX_NOTE: Final = 10_000  # characters
MAX_METRICS: Final = 200
_MAX_BYTES: Final = 1 << 20

_SCHEMA: Final = 1
#: Modules whose versions are noted when this process has them.
_LIBRARIES: Final = ("tensorflow", "keras", "numpy", "pandas", "sklearn", "torch", "jax")


@dataclass(frozen=True)
class Notes:
    """The notes of one version; what is not known is None or empty.

    Attributes
    ----------
    published : str or None
        When, in UTC: ``2026-03-01T12:00:00+00:00``.
    user : str or None
        Login name of who published it.
    origin : str or None
        The notebook, or the script.
    model : str or None
        What was served: its class, or the path of a SavedModel.
    note : str or None
    metrics : dict of str to float
    libraries : dict of str to str
        Versions by module name; ``python`` and ``serving_workbench`` too.
    digest : str or None
        Of the SavedModel's content; see `serving_workbench.digest`.
    """

    published: str | None = None
    user: str | None = None
    origin: str | None = None
    model: str | None = None
    note: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    digest: str | None = None


def check_note(note: object, metrics: object) -> dict[str, float]:
    """Refuse what cannot be noted, before anything is exported; return the metrics as numbers of Python.

    Raises
    ------
    PublishError
        The note is no text or too long, or the metrics are no mapping of names to finite numbers.
    """
    if note is not None and not isinstance(note, str):
        raise PublishError(f"note={note!r:.60} is a {type(note).__name__}, not a text.", step="publish")
    if isinstance(note, str) and len(note) > MAX_NOTE:
        raise PublishError(f"The note has {len(note)} characters; at most {MAX_NOTE} are kept.", step="publish")
    if metrics is None:
        return {}
    hint = 'Give names and finite numbers: metrics={"accuracy": 0.97}.'
    if not isinstance(metrics, Mapping) or len(metrics) > MAX_METRICS:
        what = f"{len(metrics)} of them" if isinstance(metrics, Mapping) else f"a {type(metrics).__name__}"
        message = f"metrics= is {what}; it takes a mapping of at most {MAX_METRICS}."
        raise PublishError(message, step="publish", hint=hint)
    checked: dict[str, float] = {}
    for name, value in metrics.items():
        number = _number(value)
        if not isinstance(name, str) or not name or number is None:
            raise PublishError(f"The metric {name!r:.60} is {value!r:.60}.", step="publish", hint=hint)
        checked[name] = number
    return checked


def _number(value: object) -> float | None:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # a scalar of NumPy or of a tensor
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None


def write_notes(savedmodel: Path, model: object, note: str | None, metrics: Mapping[str, float]) -> Notes:
    """Write the notes of a version that is about to be published, in place of those that it may have brought along.

    Parameters
    ----------
    savedmodel : Path
        Complete: the digest is taken of it.
    model : object
        What was exported.
    note, metrics
        As `check_note` has passed them.

    Raises
    ------
    OSError
    """
    notes = Notes(
        published=datetime.now(UTC).isoformat(timespec="seconds"),
        user=_user(),
        origin=_origin(),
        model=_model(model),
        note=note,
        metrics=dict(metrics),
        libraries=_libraries(),
        digest=content_digest(savedmodel),
    )
    _write(savedmodel, notes)
    return notes


def read_notes(savedmodel: Path) -> Notes:
    """Return the notes of a version; empty ones when it has none, or none that can be read."""
    try:
        with (savedmodel / NOTES_FILE).open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return Notes()
    if not isinstance(data, dict) or data.get("schema") != _SCHEMA:
        return Notes()
    texts = {key: value for key in _TEXTS if isinstance(value := data.get(key), str)}
    metrics = {key: n for key, value in _mapping(data, "metrics").items() if (n := _number(value)) is not None}
    libraries = {key: value for key, value in _mapping(data, "libraries").items() if isinstance(value, str)}
    return Notes(**texts, metrics=metrics, libraries=libraries)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics as one line: ``accuracy 0.97, loss 0.1``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


_TEXTS: Final = ("published", "user", "origin", "model", "note", "digest")


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _write(savedmodel: Path, notes: Notes) -> None:
    path = savedmodel / NOTES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"schema": _SCHEMA, **asdict(notes)}, indent=2) + "\n", encoding="utf-8")


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return None


def _origin() -> str | None:
    if in_kernel():
        # Jupyter's servers name the session, VS Code puts the notebook's path into the namespace.
        namespace = sys.modules["IPython"].get_ipython().user_ns
        found = os.environ.get("JPY_SESSION_NAME") or namespace.get("__vsc_ipynb_file__")
        return str(found) if found else None
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if script is None else os.fspath(script)


def _model(model: object) -> str:
    if isinstance(model, str | os.PathLike):
        return str(Path(os.fspath(model)).expanduser().absolute())
    kind = type(model)
    return f"{kind.__module__}.{kind.__qualname__}"


def _libraries() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    with suppress(metadata.PackageNotFoundError):  # not installed, run from its source
        found["serving_workbench"] = metadata.version("serving-workbench")
    for name in _LIBRARIES:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found
