"""Write any model that a user holds as a SavedModel, with what is needed to check the copy against the original.

The kind of a model is told from the libraries that the user has already imported: whoever holds a Keras model has Keras
in `sys.modules`. So this module imports TensorFlow for nobody who has not done so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving_workbench import savedmodel
from serving_workbench.errors import ExportError, WorkbenchError
from serving_workbench.files import can, disk_errors, ensure_free_space, no_space_error
from serving_workbench.rejected import REASON_FILE

__all__ = ["Exported", "NotComparableError", "Reference", "check_model", "export_model", "kind_of"]

Arrays = dict[str, NDArray[Any]]
#: The in-notebook model as a function from named inputs to named outputs, of one signature.
Reference = Callable[[Arrays], Arrays]


class NotComparableError(Exception):
    """A reference cannot match its arguments or results with the names that the export gave them."""


@dataclass(frozen=True)
class Exported:
    """What an export leaves behind besides its files.

    Attributes
    ----------
    kind : str
        ``keras``, ``module``, ``functions`` or ``path``.
    references : dict of str to Reference
        By signature name: the model in this process, to compare served answers with. Empty for a path.
    """

    kind: str
    references: dict[str, Reference] = field(default_factory=dict)


def kind_of(model: object) -> str:
    """Return ``keras``, ``module``, ``functions``, ``function`` or ``path``.

    Raises
    ------
    ExportError
        For anything else, saying what is taken.
    """
    if isinstance(model, str | os.PathLike):
        return "path"
    if isinstance(model, Mapping):
        return "functions"
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model):
        return "keras"
    legacy = sys.modules.get("tf_keras")
    if legacy is not None and isinstance(model, legacy.Model):
        raise ExportError(
            "This is a Keras 2 (tf_keras) model.",
            step="export",
            hint="Write it with `model.export(path)` and serve the path.",
        )
    tf = sys.modules.get("tensorflow")
    if tf is not None:
        if isinstance(model, tf.Module) or isinstance(getattr(model, "signatures", None), Mapping):
            return "module"
        if isinstance(model, tf.types.experimental.PolymorphicFunction | tf.types.experimental.ConcreteFunction):
            return "function"
    raise ExportError(
        f"Cannot serve an object of type {type(model).__module__}.{type(model).__qualname__}.",
        step="export",
        hint="Give a Keras 3 model, a tf.Module, a dict of tf.functions by signature name, or a SavedModel's path.",
    )


def check_model(model: object) -> None:
    """Refuse what cannot be served before a server is started for it: other kinds of objects, bad paths.

    Raises
    ------
    ExportError
    """
    if kind_of(model) == "path":
        savedmodel.validate(_resolve(_path(model)))


def _path(model: object) -> Path:
    assert isinstance(model, str | os.PathLike)
    return Path(os.fspath(model)).expanduser()


def export_model(model: object, destination: Path, signatures: Mapping[str, Any] | None = None) -> Exported:
    """Write `model` as a SavedModel into an existing, empty folder.

    Parameters
    ----------
    model : keras.Model, tf.Module, mapping of str to tf.function or ConcreteFunction, str or Path
        Keras exports always have an unknown batch dimension, so that requests can be batched; functions keep the shapes
        of their `input_signature` (write None for the batch dimension). A path is copied as it is; the path of a base
        folder with version folders means its highest version.
    destination : Path
        An existing folder on the disk where the version will live.
    signatures : mapping, optional
        Only with a tf.Module: signature name to tf.function, instead of those found on the module.

    Raises
    ------
    ExportError
        The model has no signature, was never built, or its own code failed while being traced.
    PublishError
        The disk is full or not writable.
    """
    kind = kind_of(model)
    if signatures is not None and kind != "module":
        raise ExportError(
            f"signatures= goes with a tf.Module only, not with {'a SavedModel path' if kind == 'path' else f'{kind}'}.",
            step="export",
            hint="Put the functions on a tf.Module, or serve a dict of functions instead.",
        )
    if kind == "path":
        _copy(_resolve(_path(model)), destination)
        return Exported("path")
    try:
        # TensorFlow is in this process already: the model is one of its objects.
        if kind == "keras":
            from serving_workbench.export_keras import export_keras

            return Exported(kind, export_keras(model, destination))
        from serving_workbench.export_functions import export_functions, export_module

        if kind == "module":
            return Exported(kind, export_module(model, destination, signatures))
        named = {"serving_default": model} if kind == "function" else dict(model)  # type: ignore[call-overload]
        return Exported("functions", export_functions(named, destination))
    except WorkbenchError:
        raise
    except Exception as error:
        # TensorFlow reports a full disk as an error of its own, and a model's code may raise anything.
        if "No space left on device" in str(error):
            raise no_space_error(destination) from error
        what = {"keras": "Keras model", "module": "tf.Module"}.get(kind, kind)
        raise ExportError(
            f"The {what} could not be exported: {type(error).__name__}: {_first_lines(error)}", step="export"
        ) from error


def _first_lines(error: BaseException, limit: int = 400) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _resolve(path: Path) -> Path:
    """Return the SavedModel folder that a path means: itself, or the highest version folder in it."""
    if not savedmodel.is_savedmodel(path) and path.is_dir() and can(path, os.R_OK | os.X_OK):
        versions = [child for child in path.iterdir() if child.name.isdecimal() and child.is_dir()]
        if versions:
            return max(versions, key=lambda child: int(child.name))
    return path


def _copy(source: Path, destination: Path) -> None:
    # Checked before and not only after, so that an unreadable file is reported under the user's own path.
    savedmodel.validate(source)
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    with disk_errors(destination, "copy the SavedModel to"):
        ensure_free_space(destination, size)
        try:
            # A rejected version may be tried once more; why it was rejected is not part of it.
            shutil.copytree(source, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns(REASON_FILE))
        except shutil.Error as error:  # a list of (source, destination, reason): show the first
            first = error.args[0][0]
            if "No space left" in str(first[2]):
                raise no_space_error(destination) from error
            raise ExportError(f"Cannot copy '{first[0]}' to '{first[1]}': {first[2]}", step="export") from error
