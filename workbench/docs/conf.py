"""Builds these pages as HTML: `make docs`, or ``sphinx-build -W -b html workbench/docs build/docs``.

Nothing is fetched: no fonts, no inventories of other projects. Where a page says ``<!-- generated: name -->``, what
`generated` makes of the source stands there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402 - found beside this file

import serving_server  # noqa: E402

project = "Serving Workbench"
author = "The Serving Workbench developers"
project_copyright = author
release = version = serving_server.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns: list[str] = []
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say it in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autosummary_generate = False  # numpydoc brings that extension along


def setup(app: Any) -> None:
    """Fill generated parts in when a page is read."""
    app.add_lexer("textproto", TextLexer)
    app.connect("source-read", _fill_in)


def _fill_in(_app: Any, name: str, source: list[str]) -> None:
    source[0] = generated.filled(source[0], HERE / f"{name}.md")
