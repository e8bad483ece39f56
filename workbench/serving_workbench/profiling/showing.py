"""How a profile shows itself in a notebook: the advice, the ops with bars, the batch sizes."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serving_workbench.profiling.result import ProfileResult

__all__ = ["as_html"]

_MOST: Final = 15
_CELL: Final = "style='text-align:left;padding:1px 10px 1px 0'"


def as_html(result: ProfileResult) -> str:
    """Return all of it as HTML, without scripts."""
    sentences = "".join(f"<li>{html.escape(each)}</li>" for each in result.advice)
    parts = [
        f"<p style='margin:4px 0'><b>{html.escape(result.title)}</b></p>",
        f"<ul style='margin:4px 0'>{sentences}</ul>",
    ]
    tables = result.tables()
    if result.ops_data is not None:
        parts.append(_bars(result))
        del tables[0]
    parts += [table._repr_html_() for table in tables]
    if result.ops_data is not None:
        parts.append(f"<p style='margin:4px 0'>{html.escape(result.price)}</p>")
    return "".join(parts)


def _bars(result: ProfileResult) -> str:
    lines = []
    for row in result.ops.head(_MOST).to_dict("records"):
        width = max(0.0, min(1.0, row["share"]))
        # A border, not a background: these are printed too.
        bar = f"<span style='display:inline-block;width:{160 * width:.0f}px;border-top:10px solid #0072B2'></span>"
        cells = (
            html.escape(str(row["name"])),
            html.escape(str(row["type"])),
            f"{row['calls']:,}",
            f"{row['us_per_run']:,.1f}",
            f"{bar} {100 * row['share']:.1f} %",
        )
        lines.append(f"<tr>{''.join(f'<td {_CELL}>{cell}</td>' for cell in cells)}</tr>")
    left = len(result.ops) - _MOST
    more = f"<div>and {left} more: <code>.ops</code></div>" if left > 0 else ""
    heads = "".join(f"<th {_CELL}>{head}</th>" for head in ("op", "type", "calls", "us per run", "share of the run"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>{more}"
