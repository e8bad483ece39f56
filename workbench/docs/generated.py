"""Parts of the reference that are made of the source, as Markdown: commands, flags, the REST API, errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import serving_jupyter.extension
from serving_jupyter.magics import MAGICS, MAIN, magic_parsers
from serving_server.batching.parameters import BatchingParameters
from serving_server.flags import FLAGS

__all__ = ["PARTS", "filled"]

_DOCS: Final = Path(__file__).parent
_ROOT: Final = _DOCS.parent.parent
#: Pages of the repository that stand elsewhere -> what shows them here.
_ELSEWHERE: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tests/conformance/TABLE.md": "conformance.md",
    "tests/conformance/LIMITS.md": "limits.md",
}


def filled(text: str, page: Path) -> str:
    """Return a page with its generated parts, and with its links to pages elsewhere led to what shows those here."""
    text = re.sub(r"^<!-- generated: (\w+) -->$", lambda found: PARTS[found[1]](), text, flags=re.MULTILINE)
    return re.sub(r"(?<=\]\()(?!https?:|#)([^)\s#]+)", lambda found: _link(found[1], page.parent), text)


def _link(target: str, folder: Path) -> str:
    path = os.path.relpath((folder / target).resolve(), _ROOT)
    here = _ELSEWHERE.get(path)
    return target if here is None else os.path.relpath(_DOCS / here, folder)


def _page_elsewhere(path: str) -> Callable[[], str]:
    """Return what makes the text of a page that stands elsewhere; its links are then relative to this folder."""

    def moved(found: re.Match[str]) -> str:
        return os.path.relpath((_ROOT / path).parent / found[1], _DOCS)

    return lambda: re.sub(r"(?<=\]\()(?!https?:|#)([^)\s#]+)", moved, (_ROOT / path).read_text())


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


def magics() -> str:
    """Every magic with all of its sub-commands: the help that a notebook shows."""
    return "\n".join(_magics())


def _magics() -> Iterator[str]:
    for magic in MAGICS:
        yield f"## %{magic}\n"
        for word, parser in magic_parsers(magic).items():
            if word != MAIN:
                yield f"### %{magic} {word}\n"
            yield _block(parser.format_help())


def flags() -> str:
    """Every flag of the server by group."""
    return "\n".join(_flags())


def _flags() -> Iterator[str]:
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        yield f"## {group}\n\n| flag | default | |\n|---|---|---|"
        for flag in (flag for flag in FLAGS if flag.group == group):
            default = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
            yield f"| `--{flag.name}` | {f'`{default}`' if default != '' else ''} | {_cell(flag.help)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def rest() -> str:
    """Every route of the extension of the Jupyter server, from the document that it serves itself."""
    return "\n".join(_rest())


def _rest() -> Iterator[str]:
    file = Path(serving_jupyter.extension.__file__).parent / "openapi.json"
    document: dict[str, Any] = json.loads(file.read_text())
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            if method == "parameters":
                continue
            yield f"### {method.upper()} {path}\n"
            yield f"{_cell(what['summary'])}. {_cell(what.get('description', ''))}\n"
            for parameter in what.get("parameters", ()):
                yield f"- `{parameter['name']}` ({parameter['in']}): {_cell(parameter.get('description', ''))}"
            answers = ", ".join(
                f"{code} ({_cell(each.get('description', ''))})" for code, each in what["responses"].items()
            )
            yield f'\nAnswers: {answers}; errors as `{{"message": ...}}`.\n'


def batching() -> str:
    """Batching parameters with their defaults."""
    defaults = BatchingParameters()
    rows = [f"| `{name}` | {_default(name, getattr(defaults, name))} |" for name in defaults.__dataclass_fields__]
    return "\n".join(["| parameter | default |", "|---|---|", *rows])


def _default(name: str, value: object) -> str:
    return "as many as processors" if name == "num_batch_threads" else f"`{value}`"


#: Name of a part in a page -> what makes it.
PARTS: Final[dict[str, Callable[[], str]]] = {
    "magics": magics,
    "flags": flags,
    "rest": rest,
    "batching": batching,
    "architecture": _page_elsewhere("ARCHITECTURE.md"),
    "contributing": _page_elsewhere("CONTRIBUTING.md"),
    "changelog": _page_elsewhere("CHANGELOG.md"),
    "conformance": _page_elsewhere("tests/conformance/TABLE.md"),
    "limits": _page_elsewhere("tests/conformance/LIMITS.md"),
}
