"""Labels of a model's versions: several changes at once, and labels whose version has gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serving_workbench.errors import ControlError, DeployError

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["change_labels", "lost_labels", "lost_labels_text"]


def change_labels(served: ServedModel, changes: Mapping[str, int | None]) -> dict[str, int]:
    """Point labels at versions, or remove those that are given None; return all labels of the model.

    Raises
    ------
    DeployError
        A label that does not exist was to be removed, or a version is no number.
    ControlError
        ``FAILED_PRECONDITION``: a version is not available. Nothing has changed.
    """
    model = served.describe()
    if not changes:
        return dict(model["labels"])
    labels = _changed(served.name, model["labels"], changes)
    try:
        changed = served.server.ask(lambda: served.server.control.put_labels(served.name, labels))
    except ControlError as error:
        if error.code == "FAILED_PRECONDITION":
            error.hint = _hint(model, changes)
        raise
    return dict(changed["labels"])


def lost_labels(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the labels of a model, as the control channel describes it, whose version is not loaded."""
    loaded = {each["version"] for each in model["versions"] if each["state"] not in {"UNLOADING", "END"}}
    return {label: version for label, version in model["labels"].items() if version not in loaded}


def lost_labels_text(name: str, labels: Mapping[str, int]) -> str:
    """Return what to say of them: one sentence and what to try; empty for none."""
    if not labels:
        return ""
    label, version = next(iter(labels.items()))
    return (
        f"Label '{label}' of '{name}' points at version {version}, which is not loaded, so requests for it fail. Point "
        f"it at another version, remove it, or load version {version}."
    )


def _hint(model: Mapping[str, Any], changes: Mapping[str, int | None]) -> str:
    lost = {label: version for label, version in lost_labels(model).items() if label not in changes}
    if lost:
        return lost_labels_text(model["name"], lost)
    found = sorted(each["version"] for each in model["versions"] if each["state"] == "AVAILABLE")
    return f"A label may point at an available version only; available are {', '.join(map(str, found)) or 'none'}."


def _changed(name: str, labels: Mapping[str, int], changes: Mapping[str, int | None]) -> dict[str, int]:
    """Return labels with changes made: see `change_labels`."""
    after = dict(labels)
    for label, version in changes.items():
        if not isinstance(label, str) or not label:
            raise DeployError(f"{label!r} is not a label: it must be text.")
        if version is None:
            if label not in labels:
                known = ", ".join(f"'{each}'" for each in sorted(labels)) or "none"
                raise DeployError(f"'{name}' has no label '{label}'; its labels are {known}.")
            del after[label]
        elif isinstance(version, bool) or not isinstance(version, int):
            raise DeployError(f"Label '{label}' must point at a version number, not at {version!r}.")
        else:
            after[label] = version
    return after
