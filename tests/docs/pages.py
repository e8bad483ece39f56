"""The pages of the documentation and their blocks of code.

A block is what stands between fences; its language is behind the first fence. Above a block may stand a comment, which
readers do not see:

- ``<!-- not run: reason -->``: this block is not executed, and why;
- ``<!-- file: path -->``: this block is a file that the page's commands read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PAGES", "ROOT", "RUNNABLE", "Block", "blocks", "links", "prose", "text_of"]

ROOT: Final = Path(__file__).parent.parent.parent
DOCS: Final = ROOT / "workbench" / "docs"
#: Paths from the root, the front page first. ARCHITECTURE.md and CHANGELOG.md have no commands.
PAGES: Final = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")),
)
#: Languages of blocks that are commands.
RUNNABLE: Final = frozenset({"python", "ipython", "shell", "javascript"})

_COMMENT: Final = re.compile(r"^<!-- (not run|file): (.+?) -->$", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes
    ----------
    page : str
    line : int
        Of its first line of code, from 1.
    language : str
    text : str
    reason : str
        Why it is not run; empty when it is.
    file : str
        Where its page's commands find it, when it is a file.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str
    file: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block of a page, directives of the documentation's builder left out."""
    lines = text_of(page).splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"^(```+)(.*)$", lines[number])
        if fence is None:
            number += 1
            continue
        end = next(at for at in range(number + 1, len(lines)) if lines[at] == fence[1])
        if not fence[2].startswith("{"):
            marks = _marks_above(lines, number)
            text = "\n".join(lines[number + 1 : end]) + "\n"
            yield Block(page, number + 2, fence[2], text, marks.get("not run", ""), marks.get("file", ""))
        number = end + 1


def _marks_above(lines: list[str], number: int) -> dict[str, str]:
    """The comment that ends on the line above, if there is one."""
    begin = number - 1
    if begin < 0 or not lines[begin].endswith("-->"):
        return {}
    while not lines[begin].startswith("<!--"):
        begin -= 1
    found = _COMMENT.match(" ".join(lines[begin:number]))
    assert found is not None, f"a comment above a block that says neither 'not run' nor 'file': {lines[begin]}"
    return {found[1]: found[2]}


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^(```+).*?^\1$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def links(page: str) -> list[str]:
    """Targets of links and pictures that are no addresses."""
    return re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(page))
