"""Prometheus' text format, as TensorFlow Serving writes it.

(https://prometheus.io/docs/instrumenting/exposition_formats)

TensorFlow Serving has no HELP lines, writes braces without labels too, and its counters do not end in ``_total``; so
``prometheus_client``, which adds that, cannot write these. A family may have a HELP line here: ours do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from serving_server.metrics.histogram import Histogram

__all__ = ["CONTENT_TYPE", "Family", "exposition"]

CONTENT_TYPE = "text/plain"


@dataclasses.dataclass(slots=True)
class Family:
    """All series of one metric.

    Attributes
    ----------
    name : str
    kind : str
        ``counter``, ``gauge`` or ``histogram``.
    labels : tuple of str
        Names.
    samples : dict of tuple to number or Histogram
        By the labels' values, in the order of `labels`.
    help : str
        One sentence; empty for no HELP line.
    """

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    samples: dict[Any, Any] = dataclasses.field(default_factory=dict)
    help: str = ""


def exposition(families: Iterable[Family]) -> bytes:
    """Return the page with all families that have a sample, by name."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        if not family.samples:
            continue
        if family.help:
            lines.append(f"# HELP {family.name} {_escape(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for values, sample in family.samples.items():
            pairs = [f'{label}="{_value(value)}"' for label, value in zip(family.labels, values, strict=True)]
            if isinstance(sample, Histogram):
                lines += _histogram(family.name, pairs, sample)
            else:
                lines.append(f"{family.name}{{{','.join(pairs)}}} {_number(sample)}")
    return "\n".join([*lines, ""]).encode("utf-8", "replace")


def _histogram(name: str, pairs: list[str], histogram: Histogram) -> list[str]:
    start = f"{name}_bucket{{{','.join([*pairs, 'le='])}"
    lines = []
    histogram.settle()
    so_far = 0
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        so_far += count
        # Six digits, as C++ streams and absl write a double.
        text = "+Inf" if bound == math.inf else f"{bound:g}"
        lines.append(f'{start}"{text}"}} {so_far}')
    braces = "{" + ",".join(pairs) + "}"
    return [*lines, f"{name}_sum{braces} {_number(histogram.total)}", f"{name}_count{braces} {so_far}"]


def _number(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value) or ("NaN" if math.isnan(value) else repr(value))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _value(text: str) -> str:
    """Escape a label's value; a line break too, which TensorFlow Serving forgets."""
    return _escape(text).replace('"', '\\"')
