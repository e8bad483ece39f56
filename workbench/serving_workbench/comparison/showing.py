"""How a comparison shows itself in a notebook: a box with the verdict, the picture, tables; as text elsewhere."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from serving_workbench.comparison.result import CompareResult

__all__ = ["as_html", "bundle", "picture", "verdict_box"]

#: Okabe and Ito's colors that are told apart by those who see few; the word stands beside them.
COLORS: Final = {"SHIP": "#009E73", "REJECT": "#D55E00", "INCONCLUSIVE": "#E69F00", "UNHEALTHY": "#CC79A7"}


def bundle(result: CompareResult) -> dict[str, Any]:
    """Return ``text/plain``, ``text/html`` and ``image/png``."""
    data, _ = picture(result)
    return {"text/plain": result.summary(), "text/html": as_html(result), "image/png": data}


def picture(result: CompareResult) -> tuple[str, str]:
    """Return the pictures as base64 of a PNG file, and their text alternative."""
    buffer = io.BytesIO()
    result.plot().savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode("ascii"), str(result.decision)


def verdict_box(result: CompareResult) -> str:
    """Return the verdict with its reasons as HTML."""
    decision = result.decision
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in decision.reasons)
    early = "" if result.complete else "<p>It was ended early: this is what had been found.</p>"
    title = f"{html.escape(result.a)} (A) against {html.escape(result.b)} (B); {html.escape(result.source)}"
    return (
        f"<div style='border-left:6px solid {COLORS[decision.kind]};padding:4px 12px;margin:4px 0'>"
        f"<p style='margin:2px 0'><b style='font-size:120%'>{decision.kind}</b> &nbsp; {title}</p>"
        f"<ul style='margin:4px 0'>{reasons}</ul>{early}</div>"
    )


def health(result: CompareResult) -> str:
    """Return the checks as HTML."""
    lines = "".join(
        f"<li>{'&#10003;' if check.ok else '<b>not ok:</b>'} {html.escape(check.name)}: {html.escape(check.text)}</li>"
        for check in result.checks
    )
    return f"<details><summary>Health of the experiment</summary><ul style='margin:4px 0'>{lines}</ul></details>"


def as_html(result: CompareResult) -> str:
    """Return all of it as HTML."""
    data, alt = picture(result)
    parts = [
        verdict_box(result),
        f"<img src='data:image/png;base64,{data}' alt='{html.escape(alt, quote=True)}' style='max-width:100%'>",
        result.table()._repr_html_(),
    ]
    if result.heads:
        parts.append(result.outputs_table()._repr_html_())
    if result.slices:
        parts.append(result.slices_table()._repr_html_())
    parts.append(health(result))
    return "".join(parts)
