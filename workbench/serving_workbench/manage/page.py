"""The panel's table as HTML and as plain text: live in the widget, and alone where no widget can be rendered."""

from __future__ import annotations

from html import escape
from textwrap import shorten
from typing import Final

from serving_workbench.files import human_bytes
from serving_workbench.manage.snapshot import Line, Snapshot
from serving_workbench.tables import Table

__all__ = ["STYLE", "log_html", "message_html", "page_html", "page_table", "where"]

#: Lines that are shown at most; a table that is sent twice a second must stay small.
MAX_LINES: Final = 40

_COLUMNS: Final = (
    *("model", "version", "state", "answers", "labels", "traffic", "requests/s", "requests", "errors"),
    *("memory", "in flight", "note"),
)
_NUMBERS: Final = frozenset({"version", "traffic", "requests/s", "requests", "errors", "memory", "in flight"})
_NOTE_WIDTH: Final = 70
_TROUBLE_WIDTH: Final = 160

#: States as shape and colour, so that neither eye nor theme decides: sign, class.
_SIGNS: Final = {
    "AVAILABLE": ("●", "good"),
    "START": ("◔", "busy"),
    "LOADING": ("◑", "busy"),
    "UNLOADING": ("◕", "busy"),
    "REJECTED": ("✕", "bad"),
}

#: Colours are JupyterLab's, which follow its theme; elsewhere the page's, and two that colour-blind eyes tell apart.
STYLE: Final = """<style>
.sw-panel{color:var(--jp-ui-font-color1,inherit);font-size:var(--jp-ui-font-size1,13px);overflow-x:auto}
.sw-panel table{border-collapse:collapse;margin:4px 0}
.sw-panel th,.sw-panel td{padding:2px 12px 2px 0;text-align:left;vertical-align:top;background:none;
border:0;border-bottom:1px solid var(--jp-border-color2,#8884);white-space:nowrap}
.sw-panel td.n,.sw-panel th.n{text-align:right;font-variant-numeric:tabular-nums}
.sw-panel td.w{white-space:normal;max-width:28em}
.sw-panel .dim{color:var(--jp-ui-font-color2,#777)}
.sw-panel .good{color:var(--jp-brand-color1,#0072b2)}
.sw-panel .bad{color:var(--jp-error-color1,#d55e00)}
.sw-panel pre{max-height:16em;overflow:auto;font-size:var(--jp-code-font-size,12px);margin:0;
color:var(--jp-content-font-color1,inherit);background:var(--jp-layout-color2,#8881);padding:4px;white-space:pre-wrap;
display:flex;flex-direction:column-reverse}
</style>"""


def where(snapshot: Snapshot) -> str:
    """Return one line about the server."""
    endpoints = ", ".join(f"{kind} {address}" for kind, address in snapshot.endpoints.items())
    text = f"server '{snapshot.instance}' (pid {snapshot.pid}): {endpoints}; up {_duration(snapshot.uptime)}, "
    text += f"front {human_bytes(snapshot.memory)}"
    return text if snapshot.tensorflow == "ready" else f"{text}; TensorFlow {snapshot.tensorflow}"


def page_table(snapshot: Snapshot) -> Table:
    """Return the versions as a `Table`, whose text is what a terminal shows; ``.data`` is the snapshot."""
    shown, more = _shown(snapshot)
    rows = [dict(_cells(line)) for line in shown]
    return Table(rows, _COLUMNS, "\n".join([where(snapshot), *snapshot.problems, *more]), snapshot)


def page_html(snapshot: Snapshot) -> str:
    """Return the server and its versions as HTML."""
    shown, more = _shown(snapshot)
    head = "".join(
        f'<th scope="col"{" class=n" if column in _NUMBERS else ""}>{escape(column)}</th>' for column in _COLUMNS
    )
    body = "".join(_row(line) for line in shown)
    table = (
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown else "<p>It has no models.</p>"
    )
    lines = "".join(f'<div class="bad">✕ {escape(text)}</div>' for text in snapshot.problems)
    lines += "".join(f'<div class="dim">{escape(text)}</div>' for text in more)
    return f'{STYLE}<div class="sw-panel"><div>{escape(where(snapshot))}</div>{table}{lines}</div>'


def message_html(text: str, tone: str) -> str:
    """Return the line that tells how an action went; screen readers read it aloud."""
    sign = {"running": "◑ ", "done": "● ", "failed": "✕ "}.get(tone, "")
    kind = {"done": "good", "failed": "bad"}.get(tone, "dim")
    shown = shorten(text, 500, placeholder=" ...")
    told = f'<span class="{kind}" aria-hidden="true">{sign}</span>{escape(shown)}'
    return f'{STYLE}<div class="sw-panel" role="status" aria-live="polite">{told}</div>'


def log_html(text: str | None) -> str:
    """Return the end of the log; empty for none."""
    if text is None:
        return ""
    return f'{STYLE}<div class="sw-panel"><pre tabindex="0" aria-label="log"><code>{escape(text)}</code></pre></div>'


def _shown(snapshot: Snapshot) -> tuple[list[Line], list[str]]:
    """Return the lines that are shown, and what to say of the rest: what is not loaded has to go first."""
    lines = list(snapshot.lines)
    if len(lines) <= MAX_LINES:
        return lines, []
    first = sorted(lines, key=lambda line: line.state in {"END", "ON DISK", "REJECTED"})[:MAX_LINES]
    kept = {(line.model, line.version) for line in first}
    more = f"{len(lines) - MAX_LINES} more versions are not shown: sw.status() has them."
    return [line for line in lines if (line.model, line.version) in kept], [more]


def _cells(line: Line) -> list[tuple[str, str | None]]:
    trouble = shorten(line.trouble, _TROUBLE_WIDTH, placeholder=" ...") if line.trouble else None
    note = shorten(line.note, _NOTE_WIDTH, placeholder=" ...") if line.note else None
    errors = None
    if line.errors is not None:
        errors = f"{line.errors} ({line.failing:.3g}/s)" if line.failing else str(line.errors)
    restarts = f"restarted {line.restarts} times" if line.restarts > 1 else "restarted once" if line.restarts else None
    return [
        ("model", line.model),
        ("version", str(line.version)),
        ("state", f"{line.state} (held)" if line.held and not line.answers else line.state),
        ("answers", "yes" if line.answers else None),
        ("labels", ", ".join(line.labels) or None),
        ("traffic", None if line.share is None else f"{100 * line.share:.3g} %"),
        ("requests/s", None if line.rate is None else f"{line.rate:.1f}"),
        ("requests", None if line.requests is None else str(line.requests)),
        ("errors", errors),
        ("memory", None if line.memory is None else human_bytes(line.memory)),
        ("in flight", str(line.in_flight) if line.state == "AVAILABLE" else None),
        ("note", "; ".join(part for part in (trouble, restarts, note) if part) or None),
    ]


def _row(line: Line) -> str:
    sign, kind = _SIGNS.get(line.state, ("✕", "bad") if line.trouble else ("○", "dim"))
    cells = []
    for column, text in _cells(line):
        shown = "" if text is None else escape(text)
        if column == "state":
            shown = f'<span class="{kind}" aria-hidden="true">{sign}</span> {shown}'
        kinds = "n" if column in _NUMBERS else "w" if column == "note" else ""
        cells.append(f"<td class={kinds}>{shown}</td>" if kinds else f"<td>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _duration(seconds: float) -> str:
    """Return a time roughly: a number that changes with every look would be sent every time."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "less than a minute"
