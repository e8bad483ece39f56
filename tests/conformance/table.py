"""The table: all rows by section, as Markdown, with the counts that matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.conformance import batching, beyond, flags, grpc, lifecycle, operations, rest
from tests.conformance.row import MUST, SHOULD, Row, Status

__all__ = ["FILE", "SECTIONS", "markdown", "summary"]

FILE: Final = Path(__file__).parent / "TABLE.md"

SECTIONS: Final[Mapping[str, tuple[Row, ...]]] = {
    "Flags": flags.ROWS,
    "gRPC": grpc.ROWS,
    "REST": rest.ROWS,
    "Versions, labels, configuration": lifecycle.ROWS,
    "Batching": batching.ROWS,
    "Warmup, logging, metrics, profiler, TLS": operations.ROWS,
    "What users have asked for": beyond.ROWS,
}

_ABOUT: Final = """\
What TensorFlow Serving promises, what becomes of it here, and the tests that fail when that is broken. A text counts as
the same when it is TensorFlow Serving's to the letter, with at most a remark in parentheses behind it.

Written by `python -m tests.conformance --write`. The rows stand in the modules beside this page;
`tests/conformance/test_table.py` fails when one names a test that does not exist, or when this page is old."""


def summary() -> str:
    """Say how many rows of each mark hold, and in which way."""
    parts = []
    for mark in (MUST, SHOULD):
        counts = Counter(row.status for section in SECTIONS.values() for row in section if row.mark == mark)
        held = counts.total() - counts[Status.MISSING]
        ways = ", ".join(f'{counts[status]} "{status.value}"' for status in Status if counts[status])
        parts.append(f"{held} of {counts.total()} {mark} ({ways})")
    return "Held: " + "; ".join(parts) + "."


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown() -> str:
    """Return the whole table as a Markdown page."""
    lines = [
        "# Conformance with TensorFlow Serving",
        "",
        _ABOUT,
        "",
        summary(),
        "",
    ]
    for title, rows in SECTIONS.items():
        lines += [f"## {title}", "", "| TensorFlow Serving | mark | here | test |", "|---|---|---|---|"]
        for row in rows:
            here = row.status.value + (f": {row.note}" if row.note else "")
            tests = "<br>".join(f"`{test}`" for test in row.tests)
            lines.append(f"| {_escape(row.feature)} | {row.mark} | {_escape(here)} | {tests} |")
        lines.append("")
    return "\n".join(lines)
