"""How a profile shows itself in a notebook: the advice, the ops with bars and by type, run times by batch size."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from serving_workbench.profiling.operations import FRAMEWORK, short_name
from serving_workbench.profiling.panels import ROW, Panel, time_in_words

if TYPE_CHECKING:
    import pandas as pd

    from serving_workbench.profiling.result import ProfileResult

__all__ = ["as_html", "sizes_panels"]

_MOST: Final = 15
_CELL: Final = "style='text-align:left;padding:1px 10px 1px 0'"
_BESIDE: Final = "display:flex;flex-wrap:wrap;gap:4px 36px;align-items:flex-start"


def as_html(result: ProfileResult) -> str:
    """Return all of it as HTML, without scripts."""
    sentences = "".join(f"<li>{html.escape(each)}</li>" for each in result.advice)
    parts = [
        f"<p style='margin:4px 0'><b>{html.escape(result.title)}</b></p>",
        f"<ul style='margin:4px 0'>{sentences}</ul>",
    ]
    tables = result.tables()
    if result.ops_data is not None:
        parts.append(f"<div style='{_BESIDE}'>{_by_op(result)}{_by_type(result)}</div>")
        del tables[0]
        pictures = "".join(panel.html() for panel in sizes_panels(result.batch_sizes))
        parts.append(f"<div style='{_BESIDE}'>{pictures}</div>")
    parts += [table._repr_html_() for table in tables]
    if result.ops_data is not None:
        parts.append(f"<p style='margin:4px 0'>{html.escape(result.price)}</p>")
    return "".join(parts)


def sizes_panels(sizes: pd.DataFrame) -> list[Panel]:
    """Return the run time by rows of a batch, of the run and of a row of it; nothing where it was not measured.

    Parameters
    ----------
    sizes : DataFrame
        `ProfileResult.batch_sizes`.
    """
    if not len(sizes):
        return []
    rows = [{str(name): float(value) for name, value in row.items()} for row in sizes.to_dict("records")]
    runs = Panel("sizes", "Run time by rows of the batch", len(rows) * ROW + 4, width=440)
    each = Panel("sizes", "Run time of a row, by rows of the batch", len(rows) * ROW + 4, width=440)
    for panel, name, low, high in ((runs, "median_us", "low_us", "high_us"), (each, "us_per_row", None, None)):
        most = max(max(row[name], row[high] if high else 0.0) for row in rows) or 1.0
        for number, row in enumerate(rows):
            y, told = number * ROW + 2, time_in_words(row[name])
            panel.text(0, y + 12, f"{row['rows']:,.0f} row{'s' if row['rows'] != 1 else ''}")
            panel.bar(0.0, row[name] / most, y, "run", f"{row['rows']:,.0f} rows: {told}")
            end = row[name]
            if low is not None and high is not None:
                panel.line(-1, "", [(row[low] / most, y + 7.5), (row[high] / most, y + 7.5)])
                end = max(end, row[high])
            panel.text(panel.x(end / most) + 5, y + 12, told)
    best = min(rows, key=lambda row: row["us_per_row"])
    first = rows[0]
    words = "; ".join(f"{row['rows']:,.0f}: {time_in_words(row['median_us'])}" for row in rows)
    runs.reading = f"Medians, with a line from quartile to quartile. {words}."
    each.reading = (
        f"A row takes {time_in_words(best['us_per_row'])} in a batch of {best['rows']:,.0f}"
        + (f", {first['us_per_row'] / best['us_per_row']:.1f} times less than in one of {first['rows']:,.0f}."
           if best is not first else ", least of all sizes.")
    )  # fmt: skip
    for panel in (runs, each):
        panel.label = panel.title
    return [runs, each]


def _by_op(result: ProfileResult) -> str:
    rows = [
        (short_name(str(row["name"])), str(row["type"]), f"{row['calls']:,}", f"{row['us_per_run']:,.1f}", row["share"])
        for row in result.ops.head(_MOST).to_dict("records")
    ]
    shown = _bars("Ops, by their own time", ("op", "type", "calls", "us per run", "share of the run"), rows)
    return shown + _more(len(result.ops), "ops", result.ops["share"])


def _by_type(result: ProfileResult) -> str:
    rows = [
        (str(row["type"]), "" if row["type"] == FRAMEWORK else f"{row['ops']:,}", f"{row['calls']:,}",
         f"{row['us_per_run']:,.1f}", row["share"])
        for row in result.types.head(_MOST).to_dict("records")
    ]  # fmt: skip
    shown = _bars("By type of op", ("type", "ops", "calls", "us per run", "share of the run"), rows)
    return shown + _more(len(result.types), "types", result.types["share"])


def _more(count: int, name: str, shares: pd.Series[float]) -> str:
    told = f"These make {100 * shares.head(_MOST).sum():.0f} % of the run"
    more = f"; and {count - _MOST} more: <code>.{name}</code>" if count > _MOST else f": <code>.{name}</code>"
    return f"<div>{told}{more}</div></div>"


def _bars(title: str, heads: tuple[str, ...], rows: list[tuple[str, str, str, str, float]]) -> str:
    """Return a table whose last column is a bar; the caller closes its box."""
    lines = []
    for *texts, share in rows:
        width = max(0.0, min(1.0, share))
        # A border, not a background: these are printed too.
        bar = f"<span style='display:inline-block;width:{120 * width:.0f}px;border-top:10px solid #0072B2'></span>"
        cells = (*(html.escape(text) for text in texts), f"{bar} {100 * share:.1f} %")
        lines.append(f"<tr>{''.join(f'<td {_CELL}>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th scope='col' {_CELL}>{each}</th>" for each in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<div><b>{title}</b>{table}"
