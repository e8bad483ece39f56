"""Wait for a version to come into service, telling each step, and say what was last seen when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from serving_workbench.control import ControlClient
from serving_workbench.errors import DeployError

__all__ = ["find_version", "wait_available", "wait_serving"]

_POLL_SECONDS = 0.02
#: Without inotify a folder is looked into only now and then: ask for it again while a version is not seen.
_RESCAN_SECONDS = 1.0


def find_version(model: dict[str, Any], version: int) -> dict[str, Any] | None:
    """Return one version of a model as the control channel describes it, or None."""
    found: dict[str, Any] | None = next((v for v in model["versions"] if v["version"] == version), None)
    return found


def wait_available(
    control: ControlClient,
    name: str,
    version: int,
    deadline: float,
    on_step: Callable[[str], None],
    *,
    again: bool = False,
) -> None:
    """Wait until a version is AVAILABLE.

    Parameters
    ----------
    deadline : float
        On the monotonic clock.
    on_step : callable
        Told ``detect``, ``load`` and ``warm up`` as they begin.
    again : bool
        The version may have been left a moment ago: it is unloaded to its end first, then loaded again.

    Raises
    ------
    DeployError
        At once when the version failed; at the deadline with the state that was last seen.
    """
    on_step("detect")
    step = "detect"
    rescan = time.monotonic() + _RESCAN_SECONDS
    while True:
        model = control.model(name)
        found = find_version(model, version)
        if found is not None and found["state"] == "AVAILABLE":
            return
        if found is not None:
            step = _step_of(found, step)
            on_step(step)
            _raise_when_failed(name, found, step, ended=() if again else ("UNLOADING", "END"))
        now = time.monotonic()
        if now > deadline:
            raise _too_late(control, name, version, found, step)
        if found is None and now > rescan:
            control.poll(name)
            rescan = now + _RESCAN_SECONDS
        time.sleep(_POLL_SECONDS)


def _step_of(found: dict[str, Any], before: str) -> str:
    if found["state"] in {"START", "LOADING"}:
        return "warm up" if found.get("step") == "warmup" else "load"
    return before


def _raise_when_failed(name: str, found: dict[str, Any], step: str, ended: tuple[str, ...] = ()) -> None:
    """Raise for a version that shows an error, or is in a state of `ended`."""
    if found.get("error_code", "OK") == "OK" and found["state"] not in ended:
        return
    reason = found.get("error_message") or f"it is {found['state']} without having been available"
    raise DeployError(f"Version {found['version']} of '{name}' cannot be served: {reason}", step=step)


def _too_late(control: ControlClient, name: str, version: int, found: dict[str, Any] | None, step: str) -> DeployError:
    if found is None:
        seen = "the server has not seen its folder"
    else:
        inner = f", at the step '{found['step']}'" if found.get("step") else ""
        seen = f"it was last seen {found['state']}{inner}"
    helper = control.status()["forkserver"]
    if helper["state"] != "ready":
        reason = helper.get("error")
        seen += f"; TensorFlow itself is '{helper['state']}'" + (f" ({reason})" if reason else "")
    return DeployError(
        f"Version {version} of '{name}' was not available in time: {seen}.",
        step=step,
        hint="Pass a longer timeout=, or look at sw.logs().",
    )


def wait_serving(control: ControlClient, name: str, version: int, deadline: float, *, newer: bool = False) -> int:
    """Wait until unversioned requests go to a version; return the version they go to.

    Parameters
    ----------
    newer : bool
        A higher one will do as well: somebody else has deployed meanwhile.

    Raises
    ------
    DeployError
    """
    while True:
        model = control.model(name)
        serving = model["serving_version"]
        if serving == version or (newer and serving is not None and serving > version):
            return int(serving)
        found = find_version(model, version)
        if found is not None:
            # A version that was left a moment ago is first unloaded to its end, then loaded again.
            _raise_when_failed(name, found, "available")
        if time.monotonic() > deadline:
            state = "unknown" if found is None else found["state"]
            raise DeployError(
                f"Requests for '{name}' did not move to version {version} in time: it is {state}, and version "
                f"{serving} answers.",
                step="available",
                hint="Look at sw.logs().",
            )
        time.sleep(_POLL_SECONDS)
