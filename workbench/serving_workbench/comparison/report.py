"""A comparison as one HTML file that needs nothing else: to be mailed, archived, attached to a release."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving_workbench.comparison.looking import differing_rows
from serving_workbench.comparison.showing import health, picture, verdict_box
from serving_workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult

__all__ = ["as_page", "write"]

#: Rows that differ which are listed.
_ROWS: Final = 100
#: Letters of a cell.
_CELL: Final = 120

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #8888; padding: 2px 8px; text-align: left; vertical-align: top; }
img { background: white; max-width: 100%; }
"""


def write(result: CompareResult, path: Path) -> Path:
    """Write the page; an existing file is replaced whole.

    Raises
    ------
    WorkbenchError
        It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(as_page(result), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise WorkbenchError(f"'{path}' cannot be written: {error.strerror}.") from error
    return path


def as_page(result: CompareResult) -> str:
    """Return the page as text."""
    data, alt = picture(result)
    title = f"{result.decision.kind}: {result.a} against {result.b}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(result.date)} UTC</p>",
        verdict_box(result),
        f"<img src='data:image/png;base64,{data}' alt='{html.escape(alt, quote=True)}'>",
        "<h2>Metrics</h2>",
        result.table()._repr_html_(),
    ]
    if result.heads:
        parts += ["<h2>Outputs</h2>", result.outputs_table()._repr_html_()]
    if result.slices:
        parts += ["<h2>Slices</h2>", result.slices_table()._repr_html_()]
    parts += ["<h2>Rows that differ</h2>", _rows(result), "<h2>Health</h2>", health(result), _methods(result)]
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _rows(result: CompareResult) -> str:
    count = len(differing_rows(result))
    if result.rows is None or not (count or result.rows.failed_a or result.rows.failed_b):
        return f"<p>{count:,} rows differ.</p>"
    frame = result.disagreements(n=_ROWS)
    columns = "".join(f"<th>{html.escape(str(name))}</th>" for name in ["row", *frame.columns])
    lines = [
        f"<tr><th>{_cell(index)}</th>{''.join(f'<td>{_cell(value)}</td>' for value in values)}</tr>"
        for index, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
    ]
    more = f"<p>The first {len(frame)} of {count:,} rows that differ.</p>"
    return f"{more}<table><tr>{columns}</tr>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return html.escape(text if len(text) <= _CELL else f"{text[:_CELL]}...")


def _methods(result: CompareResult) -> str:
    lines = {
        each.difference.method: f"{each.name}: {each.difference.method}{f'; {each.test}' if each.test else ''}"
        for each in [*result.metrics, *(head.drift for head in result.heads if head.drift is not None)]
    }
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines.values())
    return (
        "<h2>Methods</h2><p>Intervals are of 95 %. SHIP: every metric with a margin is surely within it. REJECT: one "
        "is surely beyond it (guardrails after Holm's correction), or an output changed as no margin excuses. "
        "INCONCLUSIVE: neither. UNHEALTHY: the experiment itself was not sound.</p>"
        f"<ul>{items}</ul>"
    )
