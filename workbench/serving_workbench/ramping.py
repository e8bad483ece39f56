"""Ramps of a model, as the server tells of them and as users read them."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving_workbench.control import ControlClient
from serving_workbench.errors import ControlError
from serving_workbench.load_settings import different_settings
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["journal_frame", "outcomes_frame", "ramp_table", "ramp_text", "start_ramp"]

_COLUMNS = ("guardrail", "worse by", "surely between", "allowed", "breached")


def start_ramp(
    control: ControlClient,
    name: str,
    version: int,
    *,
    steps: Sequence[float],
    hold: float,
    min_requests: int,
    guardrails: Mapping[str, float | None] | None,
    slo_ms: float | None,
    key: str | None,
    finish: str,
    timeout: float,
) -> dict[str, Any] | None:
    """Begin a ramp to a version from the one that answers; see `ServedModel.ramp`.

    Warns when both were loaded under different settings.

    Raises
    ------
    ControlError
    """
    serving = control.model(name)["serving_version"]
    if serving is None:
        raise ControlError(
            f"No version of '{name}' answers, so a ramp has nothing to go back to.", code="FAILED_PRECONDITION"
        )
    body: dict[str, Any] = {
        "from": serving,
        "to": version,
        "steps": list(steps),
        "hold_seconds": hold,
        "min_requests": min_requests,
        "finish": finish,
        "key": key,
    }
    if guardrails is not None:
        body["guardrails"] = dict(guardrails)
    if slo_ms is not None:
        body["slo_ms"] = slo_ms
    begun = control.put_ramp(name, body, seconds=timeout)
    # Asked after the candidate is loaded; the ramp goes on, as its guardrail on run time is wide by default.
    differing = different_settings(control.model(name), serving, version)
    if differing is not None:
        warnings.warn(differing, stacklevel=4)
    return begun


def ramp_text(ramp: Mapping[str, Any] | None) -> str:
    """Return a ramp in a line; empty when there was none."""
    if ramp is None:
        return ""
    plan = ramp["plan"]
    steps = " -> ".join(f"{step:g} %" for step in plan["steps"])
    what = f"ramp from version {plan['from']} to {plan['to']} ({steps})"
    if ramp["state"] in ("running", "paused"):
        return f"{what}: {ramp['state']} at {ramp['percent']:g} %, step {ramp['step']} of {len(plan['steps'])}"
    return f"{what}: {ramp['state']} in step {ramp['step']}: {ramp['reason']}"


def ramp_table(name: str, ramp: Mapping[str, Any] | None) -> Table:
    """Return a ramp as a table of its guardrails; ``.data`` is the control channel's answer."""
    if ramp is None:
        return Table([], _COLUMNS, f"{name}: there was no ramp", None)
    counts = ", ".join(f"version {version} {count:,}" for version, count in ramp["requests"].items())
    rows = [
        {
            "guardrail": each["name"],
            "worse by": _percent(each["value"]),
            "surely between": f"{_percent(each['low'])} and {_percent(each['high'])}",
            "allowed": _percent(each["guardrail"]),
            "breached": "yes" if each["breached"] else "",
        }
        for each in ramp["judgments"]
    ]
    title = f"{name}: {ramp_text(ramp)}{f'; requests of this step: {counts}' if counts else ''}"
    return Table(rows, _COLUMNS, title, dict(ramp))


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:+.3g} %"


def journal_frame(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the journal as a `pandas.DataFrame`; see `ServedModel.ramp_journal`."""
    import pandas as pd  # only for those who ask

    columns = ["time", "ramp", "event", "step", "percent", "reason", "requests", "judgments"]
    rows = [
        {
            **{column: event.get(column) for column in columns},
            "time": datetime.datetime.fromtimestamp(event["time"], datetime.UTC),
        }
        for event in events
    ]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def outcomes_frame(traffic: Mapping[str, Any]) -> pd.DataFrame:
    """Return what became of the requests of a split; see `ServedModel.outcomes`."""
    import pandas as pd  # only for those who ask

    columns = ["period", "since", "cause", "version", "share", "requests", "answered", "errors", "misses"]
    columns += ["run_ms", "total_ms"]
    rows = []
    for number, period in enumerate(traffic["periods"]):
        for version, found in period["outcomes"].items():
            rows.append(
                {
                    "period": number,
                    "since": datetime.datetime.fromtimestamp(period["since"], datetime.UTC),
                    "cause": period["cause"],
                    "version": int(version),
                    "share": period["shares"].get(version, 0.0),
                    "requests": found["answered"] + sum(found["errors"].values()),
                    "answered": found["answered"],
                    "errors": sum(found["errors"].values()),
                    "misses": found["misses"] if found["objective_s"] is not None else None,
                    "run_ms": _geometric(found["log_run"][0], found["runs"]),
                    "total_ms": _geometric(found["log_total"][0], found["answered"]),
                }
            )
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _geometric(total: float, count: int) -> float | None:
    """Return the geometric mean in milliseconds of a sum of logarithms of seconds."""
    import math

    return 1e3 * math.exp(total / count) if count else None
