"""Which versions of a served model are loaded, and which one answers: changed while requests run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_workbench.errors import ControlError, DeployError, WorkbenchError
from serving_workbench.interrupts import uninterrupted
from serving_workbench.publish import versions_on_disk
from serving_workbench.splitting import ended_messages, traffic_cells
from serving_workbench.waiting import find_version, wait_available, wait_serving

if TYPE_CHECKING:
    from serving_workbench.control import ControlClient
    from serving_workbench.handle import ServedModel

__all__ = ["chooses", "label", "load", "roll_back", "rollback", "unload"]


def rollback(served: ServedModel, to: int | None, timeout: float) -> int:
    """See `ServedModel.rollback`."""
    model = served.describe()
    target = roll_back(served.server.control, model, to, timeout)
    served.server.client.forget(served.name)
    served.messages = ended_messages(model, served.describe())
    return target


def roll_back(control: ControlClient, model: dict[str, Any], to: int | None, timeout: float) -> int:
    """Let an older version answer, by the control channel alone; return it. See `ServedModel.rollback` for the rest.

    Parameters
    ----------
    model : dict
        As the control channel describes it before.
    """
    name = model["name"]
    target = _rollback_target(name, to, _published(model), model["serving_version"])
    found = find_version(model, target)
    held = found is not None and found["held"]
    try:
        # One request: the server loads that version, lets it answer, then drains the present one, also without us.
        control.put_policy(name, {"specific": {"versions": [target]}})
        if held:  # it was loaded already, kept from unversioned requests
            control.release(name, target)
        control.poll(name)
        wait_serving(control, name, target, time.monotonic() + timeout)
    except BaseException as error:
        with uninterrupted():
            try:
                if held:
                    control.hold(name, target)
                control.put_policy(name, model["policy"])
            except WorkbenchError as second:
                error.add_note(f"The version policy could not be set back: {second}")
        raise
    return target


def _rollback_target(name: str, to: int | None, published: list[int], serving: int | None) -> int:
    if to is not None:
        return _checked(name, to, published, "roll back to")
    older = [version for version in published if serving is None or version < serving]
    if not older:
        raise DeployError(
            f"'{name}' has no version before {serving} to roll back to; its versions are {_listed(published)}.",
            step="detect",
        )
    return older[-1]


def load(served: ServedModel, version: int, timeout: float) -> int:
    """See `ServedModel.load`."""
    model = served.describe()
    _checked(served.name, version, _published(model), "load")
    control = served.server.control
    held = not chooses(model["policy"], version, _published(model))
    if held:  # a held version is loaded whatever the policy says, and is kept from unversioned requests
        control.hold(served.name, version)
    try:
        control.poll(served.name)
        deadline = time.monotonic() + timeout
        wait_available(control, served.name, version, deadline, lambda _step: None, again=True)
    except BaseException as error:
        with uninterrupted():
            try:
                if held:
                    control.release(served.name, version)
            except WorkbenchError as second:
                error.add_note(f"Version {version} is still held: {second}")
        raise
    return version


def unload(served: ServedModel, version: int, timeout: float) -> None:
    """See `ServedModel.unload`."""
    model = served.describe()
    if version == model["serving_version"]:
        raise DeployError(
            f"Version {version} of '{served.name}' is the one that answers.",
            hint="Roll back to another one first, or stop the model.",
        )
    labels = [label for label, target in model["labels"].items() if target == version]
    if labels:
        raise DeployError(
            f"Version {version} of '{served.name}' answers to the label '{labels[0]}'.",
            hint="Remove the label first, or let it point at another version.",
        )
    if version in traffic_cells(model):
        raise DeployError(
            f"Version {version} of '{served.name}' has a share of the requests.",
            hint="Take it out of the split first: traffic() shows the weights, traffic({}) ends it.",
        )
    _let_go(served, model, version)
    deadline = time.monotonic() + timeout
    while True:
        found = find_version(served.describe(), version)
        if found is None or found["state"] == "END":
            return
        if time.monotonic() > deadline:
            raise DeployError(
                f"Version {version} of '{served.name}' is still {found['state']} after {timeout:g} s.",
                hint="Look at sw.logs().",
            )
        time.sleep(0.02)


def _let_go(served: ServedModel, model: Mapping[str, Any], version: int) -> None:
    """Have the server want a version no more, and change nothing about the one that answers."""
    control = served.server.control
    others = [
        found["version"]
        for found in model["versions"]
        if found["state"] == "AVAILABLE" and not found["held"] and found["version"] != version
    ]
    if others and chooses(model["policy"], version, _published(model)):
        control.put_policy(served.name, {"specific": {"versions": sorted(others)}})
    control.release(served.name, version)


def chooses(policy: Mapping[str, Any], version: int, published: Sequence[int]) -> bool:
    """Whether a version policy chooses this version of those on disk."""
    if "specific" in policy:
        return version in policy["specific"]["versions"]
    if "latest" in policy:
        return version in published[-policy["latest"].get("num_versions", 1) :]
    return True


def label(served: ServedModel, name: str, version: int | None) -> dict[str, int]:
    """See `ServedModel.label`."""
    labels = dict(served.describe()["labels"])
    if version is None:
        labels.pop(name, None)
    else:
        labels[name] = version
    try:
        return dict(served.server.ask(lambda: served.server.control.put_labels(served.name, labels))["labels"])
    except ControlError as error:
        if error.code != "FAILED_PRECONDITION":
            raise
        raise DeployError(
            f"The label '{name}' of '{served.name}' cannot point at version {version}: it is not available.",
            hint=f"Load it first: load({version}).",
        ) from error


def _published(model: Mapping[str, Any]) -> list[int]:
    return versions_on_disk(Path(model["base_path"]))


def _checked(name: str, version: int, published: list[int], purpose: str) -> int:
    if version in published:
        return version
    raise DeployError(
        f"'{name}' has no version {version} to {purpose}; its versions are {_listed(published)}.", step="detect"
    )


def _listed(versions: Sequence[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
