"""Requests of one model split over several of its versions, as the server tells of it and as users read it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError
from serving_workbench.tables import Table

__all__ = ["ended_messages", "set_traffic", "traffic_cells", "traffic_table", "traffic_text"]

_COLUMNS = ("version", "weight", "share", "requests", "by key", "state")


def set_traffic(
    control: ControlClient, name: str, weights: Mapping[int, float] | None, key: str | None, seconds: float
) -> dict[str, Any]:
    """Look at, set or end a split; see `ServedModel.traffic`. Returns what the control channel answers.

    Raises
    ------
    ControlError
    """
    if weights is None:
        if key is not None:
            raise ControlError(
                f"key={key!r} goes with weights.",
                code="INVALID_ARGUMENT",
                hint="Give the weights too, also when they stay as they are.",
            )
        return control.traffic(name)
    if not isinstance(weights, Mapping):
        raise ControlError(
            f"weights must be a dict of version to weight, not {weights!r}.",
            code="INVALID_ARGUMENT",
            hint="For example {1: 90, 2: 10}; an empty dict ends the split.",
        )
    if not weights:
        return control.delete_traffic(name)
    options: dict[str, Any] = {} if key is None else {"key": key or None}
    plain = {str(version): _plain(version, weight) for version, weight in weights.items()}
    return control.put_traffic(name, plain, seconds=seconds, **options)


def _plain(version: object, weight: Any) -> float:
    """Return a weight as a number of Python's, which JSON knows; the server refuses those out of range."""
    try:
        return float(weight)
    except (TypeError, ValueError):
        raise ControlError(
            f"The weight of version {version} must be a number, not {weight!r}.", code="INVALID_ARGUMENT"
        ) from None


def traffic_table(name: str, traffic: Mapping[str, Any], model: Mapping[str, Any]) -> Table:
    """Return a split as a table.

    Parameters
    ----------
    name : str
    traffic, model : mapping
        What the control channel says of the split, and of the model.
    """
    states = {version["version"]: version["state"] for version in model["versions"]}
    rows = [
        {
            "version": version["version"],
            "weight": None if version["weight"] is None else f"{version['weight']:g}",
            "share": _percent(version["share"]) if version["weight"] is not None else None,
            "requests": version["requests"],
            "by key": version["keyed"],
            "state": states.get(version["version"]),
        }
        for version in traffic["versions"]
    ]
    if traffic["weights"]:
        title = f"{name}: {traffic_text(traffic)}, since {_clock(traffic['since'])}"
    else:
        serving = model["serving_version"]
        what = "no version answers" if serving is None else f"version {serving} answers all requests that name none"
        title = "; ".join(filter(None, [f"{name}: {what}", traffic_text(traffic)]))
    return Table(rows, _COLUMNS, title, dict(traffic))


def traffic_text(traffic: Mapping[str, Any] | None) -> str:
    """Return a split in a line: what it is, or how it has ended; empty when there never was one."""
    if not traffic:
        return ""
    if traffic["weights"]:
        key = f", sticky by {traffic['key']}" if traffic["key"] else ""
        return f"requests split {_weights_text(traffic['weights'])}{key}"
    ended = traffic["ended"]
    if not ended:
        return ""
    return f"the split {_weights_text(ended['weights'])} ended at {_clock(ended['at'])}: {ended['reason']}"


def traffic_cells(model: Mapping[str, Any]) -> dict[int, str]:
    """Return the share of each version of a model that is split, for a table of versions."""
    traffic = model.get("traffic") or {}
    if not traffic.get("weights"):
        return {}
    return {int(version): _percent(traffic["shares"].get(version, 0.0)) for version in traffic["weights"]}


def ended_messages(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Return what to tell of a split that was there before a change of versions and is not any more."""
    had = (before or {}).get("traffic") or {}
    has = after.get("traffic") or {}
    if not had.get("weights") or has.get("weights") or not has.get("ended"):
        return []
    text = traffic_text(has)
    return [f"{text[0].upper()}{text[1:]}."]


def _weights_text(weights: Mapping[str, float]) -> str:
    whole = sum(weights.values())
    return ", ".join(f"{version}: {_percent(weight / whole)}" for version, weight in weights.items())


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
