"""What a SavedModel folder offers, and whether it is whole, read without TensorFlow.

Format: `tensorflow/python/saved_model/README.md` (saved_model.pb beside `variables/`), saved_model.proto.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from google.protobuf.message import DecodeError

from serving_server.signatures import INIT_SIGNATURES, Signature, TensorSpec, parse_signatures
from serving_server.wire.messages import SavedModel
from serving_workbench.errors import ExportError
from serving_workbench.files import can, describe_access

__all__ = ["default_signature_name", "is_savedmodel", "read_signatures", "usable_signatures", "validate"]

MODEL_FILE = "saved_model.pb"
SERVE_TAG = "serve"
_SHARD = re.compile(r"variables\.data-([0-9]{5})-of-([0-9]{5})")

HOW_TO_ADD_A_SIGNATURE = (
    "Save it with one: Keras `model.export(path)`; a tf.Module `tf.saved_model.save(module, path, "
    'signatures={"serving_default": module.f})`, where f is decorated with '
    "`@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])`."
)


def is_savedmodel(path: Path) -> bool:
    """Whether a folder holds a SavedModel file at all (complete or not)."""
    return (path / MODEL_FILE).exists() or (path / f"{MODEL_FILE}txt").exists()


def validate(path: Path) -> dict[str, Signature]:
    """Check that a SavedModel is complete, readable and can be called; return its usable signatures.

    Parameters
    ----------
    path : Path
        The folder with ``saved_model.pb``.

    Raises
    ------
    ExportError
        Naming the path, the missing or unreadable file with its permission bits, or how to add a signature.
    """
    _check_readable_tree(path)
    signatures = read_signatures(path)
    _check_variables(path / "variables")
    usable = usable_signatures(signatures)
    if not usable:
        reason = "no signature" if not set(signatures) - INIT_SIGNATURES else "no signature of dense tensors"
        raise ExportError(
            f"The SavedModel '{path}' has {reason}, so there is nothing a client could call.",
            step="export",
            hint=HOW_TO_ADD_A_SIGNATURE,
        )
    return usable


def usable_signatures(signatures: dict[str, Signature]) -> dict[str, Signature]:
    """Keep the signatures that a client can call: dense tensors of servable dtypes, at least one output."""
    return {
        name: signature
        for name, signature in signatures.items()
        if name not in INIT_SIGNATURES
        and signature.outputs
        and all(_is_dense(spec) for spec in (*signature.inputs.values(), *signature.outputs.values()))
    }


def _is_dense(spec: TensorSpec) -> bool:
    return bool(spec.tensor_name) and spec.dtype is not None


def default_signature_name(signatures: dict[str, Signature]) -> str:
    """Return the signature that stands for the model: ``serving_default``, else the first by name."""
    return "serving_default" if "serving_default" in signatures else min(signatures)


def read_signatures(path: Path) -> dict[str, Signature]:
    """Return all signatures of the ``{serve}`` graph of a SavedModel, usable or not.

    Raises
    ------
    ExportError
        When the folder has no readable SavedModel with the tag-set ``{serve}``.
    """
    file = path / MODEL_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise ExportError(f"Cannot read '{file}': {error.strerror}. {describe_access(file)}.", step="export") from error
    try:
        model = SavedModel.FromString(data)
    except DecodeError as error:
        raise ExportError(
            f"'{file}' ({len(data)} bytes) is not a SavedModel, or is cut off.",
            step="export",
            hint="Export or copy it again.",
        ) from error
    for graph in model.meta_graphs:
        if set(graph.meta_info_def.tags) == {SERVE_TAG}:
            return parse_signatures(graph.signature_def)
    tags = [sorted(graph.meta_info_def.tags) for graph in model.meta_graphs]
    raise ExportError(
        f"The SavedModel '{path}' has no graph with the tag-set ['{SERVE_TAG}'], only {tags or 'no graph at all'}.",
        step="export",
        hint="Export it with `tf.saved_model.save` or Keras `model.export`, which use that tag.",
    )


def _missing(path: Path) -> ExportError:
    if (path / f"{MODEL_FILE}txt").exists():
        return ExportError(
            f"'{path}' holds a SavedModel in text form ({MODEL_FILE}txt).",
            step="export",
            hint=f"Save it in binary form ({MODEL_FILE}).",
        )
    if not path.exists():
        return ExportError(
            f"There is no folder '{path}'.",
            step="export",
            hint="Check the path (it is relative to the working folder).",
        )
    inside = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else []
    found = f"it holds {', '.join(inside)}" if inside else "it is empty" if path.is_dir() else "it is a file"
    hint = "Give the folder that `model.export(path)` or `tf.saved_model.save(module, path)` wrote."
    if path.suffix in {".keras", ".h5"}:
        hint = "Load it with `keras.saving.load_model(path)` and serve the model."
    return ExportError(f"'{path}' is not a SavedModel: there is no {MODEL_FILE} ({found}).", step="export", hint=hint)


def _check_readable_tree(path: Path) -> None:
    """Every folder can be listed and every file read by this user: the server runs as the same one."""

    def refuse(error: OSError) -> None:
        blocked = Path(error.filename or path)
        raise ExportError(
            f"Cannot read '{blocked}': {error.strerror}. {describe_access(blocked)}.",
            step="export",
            hint=f"Try `chmod -R u+rX '{path}'`, as its owner.",
        ) from error

    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except OSError as error:
        refuse(error)
    if path.is_file():
        raise _missing(path)
    for folder, _, files in os.walk(path, onerror=refuse):
        for name in files:
            file = Path(folder) / name
            if not can(file, os.R_OK):
                reason = "it is a broken link" if not file.exists() else describe_access(file)
                raise ExportError(
                    f"Cannot read '{file}': {reason}.",
                    step="export",
                    hint=f"Try `chmod -R u+rX '{path}'`, as its owner.",
                )


def _check_variables(folder: Path) -> None:
    """The index and all shards are there; a folder that is still being copied lacks some of them."""
    names = {child.name for child in folder.iterdir()} if folder.is_dir() else set()
    shards = {int(found[1]): int(found[2]) for found in map(_SHARD.fullmatch, names) if found}
    if not shards and "variables.index" not in names:
        return  # a model without variables
    missing = [] if "variables.index" in names else ["variables.index"]
    total = max(shards.values(), default=1)
    missing += [f"variables.data-{i:05d}-of-{total:05d}" for i in range(total) if i not in shards]
    if missing:
        raise ExportError(
            f"The SavedModel '{folder.parent}' is incomplete: '{folder / missing[0]}' is missing"
            f"{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}.",
            step="export",
            hint="Wait until it is copied, or export it again.",
        )
