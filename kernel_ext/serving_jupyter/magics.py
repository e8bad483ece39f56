"""The magics: every command of `serving_workbench.commands`, read from a line of a notebook.

A magic is made of the commands that name it: `%serve <model>` of the command of the same name, `%serve status` of
another. What a user causes is one line without a traceback (`UsageError`); anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand

import serving_workbench as sw
from serving_jupyter.expressions import split
from serving_jupyter.help import help_page
from serving_jupyter.notebook import Notebook
from serving_workbench.commands import COMMANDS, Command, Parser

__all__ = ["MAGICS", "MAIN", "install", "magic_parsers", "uninstall"]

#: In place of a sub-command: the command of a magic that has no word of its own.
MAIN = ""
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
        ipython.register_magic_function(_magic(ipython, name), magic_kind="line", magic_name=name)


def uninstall(ipython: Any) -> None:
    """Take them back."""
    for name in MAGICS:
        ipython.magics_manager.magics["line"].pop(name, None)


def _magic(shell: Any, name: str) -> Callable[[str], Any]:
    notebook = Notebook(shell)

    def magic(line: str) -> Any:
        try:
            return _run(name, line, notebook)
        except sw.WorkbenchError as error:
            raise _usage_error(error) from error

    magic.__name__ = magic.__qualname__ = name
    magic.__doc__ = help_page(name, magic_parsers(name))
    no_var_expand(magic)  # IPython would turn {model} into text; see serving_jupyter.expressions
    return magic


def _run(magic: str, line: str, notebook: Notebook) -> Any:
    commands = sub_commands(magic)
    words = split(line)
    if not words or {"-h", "--help"} & set(words):
        print(help_page(magic, magic_parsers(magic)))
        return None
    word = words[0] if words[0] in commands else MAIN
    arguments = magic_parsers(magic)[word].read(words[1:] if word else words, notebook.evaluate)
    return commands[word].run(arguments, notebook)


def _usage_error(error: sw.WorkbenchError) -> UsageError:
    """Return the error as one line; what is longer, such as the end of a log, is printed before it."""
    first, _, rest = error.message.partition("\n")
    if rest:
        print(rest, file=sys.stderr)
    parts = [first, error.hint, *getattr(error, "__notes__", [])]
    sentences = [" ".join(part.split()) for part in parts if part]
    line = " ".join(text if text[-1:] in ".:!?" else f"{text}." for text in sentences)
    return UsageError(f"{error.step}: {line}" if error.step else line)
