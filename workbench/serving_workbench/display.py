"""How a served model shows itself: endpoints, signatures, clients to paste; as HTML and as plain text."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_server.signatures import Signature, TensorSpec
from serving_workbench.errors import WorkbenchError
from serving_workbench.inputs import shape_text
from serving_workbench.notes import Notes, metrics_text, read_notes
from serving_workbench.savedmodel import default_signature_name
from serving_workbench.snippets import snippets
from serving_workbench.tables import Table
from serving_workbench.waiting import find_version

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["bundle", "signature_table", "summary"]


def bundle(model: ServedModel) -> dict[str, str]:
    """Return ``text/html`` and ``text/plain`` of a served model.

    Showing a handle must never raise: when the server is gone, both say so.
    """
    try:
        facts, table, clients = _contents(model)
    except WorkbenchError as error:
        text = f"{model!r}\n{error}"
        return {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
    return {"text/plain": _plain(facts, table, clients), "text/html": _html(facts, table, clients)}


def summary(model: ServedModel) -> str:
    """Return what a terminal shows of a served model: of the clients to paste, curl only.

    Raises
    ------
    WorkbenchError
    """
    facts, table, clients = _contents(model)
    return _plain(facts, table, {title: text for title, text in clients.items() if title == "curl"})


def _contents(model: ServedModel) -> tuple[dict[str, str], Table, dict[str, str]]:
    """Return facts by title, signatures, clients by title."""
    found = model.describe()
    serving = found["serving_version"]
    signatures = model.signatures() if serving is not None else {}
    clients: dict[str, str] = {}
    if signatures:
        chosen = signatures[default_signature_name(signatures)]
        clients = snippets(model.name, chosen, model.rest_url, model.grpc_endpoint, model.server.name)
    return _facts(model, found), signature_table(signatures), clients


def _facts(model: ServedModel, found: dict[str, Any]) -> dict[str, str]:
    serving = found["serving_version"]
    version = "no version is available" if serving is None else f"version {serving}"
    facts = {
        "model": f"{model.name}, {version}",
        "gRPC": model.grpc_endpoint,
        "REST": f"{model.rest_url}/v1/models/{model.name}:predict",
    }
    facts |= _notes(None if serving is None else find_version(found, serving))
    if model.proofs:
        facts["proved"] = "; ".join(map(str, model.proofs))
    if model.seconds:
        facts["deployed in"] = f"{sum(model.seconds.values()):.1f} s ({', '.join(_durations(model))})"
    if model.messages:
        facts["meanwhile"] = " ".join(model.messages)
    return facts


def _notes(version: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what travels with a version: its note, its metrics, who published it when."""
    notes = Notes() if version is None else read_notes(Path(version["path"]))
    moment = None if notes.published is None else notes.published.replace("T", " ").replace("+00:00", " UTC")
    facts = {
        "note": " ".join((notes.note or "").split()),
        "metrics": metrics_text(notes.metrics),
        "published": ", ".join(part for part in (moment, notes.user, notes.origin) if part),
    }
    return {key: text for key, text in facts.items() if text}


def _durations(model: ServedModel) -> list[str]:
    return [f"{step} {seconds:.2f}" for step, seconds in model.seconds.items()]


def signature_table(signatures: dict[str, Signature]) -> Table:
    """Return one row per input and output: signature, direction, name, dtype, shape (``?`` is an unknown size)."""
    rows = [
        {
            "signature": signature.name,
            "": direction,
            "name": spec.alias + (" (optional)" if direction == "in" and spec.alias in signature.defaults else ""),
            "dtype": _dtype_text(spec),
            "shape": shape_text(spec),
        }
        for signature in signatures.values()
        for direction, specs in (("in", signature.inputs), ("out", signature.outputs))
        for spec in specs.values()
    ]
    return Table(rows, ["signature", "", "name", "dtype", "shape"], "")


def _dtype_text(spec: TensorSpec) -> str:
    assert spec.dtype is not None  # only usable signatures are shown
    # NumPy's names, which are what users type; text is the exception.
    return "string" if spec.dtype.is_string else spec.dtype.numpy.name


def _plain(facts: dict[str, str], table: Table, clients: dict[str, str]) -> str:
    width = max(map(len, facts)) + 1
    parts = ["\n".join(f"{key + ':':{width}} {value}" for key, value in facts.items())]
    if len(table):
        parts.append(repr(table))
    parts += [f"--- {title} ---\n{text.rstrip()}" for title, text in clients.items()]
    return "\n\n".join(parts)


def _html(facts: dict[str, str], table: Table, clients: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><th style='text-align:left;padding-right:10px'>{html.escape(key)}</th>"
        f"<td style='text-align:left'><code>{html.escape(value)}</code></td></tr>"
        for key, value in facts.items()
    )
    # <details> needs no script, so it works wherever a saved notebook is shown.
    folded = "".join(
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
        for title, text in clients.items()
    )
    return f"<table>{rows}</table>{table._repr_html_() if len(table) else ''}{folded}"
