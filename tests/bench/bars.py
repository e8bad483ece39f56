"""The bars that the data plane is held to, and whether a run meets them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from tests.bench.rounds import Round
from tests.bench.targets import Target

__all__ = ["Found", "Many", "judge"]


@dataclasses.dataclass(frozen=True)
class Many:
    """512 connections with 4,096 requests in flight: failures, and the front's memory in MB."""

    failed: int
    rss_before: float
    rss_after: float
    rss_later: float


@dataclasses.dataclass
class Found:
    """What a run has measured.

    Attributes
    ----------
    targets : dict
        By (model, in flight, label); "mobilenet x64" is the model with 64 rows in each request.
    alone : dict of lists of (rows/s, ms)
        In-process rounds between those of the targets, by (model, in flight).
    limits : dict of model to the line of `tests.bench.limit`
    many : Many or None
    """

    targets: dict[tuple[str, int, str], Target] = dataclasses.field(default_factory=dict)
    alone: dict[tuple[str, int], list[tuple[float, float]]] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    many: Many | None = None


def _rate(found: Round, used: float) -> float:
    return found.rate


def _cpu(found: Round, used: float) -> float:
    return used


def _p50(found: Round, used: float) -> float:
    return found.p50_ms


def judge(found: Found) -> list[list[str]]:
    """Rows of (bar, measured, met / NOT met); what was not measured says so."""
    rows: list[list[str]] = []

    def bar(text: str, value: float | None, met: bool | None, unit: str = "") -> None:
        told = "-" if value is None else f"{value:,.3g}{unit}" if abs(value) < 1000 else f"{value:,.0f}{unit}"
        rows.append([text, told, "not measured" if value is None else "met" if met else "NOT met"])

    def ratio(model: str, in_flight: int, label: str, base: str, what: Any = _rate) -> float | None:
        one = found.targets.get((model, in_flight, label))
        other = found.targets.get((model, in_flight, base))
        return one.ratio(other, what) if one is not None and other is not None else None

    def at_least(text: str, value: float | None, least: float, unit: str = "") -> None:
        bar(text, value, value is not None and value >= least, unit)

    def at_most(text: str, value: float | None, most: float, unit: str = "") -> None:
        bar(text, value, value is not None and value <= most, unit)

    own = found.targets.get(("half_plus_two", 64, "gRPC own"))
    pair = ("gRPC own", "gRPC grpcio")
    at_least("half_plus_two, 64 in flight: rows/s >= 12 x grpcio's", ratio("half_plus_two", 64, *pair), 12, " x")
    used = ratio("half_plus_two", 64, *pair, _cpu)
    less = None if used is None else 1 / used
    at_least("half_plus_two, 64 in flight: CPU <= 1/12 of grpcio's (12 x less)", less, 12, " x less")
    at_most("half_plus_two, 64 in flight: CPU <= 20 us", None if own is None else own.median(_cpu), 20, " us")
    at_least("MLP, 64 in flight: rows/s >= 10 x grpcio's", ratio("mlp", 64, *pair), 10, " x")
    for model, in_flight, text in (
        ("mobilenet", 128, "MobileNet, 128 in flight"),
        ("mobilenet x64", 4, "MobileNet, 4 requests of 64 rows in flight"),
    ):
        target = found.targets.get((model, in_flight, "gRPC own"))
        alone = found.alone.get((model, in_flight), [])
        per_request = 64 if model.endswith("x64") else 1
        share = None
        if target is not None and alone:
            pairs = zip(target.rounds, alone, strict=True)
            share = statistics.median(100 * one.rate * per_request / limit for (one, _), (limit, _) in pairs)
        at_least(f"{text}: rows/s >= 90 % of the in-process call's at batch 64", share, 90, " %")
    for model in ("mlp", "mobilenet"):
        gain = found.limits.get(model, {}).get("frozen_gain_b1")
        at_least(f"{model}: freezing >= 1.5 x at batch 1", gain, 1.5, " x")
    for model in ("half_plus_two", "mlp", "mobilenet", "strings"):
        target, alone = found.targets.get((model, 1, "gRPC own")), found.alone.get((model, 1), [])
        at_most(f"{model}, one in flight: p50 <= grpcio's", ratio(model, 1, *pair, _p50), 1, " x")
        added = None
        if target is not None and alone:
            pairs = zip(target.rounds, alone, strict=True)
            added = statistics.median((one.p50_ms - ms) * 1000 for (one, _), (_, ms) in pairs)
        at_most(f"{model}, one in flight: p50 <= 180 us above the in-process call's", added, 180, " us")
    for in_flight in (8, 64):
        share = ratio("payload", in_flight, *pair)
        percent = None if share is None else 100 * share
        at_least(f"1 MiB in and out, {in_flight} in flight: bytes/s >= 60 % of grpcio's", percent, 60, " %")
    at_least("REST, 64 in flight: rows/s >= 5 x Tornado's", ratio("half_plus_two", 64, "REST", "tornado"), 5, " x")
    more = ratio("half_plus_two", 64, "REST", "gRPC own", _cpu)
    at_most("REST, 64 in flight: CPU <= 1.5 x own gRPC's", more, 1.5, " x")
    many = found.many
    at_most("512 connections, 4,096 in flight: failed = 0", None if many is None else float(many.failed), 0)
    if many is not None:
        memory = f"{many.rss_before:.0f} / {many.rss_after:.0f} / {many.rss_later:.0f} MB"
        rows.append(["... front's memory before / right after / 30 s after", memory, ""])
    return rows
