"""One request over its batch: its stages, what the batch did meanwhile, and the requests it ran with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from serving_workbench.profiling.panels import ROW, Panel, time_in_words
from serving_workbench.profiling.tab.drawings import in_rows

if TYPE_CHECKING:
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["bars_of", "waterfall"]

#: Batch mates that are drawn, and that are named.
_DRAWN: Final = 5
_NAMED: Final = 8
#: Parts of a batch as stages, whose colors they have: from one point to the next.
_PARTS: Final = (
    ("assembly", "taken_ns", "handed_over_ns"),
    ("handover", "handed_over_ns", "run_began_ns"),
    ("run", "run_began_ns", "run_ended_ns"),
    ("handback", "run_ended_ns", "came_ns"),
)


def bars_of(profile: RequestProfile, which: str | None = None) -> pd.DataFrame:
    """Return what is drawn: a row per bar, with ``of`` (``request``, ``batch`` or a mate's id), ``stage`` and ``us``.

    ``began_us`` is since the request was there. `which` and errors as of `RequestProfile.request`.
    """
    row = profile.request(which)
    origin, bars = row["received_ns"], _stages(row, "request", row["received_ns"])
    batch = row["batch"]
    if batch:
        bars += [
            {
                "of": "batch",
                "stage": stage,
                "began_us": (batch[start] - origin) / 1e3,
                "us": (batch[stop] - batch[start]) / 1e3,
            }
            for stage, start, stop in _PARTS
        ]
        for mate in _mates(row)[:_NAMED]:
            known = _known(profile, mate)
            bars += [] if known is None else _stages(known, mate, origin)
    return pd.DataFrame(bars, columns=pd.Index(["of", "stage", "began_us", "us"]))


def _stages(row: dict[str, Any], of: str, origin: int) -> list[dict[str, Any]]:
    at, found = (row["received_ns"] - origin) / 1e3, []
    for stage, took in row["stages_us"].items():
        found.append({"of": of, "stage": stage, "began_us": at, "us": took})
        at += took
    return found


def _mates(row: dict[str, Any]) -> list[str]:
    return [each for each in (row["batch"] or {}).get("mates", ()) if each != row["id"]]


def _known(profile: RequestProfile, which: str) -> dict[str, Any] | None:
    """Return a mate's row if it was read too: the reading holds the newest requests only."""
    return profile.request(which) if (profile.frame["id"] == which).any() else None


def _name(row: dict[str, Any]) -> str:
    return f"{row['id']} ({row['request_id']})" if row["request_id"] else str(row["id"])


def waterfall(profile: RequestProfile, which: str | None = None) -> Panel:
    """Return one request: its stages one below the other, over those of its batch; errors as of its `request`."""
    row, bars = profile.request(which), bars_of(profile, which)
    batch, mates = row["batch"], _mates(row)
    own = bars[bars["of"] == "request"]
    drawn = [each for each in mates if each in set(bars["of"])][:_DRAWN]
    seen = bars[bars["of"].isin(["request", "batch", *drawn])]
    begin = min(0.0, float(seen["began_us"].min()))
    whole = max(float((seen["began_us"] + seen["us"]).max()) - begin, 1e-9)
    lines = len(own) + bool(batch) + len(drawn)
    panel = Panel("request", "One request, stage by stage, over its batch", lines * ROW + 8)

    def draw(bar: Mapping[str, Any], y: float, words: str, high: int = ROW - 5) -> tuple[float, float]:
        start, length = (bar["began_us"] - begin) / whole, bar["us"] / whole
        panel.bar(start, length, y, bar["stage"], f"{words}{bar['stage']}: {time_in_words(bar['us'])}", high=high)
        return start, length

    y = 2.0
    if batch:
        panel.text(0, y + 12, f"batch {batch['batch']}")
        for bar in _records(bars, "batch"):
            start, length = draw(bar, y, f"batch {batch['batch']}, ")
            if bar["stage"] == "run":  # behind the request's own bars, too
                panel.band(start, length, y + ROW - 2, len(own) * ROW + 2)
        y += ROW + 2
    for bar in _records(bars, "request"):
        panel.text(0, y + 12, bar["stage"])
        _beside(panel, *draw(bar, y, ""), y + 12, time_in_words(bar["us"]))
        y += ROW
    y += 2
    for mate in drawn:
        panel.text(0, y + 11, f"mate {mate}")
        for bar in _records(bars, mate):
            draw(bar, y + 2, f"{_name(profile.request(mate))}, ", ROW - 9)
        y += ROW
    panel.reading = f"{_title(profile, row)}{_told(profile, mates)}"
    panel.label = panel.title
    return panel


def _records(bars: pd.DataFrame, of: str) -> list[dict[str, Any]]:
    found = bars[bars["of"] == of].to_dict("records")
    return [{str(name): value for name, value in bar.items()} for bar in found]


def _beside(panel: Panel, start: float, length: float, y: float, text: str) -> None:
    """Write a bar's time behind it, or before it where that would leave the picture."""
    end = panel.x(start + length) + 5
    if end + 6.2 * len(text) < panel.width:
        panel.text(end, y, text)
    else:
        panel.text(panel.x(start) - 5, y, text, "end")


def _title(profile: RequestProfile, row: dict[str, Any]) -> str:
    status = row["status"]
    took = time_in_words(row["total_us"])
    if status != "OK":
        where = f"in batch {row['batch']['batch']}" if row["batch"] else "before it was in a batch"
        return f"Request {_name(row)} of {profile.model}: {status} after {took}, {where}."
    batch = row["batch"]
    return (
        f"Request {_name(row)} of {profile.model} version {row['version']}: {took}, "
        f"in batch {batch['batch']} ({batch['reason']}, {in_rows(batch)})."
    )


def _told(profile: RequestProfile, mates: list[str]) -> str:
    if not mates:
        return " No batch mates."
    known = [(each, _known(profile, each)) for each in mates[:_NAMED]]
    names = [_name(row) if row else each for each, row in known]
    more = f" and {len(mates) - _NAMED} more" if len(mates) > _NAMED else ""
    return f" Batch mates: {', '.join(names)}{more}."
