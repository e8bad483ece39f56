"""Texts that the sources can say, found without running them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from tests.docs.pages import ROOT

__all__ = ["said"]


@functools.cache
def said() -> frozenset[str]:
    """Every string of the three packages; where a value is filled in stands an ellipsis: ``Version … of '…'``."""
    return frozenset(text for folder in ("server", "workbench", "kernel_ext") for text in _strings(folder))


def _strings(folder: str) -> Iterator[str]:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(_shown(part) for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _shown(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"
