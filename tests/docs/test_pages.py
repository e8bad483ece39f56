"""What pages say is there: links, pictures, commands, magics, flags. `test_blocks` tests what their blocks do."""

from __future__ import annotations

import re
import shlex

import pytest

from serving_jupyter.magics import MAGICS, parse_line
from serving_server.flags import FLAGS
from serving_workbench.commands import COMMANDS
from tests.conformance.flags import UPSTREAM
from tests.docs.pages import PAGES, ROOT, RUNNABLE, Block, blocks, links, prose, text_of
from tests.docs.texts import said

#: Languages of blocks that are no commands: what is shown, and files.
_DATA = frozenset({"text", "textproto", "json", "yaml", "javascript", "html", "toml"})
_MAGIC = re.compile(rf"^%({'|'.join(MAGICS)})(?: |$)")
_COMMANDS = {command.name: command for command in COMMANDS}


def all_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]


def spans(page: str) -> list[str]:
    """Inline code of a page; a line break in it is a space."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), f"{page}: {target}"


def anchors(text: str) -> set[str]:
    """What GitHub and myst-parser make of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_block_has_a_language_that_says_what_it_is() -> None:
    for block in all_blocks():
        assert block.language in RUNNABLE | _DATA, f"{block}: '{block.language}'"


def test_blocks_that_are_not_run_are_few_and_have_a_reason() -> None:
    commands = [block for block in all_blocks() if block.language in RUNNABLE]
    excused = [block for block in commands if block.reason]
    for block in excused:
        assert len(block.reason.split()) > 4, f"{block}: {block.reason}"
        for named in re.findall(r"tests/[\w/]+\.py", block.reason):
            assert (ROOT / named).exists(), f"{block}: {named}"
    print(f"{len(commands)} blocks of commands, {len(excused)} of them not run: {[str(block) for block in excused]}")
    assert len(excused) <= len(commands) / 5


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_terminal_are_commands(page: str) -> None:
    typed = [
        line for block in blocks(page) for line in block.text.splitlines() if line.startswith("serving-workbench ")
    ]
    typed += [span for span in spans(page) if span.startswith("serving-workbench ")]
    for line in typed:
        _, word, *words = shlex.split(line, comments=True)
        if word.startswith("--") or "--help" in words:
            continue
        parser = _COMMANDS[word].parser(word, in_notebook=False)
        if words and words != ["--json"]:
            parser.read([each for each in words if each != "--json"], lambda text: text)


@pytest.mark.parametrize("page", PAGES)
def test_magics_are_magics(page: str) -> None:
    typed = [line for block in blocks(page) for line in block.text.splitlines()] + spans(page)
    for line in typed:
        if not _MAGIC.match(line) or "..." in line:
            continue
        magic, _, words = line.strip().removeprefix("%").partition(" ")
        if words and "--help" not in words:
            parse_line(magic, words, lambda braced: braced)


@pytest.mark.parametrize("page", PAGES)
def test_flags_with_underscores_are_flags_of_the_server(page: str) -> None:
    # Those of commands and of other programs have hyphens.
    named = set(re.findall(r"(?<![\w-])--([a-z]+(?:_[a-z0-9]+)+)\b", text_of(page)))
    assert named <= {flag.name for flag in FLAGS}


def test_the_troubleshooting_page_quotes_what_the_sources_say() -> None:
    page = "workbench/docs/troubleshooting.md"
    quoted = re.findall(r"^### `(.+)`$", text_of(page), re.MULTILINE)
    # Also those in the first words of an entry: "Also `...`".
    quoted += [" ".join(text.split()) for text in re.findall(r"^Also `([^`]+)`", text_of(page), re.MULTILINE)]
    assert len(quoted) > 30
    texts = {" ".join(text.split()) for text in said()}
    assert not [text for text in quoted if not any(text in each for each in texts)]


@pytest.mark.parametrize("page", PAGES)
def test_metrics_that_pages_name_are_there(page: str) -> None:
    named = set(re.findall(r"\bserving_workbench_(\w+)\b", text_of(page)))
    assert named <= said()


def test_every_flag_of_tensorflow_serving_is_on_the_migration_page() -> None:
    named = set(re.findall(r"--([a-z0-9_]+)", text_of("workbench/docs/migration.md")))
    assert UPSTREAM.keys() <= named
