"""The magics: every command of `serving_workbench.commands`, read from a line of a notebook.

A magic is made of the commands that name it: `%serve <model>` of the command of the same name, `%serve status` of
another. What a user causes is one line without a traceback (`UsageError`); anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any, Final

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand

import serving_workbench as sw
from serving_jupyter.expressions import split, split_rest
from serving_jupyter.help import help_page
from serving_jupyter.notebook import Notebook
from serving_workbench.commands import COMMANDS, Command, Parser

__all__ = ["MAGICS", "MAIN", "install", "magic_parsers", "parse_line", "uninstall"]

#: In place of a sub-command: the command of a magic that has no word of its own.
MAIN = ""
#: Characters of a message that are shown as one line.
_MAX_LINE: Final = 500
MAGICS = tuple(dict.fromkeys(command.magic for command in COMMANDS))


def sub_commands(magic: str) -> dict[str, Command]:
    """Return the commands of a magic by the word that chooses each."""
    return {MAIN if command.name == magic else command.name: command for command in COMMANDS if command.magic == magic}


@functools.cache
def magic_parsers(magic: str) -> dict[str, Parser]:
    """Return the parsers of a magic by the word that chooses each."""
    return {
        word: command.parser(f"%{magic} {word}".rstrip(), in_notebook=True)
        for word, command in sub_commands(magic).items()
    }


def install(ipython: Any) -> None:
    """Register all magics with an IPython shell."""
    for name in MAGICS:
        kind = "line_cell" if any(command.body for command in sub_commands(name).values()) else "line"
        ipython.register_magic_function(_magic(ipython, name), magic_kind=kind, magic_name=name)


def uninstall(ipython: Any) -> None:
    """Take them back."""
    for name in MAGICS:
        for kind in ("line", "cell"):
            ipython.magics_manager.magics[kind].pop(name, None)


def _magic(shell: Any, name: str) -> Callable[..., Any]:
    notebook = Notebook(shell)

    def magic(line: str, cell: str | None = None) -> Any:
        try:
            return _run(name, line, cell, notebook)
        except sw.WorkbenchError as error:
            raise _usage_error(error) from error

    magic.__name__ = magic.__qualname__ = name
    magic.__doc__ = help_page(name, magic_parsers(name))
    no_var_expand(magic)  # IPython would turn {model} into text; see serving_jupyter.expressions
    return magic


def _run(magic: str, line: str, cell: str | None, notebook: Notebook) -> Any:
    words = line.split()
    if not words or {"-h", "--help"} & set(words):
        parsers = magic_parsers(magic)
        # Of a sub-command its own part only; the whole is long.
        chosen = parsers.get(words[0]) if words else None
        print(chosen.format_help() if chosen is not None else help_page(magic, parsers))
        return None
    try:
        command, arguments = parse_line(magic, line, notebook.evaluate)
    except sw.CommandLineError:
        first, commands = line.split(maxsplit=1)[0], sub_commands(magic)
        if MAIN in commands and len(commands) > 1 and first not in commands and first.isidentifier():
            notebook.servable(first)  # a sub-command with a typing error is told as that, not by what follows it
        raise
    if command.body:
        arguments.body = cell
    return command.run(arguments, notebook)


def parse_line(magic: str, line: str, evaluate: Callable[[str], object]) -> tuple[Command, argparse.Namespace]:
    """Return the command that a line means, and its arguments; `evaluate` gives the values of expressions.

    Raises
    ------
    CommandLineError
    """
    commands, parsers = sub_commands(magic), magic_parsers(magic)
    first, *after = line.split(maxsplit=1)
    word = first if first in commands else MAIN
    words = _words(commands[word], parsers[word], " ".join(after) if word else line)
    return commands[word], parsers[word].read(words, evaluate)


def _words(command: Command, parser: Parser, line: str) -> list[str]:
    if not command.rest:
        return split(line)
    flags = {flag: argument.takes_value for flag, argument in parser.flags().items()}
    before = [argument.name for argument in parser.positionals()].index(command.rest)
    return split_rest(line, flags, before)


def _usage_error(error: sw.WorkbenchError) -> UsageError:
    """Return the error as one line; what is longer, such as the end of a log, is printed before it."""
    first, _, rest = error.message.partition("\n")
    if rest and not first.endswith(":") and len(error.message) <= _MAX_LINE:
        first = error.message  # a sentence that somebody has broken, such as TensorFlow
    elif rest:
        print(rest, file=sys.stderr)
    parts = [first, error.hint, *getattr(error, "__notes__", [])]
    sentences = [" ".join(part.split()) for part in parts if part]
    line = " ".join(text if text[-1:] in ".:!?" else f"{text}." for text in sentences)
    return UsageError(f"{error.step}: {line}" if error.step else line)
