"""How a result shows itself: HTML with picture and table, the picture alone, plain text."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

from serving_workbench.tuning import verdict

if TYPE_CHECKING:
    from serving_workbench.tuning.result import TuneResult

__all__ = ["bundle"]


def bundle(result: TuneResult) -> dict[str, Any]:
    """Return ``text/plain``, ``text/html`` and, where something was measured, ``image/png``."""
    found: dict[str, Any] = {"text/plain": str(result)}
    picture = ""
    if result.candidates:
        buffer = io.BytesIO()
        result.plot().savefig(buffer, format="png")
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        found["image/png"] = encoded
        alt = html.escape(result.verdict, quote=True)
        picture = f"<img src='data:image/png;base64,{encoded}' alt='{alt}' style='max-width:100%'>"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(result))
    table = verdict.table(result)._repr_html_() if result.candidates else ""
    found["text/html"] = (
        f"<p><b>{html.escape(result.verdict)}</b></p>{picture}{table}"
        f"<ul style='margin:4px 0'>{notes}</ul>{_file(result)}"
    )
    return found


def _notes(result: TuneResult) -> list[str]:
    fit = f"Run time: {result.curve.fit(result.curve.at_once[0])}."
    return [fit, *result.notes, *verdict.cautions(result)]


def _file(result: TuneResult) -> str:
    best = result.best
    if best is None or best.parameters is None:
        return ""
    changes = result.diff() or "(as it is in force)"
    return (
        "<details><summary>batching_parameters_file</summary>"
        f"<pre>{html.escape(result.text())}</pre><pre>{html.escape(changes)}</pre></details>"
    )
