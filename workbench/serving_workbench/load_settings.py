"""Whether two versions of a model were loaded alike: a version keeps the session that it was loaded with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["different_settings"]

_ABSENT = "not set"


def different_settings(model: Mapping[str, Any], a: int, b: int) -> str | None:
    """Return in words what the sessions of two versions were made with that is not the same.

    Parameters
    ----------
    model : mapping
        A model's state, as the control channel tells it.
    a, b : int
        Versions.

    Returns
    -------
    str or None
        None: nothing, or one of them is not loaded.
    """
    sessions = {each["version"]: each.get("session") for each in model["versions"]}
    first, second = sessions.get(a), sessions.get(b)
    if not first or not second:
        return None
    differing = [
        f"{name} {first.get(name, _ABSENT)} and {second.get(name, _ABSENT)}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    if not differing:
        return None
    return (
        f"Versions {a} and {b} were loaded under different settings ({'; '.join(differing)}), as when batching was "
        "switched on or off in between: they differ in run time for that alone. Load the older one anew, such as by a "
        "restart of the server."
    )
