"""What a server was told about its models, kept so that the process that replaces it can be told the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError
from serving_workbench.publish import is_reserved

__all__ = ["Models", "models_of", "put_labels", "put_models"]

#: By model name: folder, policy, batching parameters, labels, split, mirror, held versions and the one that answers.
Models = dict[str, dict[str, Any]]

_FIELDS: Final = ("base_path", "policy", "batching", "traffic", "ramp", "mirror")
#: Settings of a mirror, as its state tells and its route takes them.
_MIRROR: Final = ("fraction", "busy", "queue", "at_once", "timeout")
#: Seconds for labelled versions to load; a label may point at a loaded version only.
_LABEL_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.2


def models_of(status: dict[str, Any]) -> Models:
    """Return what is needed to set up the models of a control channel's status again."""
    return {
        name: {
            **{field: model.get(field) for field in _FIELDS},
            "labels": _labels_of(model),
            # By number, whether a deploy holds it, which lets go when it is over.
            "held": {
                version["version"]: is_reserved(Path(model["base_path"]), version["version"])
                for version in model["versions"]
                if version["held"]
            },
            "serving": model["serving_version"],
        }
        for name, model in status["models"].items()
    }


def _labels_of(model: dict[str, Any]) -> dict[str, int]:
    """Return the labels that can be put again: not those that point at a version which is no longer loaded."""
    loaded = {version["version"] for version in model["versions"] if version.get("state") not in {"UNLOADING", "END"}}
    return {label: version for label, version in (model.get("labels") or {}).items() if version in loaded}


def put_models(control: ControlClient, models: Models) -> list[str]:
    """Tell a fresh server about models; return what could not be done, a sentence each.

    A model that the server knows already is left as it is: whoever put it there knows more than we do.
    """
    problems = []
    known = control.status()["models"]
    for name, model in models.items():
        if name not in known:
            try:
                _put_model(control, name, model)
            except ControlError as error:
                problems.append(f"Model '{name}' was not put back: {error}")
    return problems


def _put_model(control: ControlClient, name: str, model: dict[str, Any]) -> None:
    folder = Path(model["base_path"])
    held = [version for version, deployed in model["held"].items() if not deployed or is_reserved(folder, version)]
    # A version that nobody has proved yet must not be taken for the newest before it is held again.
    first = {"specific": {"versions": [] if model["serving"] is None else [model["serving"]]}}
    control.put_model(name, model["base_path"], policy=first if held else model["policy"], batching=model["batching"])
    for version in held:
        control.hold(name, version)
    if held:
        control.put_policy(name, model["policy"])


def put_labels(control: ControlClient, models: Models) -> list[str]:
    """Put labels, splits and mirrors back when their versions have loaded, for which this waits; return what failed."""
    problems = []
    deadline = time.monotonic() + _LABEL_SECONDS
    for name, model in models.items():
        if model["labels"]:
            try:
                _put_labels(control, name, model["labels"], deadline)
            except ControlError as error:
                problems.append(f"The labels of model '{name}' were not put back: {error}")
        traffic = model.get("traffic") or {}  # an older server tells of none
        # Nobody watches a ramp's split any more: all requests go to the version that answered before it.
        ramping = (model.get("ramp") or {}).get("state") in ("running", "paused")
        if traffic.get("weights") and not ramping:
            try:
                control.put_traffic(name, traffic["weights"], seconds=_LABEL_SECONDS, key=traffic["key"])
            except ControlError as error:
                problems.append(f"The requests of model '{name}' are not split again: {error}")
        mirror = model.get("mirror") or {}
        if mirror.get("active"):
            wish = {name: mirror[name] for name in _MIRROR if mirror.get(name) is not None}
            try:
                control.put_mirror(name, mirror["version"], seconds=_LABEL_SECONDS, **wish)
            except ControlError as error:
                shadow = mirror["version"]
                problems.append(f"The requests of model '{name}' are not copied to version {shadow} again: {error}")
    return problems


def _put_labels(control: ControlClient, name: str, labels: dict[str, int], deadline: float) -> None:
    while True:
        try:
            control.put_labels(name, labels)
        except ControlError as error:
            if error.code != "FAILED_PRECONDITION" or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(_POLL_SECONDS)
